"""Every case of the table in all orders of threads and blocks: the same bits, and no report.

Two threads that depend on each other's order by accident give other bits, or a race that the
runner reports, in one of them.
"""

import cuda_on_cpu
import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, MATMUL, POOL
from compare import assert_same_bits
from values import make

import gradroute as gr


pytestmark = pytest.mark.usefixtures("cpu_runner")


def in_every_order(call):
    """``call()``'s results in ascending order, which every other order must repeat."""
    first = None
    for order in cuda_on_cpu.ORDERS:
        with cuda_on_cpu.stand_in(order, seed=7), gr.config(backend="cuda"):
            found = call()
        first = found if first is None else first
        assert_same_bits(found, first)
    return first


def forward_and_backward(forward, backward, case):
    x, w = make(case.kind, case.x, "float32", 1), make("normal", case.window, "float32", 2)

    def call():
        y = forward(x, w, **case.options)
        return (y, *backward(y, x, w, **case.options))

    return call


@pytest.mark.parametrize("case", CONV, ids=str)
def test_cuda_conv_has_the_same_bits_in_every_order(case):
    in_every_order(forward_and_backward(gr.conv, gr.conv_backward, case))


@pytest.mark.parametrize("case", CONV_TRANSPOSE, ids=str)
def test_cuda_conv_transpose_has_the_same_bits_in_every_order(case):
    in_every_order(forward_and_backward(gr.conv_transpose, gr.conv_transpose_backward, case))


@pytest.mark.parametrize("case", CONV, ids=str)
def test_cuda_columns_have_the_same_bits_in_every_order(case):
    x = make(case.kind, case.x, "float32", 1)
    options = {name: value for name, value in case.options.items() if name != "groups"}

    def call():
        cols = gr.im2col(x, case.window[2:], **options)
        return cols, gr.col2im(cols, x.shape, case.window[2:], **options)

    in_every_order(call)


@pytest.mark.parametrize("case", POOL, ids=str)
def test_cuda_pools_have_the_same_bits_in_every_order(case):
    x = make(case.kind, case.x, "float32", 1)
    place = (case.x, case.window)

    def call():
        y, winner = gr.max_pool(x, case.window, **case.options)
        index = gr.winner_to_index(winner, *place, **case.options)
        average = gr.avg_pool(x, case.window, **case.options)
        return (
            y, winner, index, average,
            gr.max_pool_backward(y, winner, *place, **case.options),
            gr.max_unpool(y, winner, *place, **case.options),
            gr.max_unpool_backward(x, winner, *place, **case.options),
            gr.index_to_winner(index, *place, **case.options),
            gr.avg_pool_backward(average, *place, **case.options),
        )  # fmt: skip

    in_every_order(call)


@pytest.mark.parametrize("a, b", MATMUL, ids=str)
def test_cuda_matmul_has_the_same_bits_in_every_order(a, b):
    a, b = make("normal", a, "float32", 1), make("normal", b, "float32", 2)
    in_every_order(lambda: gr.matmul(a, b))


@pytest.mark.parametrize("name", ["relu", "elu", "tanh", "gelu"])
def test_cuda_activations_have_the_same_bits_in_every_order(name):
    x = make("inf", (300,), "float32", 1)
    in_every_order(lambda: (gr.activate(x, name), gr.activate_backward(x, name, x=x)))


@pytest.mark.parametrize("rows", [1, 150])
def test_cuda_linear_backward_has_the_same_bits_in_every_order(rows):
    shapes = {"dy": (rows, 35), "x": (rows, 3), "w": (35, 3), "y": (rows, 35)}
    arrays = {name: make("normal", shape, "float32", 1) for name, shape in shapes.items()}
    in_every_order(lambda: gr.linear_backward(**arrays, activation="sigmoid"))


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_cuda_scatter_add_and_loss_have_the_same_bits_in_every_order(rows):
    rng = np.random.default_rng(rows)
    source, index = rng.standard_normal((300, 5), "f"), rng.integers(-rows, rows, 300)
    labels = rng.integers(0, 5, 300)
    in_every_order(lambda: gr.scatter_add(np.zeros((rows, 5), "f"), index, source))
    in_every_order(lambda: gr.softmax_cross_entropy(source, labels))
