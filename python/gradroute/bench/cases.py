"""The cases: an operation at the sizes of one row of a shapes file."""

from __future__ import annotations

import csv
import importlib.resources
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ArgumentValueError

#: family (the stem of its shapes file) -> its operations
FAMILIES = {
    "conv": ("conv_forward", "conv_dx", "conv_dw"),
    "pool": ("pool_forward", "pool_backward"),
    "linear": ("linear_backward",),
    "matmul": ("matmul_backward",),
    "scatter": ("scatter_add",),
}

#: the columns by which a shapes file tells its family
_COLUMNS = {
    "conv": "N C H W K R S stride padding dilation groups".split(),
    "pool": "N C H W window stride padding".split(),
    "linear": "N in out".split(),
    "matmul": "B I L J".split(),
    "scatter": "count inner rows".split(),
}


@dataclass(frozen=True)
class Case:
    """One operation at one row's sizes; the inputs are the same at every call."""

    op: str
    name: str
    sizes: tuple[tuple[str, int], ...]

    def __getitem__(self, field: str) -> int:
        return dict(self.sizes)[field]

    @property
    def family(self) -> str:
        return next(family for family, ops in FAMILIES.items() if self.op in ops)

    @property
    def options(self) -> dict:
        """The keyword options that gradroute's function takes."""
        names = {"conv": ("stride", "padding", "dilation", "groups"), "pool": ("stride", "padding")}
        return {name: self[name] for name in names.get(self.family, ())}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array that takes part, channels first."""
        return _SHAPES[self.family](self)

    def inputs(self, dtype: str) -> dict[str, np.ndarray]:
        """Seeded normal values (indices: uniform) for every array of the case, C-contiguous."""
        rng = np.random.default_rng([len(self.op), *(value for _, value in self.sizes)])
        arrays = {}
        for name, shape in self.shapes.items():
            if name == "index":
                arrays[name] = rng.integers(0, self["rows"], shape)
            elif name == "out":
                arrays[name] = np.zeros(shape, dtype)
            else:
                values = rng.standard_normal(shape, np.float32)
                # rounded once, so that 16-bit and 64-bit runs see the same values
                arrays[name] = values.astype(dtype)
        return arrays

    @property
    def flops(self) -> int:
        """Additions and multiplications of the direct sum; comparisons of a pool."""
        shapes = self.shapes
        if self.family == "conv":
            return 2 * math.prod(shapes["dy"]) * math.prod(shapes["w"][1:])
        if self.family == "pool":
            taps = self["window"] ** 2 if self.op == "pool_forward" else 1
            return math.prod(shapes["dy"]) * taps
        if self.family == "linear":
            return 4 * self["N"] * self["in"] * self["out"]
        if self.family == "matmul":
            return 4 * self["B"] * self["I"] * self["L"] * self["J"]
        return math.prod(shapes["src"])

    def bytes(self, itemsize: int) -> int:
        """What has to cross the memory bus at least: every array once, out of scatter_add twice."""
        counts = {name: math.prod(shape) for name, shape in self.shapes.items()}
        if self.family == "pool":  # and one byte of winner an output
            return (counts["x"] + counts["dy"]) * itemsize + counts["dy"]
        if self.family == "scatter":
            return (2 * counts["out"] + counts["src"]) * itemsize + counts["index"] * 8
        if self.family == "conv":
            return sum(counts.values()) * itemsize
        gradients = sum(count for name, count in counts.items() if name != "dy")
        return (sum(counts.values()) + gradients) * itemsize


def _conv_shapes(case):
    n, c, k, groups = (case[field] for field in "N C K groups".split())
    window, stride, pad, dilation = case["R"], case["stride"], case["padding"], case["dilation"]
    p, q = (
        (size + 2 * pad - (taps - 1) * dilation - 1) // stride + 1
        for size, taps in ((case["H"], window), (case["W"], case["S"]))
    )
    return {
        "x": (n, c, case["H"], case["W"]),
        "w": (k, c // groups, window, case["S"]),
        "dy": (n, k, p, q),
    }


def _pool_shapes(case):
    n, c, window = case["N"], case["C"], case["window"]
    p, q = (
        (size + 2 * case["padding"] - window) // case["stride"] + 1
        for size in (case["H"], case["W"])
    )
    return {"x": (n, c, case["H"], case["W"]), "dy": (n, c, p, q)}


def _linear_shapes(case):
    n, inputs, outputs = case["N"], case["in"], case["out"]
    return {"x": (n, inputs), "w": (outputs, inputs), "dy": (n, outputs)}


def _matmul_shapes(case):
    b, i, j = case["B"], case["I"], case["J"]
    batch = (b,) if b > 1 else ()
    return {"a": (*batch, i, case["L"]), "b": (*batch, case["L"], j), "dy": (*batch, i, j)}


def _scatter_shapes(case):
    row = (case["inner"],) if case["inner"] else ()
    return {
        "out": (case["rows"], *row),
        "index": (case["count"],),
        "src": (case["count"], *row),
    }


_SHAPES = {
    "conv": _conv_shapes,
    "pool": _pool_shapes,
    "linear": _linear_shapes,
    "matmul": _matmul_shapes,
    "scatter": _scatter_shapes,
}


# ---- reading them -------------------------------------------------------------------------


def read_shapes(text: str, source: str) -> tuple[str, list[tuple[str, tuple]]]:
    """The family and the (name, sizes) rows of a shapes file; the header tells the family."""
    rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise ArgumentValueError(f"{source} holds no row")
    family = next((f for f, columns in _COLUMNS.items() if set(columns) <= set(rows[0])), None)
    if family is None or "name" not in rows[0]:
        known = "; ".join(f"{f}: name,{','.join(c)}" for f, c in _COLUMNS.items())
        raise ArgumentValueError(f"{source} has none of the known headers ({known})")
    try:
        return family, [
            (row["name"], tuple((field, int(row[field])) for field in _COLUMNS[family]))
            for row in rows
        ]
    except (TypeError, ValueError) as error:
        raise ArgumentValueError(f"{source} holds a size that is no integer: {error}") from None


def operations(names: str | None) -> list[str]:
    """The operations that a comma-separated list of families and operations names; None: all."""
    every = [op for ops in FAMILIES.values() for op in ops]
    if not names:
        return every
    chosen = []
    for name in names.split(","):
        name = name.strip()
        if name not in FAMILIES and name not in every:
            raise ArgumentValueError(
                f"unknown operation {name!r}; known are the families {', '.join(FAMILIES)} and "
                f"the operations {', '.join(every)}"
            )
        chosen += FAMILIES.get(name, (name,))
    return [op for op in every if op in chosen]


def load_cases(ops=None, rows: str | None = None, shapes: str | None = None) -> list[Case]:
    """The cases of the shapes files that come along, or of the CSV ``shapes``.

    Parameters
    ----------
    ops : comma-separated families or operations; None is all of them
    rows : regular expression that a row's name must contain
    shapes : path of a CSV whose header is that of one of the shapes files

    Raises
    ------
    ArgumentValueError
        For an unknown operation, an unreadable file, or a choice that leaves no case.

    Examples
    --------
    >>> from gradroute.bench.cases import load_cases
    >>> [case.op for case in load_cases("pool", rows="lenet")]
    ['pool_forward', 'pool_backward']
    """
    chosen = operations(ops)
    if shapes is None:
        folder = importlib.resources.files("gradroute.bench.shapes")
        files = [(folder / f"{family}.csv", f"{family}.csv") for family in FAMILIES]
    else:
        files = [(Path(shapes), shapes)]
    cases = []
    for file, source in files:
        try:
            family, found = read_shapes(file.read_text(encoding="utf-8"), source)
        except OSError as error:
            raise ArgumentValueError(f"the shapes file cannot be read: {error}") from None
        cases += [
            Case(op, name, sizes)
            for op in FAMILIES[family]
            if op in chosen
            for name, sizes in found
            if rows is None or re.search(rows, name)
        ]
    if not cases:
        raise ArgumentValueError(
            f"no case is left of ops={ops!r}, rows={rows!r}, shapes={shapes!r}"
        )
    return cases
