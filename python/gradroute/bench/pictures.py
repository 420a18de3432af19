"""Pictures of a record: speed-up per shape, the roofline, how the cost grows."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from .cases import FAMILIES  # noqa: E402
from .record import OURS, PYTORCH, Row  # noqa: E402
from .scaling import SWEEPS  # noqa: E402

_COLORS = {
    "conv_forward": "tab:blue", "conv_dx": "tab:orange", "conv_dw": "tab:green",
    "pool_forward": "tab:red", "pool_backward": "tab:purple", "linear_backward": "tab:brown",
    "matmul_backward": "tab:pink", "scatter_add": "tab:gray",
}  # fmt: skip


def _present(rows: list[Row]) -> list[str]:
    return [op for ops in FAMILIES.values() for op in ops if any(r.op == op for r in rows)]


def speedup(rows: list[Row], path: Path) -> None:
    """A column of shapes an operation: times faster than PyTorch's default and than its best."""
    operations = _present(rows)
    # the operations of one family share their shapes, and so their rows of the picture
    families = [f for f, ops in FAMILIES.items() if any(op in operations for op in ops)]
    heights = [max(2, len({r.name for r in rows if r.family == f})) for f in families]
    width = max(sum(op in operations for op in ops) for ops in FAMILIES.values())
    figure, axes = plt.subplots(
        len(families), width, squeeze=False, sharex=True, layout="constrained",
        figsize=(1.5 + 3.2 * width, 1 + 0.17 * sum(heights) + 0.5 * len(families)),
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for line, family in zip(axes, families):
        for axis, op in zip(line, [op for op in FAMILIES[family] if op in operations]):
            _speedup_of(axis, op, [r for r in rows if r.op == op], labels=axis is line[0])
        for axis in line[sum(op in operations for op in FAMILIES[family]) :]:
            axis.axis("off")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _speedup_of(axis, op, rows, labels):
    places = np.arange(len(rows))[::-1]
    for others, marker, label in (
        (PYTORCH[:1], "o", "over PyTorch's default layout"),
        (PYTORCH, "D", "over the better of its two layouts"),
    ):
        ratios = [row.over(*others) or np.nan for row in rows]
        colors = ["tab:green" if ratio >= 1 else "tab:red" for ratio in ratios]
        filled = colors if marker == "D" else "none"
        axis.scatter(ratios, places, s=14, marker=marker, facecolors=filled, edgecolors=colors,
                     linewidths=0.8, label=label)  # fmt: skip
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_title(op, fontsize=9)
    axis.set_yticks(places, [row.name for row in rows] if labels else [], fontsize=6)
    axis.tick_params(axis="x", labelsize=7, labelbottom=True)
    axis.grid(axis="x", alpha=0.3)


def roofline(rows: list[Row], ceilings: dict, path: Path) -> None:
    """Rate against arithmetic intensity, for gradroute and the better of PyTorch's layouts."""
    flops, bandwidth = ceilings["flops"], ceilings["bytes"]
    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    intensity = np.logspace(-2, 3.5, 200)
    axis.plot(intensity, np.minimum(flops, bandwidth * intensity) / 1e9, color="black")
    axis.annotate(f"multiply-adds in registers: {flops / 1e9:.0f} GFLOP/s", (60, flops / 1e9),
                  xytext=(0, 4), textcoords="offset points", fontsize=8)  # fmt: skip
    axis.annotate(f"copy: {bandwidth / 1e9:.0f} GB/s", (0.03, 0.03 * bandwidth / 1e9),
                  xytext=(4, 14), textcoords="offset points", fontsize=8)  # fmt: skip
    for op in _present(rows):
        part = [r for r in rows if r.op == op and r.seconds(OURS)]
        x = [r.flops / r.bytes for r in part]
        axis.scatter(x, [r.flops / r.seconds(OURS) / 1e9 for r in part], s=22,
                     color=_COLORS[op], label=op)  # fmt: skip
        best = [r.over(*PYTORCH) for r in part]
        pairs = [
            (i, r.flops / (b * r.seconds(OURS)) / 1e9) for i, r, b in zip(x, part, best) if b
        ]
        if pairs:
            axis.scatter(*zip(*pairs), s=22, facecolors="none", edgecolors=_COLORS[op],
                         linewidths=0.7)  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations of the direct sum per byte of the arrays")
    axis.set_ylabel("GFLOP/s (operations of the direct sum)")
    axis.set_title("filled: gradroute; hollow: PyTorch, the better of its two layouts", fontsize=9)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, which="both", linewidth=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def growth(scaling: dict, path: Path) -> None:
    """Time against batch, channels and image size; memory against image size."""
    figure, axes = plt.subplots(1, len(SWEEPS) + 1, figsize=(14, 3.8), layout="constrained")
    for axis, what in zip(axes, SWEEPS):
        for op in {s["op"]: None for s in scaling["sweeps"]}:
            for side, style in ((OURS, "-"), ("pytorch", ":")):
                points = [
                    (s["value"], s["seconds"][side] * 1e3)
                    for s in scaling["sweeps"]
                    if s["what"] == what and s["op"] == op and side in s["seconds"]
                ]
                if points:
                    axis.plot(*zip(*points), style, marker=".", color=_COLORS[op],
                              label=op if side == OURS else None)  # fmt: skip
        axis.set_xlabel(what)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
    axes[0].set_ylabel("ms (solid: gradroute, dotted: PyTorch default)", fontsize=8)
    axes[0].legend(fontsize=6)
    for side in {m["side"]: None for m in scaling["memory"]}:
        points = [
            (m["size"], m["bytes"] / 1e6)
            for m in scaling["memory"]
            if m["side"] == side and m["bytes"]
        ]
        if points:
            axes[-1].plot(*zip(*points), marker=".", label=side)
    axes[-1].set_xlabel("image size")
    axes[-1].set_ylabel("MB that a forward convolution adds to the peak", fontsize=8)
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_yscale("log")
    if any(m["bytes"] for m in scaling["memory"]):
        axes[-1].legend(fontsize=7)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
