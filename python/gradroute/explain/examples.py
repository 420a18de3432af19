"""The two examples of the question that this project grew out of, as networks small enough to read.

Both have a pool of 2x2 windows behind a convolution that only copies the image (1x1, weight 1), so
that the numbers of the image are those that the pool sees.
"""

from __future__ import annotations

import numpy as np

import gradroute as gr


def pool_to_linear():
    """(net, x, dy): a pool feeds three fully connected neurons, whose gradients are 2, 3 and 6.

    >>> net, x, dy = pool_to_linear()
    >>> dy.tolist()
    [[2.0, 3.0, 6.0]]
    >>> gr.explain(net, "pool", (0, 0, 1), x=x, dy=dy).total
    -0.5
    """
    net = gr.nn.Sequential(
        conv=gr.nn.Conv(1, 1, 1, bias=False),
        pool=gr.nn.MaxPool(2),
        flat=gr.nn.Flatten(),
        fc=gr.nn.Linear(4, 3, bias=False),
        dtype="float64",
    )
    parameters = net.parameters()
    parameters["conv.w"][...] = 1.0
    # one column per pool neuron: [0,0,0] [0,0,1] [0,1,0] [0,1,1]
    parameters["fc.w"][...] = [
        [0.25, 0.50, -0.25, 1.00],
        [0.50, -1.00, 0.75, 0.00],
        [1.00, 0.25, -0.50, 0.50],
    ]
    x = np.array(
        [[0.12, 0.45, 0.31, 0.79],
         [0.66, 0.20, 0.54, 0.83],
         [0.05, 0.91, 0.27, 0.18],
         [0.38, 0.47, 0.72, 0.60]]
    )  # fmt: skip
    return net, x[None, None], np.array([[2.0, 3.0, 6.0]])


def pool_to_conv():
    """(net, x, dy): a pool of 4x4 neurons feeds a 3x3 convolution, whose gradients are 1 to 4.

    One window covers a corner of the pool, four windows cover a neuron in the middle.

    >>> net, x, dy = pool_to_conv()
    >>> [len(gr.explain(net, "pool", unit, x=x, dy=dy).terms) for unit in [(0, 0, 0), (0, 1, 1)]]
    [1, 4]
    """
    net = gr.nn.Sequential(
        conv=gr.nn.Conv(1, 1, 1, bias=False),
        pool=gr.nn.MaxPool(2),
        conv2=gr.nn.Conv(1, 1, 3, bias=False),
        dtype="float64",
    )
    parameters = net.parameters()
    parameters["conv.w"][...] = 1.0
    parameters["conv2.w"][...] = [[[[0.50, -0.25, 0.75], [1.00, 0.25, -0.50], [-1.00, 0.50, 2.00]]]]
    # all different, so that no window has a tie: 0.02, 0.04, ... in a scattered order
    x = (np.arange(64).reshape(8, 8) * 37 % 64 + 1) / 50
    return net, x[None, None], np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
