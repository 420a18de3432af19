"""What an earlier call left in the workspace reaches no result: here it is NaN everywhere."""

import numpy as np
import pytest

import gradroute as gr
from gradroute.kernels import cpu
from gradroute.kernels.cpu import plans

#: (N, C, H, W), (K, C/G, R, S), options: some for each algorithm, with tiles that are part full
CASES = {
    "5x5": ((2, 64, 20, 20), (64, 64, 5, 5), {"padding": 2}),
    "3x3": ((3, 33, 19, 22), (40, 33, 3, 3), {"padding": 1}),
    "3x3, stride 2": ((2, 20, 21, 18), (35, 20, 3, 3), {"padding": 1, "stride": 2}),
    "groups": ((2, 34, 9, 11), (38, 17, 3, 2), {"groups": 2}),
    "depthwise": ((2, 19, 13, 34), (19, 1, 3, 3), {"groups": 19, "padding": 1}),
    "depthwise, narrow": ((2, 33, 7, 7), (33, 1, 3, 3), {"groups": 33, "padding": 1}),
    "depthwise, strips": ((2, 5, 33, 64), (5, 1, 3, 3), {"groups": 5, "stride": 2}),
    "depthwise, narrow, stride 2": ((2, 33, 14, 13), (33, 1, 3, 3),
                                    {"groups": 33, "padding": 1, "stride": 2}),
    "first layer": ((2, 3, 40, 37), (21, 3, 7, 7), {"stride": 2, "padding": 3}),
    "1x1": ((2, 70, 15, 17), (90, 70, 1, 1), {}),
    "1x1, stride 2": ((2, 96, 32, 31), (96, 96, 1, 1), {"stride": 2}),
    "many weights": ((1, 200, 5, 5), (210, 200, 3, 3), {}),
}


@pytest.fixture
def leftovers(monkeypatch):
    """Every workspace comes full of NaN, a second choice's too; how often one was asked for."""
    real, asked = plans.workspace, []

    def full_of_nan(plan):
        memory = real(plan)
        if memory is not None:
            asked.append(plan)
            memory[: len(memory) // 8 * 8].view(np.float64)[:] = np.nan
        return memory

    monkeypatch.setattr(plans, "workspace", full_of_nan)
    monkeypatch.setattr(cpu, "workspace", full_of_nan)
    return asked


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_convolutions(name, dtype, precision, layout, leftovers):
    x_shape, w_shape, options = CASES[name]
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    with gr.config(precision=precision):
        for _ in range(2):
            y = gr.conv(x, w, layout=layout, **options)
            gradients = gr.conv_backward(y, x, w, layout=layout, **options)
            for one in (y, *gradients):
                assert np.isfinite(one).all()
    assert leftovers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(65, 70, 33), (3, 2000, 5), (400, 410, 420), (1, 64, 300)])
def test_matrix_products(sizes, dtype, leftovers):
    rows, inner, columns = sizes
    a, b = np.ones((rows, inner), dtype), np.ones((inner, columns), dtype)
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            assert (gr.matmul(left, right) == inner).all()
            for one in gr.matmul_backward(np.ones((rows, columns), dtype), left, right):
                assert np.isfinite(one).all()
