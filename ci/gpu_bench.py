"""The benchmark part of ci/gpu: every row of asv_bench/shapes beside torch/cuDNN on this device.

Both sides get the same dtype and the same TF32 setting; times are medians by CUDA events over
inputs that rotate through more memory than the L2 cache holds.
"""

from __future__ import annotations

import csv
import pathlib
import statistics
import time

SHAPES = pathlib.Path(__file__).parent.parent / "asv_bench" / "shapes"
BATCH = 64
#: more than the L2 cache of any GPU so far
ROTATE_BYTES = 256 << 20
#: (name in the table, dtype, gr.config.precision): torch's TF32 follows the last
MODES = (
    ("float32", "float32", "strict"), ("tf32", "float32", "tf32"), ("float16", "float16", "strict"),
)  # fmt: skip
PASSES = ("forward", "dx", "dw")


def shapes(name):
    """The rows of one CSV, numbers as integers."""
    with (SHAPES / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            numbers = {key: int(value) for key, value in row.items() if key != "name"}
            yield {"name": row["name"], **numbers, "N": BATCH}


def rows(seconds):
    """One dictionary per measurement, until all are done or the time is up."""
    end = time.monotonic() + seconds
    yield copy_bandwidth()
    listed = [(pool_rows, row) for row in shapes("pool")]
    listed += [(conv_rows, row) for row in shapes("conv")]
    for done, (measure, row) in enumerate(listed):
        if time.monotonic() > end:
            yield {"name": f"{len(listed) - done} shapes", "failure": "not measured: out of time"}
            return
        try:
            yield from measure(row)
        except Exception as error:  # one shape that fails must not hide the others
            yield {"name": row["name"], "failure": f"{type(error).__name__}: {error}"[:300]}


# ---- measuring ----------------------------------------------------------------------------


def median_ms(calls, repeat=15):
    """Median milliseconds of one call; ``calls`` are the same work on different memory."""
    import cupy

    for call in calls[:2]:
        call()
    times = []
    for i in range(repeat):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        calls[i % len(calls)]()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return statistics.median(times)


def copies_for(bytes_):
    """How many sets of arrays of this size do not fit the cache together."""
    return max(2, min(16, -(-ROTATE_BYTES // max(bytes_, 1))))


def random(shape, dtype):
    import cupy

    return cupy.random.standard_normal(shape, dtype="float32").astype(dtype)


def as_torch(array):
    """The same memory as a torch tensor."""
    import torch

    return torch.from_dlpack(array)


def copy_bandwidth():
    import cupy

    x = cupy.zeros(1 << 28, "float32")
    y = cupy.empty_like(x)
    ms = median_ms([lambda: cupy.copyto(y, x)])
    return {"name": "copy 1 GiB", "ours_ms": ms, "GB_per_s": 2 * x.nbytes / ms / 1e6}


# ---- convolution --------------------------------------------------------------------------


def conv_rows(row):
    for mode in MODES:
        yield from conv_mode(row, *mode)


def conv_mode(row, mode, dtype, precision):
    import torch

    import gradroute as gr

    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    options = {name: row[name] for name in ("stride", "padding", "dilation", "groups")}
    x_shape = (row["N"], row["C"], row["H"], row["W"])
    w_shape = (row["K"], row["C"] // row["groups"], row["R"], row["S"])
    with gr.config(precision=precision):
        w = random(w_shape, dtype)
        probe = random(x_shape, dtype)
        y = gr.conv(probe, w, **options)
        count = copies_for(probe.nbytes + y.nbytes)
        sets = [(random(x_shape, dtype), random(y.shape, dtype)) for _ in range(count)]
        ours = {
            "forward": [lambda x=x: gr.conv(x, w, **options) for x, _ in sets],
            "dx": [lambda x=x, d=d: gr.conv_backward(d, x, w, **options, need="x") for x, d in sets],
            "dw": [lambda x=x, d=d: gr.conv_backward(d, x, w, **options, need="w") for x, d in sets],
        }
        theirs = torch_calls(sets, w, options)
        flops = 2 * y.size * w.size // row["K"]
        for name in PASSES:
            plan = gr.plan({"forward": "conv", "dx": "conv_dx", "dw": "conv_dw"}[name],
                           probe, w, **options)  # fmt: skip
            ms, torch_ms = median_ms(ours[name]), median_ms(theirs[name])
            yield {
                "name": row["name"], "pass": name, "mode": mode, "algorithm": plan.algorithm,
                "ours_ms": ms, "torch_ms": torch_ms, "TFLOP_per_s": flops / ms / 1e9,
                "of_torch": torch_ms / ms,
            }  # fmt: skip


def torch_calls(sets, w, options):
    """cuDNN's three passes on the same memory."""
    import torch

    weights = as_torch(w)
    pair = {name: [options[name]] * 2 for name in ("stride", "padding", "dilation")}

    def backward(d, x, mask):
        return torch.ops.aten.convolution_backward(
            d, x, weights, None, pair["stride"], pair["padding"], pair["dilation"], False, [0, 0],
            options["groups"], mask,
        )  # fmt: skip

    tensors = [(as_torch(x), as_torch(d)) for x, d in sets]
    return {
        "forward": [
            lambda x=x: torch.nn.functional.conv2d(x, weights, **options) for x, _ in tensors
        ],
        "dx": [lambda x=x, d=d: backward(d, x, [True, False, False]) for x, d in tensors],
        "dw": [lambda x=x, d=d: backward(d, x, [False, True, False]) for x, d in tensors],
    }


# ---- pools --------------------------------------------------------------------------------


def pool_rows(row):
    import torch

    import gradroute as gr

    options = {"stride": row["stride"], "padding": row["padding"]}
    shape, window = (row["N"], row["C"], row["H"], row["W"]), row["window"]
    probe = random(shape, "float32")
    y, _ = gr.max_pool(probe, window, **options)
    count = copies_for(probe.nbytes + y.nbytes)
    sets = [(x, *gr.max_pool(x, window, **options)) for x in (
        random(shape, "float32") for _ in range(count))]  # fmt: skip
    pool = torch.nn.functional.max_pool2d
    tensors = [as_torch(x) for x, _, _ in sets]
    moved = probe.nbytes + y.nbytes + y.size  # one byte per winner
    index = [pool(x, window, **options, return_indices=True) for x in tensors]

    def torch_backward(x, y, i):
        return torch.ops.aten.max_pool2d_with_indices_backward(
            y, x, [window] * 2, [row["stride"]] * 2, [row["padding"]] * 2, [1, 1], False, i
        )

    measured = {
        "forward": (
            [lambda x=x: gr.max_pool(x, window, **options) for x, _, _ in sets],
            [lambda x=x: pool(x, window, **options, return_indices=True) for x in tensors],
        ),
        "backward": (
            [lambda d=d, n=n: gr.max_pool_backward(d, n, shape, window, **options)
             for _, d, n in sets],
            [lambda x=x, d=d, i=i: torch_backward(x, d, i)
             for x, (d, i) in zip(tensors, index)],
        ),
    }  # fmt: skip
    with gr.config(value_checks="later"):
        for name, (ours, theirs) in measured.items():
            ms, torch_ms = median_ms(ours), median_ms(theirs)
            gr.synchronize()
            yield {
                "name": row["name"], "pass": name, "mode": "float32", "ours_ms": ms,
                "torch_ms": torch_ms, "GB_per_s": moved / ms / 1e6, "of_torch": torch_ms / ms,
            }  # fmt: skip


# ---- tables -------------------------------------------------------------------------------

COLUMNS = ("name", "pass", "mode", "algorithm", "ours_ms", "torch_ms", "of_torch", "TFLOP_per_s",
           "GB_per_s", "failure")  # fmt: skip


def _cell(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def line(row):
    return "  ".join(f"{name} {_cell(row[name])}" for name in COLUMNS if name in row)


def markdown(data):
    """results.md: versions, checks, and one row per measurement."""
    text = ["# gradroute on a GPU", "", "| | |", "|---|---|"]
    text += [f"| {name} | {value} |" for name, value in data["versions"].items()]
    text += ["", "| check | outcome |", "|---|---|"]
    text += [f"| {name} | {outcome} |" for name, outcome in data["checks"].items()]
    text += ["", f"Batch {BATCH}; `of_torch` above 1: faster than torch/cuDNN.", ""]
    text += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in data["bench"]:
        text.append("| " + " | ".join(_cell(row.get(name)) for name in COLUMNS) + " |")
    return "\n".join(text) + "\n"
