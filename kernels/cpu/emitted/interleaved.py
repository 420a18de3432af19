"""Two, four or eight rows from one in which their elements take turns, and back, as LLVM IR.

log2(rows) passes over as many vectors, each of which sorts pairs of vectors into the elements at
even and at odd places; the way back zips them.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from .vectors import Emitter, cases, const, element_pointer

#: Numbers of rows, ``turns`` below, that there is code for; with others nothing is done.
ROWS_IN_TURN = (2, 4, 8)


def _sorted(e, vectors):
    """The rows of which the elements of ``vectors``, one behind the other, are by turns."""
    if len(vectors) == 1:
        return vectors
    pairs = list(zip(vectors[::2], vectors[1::2]))
    even, odd = (_sorted(e, [e.shuffle(a, b, [2 * i + first for i in range(e.lanes)])
                             for a, b in pairs]) for first in (0, 1))  # fmt: skip
    return [row for both in zip(even, odd) for row in both]


def _zipped(e, rows):
    """The inverse of `_sorted`."""
    if len(rows) == 1:
        return rows
    pairs = zip(_zipped(e, rows[::2]), _zipped(e, rows[1::2]))
    return [e.shuffle(a, b, [first + i // 2 + i % 2 * e.lanes for i in range(e.lanes)])
            for a, b in pairs for first in (0, e.lanes // 2)]  # fmt: skip


class _Turns(Emitter):
    """``row`` has ``count`` elements of each of ``turns`` rows that lie ``apart``."""

    def __init__(self, builder, dtype, turns, row, rows, apart, count):
        super().__init__(builder, dtype)
        self.turns, self.row, self.apart, self.count = turns, row, apart, count
        self.starts = [builder.gep(rows, [builder.mul(apart, const(i))]) for i in range(turns)]

    def emit(self, block):
        self.rows(self.count, lambda i: block(i, None), block)

    def places(self, i):
        """Of the vectors of the one row at element i of the others, with masks of what exists."""
        b = self.builder
        first = b.mul(i, const(self.turns))
        left = b.mul(b.sub(self.count, i), const(self.turns))
        for vector in range(self.turns):
            behind = const(vector * self.lanes)
            yield self.at(self.row, b.add(first, behind)), self.first_lanes(b.sub(left, behind))

    def apart_from(self, i, mask):
        whole = [self.builder.load(at, align=self.size) if mask is None else
                 self.masked_load(at, exists) for at, exists in self.places(i)]  # fmt: skip
        for start, value in zip(self.starts, _sorted(self, whole)):
            self._write(value, self.at(start, i), mask)

    def together(self, i, mask):
        values = [self.builder.load(self.at(start, i), align=self.size) if mask is None else
                  self.masked_load(self.at(start, i), mask) for start in self.starts]  # fmt: skip
        for value, (at, exists) in zip(_zipped(self, values), self.places(i)):
            self._write(value, at, None if mask is None else exists)

    def _write(self, value, at, mask):
        if mask is None:
            self.builder.store(value, at, align=self.size)
        else:
            self.masked_store(value, at, mask)


def _switch(builder, dtype, turns, row, rows, apart, count, method):
    """One emitted loop for each number of rows."""
    for number in cases(builder, turns, ROWS_IN_TURN):
        emitter = _Turns(builder, dtype, number, row, rows, apart, count)
        emitter.emit(getattr(emitter, method))


@intrinsic
def take_turns_apart(typing, target, to, apart, source, start, turns, count):
    """target[to + s*apart + q] = source[start + q*turns + s], s < turns, q < count."""

    def generate(context, builder, signature, arguments):
        target, to, apart, source, start, turns, count = arguments
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[3], source, start)
        _switch(builder, signature.args[0].dtype, turns, read, write, apart, count, "apart_from")
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, index, source, index, index, index), generate


@intrinsic
def bring_turns_together(typing, target, to, source, start, apart, turns, count):
    """target[to + q*turns + s] = source[start + s*apart + q], s < turns, q < count."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, apart, turns, count = arguments
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)
        _switch(builder, signature.args[0].dtype, turns, write, read, apart, count, "together")
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, source, index, index, index, index), generate
