"""Convolution of one plane, a strip of one vector's width at a time, emitted as LLVM IR.

With few channels per group there is no matrix product to speak of: the work is reading and
writing memory once.  A strip goes down the rows of a plane in blocks.  Each source row of a block
is loaded once per column of the window and multiplied into every target row that it reaches, so
that nine taps of a 3x3 window cost about four loads.  What keeps this exact at the borders:

- a source row outside the image is skipped, a branch per row;
- lanes outside the image are not loaded and not multiplied (masks, free with AVX-512), so padding
  adds nothing even to an infinite weight.

Other windows than 3x3 are summed in pieces of 3x3, 3x1, 1x3 and 1x1 that resume from what the target
holds.  Target element j*up and source element j*down belong together: forward is up 1 and down
the stride; the gradient of a strided convolution is up the stride and down 1, where each residue
of the target modulo ``up`` has taps of its own.
"""

from __future__ import annotations

from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import VECTOR_BYTES, Emitter, const, pointer

#: Rows and columns of a piece of a window: this many, or 1.  Four pieces compile in seconds.
PIECE = 3

#: Target rows of a block, by ``up``: accumulators for up*up*rows vectors.  7 divides the common
#: image heights (7, 14, 28, 56, 112, 224).
BLOCK = {1: 7, 2: 4}

_INT = ir.IntType(64)
_FIELDS = ("source_row", "source_rows", "source_columns", "weight_row", "weight_column",
           "target_row", "target_rows", "target_columns", "column", "first", "end",
           "top", "left", "every", "spread", "resume")  # fmt: skip
NUMBERS = types.UniTuple(types.int64, len(_FIELDS))


class PlaneEmitter(Emitter):
    """What the forward strip and the strip of a filter's gradient share."""

    def __init__(self, builder, dtype, numbers):
        super().__init__(builder, dtype)
        self.fused = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)
        self.n = SimpleNamespace(**dict(zip(_FIELDS, numbers)))

    def inside(self, start, every, count):
        """The lanes for which 0 <= start + lane*every < count."""
        b = self.builder
        kind = ir.VectorType(_INT, self.lanes)
        lanes = ir.Constant(kind, [lane * every for lane in range(self.lanes)])
        places = b.add(self._splat_int(start), lanes)
        return b.icmp_unsigned("<", places, self._splat_int(count))

    def _splat_int(self, value):
        b = self.builder
        undefined = ir.Constant(ir.VectorType(_INT, self.lanes), ir.Undefined)
        one = b.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return b.shuffle_vector(one, undefined, zeros)

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

    def columns(self, down, count):
        """For each column of the window: where its loads start, their masks, the mask to use."""
        b, n = self.builder, self.n
        found = []
        for s in range(count):
            start = b.mul(n.column, const(down))
            start = b.sub(b.add(start, b.mul(n.spread, const(s))), n.left)
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

    def each_row(self, first, rows):
        """Yields (use, pointer) inside a branch taken if the row is in the image.

        ``rows`` maps a row's distance from ``first``, in units of n.every, to its use.
        """
        b, n = self.builder, self.n
        for distance, use in sorted(rows.items()):
            row = b.add(first, b.mul(n.every, const(distance)))
            with b.if_then(b.icmp_unsigned("<", row, n.source_rows)):
                yield use, b.gep(self.x, [b.mul(row, n.source_row)])

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


