"""The comparison as lines of plain text: a row per case, then the means and the worst cases."""

from __future__ import annotations

from .record import ABSENT, PYTORCH, Row, groups, summarize

_SHORT = {"pytorch": "torch", "pytorch channels_last": "torch cl", "onnxruntime": "onnxrt",
          "numpy im2col": "numpy"}  # fmt: skip


def _time(seconds):
    return f"{'-':>9}" if seconds is None else f"{seconds * 1e3:9.3f}"


def ratio(value) -> str:
    return "-" if value is None else f"{value:.2f}x"


def head(sides: list[str]) -> str:
    columns = "".join(f" {short(side):>9}" for side in sides)
    return f"{'operation':16} {'case':26}{columns} {'default':>8} {'best':>7} {'error':>8}   (ms)"


def short(side: str) -> str:
    """A side's name for a narrow column."""
    return _SHORT.get(side, side)


def line(row: Row, sides: list[str]) -> str:
    times = "".join(f" {_time(row.seconds(side))}" for side in sides)
    error = row.timings[0].error
    notes = [f"{t.side}: {t.note}" for t in row.timings if t.seconds is None and t.note != ABSENT]
    return (
        f"{row.op:16} {row.name:26}{times} {ratio(row.over('pytorch')):>8} "
        f"{ratio(row.over(*PYTORCH)):>7} {'-' if error is None else f'{error:.1e}':>8}"
        f"{'   ' + '; '.join(notes) if notes else ''}"
    )


def closing(rows: list[Row]) -> list[str]:
    """Geometric means and worst cases, over PyTorch's default and over the better of its two."""
    lines = [
        f"{'':24} {'over PyTorch default':>34}   {'over the better of its two layouts':>34}",
        f"{'':24} {'cases':>5} {'mean':>7} {'worst':>7} {'slower':>6}"
        f"      {'mean':>7} {'worst':>7} {'slower':>6}  worst case over best",
    ]
    for title, part in groups(rows):
        default, best = summarize(part, title, "pytorch"), summarize(part, title, *PYTORCH)
        lines.append(
            f"{title:24} {len(part):5} {ratio(default.mean):>7} {ratio(default.worst):>7} "
            f"{default.lost:>6}      {ratio(best.mean):>7} {ratio(best.worst):>7} {best.lost:>6}"
            f"  {best.worst_case}"
        )
    failed = [row for row in rows if row.failure]
    lines += [f"FAILED {row.op} {row.name}: {row.failure}" for row in failed]
    return lines
