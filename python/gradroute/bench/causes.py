"""Why gradroute probably loses a row: rules on the row's sizes and times, the first that holds.

The rules know what the kernels find hard; they measure nothing themselves.
"""

from __future__ import annotations

from .record import OURS, PYTORCH, Row

#: seconds below which a call's own cost, and that of waking threads, is much of the time
SMALL = 1.5e-4

#: share of the roofline from which on there is little left to gain
NEAR = 0.75


def _conv(row: Row) -> bool:
    return row.family == "conv"


def _window(row: Row) -> int:
    return row.sizes["R"] * row.sizes["S"]


#: (name, what it means, does it hold for this row)
RULES = (
    ("small", f"the faster side needs less than {SMALL * 1e6:.0f} microseconds: what a call costs "
     "before and after its arithmetic, and waking a second thread, shows",
     lambda row: min(filter(None, map(row.seconds, (OURS, *PYTORCH)))) < SMALL),
    ("first layer", "up to 4 input channels: too few to fill vectors or tiles with",
     lambda row: _conv(row) and row.sizes["C"] <= 4),
    ("depthwise", "a filter a channel: bound by reading and writing images, which channels last "
     "gives whole vectors of channels",
     lambda row: _conv(row) and row.sizes["groups"] == row.sizes["C"]),
    ("strided 1x1", "reads every second pixel: gathering them costs as much as multiplying",
     lambda row: _conv(row) and _window(row) == 1 and row.sizes["stride"] > 1),
    ("1x1", "few products for each value that is packed or transposed beforehand, which channels "
     "last does not need",
     lambda row: _conv(row) and _window(row) == 1),
    ("few pixels", "images of up to 14 x 14: rows end inside a tile, and packing the weights is "
     "shared by few outputs",
     lambda row: _conv(row) and row.sizes["H"] * row.sizes["W"] <= 14 * 14),
    ("few channels", "up to 64 channels: the panels of a product are short",
     lambda row: _conv(row) and row.sizes["C"] // row.sizes["groups"] <= 64),
    ("narrow product", "one side of a matrix of up to 64: packing it is much of the time",
     lambda row: row.family == "matmul" and min(row.sizes[f] for f in "ILJ") <= 64),
    ("large product", "a matrix product: the other side's BLAS is tuned by hand for the processor",
     lambda row: row.family in ("matmul", "linear")),
    ("memory", "fewer than 4 operations a byte: what is read or written once too often shows",
     lambda row: row.flops < 4 * row.bytes),
)  # fmt: skip


def cause(row: Row, ceilings: dict | None) -> str:
    """The name of the first rule that holds; "near the ceiling" or "none known" otherwise."""
    for name, _, holds in RULES:
        if holds(row):
            return name
    if ceilings and share(row, ceilings) >= NEAR:
        return "near the ceiling"
    return "none known"


def share(row: Row, ceilings: dict, side: str = OURS) -> float | None:
    """The time that the roofline allows, divided by the time taken; None where there is none."""
    seconds = row.seconds(side)
    if seconds is None:
        return None
    return max(row.flops / ceilings["flops"], row.bytes / ceilings["bytes"]) / seconds


def meaning(names) -> list[str]:
    """A line for each of the rules so named, in the order of the rules."""
    known = {name: text for name, text, _ in RULES}
    known["near the ceiling"] = f"{NEAR:.0%} or more of the measured roofline"
    known["none known"] = "no rule here holds"
    return [f"{name}: {text}" for name, text in known.items() if name in names]
