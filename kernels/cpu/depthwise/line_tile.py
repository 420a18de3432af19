"""A line of neighbouring targets of any window, as LLVM IR: lanes are channels, or columns.

The sums of a line of targets, a vector each, stay in registers through the whole window.  Of the
window the taps along the line are unrolled: their weights are loaded, then each source of the line
once, which is multiplied at once with all taps by which targets see it.  So there are three times
as many multiply-adds as loads, and as many independent sums as hide their latency, whatever the
window.  What lies across the line is looped over.

With channels last a line is a row of pixels, and a vector some channels of one (RowTile).  With
channels first a line is a column, and a vector a piece of a row (ColumnTile).

Sources outside the image are branched around, a bit for each along the line; across it they are
not among those of the call, or masked out.  So padding is never multiplied.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.vectors import REGISTERS, cases, const, element_pointer
from .strips import INT, PlaneEmitter

#: Targets of a line: these sums, the weights of its taps and a source fill the registers.
LINE = 14 if REGISTERS == 32 else 7

#: Targets of a line of narrow images.
SHORT = 7

#: Taps along a line that are unrolled; longer windows are summed piece by piece.
UNROLLED = (1, 2, 3, 4, 5, 7)

FIELDS = (
    "planes", "plane_source", "plane_weights",  # along the third axis: how many, their steps
    "turns", "turn_source", "turn_weights",  # channels of a group
    "rows", "row_source", "row_weights",  # of the window, or with lines that are columns columns
    "source_step", "target_step", "tap_weights",  # along the line
    "first",  # the first tap that is used, behind the first weight
    "sources", "targets",  # bits: which are inside?
    "resume",  # do targets begin with what they hold?
)  # fmt: skip
ROW_FIELDS = (
    "vectors",  # how many
    "source_channels", "target_channels",  # all that there are
    "source_each", "target_each",  # of one vector
    "weights", "start",  # from a vector's weights to the next one's, and to what targets begin with
)  # fmt: skip
COLUMN_FIELDS = (
    "column", "spread",  # of the source that lane 0 sees by the first tap; from a tap to the next
    "source_columns", "target_columns",  # in all; from lane 0 on
    "source_image", "target_image",  # from an image to the one that shares its vectors
    "source_line", "target_line",  # from a line to the other one that is summed at once
)  # fmt: skip


class _Line(PlaneEmitter):
    """target = start + window over source."""

    def __init__(self, builder, dtype, down, taps, lines, fields, numbers):
        super().__init__(builder, dtype, ())
        self.n, self.taps = SimpleNamespace(**dict(zip(FIELDS + fields, numbers))), taps
        self.lines, self.count = lines, LINE // lines
        self.uses = [[(target, at - target * down) for target in range(self.count)
                      if 0 <= at - target * down < taps]
                     for at in range((self.count - 1) * down + taps)]  # fmt: skip

    def _sum(self, x, w, y, start, target_mask, row):
        """row(index, source, weights, sums) adds one row of the window."""
        b, n = self.builder, self.n
        sums = [[self.variable() for _ in range(self.lines)] for _ in range(self.count)]
        for total in sum(sums, []):
            b.store(start, total)

        def begin(place, at):
            for line, total in enumerate(sums[at]):
                b.store(self.read_target(place, line, target_mask), total)

        def finish(place, at):
            for line, total in enumerate(sums[at]):
                self.write_target(b.load(total), place, line, target_mask)

        with b.if_then(b.icmp_signed("!=", n.resume, const(0))):
            for at, place in self._inside(y, n.targets, n.target_step, self.count):
                begin(place, at)
        planes = self._walk(n.planes, (x, n.plane_source), (b.gep(w, [n.first]), n.plane_weights))
        for _, source, weights in planes:
            for _, source, weights in self._walk(n.turns, (source, n.turn_source),
                                                    (weights, n.turn_weights)):  # fmt: skip
                for index, source, weights in self._walk(n.rows, (source, n.row_source),
                                                         (weights, n.row_weights)):  # fmt: skip
                    row(index, source, weights, sums)
        every = b.icmp_unsigned("==", n.targets, const((1 << self.count) - 1))
        with b.if_else(every) as (whole, edge):
            with whole:
                for at, place in enumerate(self.chain(y, n.target_step, self.count)):
                    finish(place, at)
            with edge:
                for at, place in self._inside(y, n.targets, n.target_step, self.count):
                    finish(place, at)

    def read_target(self, place, line, mask):
        return self.read(place, const(0), mask)

    def write_target(self, value, place, line, mask):
        self.write(value, place, const(0), mask)

    def _multiply(self, source, taps, sums, value_of, mask):
        n = self.n
        for at, place in self._inside(source, n.sources, n.source_step, len(self.uses)):
            for line in range(self.lines):
                value = value_of(place, line)
                for target, tap in self.uses[at]:
                    total = sums[target][line]
                    value_so_far = self.builder.load(total)
                    self.builder.store(self.fma(value, taps[tap], value_so_far, mask), total)

    def _walk(self, count, *pointers):
        """A loop of (index, pointers), each its step further on; pointers that LLVM knows nothing
        of, or it would keep one for each tap and go along with all of them in every loop."""
        b = self.builder
        places = []
        for at, by in pointers:
            variable = cgutils.alloca_once(b, INT)
            b.store(b.ptrtoint(at, INT), variable)
            places.append((variable, at.type, b.mul(by, const(self.size))))
        with cgutils.for_range(b, count) as loop:
            here = [self.opaque(b.load(variable)) for variable, _, _ in places]
            yield (loop.index, *(b.inttoptr(at, kind) for at, (_, kind, _) in zip(here, places)))
            for at, (variable, _, by) in zip(here, places):
                b.store(b.add(at, by), variable)

    def _inside(self, start, bits, step, count):
        """(number, pointer) along the line; the loop is for those whose bit is set."""
        b, bits = self.builder, self.opaque(bits)
        for at, place in enumerate(self.chain(start, step, count)):
            with b.if_then(self.bit(bits, at)):
                yield at, place


class RowTile(_Line):
    """A row of pixels, for one vector of channels after the other."""

    def __init__(self, builder, dtype, down, taps, numbers):
        super().__init__(builder, dtype, down, taps, 1, ROW_FIELDS, numbers)

    def emit(self, x, w, y):
        b, n = self.builder, self.n
        with cgutils.for_range(b, n.vectors) as loop:
            masks = []
            for total, each in ((n.source_channels, n.source_each),
                                (n.target_channels, n.target_each)):  # fmt: skip
                left = b.sub(total, b.mul(loop.index, each))
                masks.append(self.first_lanes(b.select(b.icmp_signed("<", left, each), left, each)))
            places = [b.gep(at, [b.mul(loop.index, by)]) for at, by in (
                (x, n.source_each), (w, n.weights), (y, n.target_each))]  # fmt: skip
            self.both_ways(masks, lambda whole: self._vector(
                *places, *((None, None) if whole else masks)))  # fmt: skip

    def _vector(self, x, w, y, source_mask, target_mask):
        def row(_, source, weights, sums):
            taps = [self.read(at, const(0), None)
                    for at in self.chain(weights, self.n.tap_weights, self.taps)]  # fmt: skip
            self._multiply(source, taps, sums, value, None)

        def value(place, _):
            return self.read(place, const(0), source_mask)

        self._sum(x, w, y, self.read(w, self.n.start, None), target_mask, row)


class ColumnTile(_Line):
    """A column of pieces of rows; lane l is ``down`` elements behind lane l - 1 in the source.

    Rows of which half a vector holds all are taken of two images at once (``halves`` 2), and then
    lines of SHORT targets, as many as LINE has room for, each of further two images.
    """

    def __init__(self, builder, dtype, down, halves, taps, numbers):
        lines = LINE // SHORT if halves == 2 else 1
        super().__init__(builder, dtype, down, taps, lines, COLUMN_FIELDS, numbers)
        self.down, self.length = down, self.lanes // halves

    def emit(self, x, w, y, start):
        b, n = self.builder, self.n

        def row(index, source, weights, sums):
            taps = [self.splat(b.load(at))
                    for at in self.chain(weights, n.tap_weights, self.taps)]  # fmt: skip
            column = self.opaque(b.add(n.column, b.mul(index, n.spread)))
            masks = [self._seen(b.add(column, const(i * self.length)), 1)
                     for i in range(self.down)]  # fmt: skip
            used = masks[0] if self.down == 1 else self._seen(column, 2)

            def multiply(whole):
                value = partial(self._source, masks=[None] * self.down if whole else masks)
                self._multiply(source, taps, sums, value, None if whole else used)

            self.both_ways([*masks, used], multiply)

        self._sum(x, w, y, self.splat(start), self._within(const(0), 1, n.target_columns), row)

    def _seen(self, start, every):
        return self._within(start, every, self.n.source_columns)

    def _within(self, start, every, count):
        """The lanes for which 0 <= start + place*every < count, places counted in each part."""
        return self.inside(start, every, count, [lane % self.length for lane in range(self.lanes)])

    def _source(self, place, line, masks):
        if line:
            place = self.builder.gep(place, [self.n.source_line])
        parts = [self._both(place, const(i * self.length), mask, self.n.source_image)
                 for i, mask in enumerate(masks)]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        half = range(self.length)
        picks = [(2 * lane) % self.length + (2 * lane // self.length) * self.lanes for lane in half]
        if self.length < self.lanes:
            picks += [at + self.length for at in picks]
        return self.shuffle(*parts, picks)

    def _both(self, place, index, mask, image):
        """The places of a row, and of the same one of the next image in the upper half."""
        if self.length == self.lanes:
            return self.read(place, index, mask)
        b = self.builder
        low, high = self._halves(mask)
        lower = self.masked_load(self.at(place, index), low)
        upper = b.sub(b.add(index, image), const(self.length))
        return self.masked_load(self.at(place, upper), high, lower)

    def _halves(self, mask):
        b = self.builder
        low = ir.Constant(self.mask, [lane < self.length for lane in range(self.lanes)])
        if mask is None:
            return low, b.not_(low)
        return b.and_(mask, low), b.and_(mask, b.not_(low))

    def read_target(self, place, line, mask):
        if line:
            place = self.builder.gep(place, [self.n.target_line])
        return self._both(place, const(0), mask, self.n.target_image)

    def write_target(self, value, place, line, mask):
        if line:
            place = self.builder.gep(place, [self.n.target_line])
        if self.length == self.lanes:
            self.write(value, place, const(0), mask)
            return
        low, high = self._halves(mask)
        upper = self.builder.sub(self.n.target_image, const(self.length))
        self.masked_store(value, self.at(place, const(0)), low)
        self.masked_store(value, self.at(place, upper), high)


@intrinsic
def row_tile(typing, down, taps, x, xo, w, wo, y, yo, numbers):
    """LINE targets of a row, ``down`` (a constant) source pixels apart.

    ``taps`` is one of UNROLLED.  Offsets point at the source of target 0's first tap, inside the
    image or not, at the weights of the first vector, and at target 0; ``numbers`` are FIELDS and
    ROW_FIELDS.
    """
    if not isinstance(down, types.IntegerLiteral):
        return None
    i = types.intp

    def generate(context, builder, signature, arguments):
        _, taps, *rest, numbers = arguments
        places = [element_pointer(context, builder, signature.args[2 + at], *rest[at : at + 2])
                  for at in (0, 2, 4)]  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        for count in cases(builder, taps, UNROLLED):
            RowTile(builder, y.dtype, down.literal_value, count, numbers).emit(*places)
        return context.get_dummy_value()

    numbers = types.UniTuple(types.int64, len(FIELDS + ROW_FIELDS))
    return types.void(down, i, x, i, w, i, y, i, numbers), generate


@intrinsic
def column_tile(typing, down, halves, taps, x, xo, w, wo, y, yo, start, numbers):
    """LINE targets of a column, a vector wide, or half a one in two images (``halves`` 2).

    ``down`` and ``halves`` are constants, ``taps`` is one of UNROLLED.  Offsets point at the source
    of target 0's first tap, inside the image or not, at the weights of the first tap, and at target
    0; targets begin with ``start``; ``numbers`` are FIELDS and COLUMN_FIELDS.
    """
    if not all(isinstance(one, types.IntegerLiteral) for one in (down, halves)):
        return None
    i = types.intp

    def generate(context, builder, signature, arguments):
        _, _, taps, *rest, start, numbers = arguments
        places = [element_pointer(context, builder, signature.args[3 + at], *rest[at : at + 2])
                  for at in (0, 2, 4)]  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        for count in cases(builder, taps, UNROLLED):
            tile = ColumnTile(builder, y.dtype, down.literal_value, halves.literal_value, count,
                              numbers)  # fmt: skip
            tile.emit(*places, start)
        return context.get_dummy_value()

    numbers = types.UniTuple(types.int64, len(FIELDS + COLUMN_FIELDS))
    return types.void(down, halves, i, x, i, w, i, y, i, y.dtype, numbers), generate
