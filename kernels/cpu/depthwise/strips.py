"""Convolution of one plane, a strip of one vector's width at a time, emitted as LLVM IR.

With few channels per group there is no matrix product to speak of: the work is reading and
writing memory once.  A strip goes down the rows of a plane in blocks.  Each source row of a block
is loaded once per column of the window and multiplied into every target row that it reaches, so
that nine taps of a 3x3 window cost about four loads.  What keeps this exact at the borders:

- a source row outside the image is skipped, a branch per row;
- lanes outside the image are not loaded and not multiplied (masks, free with AVX-512), so padding
  adds nothing even to an infinite weight.

Other windows than 3x3 and 5x5 are summed in pieces of 3x3, 3x1, 1x3 and 1x1 that resume from what
the target holds.  Target element j*up and source element j*down belong together: forward is up 1
and down the stride; the gradient of a strided convolution is up the stride and down 1, where each
residue of the target modulo ``up`` has taps of its own.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.vectors import VECTOR_BYTES, Emitter, cases, const, element_pointer

#: Rows and columns of a piece of a window: this many, or 1.  Four pieces compile in seconds.
PIECE = 3

#: Windows of this many rows and columns are one piece: the next most common after 3x3.
WHOLE = 5

#: Target rows of a block, by ``up``: accumulators for up*up*rows vectors.  7 divides the common
#: image heights (7, 14, 28, 56, 112, 224).
BLOCK = {1: 7, 2: 4}

INT = ir.IntType(64)
_I32 = ir.IntType(32)

#: Sizes and paddings stay below this: lanes count columns in 32 bits.
LARGEST = 2**30
_FIELDS = ("source_row", "source_rows", "source_columns", "weight_row", "weight_column",
           "target_row", "target_rows", "target_columns", "column", "last", "first",
           "end", "top", "left", "every", "spread", "resume")  # fmt: skip
NUMBERS = types.UniTuple(types.int64, len(_FIELDS))


class PlaneEmitter(Emitter):
    """What the forward strip and the strip of a filter's gradient share."""

    def __init__(self, builder, dtype, numbers):
        super().__init__(builder, dtype)
        self.fused = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)
        self.n = SimpleNamespace(**dict(zip(_FIELDS, numbers)))

    def inside(self, start, every, count, places=None):
        """The lanes for which 0 <= start + lane*every < count, or with ``places`` for lanes."""
        b = self.builder
        kind = ir.VectorType(_I32, self.lanes)
        lanes = ir.Constant(kind, [place * every for place in places or range(self.lanes)])
        places = b.add(self._splat_int(start), lanes)
        return b.icmp_unsigned("<", places, self._splat_int(count))

    def _splat_int(self, value):
        b = self.builder
        kind = ir.VectorType(_I32, self.lanes)
        undefined, zeros = ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * self.lanes)
        one = b.insert_element(undefined, b.trunc(value, _I32), ir.Constant(_I32, 0))
        return b.shuffle_vector(one, undefined, zeros)

    def opaque(self, value):
        """The same integer, of which LLVM knows nothing: it would otherwise keep a pointer of its
        own for every row and column of the window, and spend more on them than on the sums."""
        kind = ir.FunctionType(INT, [INT])
        return self.builder.call(ir.InlineAsm(kind, "", "=r,0"), [value])

    def chain(self, start, step, count):
        """Pointers ``step`` apart, each known only from the one before: LLVM would compute them all
        beforehand and keep them in memory."""
        b = self.builder
        place, step = b.ptrtoint(start, INT), b.mul(step, const(self.size))
        for i in range(count):
            yield b.inttoptr(place, start.type)
            if i + 1 < count:
                place = self.opaque(b.add(place, step))

    def bit(self, bits, number):
        """Is it set?"""
        b = self.builder
        return b.icmp_unsigned("!=", b.and_(bits, const(1 << number)), const(0))

    def rows_from(self, base, first, row_step, every, distances):
        """(distance, row number, pointer to the row) for each distance, in order."""
        b = self.builder
        low = min(distances)
        row = b.add(first, b.mul(every, const(low)))
        place = b.add(b.ptrtoint(base, INT), b.mul(b.mul(row, row_step), const(self.size)))
        stride = b.mul(b.mul(row_step, every), const(self.size))
        found = []
        for distance in range(low, max(distances) + 1):
            row, place = self.opaque(row), self.opaque(place)
            found.append((distance, row, b.inttoptr(place, base.type)))
            row, place = b.add(row, every), b.add(place, stride)
        return [one for one in found if one[0] in distances]

    def all(self, masks):
        """Are all lanes of all masks set?"""
        b = self.builder
        whole = ir.IntType(self.lanes)
        bits = [b.bitcast(mask, whole) for mask in masks]
        joined = bits[0]
        for more in bits[1:]:
            joined = b.and_(joined, more)
        return b.icmp_unsigned("==", joined, ir.Constant(whole, -1))

    def fma(self, a, b, total, mask):
        """total + a*b in the lanes of the mask."""
        result = self.builder.call(self.fused, [a, b, total])
        return result if mask is None else self.builder.select(mask, result, total)

    def read(self, pointer, index, mask):
        if mask is None:
            return self.builder.load(self.at(pointer, index), align=self.size)
        return self.masked_load(self.at(pointer, index), mask)

    def write(self, value, pointer, index, mask):
        if mask is None:
            self.builder.store(value, self.at(pointer, index), align=self.size)
        else:
            self.masked_store(value, self.at(pointer, index), mask)

    def variable(self, value=None):
        """A vector that LLVM keeps in a register though it is assigned more than once."""
        return cgutils.alloca_once(self.builder, self.vector)

    def columns(self, column, down, count):
        """For each column of the window: where its loads start, their masks, the mask to use."""
        b, n = self.builder, self.n
        found = []
        for s in range(count):
            start = b.mul(column, const(down))
            start = self.opaque(b.sub(b.add(start, b.mul(n.spread, const(s))), n.left))
            masks = [self.inside(b.add(start, const(i * self.lanes)), 1, n.source_columns)
                     for i in range(down)]  # fmt: skip
            used = masks[0] if down == 1 else self.inside(start, down, n.source_columns)
            found.append((start, masks, used))
        return found

    def source(self, row, start, masks):
        """The vector of a source row: elements start, start + down, ..."""
        parts = [self.read(row, self.builder.add(start, const(i * self.lanes)), mask)
                 for i, mask in enumerate(masks)]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        return self.shuffle(*parts, [2 * lane for lane in range(self.lanes)])

    def both_ways(self, masks, emit):
        """emit(without masks?): where masks cost something, whole strips have code of their own."""
        if VECTOR_BYTES == 64:
            emit(False)
            return
        with self.builder.if_else(self.all(masks)) as (whole, edge):
            with whole:
                emit(True)
            with edge:
                emit(False)


