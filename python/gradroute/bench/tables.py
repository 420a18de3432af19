"""What the terminal shows: a rich table an operation, and one with the means."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .cases import FAMILIES
from .lines import ratio, short
from .record import ABSENT, OURS, Row, groups, summarize

_STYLE = {"box": box.SIMPLE, "padding": (0, 0), "show_edge": False, "collapse_padding": True}


def names(rows: list[Row]) -> list[str]:
    """Every side that has a time somewhere, gradroute first."""
    found = dict.fromkeys(t.side for row in rows for t in row.timings if t.seconds is not None)
    return [OURS, *(name for name in found if name != OURS)]


def cells(row: Row, sides: list[str]) -> list[str]:
    """name, gradroute's milliseconds and GFLOP/s, then each peer's milliseconds and the ratio."""
    mine = row.seconds(OURS)
    rate = "-" if mine is None else f"{row.flops / mine / 1e9:.1f}"
    shown = [row.name, "-" if mine is None else f"{mine * 1e3:.3f}", rate]
    for side in sides[1:]:
        seconds = row.seconds(side)
        shown.append("-" if seconds is None else f"{seconds * 1e3:.3f} ({ratio(row.over(side))})")
    return shown


def notes(rows: list[Row]) -> list[str]:
    """What a side does more or less than gradroute, or why it has no time, once each."""
    found = {}
    for row in rows:
        for timing in row.timings:
            if timing.note and timing.note != ABSENT:
                found.setdefault((timing.side, row.op, timing.note), []).append(row.name)
    return [
        f"{side}, {op}: {note}" + (f" ({len(where)} cases)" if len(where) > 1 else f" ({where[0]})")
        for (side, op, note), where in found.items()
    ]


def comparison(rows: list[Row]) -> list[Table]:
    """One table an operation."""
    tables = []
    for op in (op for ops in FAMILIES.values() for op in ops):
        part = [row for row in rows if row.op == op]
        if not part:
            continue
        sides = names(part)
        table = Table(title=f"{op}: milliseconds (how many times faster gradroute is)", **_STYLE)
        for column in ("case", "ours", "GFLOP/s", *map(short, sides[1:])):
            side = "left" if column == "case" else "right"
            table.add_column(column, justify=side, overflow="fold")
        for row in part:
            table.add_row(*map(_two_lines, cells(row, sides)))
        tables.append(table)
    return tables


def summary(rows: list[Row]) -> Table:
    """Geometric mean and worst case of each operation, over each peer."""
    title = "how many times faster gradroute is: geometric mean (worst case)"
    table = Table(title=title, **_STYLE)
    sides = names(rows)[1:]
    table.add_column("operation")
    table.add_column("cases", justify="right")
    for side in sides:
        table.add_column(short(side), justify="right")
    for title, part in groups(rows):
        found = [summarize(part, title, side) for side in sides]
        table.add_row(
            title, str(len(part)),
            *(f"{ratio(s.mean)}\n({ratio(s.worst)})" if s.cases else "-" for s in found),
        )  # fmt: skip
    return table


def _two_lines(cell: str) -> Text:
    """The ratio below its time, so that eight columns fit a terminal of 80."""
    return Text(cell.replace(" (", "\n("))
