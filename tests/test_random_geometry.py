"""Fast backends against the float64 reference on random geometries, 300 per family.

The values are small whole numbers, whose sums are exact in every order: what differs is wrong.
(Winograd's fractions and the transcendental activations are within the usual bound.)
"""

import numpy as np
import pytest
from compare import assert_close, results
from geometries import convolutions, pools, products, scatters, transposed, vectors
from hypothesis import given, settings
from values import exact, shape_in, to

import gradroute as gr

FAST = ["numba", "cuda"]
fast = pytest.mark.parametrize("backend", FAST, indirect=True)
EXAMPLES = 300
ON_CUDA = 30  # each thread of each block runs on the CPU there


def check(function, arrays, *rest, **options):
    """The backend in force gives what the reference gives for the same numbers in float64."""
    found = function(*(None if a is None else a.copy() for a in arrays), *rest, **options)
    wide = [exact(a) if a is not None and a.dtype.kind == "f" else a for a in arrays]
    with gr.config(backend="reference"):
        expected = function(*wide, *rest, **options)
    for one, other in zip(results(found), results(expected), strict=True):
        if other.dtype.kind in "iu":
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert_close(one, other, one.dtype, floor=1.0)
            assert one.dtype == next(a for a in arrays if a.dtype.kind == "f").dtype
    return found


def examples(strategy):
    """Runs the test body on 300 drawn geometries, fewer where threads are simulated."""

    def decorate(body):
        @fast
        def test(backend):
            wanted, finished = ON_CUDA if backend == "cuda" else EXAMPLES, []

            @settings(max_examples=wanted)
            @given(strategy)
            def run(drawn):
                body(drawn)
                finished.append(drawn)

            run()
            assert len(finished) >= wanted

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate


@examples(convolutions())
def test_conv(d):
    x, w = to(d.integers(d.x), d.layout), d.integers(d.window, 1)
    options = {**d.options, "layout": d.layout}
    y = check(gr.conv, (x, w, d.integers(d.window[:1], 2)), **options)
    check(gr.conv_backward, (d.integers(y.shape, 3), x, w), **options)


@examples(transposed())
def test_conv_transpose(d):
    x, w = to(d.integers(d.x), d.layout), d.integers(d.window, 1)
    options = {**d.options, "layout": d.layout}
    channels = d.window[1] * d.options["groups"]
    y = check(gr.conv_transpose, (x, w, d.integers((channels,), 2)), **options)
    check(gr.conv_transpose_backward, (d.integers(y.shape, 3), x, w), **options)


@examples(convolutions())
def test_im2col_and_col2im(d):
    options = {k: v for k, v in d.options.items() if k != "groups"} | {"layout": d.layout}
    x = to(d.integers(d.x), d.layout)
    cols = check(gr.im2col, (x,), d.window[2:], **options)
    check(gr.col2im, (d.integers(cols.shape, 1),), x.shape, d.window[2:], **options)


@examples(pools())
def test_max_pool(d):
    rng = np.random.default_rng(d.seed)
    x = d.integers(d.x)
    x[rng.random(x.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
    options = {**d.options, "layout": d.layout}
    rule = {"ties": rng.choice(["first", "last"]), "nan": rng.choice(["propagate", "omit"])}
    rule = {name: str(choice) for name, choice in rule.items()}
    y, winner = check(gr.max_pool, (to(x, d.layout),), d.window, **options, **rule)
    dy = d.integers(y.shape, 1)
    check(gr.max_pool_backward, (dy, winner), shape_in(d.x, d.layout), d.window, **options)


@examples(pools())
def test_unpool_and_index(d):
    options = {**d.options, "layout": d.layout}
    shape = shape_in(d.x, d.layout)
    with gr.config(backend="reference"):
        y, winner = gr.max_pool(to(d.integers(d.x), d.layout), d.window, **options)
    check(gr.max_unpool, (d.integers(y.shape, 1), winner), shape, d.window, **options)
    check(gr.max_unpool_backward, (d.integers(shape, 2), winner), shape, d.window, **options)
    index = gr.winner_to_index(winner, shape, d.window, **options)
    with gr.config(backend="reference"):
        expected = gr.winner_to_index(winner, shape, d.window, **options)
    np.testing.assert_array_equal(index, expected)
    again = gr.index_to_winner(index, shape, d.window, **options)
    np.testing.assert_array_equal(again, winner)


@examples(pools())
def test_avg_pool(d):
    options = {**d.options, "layout": d.layout, "count_include_pad": bool(d.seed % 2)}
    y = check(gr.avg_pool, (to(d.integers(d.x), d.layout),), d.window, **options)
    shape = shape_in(d.x, d.layout)
    check(gr.avg_pool_backward, (d.integers(y.shape, 1),), shape, d.window, **options)


@examples(products())
def test_matmul_and_linear(d):
    a, b = d.integers(d.x), d.integers(d.window, 1)
    y = check(gr.matmul, (a, b))
    check(gr.matmul_backward, (d.integers(y.shape, 2), a, b))
    if b.ndim > 1 and b.shape[-1]:
        w = np.ascontiguousarray(b.reshape(-1, *b.shape[-2:])[0].T) if b.size else None
        if w is not None:
            y = check(gr.linear, (a, w, d.integers(w.shape[:1], 3)))
            check(gr.linear_backward, (d.integers(y.shape, 4), a, w))


@examples(scatters())
def test_scatter_add(d):
    axis = d.options["axis"] % len(d.x)
    size, rng = d.x[axis], np.random.default_rng(d.seed)
    low, high = (-size, size) if d.options["mode"] == "raise" else (-3 * size, 3 * size)
    index = np.asarray(rng.integers(low, high, d.window))
    src = d.integers((*d.x[:axis], *index.shape, *d.x[axis + 1 :]), 1)
    check(gr.scatter_add, (d.integers(d.x), index, src), **d.options)


@examples(vectors())
def test_activation_and_loss(d):
    rng, name = np.random.default_rng(d.seed), d.options["name"]
    x = np.asarray(3 * rng.standard_normal(d.x), d.dtype)
    dy = d.integers(d.x, 1)
    y = np.asarray(check(gr.activate, (x,), name))
    check(lambda dy, x: gr.activate_backward(dy, name, x=x), (dy, x))
    if name not in ("gelu", "silu"):
        check(lambda dy, y: gr.activate_backward(dy, name, y=y), (dy, y))
    rows, classes = rng.integers(1, 9), rng.integers(1, 9)
    logits = (3 * rng.standard_normal((rows, classes))).astype(d.dtype)
    check(gr.softmax_cross_entropy, (logits, rng.integers(0, classes, rows)))