class _Plane(PlaneEmitter):
    """target (+)= window over source, for one piece of the window."""

    def __init__(self, builder, dtype, numbers, x, w, y, start, up, down):
        super().__init__(builder, dtype, numbers)
        self.x, self.w, self.y, self.start, self.up, self.down = x, w, y, start, up, down

    def emit(self, rows, columns):
        """Blocks of rows from top to bottom, and in each all strips from left to right."""
        b, n = self.builder, self.n
        block, up = BLOCK[self.up], self.up
        self.weights = {(r, s): self._weight(r, s) for r in range(rows) for s in range(columns)}
        self.sums = {(k, g, f): self.variable() for k in range(block) for g in range(up)
                     for f in range(up)}  # fmt: skip
        uses = self._uses(rows, block)
        step = b.mul(n.every, const(block))
        with cgutils.for_range_slice(b, n.first, n.end, step, INT) as (i, _):
            first = b.mul(i, const(self.down))
            first = b.sub(first, n.top) if up == 1 else first
            sources = self.rows_from(self.x, first, n.source_row, n.every, uses)
            targets = self._targets(i, block)
            with cgutils.for_range_slice(b, n.column, n.last, const(self.lanes), INT) as (j, _):
                self._strip(j, sources, targets, uses, columns)

    def _strip(self, column, sources, targets, uses, columns):
        b, n = self.builder, self.n
        found = self._columns(column, columns)
        written = self._target_columns(column)
        masks = [mask for _, loads, used in found for mask in (*loads, used)]
        masks += [mask for _, mask in written]

        def run(whole):
            read = self._without_masks(found) if whole else found
            kept = [(at, None) for at, _ in written] if whole else written
            self._begin(targets, kept)
            for distance, row, pointer in sources:
                with b.if_then(b.icmp_unsigned("<", row, n.source_rows)):
                    self._multiply(pointer, uses[distance], read, columns)
            self._finish(targets, kept)

        self.both_ways(masks, run)

    @staticmethod
    def _without_masks(found):
        return [(start, [None] * len(masks), None) for start, masks, _ in found]

    def _weight(self, r, s):
        b, n = self.builder, self.n
        at = b.add(b.mul(n.weight_row, const(r)), b.mul(n.weight_column, const(s)))
        return self.splat(b.load(b.gep(self.w, [at])))

    def _columns(self, column, count):
        if self.up == 1:
            return self.columns(column, self.down, count)
        b, n = self.builder, self.n
        found = []
        for d in range((count - 1) // self.up + 1):
            start = self.opaque(b.sub(column, const(d)))
            mask = self.inside(start, 1, n.source_columns)
            found.append((start, [mask], mask))
        return found

    def _uses(self, rows, block):
        """Distance of a source row from the block's first -> [(target row, residue, tap)]."""
        uses = {}
        for k in range(block):
            for r in range(rows):
                distance = k * self.down + r if self.up == 1 else k - r // self.up
                uses.setdefault(distance, []).append((k, r % self.up, r))
        return uses

    def _multiply(self, row, uses, found, columns):
        b = self.builder
        for d, (start, masks, used) in enumerate(found):
            value = self.source(row, start, masks)
            for f in range(self.up):
                s = d if self.up == 1 else f + d * self.up
                if s >= columns:
                    continue
                for k, g, r in uses:
                    total = self.sums[k, g, f]
                    b.store(self.fma(value, self.weights[r, s], b.load(total), used), total)

    def _target_columns(self, column):
        b, n = self.builder, self.n
        start = column
        if self.up > 1:
            start = b.sub(b.mul(start, const(self.up)), n.left)
        starts = [self.opaque(b.add(start, const(i * self.lanes))) for i in range(self.up)]
        return [(start, self.inside(start, 1, n.target_columns)) for start in starts]

    def _targets(self, i, block):
        """(k, g, pointer to target row, does it exist) of the rows of the block from i on."""
        b, n = self.builder, self.n
        first, every = i, n.every
        if self.up > 1:
            first, every = b.sub(b.mul(i, const(self.up)), n.top), const(1)
        limit = n.end if self.up == 1 else n.target_rows
        found = []
        for at, row, pointer in self.rows_from(self.y, first, n.target_row, every,
                                               range(block * self.up)):  # fmt: skip
            exists = b.icmp_unsigned("<", row, limit)
            found.append((at // self.up, at % self.up, pointer, exists))
        return found

    def _begin(self, targets, columns):
        b = self.builder
        start = self.splat(self.start)
        for total in self.sums.values():
            b.store(start, total)
        with b.if_then(b.icmp_signed("!=", self.n.resume, const(0))):
            for k, g, row, exists in targets:
                with b.if_then(exists):
                    parts = [self.read(row, at, mask) for at, mask in columns]
                    for f, part in enumerate(self._split(parts)):
                        b.store(part, self.sums[k, g, f])

    def _finish(self, targets, columns):
        b = self.builder
        for k, g, row, exists in targets:
            with b.if_then(exists):
                parts = self._join([b.load(self.sums[k, g, f]) for f in range(self.up)])
                for part, (at, mask) in zip(parts, columns):
                    self.write(part, row, at, mask)

    def _split(self, parts):
        """up vectors of neighbours -> one vector per residue."""
        if self.up == 1:
            return parts
        return [self.shuffle(*parts, [2 * lane + f for lane in range(self.lanes)])
                for f in range(2)]  # fmt: skip

    def _join(self, parts):
        if self.up == 1:
            return parts
        half = self.lanes // 2
        return [self.shuffle(*parts, [at + lane // 2 + lane % 2 * self.lanes
                                      for lane in range(self.lanes)])
                for at in (0, half)]  # fmt: skip


def switch(builder, rows, columns, emit):
    """emit(rows, columns) for each kind of piece, chosen at run time."""
    piece = builder.add(builder.mul(rows, const(WHOLE + 1)), columns)
    kinds = (*itertools.product((1, PIECE), repeat=2), (WHOLE, WHOLE))
    for case in cases(builder, piece, [r * (WHOLE + 1) + s for r, s in kinds]):
        emit(*divmod(case, WHOLE + 1))


@intrinsic
def plane(typing, up, down, rows, columns, x, xo, w, wo, y, yo, start, numbers):
    """A plane of y: columns from ``column``, rows first..end-1 in steps of ``every``.

    ``up`` and ``down`` are constants.  Offsets point at the first element of each plane, and at
    the piece's first tap; ``numbers`` are _FIELDS.
    """
    if not all(isinstance(one, types.IntegerLiteral) for one in (up, down)):
        return None
    i = types.intp
    signature = types.void(up, down, i, i, x, i, w, i, y, i, y.dtype, NUMBERS)

    def generate(context, builder, signature, arguments):
        _, _, rows, columns, *rest, start, numbers = arguments
        x, w, y = (element_pointer(context, builder, signature.args[4 + at], *rest[at : at + 2])
                   for at in (0, 2, 4))  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        emitter = _Plane(builder, signature.args[8].dtype, numbers, x, w, y, start,
                         up.literal_value, down.literal_value)  # fmt: skip
        switch(builder, rows, columns, emitter.emit)
        return context.get_dummy_value()

    return signature, generate
