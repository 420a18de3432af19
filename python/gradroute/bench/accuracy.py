"""The error of each algorithm that gr.plan can name, beside PyTorch's."""

from __future__ import annotations

import gradroute as gr

from .cases import Case
from .measure import error_to, expected
from .peers import peer_class
from .peers.ours import Ours

_FIELDS = "N C H W K R S stride padding dilation groups".split()

#: Each is there for the algorithms in front of it: tests/test_accuracy.py asks for all there are.
_CONVOLUTIONS = {
    # winograd, implicit_gemm, pixel_major (dw)
    "3x3, 64 to 64 channels, 28x28": (2, 64, 28, 28, 64, 3, 3, 1, 1, 1, 1),
    # winograd, inside_taps under "strict", amx (dw)
    "3x3, 512 to 512 channels, 7x7": (4, 512, 7, 7, 512, 3, 3, 1, 1, 1, 1),
    # winograd
    "5x5, 128 to 96 channels, 28x28": (4, 128, 28, 28, 96, 5, 5, 1, 2, 1, 1),
    # amx
    "5x5, 48 to 128 channels, 7x7": (8, 48, 7, 7, 128, 5, 5, 1, 2, 1, 1),
    # pointwise: amx, packed
    "1x1, 1024 to 256 channels, 14x14": (4, 1024, 14, 14, 256, 1, 1, 1, 0, 1, 1),
    # pointwise: strips, rows (dw)
    "1x1, 37 to 53 channels, 31x29": (5, 37, 31, 29, 53, 1, 1, 1, 0, 1, 1),
    # pointwise: joined under "strict"; dw with a stride
    "1x1 stride 2, 256 to 128 channels, 28x28": (4, 256, 28, 28, 128, 1, 1, 2, 0, 1, 1),
    "1x1, 512 to 256 channels, 7x7": (4, 512, 7, 7, 256, 1, 1, 1, 0, 1, 1),
    # scattered_taps (dx): amx, packed
    "11x11 stride 4, 3 to 96 channels, 227x227": (2, 3, 227, 227, 96, 11, 11, 4, 0, 1, 1),
    # scattered_taps (dx): joined
    "3x3, 1 to 16 channels, 8x8": (8, 1, 8, 8, 16, 3, 3, 1, 1, 1, 1),
    # pixel_major
    "1x1, 72 to 24 channels, 1x1": (8, 72, 1, 1, 24, 1, 1, 1, 0, 1, 1),
    # patches: amx, packed
    "16x16 stride 16, 3 to 768 channels, 224x224": (4, 3, 224, 224, 768, 16, 16, 16, 0, 1, 1),
    # patches: joined under "strict"
    "2x2 stride 2, 96 to 192 channels, 56x56": (8, 96, 56, 56, 192, 2, 2, 2, 0, 1, 1),
    # patches: strips (dx)
    "4x4 stride 4, 3 to 96 channels, 112x112": (2, 3, 112, 112, 96, 4, 4, 4, 0, 1, 1),
    # inside_taps (forward), columns: packed
    "5x5 stride 4, 160 to 40 channels, 16x16": (2, 160, 16, 16, 40, 5, 5, 4, 2, 1, 1),
    # winograd, inside_taps under "strict" (dx)
    "3x3, 256 to 384 channels, 13x13": (8, 256, 13, 13, 384, 3, 3, 1, 1, 1, 1),
    # phases by winograd
    "3x3 dilation 2, 256 to 256 channels, 64x64": (1, 256, 64, 64, 256, 3, 3, 1, 2, 2, 1),
    # amx, columns: amx (dw)
    "3x3 dilation 6, 512 to 256 channels, 33x33": (1, 512, 33, 33, 256, 3, 3, 1, 6, 6, 1),
    "3x3 dilation 18, 512 to 256 channels, 33x33": (1, 512, 33, 33, 256, 3, 3, 1, 18, 18, 1),
    # implicit_gemm, pixel_major (dw)
    "7x7 stride 2, 3 to 64 channels, 112x112": (2, 3, 112, 112, 64, 7, 7, 2, 3, 1, 1),
    # depthwise
    "3x3 depthwise, 128 channels, 28x28": (2, 128, 28, 28, 128, 3, 3, 1, 1, 1, 128),
    # direct
    "3x3, 1 to 4 channels, 6x6": (1, 1, 6, 6, 4, 3, 3, 1, 1, 1, 1),
}
_PRODUCTS = {
    "256 x 256 x 256": (256, 256, 256),  # packed
    "512 x 768 x 512": (512, 768, 512),  # amx
    "256 x 512 x 1": (256, 512, 1),  # matrix_vector
}
_SUMS = {
    "200,000 numbers into 500": (200_000, 0, 500),  # pieces
    "300,000 numbers into 400,000": (300_000, 0, 400_000),  # rows
    "1000 rows of 2048 into 100": (1000, 2048, 100),  # columns
}
_PLANNED = {"conv_forward": "conv", "conv_dx": "conv_dx", "conv_dw": "conv_dw"}

SETTINGS = ({"precision": "standard"}, {"precision": "strict"},
            {"precision": "strict", "workspace_limit": 0})  # fmt: skip

COLUMNS = ("operation", '"standard"', '"strict"', '"strict", no workspace', "PyTorch")


def cases() -> list[Case]:
    found = [
        Case(op, name, tuple(zip(_FIELDS, sizes)))
        for name, sizes in _CONVOLUTIONS.items()
        for op in _PLANNED
    ]
    for name, sizes in _PRODUCTS.items():
        found.append(Case("matmul_backward", name, tuple(zip("BILJ", (1, *sizes)))))
    for name, sizes in _SUMS.items():
        found.append(Case("scatter_add", name, tuple(zip(("count", "inner", "rows"), sizes))))
    return found


def algorithms(case: Case, arrays) -> list[str]:
    """What serves the case under the settings in force: ["pointwise: amx"], say.

    ``arrays`` by name, of which only .shape and .dtype are looked at.  A product's two gradients
    may have an algorithm each.
    """
    if case.family == "conv":
        plans = [gr.plan(_PLANNED[case.op], arrays["x"], arrays["w"], **case.options)]
    elif case.family == "scatter":
        plans = [gr.plan("scatter_add", *(arrays[name] for name in ("out", "index", "src")))]
    else:
        a, b, dy = (arrays[name] for name in ("a", "b", "dy"))
        plans = [gr.plan("matmul", dy, _turned(b)), gr.plan("matmul", _turned(a), dy)]
    return list(dict.fromkeys(map(_name, plans)))


def _turned(array):
    return array.swapaxes(-1, -2)


def _name(plan) -> str:
    """The algorithm, and the one that it leaves its sums to."""
    inner = [plan.blocking[part] for part in ("by", "product") if part in plan.blocking]
    return ": ".join([plan.algorithm, *inner])


def errors(case: Case, threads: int) -> list[str]:
    """The case's error with the algorithm that made it, for each of SETTINGS, then PyTorch's."""
    inputs = case.inputs("float32")
    wanted = expected(case, inputs, threads)
    found = []
    for settings in SETTINGS:
        with gr.config(backend="numba", threads=threads, **settings):
            run = Ours(threads).prepare(case, inputs)
            error = error_to(wanted, run.read(run.call()))
            found.append(f"{error:.1e} ({', '.join(algorithms(case, inputs))})")
    torch = peer_class("pytorch")
    if torch.missing() is not None:
        return [*found, "-"]
    run = torch(threads).prepare(case, inputs)
    return [*found, f"{error_to(wanted, run.read(run.call())):.1e}"]
