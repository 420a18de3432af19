"""The one table of cases: what every operation is tried on, on every backend.

Shapes are channels first; each case also runs channels last.  Every case stays below 100,000
multiply-adds (test_cases.py holds it to that), since the CUDA kernels run the same table thread
by thread on the CPU.
"""

import math
from dataclasses import dataclass, field

from oracle import pool_windows, transpose_windows, windows


@dataclass(frozen=True)
class Case:
    name: str
    x: tuple  # (N, C, ...)
    window: tuple  # w's shape for a convolution
    options: dict = field(default_factory=dict)
    kind: str = "normal"  # of x's values, see values.py

    def __str__(self):
        return self.name


def _table(*rows):
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    return [Case(name, x, window, options, *kind) for name, x, window, options, *kind in rows]


# ---- convolution: w is (K, C/G, ...) ------------------------------------------------------

CONV = _table(
    ("plain", (2, 3, 6, 7), (4, 3, 3, 3), {}),
    ("pointwise", (2, 5, 4, 6), (7, 5, 1, 1), {}),
    ("pointwise strided", (2, 3, 7, 6), (4, 3, 1, 1), {"stride": 2}),
    ("same 3x3", (2, 4, 9, 10), (5, 4, 3, 3), {"padding": 1}),
    ("wide channels", (1, 17, 5, 6), (19, 17, 3, 3), {"padding": 1}),
    ("stride 2", (2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    ("stride beyond the window", (2, 2, 9, 11), (3, 2, 2, 2), {"stride": (3, 4)}),
    ("stride leaves a rest", (1, 2, 10, 9), (3, 2, 3, 2), {"stride": (4, 3)}),
    ("even window", (2, 3, 6, 6), (4, 3, 4, 2), {"padding": (2, 1)}),
    ("5x5", (1, 1, 12, 12), (4, 1, 5, 5), {}),
    ("7x7 stride 2", (1, 3, 15, 14), (4, 3, 7, 7), {"stride": 2, "padding": 3}),
    ("window is the image", (2, 3, 4, 5), (6, 3, 4, 5), {}),
    ("padding pairs", (2, 2, 5, 6), (3, 2, 3, 3), {"padding": ((0, 2), (1, 0))}),
    ("padding beyond the window", (1, 2, 3, 3), (2, 2, 2, 2), {"padding": 4}),
    ("every window on padding", (2, 2, 5, 1), (3, 2, 1, 2), {
        "padding": ((0, 0), (5, 0)), "stride": (1, 6)}),
    ("valid", (2, 2, 5, 6), (3, 2, 2, 3), {"padding": "valid"}),
    ("same", (2, 2, 6, 7), (3, 2, 4, 3), {"padding": "same"}),
    ("same strided dilated", (1, 2, 9, 8), (3, 2, 2, 3), {
        "padding": "same", "stride": (2, 3), "dilation": (3, 2)}),
    ("dilated", (2, 2, 9, 10), (3, 2, 3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    ("groups", (2, 6, 5, 6), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    ("depthwise", (2, 5, 7, 6), (5, 1, 3, 3), {"groups": 5, "padding": 1}),
    ("depthwise multiplier strided", (1, 3, 8, 9), (6, 1, 3, 3), {
        "groups": 3, "padding": 1, "stride": 2}),
    ("groups dilated strided", (1, 4, 9, 9), (6, 2, 2, 3), {
        "groups": 2, "dilation": 2, "stride": (1, 2), "padding": ((2, 1), (0, 3))}),
    ("empty batch", (0, 3, 6, 7), (4, 3, 3, 3), {"padding": 1}),
    ("one pixel", (3, 2, 1, 1), (4, 2, 1, 1), {}),
    ("one pixel padded", (2, 2, 1, 1), (3, 2, 3, 3), {"padding": 1}),
    ("one row", (2, 2, 1, 9), (3, 2, 1, 3), {"padding": (0, 1)}),
    ("one channel each", (1, 1, 6, 5), (1, 1, 2, 3), {}),
    ("1-D", (3, 4, 11), (5, 4, 3), {"padding": 1}),
    ("1-D everything", (2, 4, 14), (6, 2, 3), {
        "padding": ((1, 2),), "stride": 2, "dilation": 3, "groups": 2}),
    ("1-D depthwise", (2, 6, 10), (6, 1, 4), {"groups": 6}),
    ("3-D", (2, 2, 4, 5, 6), (3, 2, 2, 3, 3), {"padding": 1}),
    ("3-D everything", (1, 4, 6, 5, 7), (4, 2, 2, 2, 3), {
        "stride": (2, 1, 2), "dilation": (1, 2, 1), "groups": 2,
        "padding": ((1, 0), (0, 2), (1, 1))}),
    ("3-D one slice", (1, 2, 1, 5, 5), (2, 2, 1, 3, 3), {"padding": (0, 1, 1)}),
    ("NaN", (2, 3, 7, 8), (4, 3, 3, 3), {"padding": 1}, "nan"),
    ("inf", (2, 4, 8, 9), (4, 4, 3, 3), {"padding": 1}, "one_inf"),
    ("inf pointwise", (2, 4, 5, 5), (3, 4, 1, 1), {}, "inf"),
    ("inf strided", (1, 3, 9, 9), (2, 3, 3, 3), {"stride": 2, "padding": 1}, "inf"),
)  # fmt: skip

# ---- transposed convolution: w is (C, K/G, ...) -------------------------------------------

CONV_TRANSPOSE = _table(
    ("plain", (2, 3, 4, 5), (3, 4, 3, 3), {}),
    ("stride 2", (2, 3, 4, 5), (3, 4, 3, 3), {"stride": 2, "padding": 1}),
    ("output padding", (2, 2, 4, 5), (2, 3, 3, 3), {
        "stride": 2, "padding": 1, "output_padding": (1, 0)}),
    ("output padding from dilation", (1, 2, 4, 4), (2, 3, 2, 2), {
        "dilation": 3, "output_padding": 2}),
    ("holes", (2, 2, 3, 4), (2, 3, 2, 2), {"stride": 3, "output_padding": 2}),
    ("crops unevenly", (2, 2, 5, 5), (2, 3, 4, 4), {"padding": ((0, 2), (3, 1))}),
    ("crops beyond the window", (1, 2, 7, 7), (2, 2, 2, 2), {"padding": 2}),
    ("crops all that was read", (1, 1, 1, 4, 2), (1, 2, 1, 2, 1), {
        "stride": (1, 2, 1), "padding": ((0, 0), (0, 0), (3, 0)), "output_padding": (0, 0, 2),
        "dilation": (1, 1, 3)}),
    ("same", (2, 2, 4, 5), (2, 3, 4, 3), {"padding": "same", "stride": 2}),
    ("same with holes", (1, 2, 4, 5), (2, 3, 2, 2), {"padding": "same", "stride": 3}),
    ("groups", (2, 6, 4, 4), (6, 2, 3, 3), {"groups": 2, "stride": 2}),
    ("depthwise", (1, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "stride": 2, "padding": 1}),
    ("dilated", (1, 2, 5, 4), (2, 2, 3, 2), {"dilation": (2, 3)}),
    ("empty batch", (0, 2, 4, 4), (2, 3, 3, 3), {"stride": 2}),
    ("one pixel", (2, 3, 1, 1), (3, 2, 4, 4), {}),
    ("1-D", (2, 3, 7), (3, 2, 4), {"stride": 2, "padding": ((1, 0),)}),
    ("3-D", (1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 0)}),
    ("NaN", (2, 3, 4, 5), (3, 2, 3, 3), {"stride": 2}, "nan"),
    ("inf", (1, 2, 5, 5), (2, 3, 3, 3), {"padding": 1}, "one_inf"),
)  # fmt: skip

# ---- pooling: for max and average alike ---------------------------------------------------

POOL = _table(
    ("2x2", (2, 3, 6, 8), (2, 2), {}),
    ("2x2 with a rest", (2, 3, 7, 9), (2, 2), {}),
    ("3x3 stride 2", (2, 2, 9, 11), (3, 3), {"stride": 2}),
    ("3x3 stride 2 padded", (2, 2, 9, 10), (3, 3), {"stride": 2, "padding": 1}),
    ("overlap", (2, 2, 6, 7), (3, 3), {"stride": 1, "padding": 1}),
    ("stride beyond the window", (1, 3, 9, 10), (2, 2), {"stride": (3, 4)}),
    ("oblong", (2, 2, 7, 9), (1, 4), {"stride": (2, 3)}),
    ("window is the image", (3, 2, 4, 5), (4, 5), {}),
    ("padding two with window three", (1, 2, 6, 6), (3, 3), {"padding": 2, "stride": 1}),
    ("padding pairs", (1, 2, 6, 7), (3, 3), {"padding": ((0, 2), (2, 1)), "stride": 2}),
    ("same", (2, 2, 6, 7), (3, 2), {"padding": "same", "stride": 2}),
    ("same dilated", (1, 2, 9, 8), (2, 3), {"padding": "same", "stride": 3, "dilation": (3, 2)}),
    ("valid", (1, 2, 6, 7), (3, 2), {"padding": "valid", "stride": 1}),
    ("dilated", (2, 2, 9, 10), (2, 3), {"dilation": (3, 2), "stride": (2, 1), "padding": (1, 2)}),
    ("ceil", (2, 2, 7, 8), (2, 3), {"stride": (2, 3), "ceil_mode": True}),
    ("ceil drops the last", (1, 2, 5, 7), (2, 2), {
        "stride": (3, 4), "padding": 1, "ceil_mode": True}),
    ("ceil padded", (1, 2, 6, 7), (3, 3), {"stride": 2, "padding": 1, "ceil_mode": True}),
    ("empty batch", (0, 2, 6, 6), (2, 2), {}),
    ("one pixel", (3, 2, 1, 1), (1, 1), {}),
    ("one row", (2, 2, 1, 9), (1, 3), {"stride": (1, 2)}),
    ("257 taps", (1, 1, 2, 260), (1, 257), {"stride": 1}),
    ("1-D", (3, 2, 11), (3,), {"stride": 2, "padding": 1}),
    ("1-D ceil dilated", (2, 2, 12), (3,), {
        "stride": 3, "dilation": 2, "padding": ((1, 0),), "ceil_mode": True}),
    ("3-D", (1, 2, 4, 6, 4), (2, 2, 2), {}),
    ("3-D overlap", (1, 2, 5, 5, 6), (2, 3, 3), {
        "stride": (1, 2, 2), "padding": (1, 1, 0), "ceil_mode": True}),
    ("ties", (2, 2, 8, 9), (3, 3), {"stride": 2, "padding": 1}, "ties"),
    ("ties 2x2", (2, 2, 8, 8), (2, 2), {}, "ties"),
    ("signed zeros", (2, 2, 6, 6), (2, 2), {}, "zeros"),
    ("NaN", (2, 2, 8, 9), (3, 3), {"stride": 2, "padding": 1}, "nan"),
    ("NaN 2x2", (2, 2, 8, 8), (2, 2), {}, "nan"),
    ("all NaN", (1, 2, 6, 6), (2, 2), {"stride": 1}, "all_nan"),
    ("inf", (2, 2, 8, 9), (3, 3), {"stride": 2, "padding": 1}, "inf"),
    ("-inf at the border", (2, 2, 7, 7), (3, 3), {"stride": 2, "padding": 1}, "minus_inf"),
)  # fmt: skip

# ---- what the operations without windows are tried on -------------------------------------

#: shapes of a and b
MATMUL = [
    ((4, 5), (5, 6)), ((1, 1), (1, 1)), ((17, 33), (33, 19)), ((5,), (5,)), ((5,), (5, 3)),
    ((4, 5), (5,)), ((3, 4, 5), (3, 5, 2)), ((3, 4, 5), (5, 2)), ((4, 5), (3, 5, 2)),
    ((2, 1, 4, 5), (3, 5, 2)), ((2, 3, 4, 5), (1, 3, 5, 2)), ((3, 4, 5), (5,)), ((5,), (3, 5, 2)),
    ((2, 1, 3, 4), (1, 5, 4, 3)), ((0, 4), (4, 3)), ((3, 0), (0, 4)), ((3, 4), (4, 0)),
    ((0, 3, 4), (4, 2)), ((64, 3), (3, 65)), ((3, 70), (70, 2)),
]  # fmt: skip

#: x's shape, out, and whether there is a bias
LINEAR = [
    ((4, 5), 3, True), ((4, 5), 3, False), ((5,), 3, True), ((2, 3, 5), 4, True),
    ((1, 1), 1, True), ((0, 5), 3, True), ((2, 0, 5), 3, False), ((7, 33), 17, True),
]  # fmt: skip

#: shape of out, axis, shape of index
SCATTER = [
    ((7,), 0, (10,)), ((7,), 0, (2, 3)), ((7,), 0, ()), ((5, 3), 0, (8,)), ((3, 5), 1, (8,)),
    ((3, 5), -1, (2, 4)), ((2, 4, 3), 1, (6,)), ((2, 4, 3), -3, (2, 2)), ((2, 4, 3), 2, (0,)),
    ((1,), 0, (9,)), ((0, 3), 1, (4,)), ((4, 0), 0, (3,)), ((33, 5), 0, (100,)),
]  # fmt: skip


def multiply_adds(case, family):
    """An upper bound: windows times taps times channels."""
    axes = len(case.x) - 2
    if family == "conv":
        out, w = windows(case.x[2:], case.window[2:], **_windows_only(case)).out, case.window
    elif family == "conv_transpose":
        out = transpose_windows(case.x[2:], case.window[2:], **_windows_only(case)).out
        w = case.window
    else:
        out = pool_windows(case.x[2:], case.window, **case.options).out
        w = (case.x[1], *case.window)
    assert len(out) == axes
    return case.x[0] * math.prod(out) * math.prod(w)


def _windows_only(case):
    return {name: value for name, value in case.options.items() if name != "groups"}
