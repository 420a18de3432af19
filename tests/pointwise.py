"""dw of 1 x 1 windows, as the tests of each algorithm that serves it ask for it."""

import numpy as np

import gradroute as gr


def arrays(case, dtype=np.float32):
    """dy, x, a w of the right shape, and the options of a case: x's shape, K, options."""
    x_shape, K, options = case
    generator = np.random.default_rng(0)
    x = generator.standard_normal(x_shape).astype(dtype)
    w = np.zeros((K, x_shape[1] // options.get("groups", 1), *[1] * (x.ndim - 2)), dtype)
    y = gr.conv(x, w, **options)
    return generator.standard_normal(y.shape).astype(dtype), x, w, options


def dw(dy, x, w, options, **more):
    return gr.conv_backward(dy, x, w, need="w", **options, **more)[1]


def exact_dw(dy, x, w, options):
    with gr.config(backend="reference"):
        return dw(dy.astype(float), x.astype(float), w.astype(float), options)


def channels_last(*images):
    """The images with a pixel's channels side by side, channels first in shape."""
    return [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in images]


def assert_only_its_channel_suffers(value, case):
    """``value`` at one pixel of x reaches all that it is multiplied into, and nothing else."""
    dy, x, w, options = arrays(case)
    x[3, 2, 4, 5] = value
    found = dw(dy, x, w, options)
    assert not np.isfinite(found[:, 2]).any()
    assert np.isfinite(np.delete(found, 2, axis=1)).all()
