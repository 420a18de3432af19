"""What ci/gpu measures on one shape: a function per file of asv_bench/shapes, ours and torch's."""

from __future__ import annotations

import gpu_bench
import numpy as np
from gpu_bench import as_torch, compare, numbers, rotating, torch_missing

import gradroute as gr
from gradroute.kernels.cuda import launch

#: (name in the table, dtype, gr.config.precision): torch's TF32 follows the last
MODES = (
    ("float32", "float32", "strict"), ("float32 standard", "float32", "standard"),
    ("tf32", "float32", "tf32"), ("float16", "float16", "strict"),
)  # fmt: skip
_OPERATIONS = {"forward": "conv", "dx": "conv_dx", "dw": "conv_dw"}


def _theirs(sets, call):
    """``call`` on each set as torch tensors; nothing where torch cannot be used."""
    if torch_missing():
        return []
    tensors = [as_torch(*arrays) for arrays in sets]
    return [lambda t=t: call(*t) for t in tensors]


def _ours(sets, call):
    return [lambda s=s: call(*s) for s in sets]


# ---- convolution --------------------------------------------------------------------------


def conv(row):
    for mode, dtype, precision in MODES:
        with gr.config(precision=precision):
            yield from _conv(row, mode, dtype, precision == "tf32")


def _conv(row, mode, dtype, tf32):
    options = {name: row[name] for name in ("stride", "padding", "dilation", "groups")}
    x_shape = (row["N"], row["C"], row["H"], row["W"])
    w = numbers((row["K"], row["C"] // row["groups"], row["R"], row["S"]), dtype)
    y = gr.conv(numbers(x_shape, dtype), w, **options)
    plans = {
        name: gr.plan(operation, numbers(x_shape, dtype), w, **options)
        for name, operation in _OPERATIONS.items()
    }
    if mode == "float32 standard":  # measured where it is not what "strict" does
        plans = {name: plan for name, plan in plans.items() if plan.algorithm == "tensor_3xtf32"}
    if not plans:
        return
    sets = rotating(lambda: (numbers(x_shape, dtype), numbers(y.shape, dtype)))
    ours = {
        "forward": lambda x, d: gr.conv(x, w, **options),
        "dx": lambda x, d: gr.conv_backward(d, x, w, **options, need="x"),
        "dw": lambda x, d: gr.conv_backward(d, x, w, **options, need="w"),
    }
    theirs = {} if torch_missing() else _torch_conv(w, options, tf32)
    flops = 2 * y.size * w.size // row["K"]
    for name, plan in plans.items():
        torch_calls = _theirs(sets, theirs[name]) if theirs else []
        yield compare(
            _ours(sets, ours[name]), torch_calls, flops=flops,
            **{"pass": name, "mode": mode, "algorithm": plan.algorithm},
        )  # fmt: skip


def _torch_conv(w, options, tf32):
    """cuDNN's three passes."""
    import torch

    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    (weights,) = as_torch(w)
    pair = [[options[name]] * 2 for name in ("stride", "padding", "dilation")]

    def backward(d, x, mask):
        return torch.ops.aten.convolution_backward(
            d, x, weights, None, *pair, False, [0, 0], options["groups"], mask
        )

    return {
        "forward": lambda x, d: torch.nn.functional.conv2d(x, weights, **options),
        "dx": lambda x, d: backward(d, x, [True, False, False]),
        "dw": lambda x, d: backward(d, x, [False, True, False]),
    }


# ---- pools, scatter -----------------------------------------------------------------------


def pool(row):
    options = {"stride": row["stride"], "padding": row["padding"]}
    shape, window = (row["N"], row["C"], row["H"], row["W"]), row["window"]
    sets = rotating(lambda: (numbers(shape), *gr.max_pool(numbers(shape), window, **options)))
    moved = sum(array.nbytes for array in sets[0])
    inputs = [(x,) for x, _, _ in sets]

    def torch_forward(x):
        import torch

        return torch.nn.functional.max_pool2d(x, window, **options, return_indices=True)

    indices = {}

    def torch_backward(x, d):
        import torch

        if x.data_ptr() not in indices:
            indices[x.data_ptr()] = torch_forward(x)[1]
        return torch.ops.aten.max_pool2d_with_indices_backward(
            d, x, [window] * 2, [row["stride"]] * 2, [row["padding"]] * 2, [1, 1], False,
            indices[x.data_ptr()],
        )  # fmt: skip

    backwards = _theirs([(x, d) for x, d, _ in sets], torch_backward)
    for call in backwards:  # finds the indices, outside the measurement
        call()
    with gr.config(value_checks="later"):
        yield compare(
            _ours(inputs, lambda x: gr.max_pool(x, window, **options)),
            _theirs(inputs, torch_forward), moved, **{"pass": "forward", "mode": "float32"},
        )  # fmt: skip
        yield compare(
            _ours(sets, lambda x, d, n: gr.max_pool_backward(d, n, shape, window, **options)),
            backwards, moved, **{"pass": "backward", "mode": "float32"},
        )  # fmt: skip
        gr.synchronize()


def scatter(row):
    inner = (row["inner"],) if row["inner"] else ()
    index = np.random.default_rng(0).integers(0, row["rows"], row["count"])
    sets = rotating(lambda: (
        numbers((row["rows"], *inner)), launch.runtime().to_device(index),
        numbers((row["count"], *inner)),
    ))  # fmt: skip
    out, places, source = sets[0]
    moved = source.nbytes + places.nbytes + 2 * min(out.nbytes, source.nbytes)
    with gr.config(value_checks="later"):
        yield compare(
            _ours(sets, gr.scatter_add),
            _theirs(sets, lambda out, index, src: out.index_add_(0, index, src)),
            moved, **{"pass": "scatter_add", "mode": "float32"},
        )  # fmt: skip
        gr.synchronize()


# ---- products -----------------------------------------------------------------------------


def _without_tf32():
    if torch_missing() is None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False


def matmul(row):
    _without_tf32()
    lead = (row["B"],) if row["B"] > 1 else ()
    sets = rotating(lambda: (
        numbers((*lead, row["I"], row["L"])), numbers((*lead, row["L"], row["J"]))))  # fmt: skip
    flops = 2 * row["B"] * row["I"] * row["L"] * row["J"]
    theirs = _theirs(sets, lambda a, b: a @ b)
    yield compare(_ours(sets, gr.matmul), theirs, flops=flops,
                  **{"pass": "forward", "mode": "float32"})  # fmt: skip


def linear(row):
    _without_tf32()
    N, features, out = row["N"], row["in"], row["out"]
    shapes = (N, out), (N, features), (out, features), (N, out)
    sets = rotating(lambda: tuple(map(numbers, shapes)))

    def ours(d, x, w, y):
        return gr.linear_backward(d, x, w, y=y, activation="relu")

    def theirs(d, x, w, y):
        z = d * (y > 0)
        return z @ w, z.T @ x, z.sum(0)

    yield compare(_ours(sets, ours), _theirs(sets, theirs), flops=4 * N * features * out,
                  **{"pass": "backward, relu", "mode": "float32"})  # fmt: skip


# ---- element by element -------------------------------------------------------------------


def elements(row, shape=(gpu_bench.BATCH, 64, 56, 56), rows=(16384, 1000)):
    """Activations, columns and the loss, which have no file of shapes: they only move data."""
    sets = rotating(lambda: (numbers(shape), numbers(shape)))
    moved = sets[0][0].nbytes
    for name in ("relu", "gelu"):
        yield compare(
            _ours(sets, lambda x, d, name=name: gr.activate(x, name)),
            _theirs(sets, lambda x, d, name=name: _functional(name)(x)),
            2 * moved, **{"pass": name, "mode": "float32"},
        )  # fmt: skip
        yield compare(
            _ours(sets, lambda x, d, name=name: gr.activate_backward(d, name, x=x)), [],
            3 * moved, **{"pass": f"{name} backward", "mode": "float32"},
        )  # fmt: skip
    images = [(x[: len(x) // 8],) for x, _ in sets]
    columns = [(gr.im2col(*image, 3, padding=1),) for image in images]
    few, size = images[0][0], columns[0][0].nbytes + images[0][0].nbytes
    yield compare(
        _ours(images, lambda x: gr.im2col(x, 3, padding=1)),
        _theirs(images, lambda x: _functional("unfold")(x, 3, padding=1)),
        size, **{"pass": "im2col", "mode": "float32"},
    )  # fmt: skip
    yield compare(
        _ours(columns, lambda cols: gr.col2im(cols, few.shape, 3, padding=1)),
        _theirs(columns, lambda cols: _functional("fold")(cols, shape[2:], 3, padding=1)),
        size, **{"pass": "col2im", "mode": "float32"},
    )  # fmt: skip
    labels = launch.runtime().to_device(np.arange(rows[0]) % rows[1])
    logits = rotating(lambda: (numbers(rows),))
    with gr.config(value_checks="later"):
        yield compare(
            _ours(logits, lambda z: gr.softmax_cross_entropy(z, labels)), [],
            2 * logits[0][0].nbytes, **{"pass": "softmax_cross_entropy", "mode": "float32"},
        )  # fmt: skip
        gr.synchronize()


def _functional(name):
    import torch

    return getattr(torch.nn.functional, name)
