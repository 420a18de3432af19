"""What a measurement leaves behind: rows, their ratios and means, and the JSON that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .cases import FAMILIES

OURS = "gradroute"
ABSENT = "has no such operation"  # the note of a side that does not take part
PYTORCH = ("pytorch", "pytorch channels_last")


@dataclass
class Timing:
    """One side of a row; seconds is the median, or None where the note says why.

    With a time, the note says what that side does more or less than gradroute.
    """

    side: str
    seconds: float | None = None
    fastest: float | None = None
    calls: int = 0
    error: float | None = None  # relative L2, to float64
    note: str = ""


@dataclass
class Row:
    """One case on every side."""

    op: str
    name: str
    sizes: dict
    dtype: str
    layout: str
    backend: str
    threads: int
    flops: int
    bytes: int
    timings: list[Timing] = field(default_factory=list)

    @property
    def key(self):
        return (self.op, self.name, self.dtype, self.layout, self.backend, self.threads)

    @property
    def family(self) -> str:
        return next(family for family, ops in FAMILIES.items() if self.op in ops)

    def seconds(self, side: str) -> float | None:
        return next((t.seconds for t in self.timings if t.side == side), None)

    def over(self, *others: str) -> float | None:
        """How many times faster gradroute is than the fastest of ``others``; None: not compared."""
        mine = self.seconds(OURS)
        theirs = [s for s in map(self.seconds, others) if s is not None]
        return min(theirs) / mine if mine is not None and theirs else None

    @property
    def failure(self) -> str | None:
        """Why gradroute has no time in this row."""
        mine = next(t for t in self.timings if t.side == OURS)
        return mine.note if mine.seconds is None else None


def geometric_mean(ratios: Iterable[float]) -> float | None:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


@dataclass
class Summary:
    """The ratios of a group of rows against one opponent."""

    title: str
    cases: int
    mean: float | None
    worst: float | None
    worst_case: str
    lost: int  # cases in which gradroute is slower


def summarize(rows: list[Row], title: str, *others: str) -> Summary:
    ratios = [(ratio, f"{r.op} {r.name}") for r in rows if (ratio := r.over(*others)) is not None]
    worst, worst_case = min(ratios, default=(None, ""))
    return Summary(
        title, len(ratios), geometric_mean(ratio for ratio, _ in ratios), worst, worst_case,
        sum(ratio < 1 for ratio, _ in ratios),
    )  # fmt: skip


def groups(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by operation, and by family where it has several operations."""
    found = []
    for family, ops in FAMILIES.items():
        members = [(op, [r for r in rows if r.op == op]) for op in ops]
        members = [(op, part) for op, part in members if part]
        found += members
        if len(members) > 1:
            found.append((f"{family}, together", [r for _, part in members for r in part]))
    return found


# ---- JSON ---------------------------------------------------------------------------------


def row_from(fields: dict) -> Row:
    return Row(**{**fields, "timings": [Timing(**timing) for timing in fields["timings"]]})


def load(path) -> dict:
    """A record as `save` wrote it, with Row objects; an absent file is an empty record."""
    path = Path(path)
    if not path.exists():
        return {"rows": []}
    record = json.loads(path.read_text(encoding="utf-8"))
    record["rows"] = [row_from(fields) for fields in record.get("rows", [])]
    return record


def save(path, record: dict) -> None:
    """Writes the record; infinite errors become null, so that it is JSON to everybody.

    The file is replaced as a whole: a run that is stopped leaves the one before.
    """
    plain = {**record, "rows": [asdict(row) for row in record.get("rows", [])]}
    for row in plain["rows"]:
        for timing in row["timings"]:
            if timing["error"] is not None and not math.isfinite(timing["error"]):
                timing["error"] = None
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)


def merge(old: dict, new: dict) -> dict:
    """The new record's sections and rows put over the old one's, rows by what they measured."""
    rows = {row.key: row for row in [*old.get("rows", []), *new.get("rows", [])]}
    return {**old, **new, "rows": list(rows.values())}
