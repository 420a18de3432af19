"""No im2col matrix: what a call adds to a process's peak memory, and what a limit does to it."""

import json
import math
import pathlib
import threading
import tracemalloc

import numpy as np
import processes
import pytest

import gradroute as gr
from gradroute.errors import WorkspaceError

MIB = 1 << 20

#: x, w, options; the columns of each would take several times the bound
CASES = {
    "3x3": ((4, 64, 112, 112), (64, 64, 3, 3), {"padding": 1}),
    "7x7": ((2, 8, 224, 224), (16, 8, 7, 7), {"padding": 3}),
    "depthwise": ((8, 64, 112, 112), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "channels last": ((4, 112, 112, 64), (64, 64, 3, 3), {"padding": 1, "layout": "channels_last"}),
}
OPERATIONS = ("conv", "conv_dx", "conv_dw")

PEAK = """
import json, pathlib
operation, dtype, precision, x_shape, w_shape, options = json.loads(os.environ["CASE"])
last = options.get("layout") == "channels_last"

def prepare(x_shape):
    x, w = np.ones(x_shape, dtype), np.ones(w_shape, dtype)
    y_shape = (*x_shape[:-1], w_shape[0]) if last else (x_shape[0], w_shape[0], *x_shape[2:])
    dy = np.ones(y_shape, dtype)
    if operation == "conv":
        return lambda: gr.conv(x, w, **options)
    return lambda: gr.conv_backward(dy, x, w, **options, need=(operation[-1],))

def status(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

with gr.config(precision=precision, threads=2, backend="numba"):
    small = list(x_shape)
    small[0] = 1
    small[1 if last else 2] = 16
    warm = threading.Thread(target=prepare(small))  # loads the kernels; its workspace goes with it
    warm.start()
    warm.join()
    call = prepare(x_shape)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    result = call()
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc"
)
@pytest.mark.parametrize("precision", ("strict", "standard"))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_call_adds_its_result_padded_images_packed_weights_and_32_mib_at_most(
    name, operation, precision
):
    x_shape, w_shape, options = CASES[name]
    case = (operation, "float32", precision, x_shape, w_shape, options)
    x, w = 4 * math.prod(x_shape), 4 * math.prod(w_shape)  # stride 1, "same": dy is y is
    y = x // (w_shape[1] * options.get("groups", 1)) * w_shape[0]
    result = {"conv": y, "conv_dx": x, "conv_dw": w}[operation]
    side = x_shape[2]
    grown = ((side + 2 * options["padding"]) / side) ** 2
    padded = (y if operation == "conv_dx" else x) * grown
    bound = result + padded + 2 * w + 32 * MIB + 2 * MIB  # 2 MiB: Python's own, the stacks
    columns = max(x, y) * math.prod(w_shape[2:])
    peak = int(processes.run(PEAK, CASE=json.dumps(case))[0])
    if peak > bound:  # a kernel that was compiled meanwhile, which a second process loads
        peak = int(processes.run(PEAK, CASE=json.dumps(case))[0])
    assert peak <= bound < columns + result


def traced(call, **settings):
    """What the call allocates at its peak, in a thread of its own: without a kept workspace."""
    found = []
    settings = {"backend": "numba", "threads": 1, **settings}

    def run():
        with gr.config(**settings):  # a new thread has the default settings
            tracemalloc.start()
            try:
                result = call()
                found.extend((tracemalloc.get_traced_memory()[1], result))
            finally:
                tracemalloc.stop()

    with gr.config(**settings):
        call()  # compiled, planned
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_under_a_limit_a_call_allocates_its_result_and_no_more_than_the_limit(operation, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 32, 40, 40)).astype(dtype)
    w = rng.standard_normal((48, 32, 3, 3)).astype(dtype)
    dy = rng.standard_normal((4, 48, 40, 40)).astype(dtype)

    def call():
        if operation == "conv":
            return gr.conv(x, w, padding=1)
        need = operation[-1]
        return gr.conv_backward(dy, x, w, padding=1, need=(need,))["xwb".index(need)]

    with gr.config(backend="numba", threads=1):
        free = gr.plan(operation, x, w, padding=1).workspace_bytes
    peak, wanted = traced(call)
    assert wanted.nbytes + free <= peak < wanted.nbytes + free + 100_000
    for limit in (0, free // 3, free - 1):
        peak, result = traced(call, workspace_limit=limit)
        assert peak <= wanted.nbytes + limit + 100_000
        assert np.linalg.norm(result - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_a_call_that_cannot_keep_the_limit_says_how_much_it_needs(backend):
    index = np.random.default_rng(0).integers(0, 5, 200_000)
    x = np.ones((8, 16, 64, 64), "float32")
    y, winner = gr.max_pool(x, 3, stride=1)
    w, dy = np.ones((16, 16, 3, 3), "float32"), np.ones((8, 16, 62, 62), "float32")
    calls = {
        "conv": lambda: gr.conv(x, w),
        "conv_backward": lambda: gr.conv_backward(dy, x, w),
        "max_pool_backward": lambda: gr.max_pool_backward(y, winner, x.shape, 3, stride=1),
        "scatter_add": lambda: gr.scatter_add(
            np.zeros((5, 4), "float32"), index, np.ones((200_000, 4), "float32")
        ),
        "matmul": lambda: gr.matmul(x[0, 0], x[0, 1]),
    }
    for name, call in calls.items():
        try:
            with gr.config(workspace_limit=0):
                call()
        except WorkspaceError as error:
            needed = int(str(error).split(" needs ")[1].split(" bytes")[0])
            assert needed > 0, name
            with gr.config(workspace_limit=needed):
                call()
