"""Single gradients of convolutions of random numbers, and how far they are off."""

import numpy as np

import gradroute as gr


def data(x_shape, w_shape, options, dtype):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    with gr.config(backend="reference"):
        dy = rng.standard_normal(gr.conv(x, w, **options).shape)
        exact = gr.conv_backward(dy.astype(dtype).astype(float), x.astype(dtype).astype(float), w,
                                 need="w", **options)[1]  # fmt: skip
    return x.astype(dtype), w.astype(dtype), dy.astype(dtype), exact


def dw_of(x, w, dy, options, **more):
    return gr.conv_backward(dy, x, w, need="w", **options, **more)[1]


def dx_of(x, w, dy, options, **more):
    return gr.conv_backward(dy, x, w, need="x", **options, **more)[0]


def exact_passes(x, w, b, dy, options):
    """(y, dx) of the reference in float64."""
    x, w, b, dy = (a.astype(float) for a in (x, w, b, dy))
    with gr.config(backend="reference"):
        return gr.conv(x, w, b, **options), dx_of(x, w, dy, options)


def error(actual, exact):
    return np.linalg.norm(actual - exact) / np.linalg.norm(exact)