class _Strip(PlaneEmitter):
    """target (+)= window over source, for one strip and one piece of the window."""

    def __init__(self, builder, dtype, numbers, x, w, y, start, up, down):
        super().__init__(builder, dtype, numbers)
        self.x, self.w, self.y, self.start, self.up, self.down = x, w, y, start, up, down

    def emit(self, rows, columns):
        b, n = self.builder, self.n
        block, up = BLOCK[self.up], self.up
        weights = {(r, s): self._weight(r, s) for r in range(rows) for s in range(columns)}
        found = self._columns(columns)
        targets = self._target_columns()
        rows_of = self._rows(rows, block)
        sums = {(k, g, f): self.variable() for k in range(block) for g in range(up)
                for f in range(up)}  # fmt: skip
        step = b.mul(n.every, const(block))
        masks = [mask for _, loads, used in found for mask in (*loads, used)]
        masks += [mask for _, mask in targets]

        def run(whole):
            columns_used = self._without_masks(found) if whole else found
            kept = [(at, None) for at, _ in targets] if whole else targets
            with cgutils.for_range_slice(b, n.first, n.end, step, _INT) as (i, _):
                self._begin(i, sums, kept, block)
                first = b.mul(i, const(self.down))
                first = b.sub(first, n.top) if up == 1 else first
                for uses, row in self.each_row(first, rows_of):
                    self._multiply(row, uses, columns_used, weights, sums, columns)
                self._finish(i, sums, kept, block)

        self.both_ways(masks, run)

    @staticmethod
    def _without_masks(found):
        return [(start, [None] * len(masks), None) for start, masks, _ in found]

    def _weight(self, r, s):
        b, n = self.builder, self.n
        at = b.add(b.mul(n.weight_row, const(r)), b.mul(n.weight_column, const(s)))
        return self.splat(b.load(b.gep(self.w, [at])))

    def _columns(self, count):
        if self.up == 1:
            return self.columns(self.down, count)
        b, n = self.builder, self.n
        found = []
        for d in range((count - 1) // self.up + 1):
            start = b.sub(n.column, const(d))
            mask = self.inside(start, 1, n.source_columns)
            found.append((start, [mask], mask))
        return found

    def _rows(self, rows, block):
        """Distance of a source row from the block's first -> [(target row, residue, tap)]."""
        uses = {}
        for k in range(block):
            for r in range(rows):
                distance = k * self.down + r if self.up == 1 else k - r // self.up
                uses.setdefault(distance, []).append((k, r % self.up, r))
        return uses

    def _multiply(self, row, uses, found, weights, sums, columns):
        b = self.builder
        for d, (start, masks, used) in enumerate(found):
            value = self.source(row, start, masks)
            for f in range(self.up):
                s = d if self.up == 1 else f + d * self.up
                if s >= columns:
                    continue
                for k, g, r in uses:
                    total = sums[k, g, f]
                    b.store(self.fma(value, weights[r, s], b.load(total), used), total)

    def _target_columns(self):
        b, n = self.builder, self.n
        start = n.column
        if self.up > 1:
            start = b.sub(b.mul(start, const(self.up)), n.left)
        starts = [b.add(start, const(i * self.lanes)) for i in range(self.up)]
        return [(start, self.inside(start, 1, n.target_columns)) for start in starts]

    def _target(self, i, k, g):
        """(pointer to target row, does it exist) of row k of the block that starts at i."""
        b, n = self.builder, self.n
        place = b.add(i, b.mul(n.every, const(k)))
        exists = b.icmp_signed("<", place, n.end)
        if self.up > 1:
            place = b.sub(b.add(b.mul(place, const(self.up)), const(g)), n.top)
            exists = b.and_(exists, b.icmp_unsigned("<", place, n.target_rows))
        return b.gep(self.y, [b.mul(place, n.target_row)]), exists

    def _begin(self, i, sums, targets, block):
        b = self.builder
        start = self.splat(self.start)
        resumed = b.icmp_signed("!=", self.n.resume, const(0))
        for total in sums.values():
            b.store(start, total)
        with b.if_then(resumed):
            for k in range(block):
                for g in range(self.up):
                    row, exists = self._target(i, k, g)
                    with b.if_then(exists):
                        parts = [self.read(row, at, mask) for at, mask in targets]
                        for f, part in enumerate(self._split(parts)):
                            b.store(part, sums[k, g, f])

    def _finish(self, i, sums, targets, block):
        b = self.builder
        for k in range(block):
            for g in range(self.up):
                row, exists = self._target(i, k, g)
                with b.if_then(exists):
                    parts = self._join([b.load(sums[k, g, f]) for f in range(self.up)])
                    for part, (at, mask) in zip(parts, targets):
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
    """emit(rows, columns) for the four kinds of piece, chosen at run time."""
    end = builder.append_basic_block("pieces.end")
    piece = builder.add(builder.mul(rows, const(PIECE + 1)), columns)
    cases = builder.switch(piece, end)
    for r in (1, PIECE):
        for s in (1, PIECE):
            block = builder.append_basic_block(f"piece.{r}x{s}")
            cases.add_case(const(r * (PIECE + 1) + s), block)
            builder.position_at_end(block)
            emit(r, s)
            builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def strip(typing, up, down, rows, columns, x, xo, w, wo, y, yo, start, numbers):
    """One strip of a plane of y: lanes columns from numbers' ``column``, rows first..end-1.

    ``up`` and ``down`` are constants.  Offsets point at the first element of each plane, and at
    the piece's first tap; ``numbers`` are _FIELDS.
    """
    if not all(isinstance(one, types.IntegerLiteral) for one in (up, down)):
        return None
    i = types.intp
    signature = types.void(up, down, i, i, x, i, w, i, y, i, y.dtype, NUMBERS)

    def generate(context, builder, signature, arguments):
        _, _, rows, columns, *rest, start, numbers = arguments
        x, w, y = (pointer(context, builder, signature.args[4 + at], *rest[at : at + 2])
                   for at in (0, 2, 4))  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        emitter = _Strip(builder, signature.args[8].dtype, numbers, x, w, y, start,
                         up.literal_value, down.literal_value)  # fmt: skip
        switch(builder, rows, columns, emitter.emit)
        return context.get_dummy_value()

    return signature, generate
