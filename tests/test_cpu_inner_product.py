"""Images of one pixel, as inner products of rows where there are few sums (inner_product.py)."""

import numpy as np
import pytest
from needs import needs_vectors

import gradroute as gr

pytestmark = needs_vectors

#: images, channels, output channels
SIZES = [(8, 1024, 5), (64, 131, 10), (5, 1023, 64), (33, 515, 24), (3, 5000, 3), (2, 900, 400)]


def _given(size, dtype):
    images, channels, outputs = size
    rng = np.random.default_rng(4)
    shapes = (images, channels, 1, 1), (outputs, channels, 1, 1), (outputs,)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_they_are_those_of_the_reference_and_where_they_lie_changes_no_bit(size, dtype):
    x, w, bias = _given(size, dtype)
    assert gr.plan("conv", x, w, bias).blocking["product"] == "inner"
    with gr.config(backend="reference"):
        right = gr.conv(*[array.astype(float) for array in (x, w, bias)])
    y = gr.conv(x, w, bias)
    most = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(y, right, rtol=most, atol=most * 30)
    np.testing.assert_allclose(gr.conv(x, w), right - bias[:, None, None], rtol=most,
                               atol=most * 30)  # fmt: skip
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv(x, w, bias), y)
    turned = [np.asfortranarray(a[..., 0, 0])[..., None, None] for a in (x, w)]
    back = [a[:, ::-1].copy()[:, ::-1] for a in (x, w)]
    for given in (turned, back, (turned[0], w), (x, back[1])):
        room = np.full((len(x) + 2, 2 * len(w), 1, 1), np.nan, dtype)
        gr.conv(*given, bias, out=room[1:-1, ::2])
        np.testing.assert_array_equal(room[1:-1, ::2], y)
        assert np.isnan(room[[0, -1]]).all() and np.isnan(room[:, 1::2]).all()


def test_what_is_not_finite_reaches_its_sums_only():
    x, w, bias = _given((9, 300, 7), "float64")
    x[4, 33], w[2, 5] = np.nan, np.inf
    bad = ~np.isfinite(gr.conv(x, w, bias)[..., 0, 0])
    assert bad[4].all() and bad[:, 2].all() and bad.sum() == 9 + 7 - 1
