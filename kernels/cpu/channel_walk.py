"""3x3 windows over channels-last images, emitted as LLVM IR: lanes are channels.

A walk goes through a block of rows of one vector of channels, from column to column.  Each source
pixel is loaded once and multiplied at once with all that it meets: forward and dx (``Walk``) keep
the weights and the sums of the three columns of targets that a source column reaches in registers,
dw (``FilterWalk``) its nine sums and the three columns of dy.  A column that is done is stored, and
the others move on by one.  So a pixel costs 9 multiply-adds, 9/7 loads and a store.

Padding: source rows and columns outside the image are branched around.  Target columns beyond the
image are summed with the others and not stored; beyond dy (dw) zeros stand in for them.

With several channels a group a walk sees one channel of each group: each lane's own group's source
channel number (lane + rotation), brought into place by a permutation, and there is a walk for each
rotation, which adds to what the ones before it stored.

Target ``t*up`` and source ``t*down`` belong together, as in strips.py.
"""

from __future__ import annotations

from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .strips import INT, PlaneEmitter
from .vectors import REGISTERS, VECTOR_BYTES, const, pointer

#: Rows and columns of the window.
SIDE = 3

#: Rows of a block of targets, by ``up`` (with 2 they are pairs of rows): as many as there are
#: registers for, three sums (six) for each.  7 divides the common image heights.
HIGH = {1: 7 if REGISTERS == 32 else 3, 2: 3 if REGISTERS == 32 else 1}

#: Can lanes be permuted by numbers known at run time only?
PERMUTES = VECTOR_BYTES >= 32

_FIELDS = (
    "source_channels",  # lanes to read
    "source_row", "source_column",  # steps, in elements
    "source_rows", "source_columns",  # sizes
    "first_row", "first_column",  # what the block's first target reads first; may be outside
    "row_every", "column_every",  # rows and columns from one tap to the next
    "target_channels", "target_row", "target_column", "target_rows", "target_columns",
    "target_first_row", "target_first_column",
    "steps",  # columns to go
    "more",  # Walk: add to what the target holds; FilterWalk: sum dy, too
)  # fmt: skip
NUMBERS = types.UniTuple(types.int64, len(_FIELDS))


class Walk(PlaneEmitter):
    """target = start + window over source, or target += window over source."""

    def __init__(self, builder, dtype, up, down, order, x, y, numbers):
        super().__init__(builder, dtype, ())
        self.up, self.down, self.order, self.x, self.y = up, down, order, x, y
        self.n = SimpleNamespace(**dict(zip(_FIELDS, numbers)))
        self.high = HIGH[up]
        self.uses = self._uses()
        # for each source column of a step the window's columns, and which sums they add to
        self.slots = [[(s, s if up > 1 else s // down) for s in range(f, SIDE, down)]
                      for f in range(down)]  # fmt: skip
        self.slot_count = SIDE if up > 1 else (SIDE - 1) // down + 1

    def emit(self, w, start):
        self.w, self.start_at = w, start
        n = self.n
        masks = self.first_lanes(n.source_channels), self.first_lanes(n.target_channels)
        if PERMUTES:
            kind = ir.VectorType(ir.IntType(32), VECTOR_BYTES // 4)
            order = self.builder.bitcast(self.order, kind.as_pointer())
            self.order = self.builder.load(order, align=4)
        self.both_ways(masks, lambda whole: self._walk(*((None, None) if whole else masks)))

    def _uses(self):
        """Distance of a source row from the block's first -> [(target row, residue, tap)]."""
        uses = {}
        for k in range(self.high):
            for r in range(SIDE):
                distance = k * self.down + r if self.up == 1 else k - r // self.up
                uses.setdefault(distance, []).append((k, r % self.up, r))
        return uses

    def _walk(self, source_mask, target_mask):
        b, n = self.builder, self.n
        weights = {(r, s): self.read(self.w, const((r * SIDE + s) * self.lanes), None)
                   for r in range(SIDE) for s in range(SIDE)}  # fmt: skip
        start = self.read(self.start_at, const(0), None)
        sums = {(k, g, slot): self.variable() for k in range(self.high) for g in range(self.up)
                for slot in range(self.slot_count)}  # fmt: skip
        for total in sums.values():
            b.store(start, total)

        def multiply(value, uses, slots):
            for k, g, r in uses:
                for s, slot in slots:
                    total = sums[k, g, slot]
                    b.store(self.fma(value, weights[r, s], b.load(total), None), total)

        with cgutils.for_range(b, n.steps) as loop:
            self._sources(loop.index, source_mask, multiply)
            for f in range(self.up):
                done = {row: sums[row // self.up, row % self.up, f if self.up > 1 else -1 % self.slot_count]
                        for row in range(self.high * self.up)}  # fmt: skip
                self._finish(b.add(b.mul(loop.index, const(self.up)), const(f)), done, target_mask)
            self._move_on(sums, start)

    def _sources(self, step, mask, multiply):
        """multiply(value, uses of its row, slots of its column) for the pixels of one step."""
        b, n = self.builder, self.n
        for f, slots in enumerate(self.slots):
            column = b.add(b.mul(step, const(self.down)), const(f))
            column = b.add(n.first_column, b.mul(column, n.column_every))
            with b.if_then(b.icmp_unsigned("<", column, n.source_columns)):
                place = b.gep(self.x, [b.mul(column, n.source_column)])
                rows = self.rows_from(place, n.first_row, n.source_row, n.row_every, self.uses)
                for distance, row, pointer in rows:
                    with b.if_then(b.icmp_unsigned("<", row, n.source_rows)):
                        value = self._permuted(self.read(pointer, const(0), mask))
                        multiply(value, self.uses[distance], slots)

    def _permuted(self, value):
        if not PERMUTES:
            return value
        b = self.builder
        kind = ir.VectorType(ir.FloatType(), VECTOR_BYTES // 4)
        name = "avx512.permvar.sf.512" if VECTOR_BYTES == 64 else "avx2.permps"
        function = self.intrinsic(f"llvm.x86.{name}", kind, kind, self.order.type)
        return b.bitcast(b.call(function, [b.bitcast(value, kind), self.order]), self.vector)

    def _targets(self, column):
        """(row of the block, does it exist, pointer) of a column of the block."""
        b, n = self.builder, self.n
        place = b.gep(self.y, [b.mul(column, n.target_column)])
        rows = range(self.high * self.up)
        for at, row, pointer in self.rows_from(place, n.target_first_row, n.target_row, const(1), rows):
            yield at, b.icmp_unsigned("<", row, n.target_rows), pointer

    def _finish(self, column, done, mask):
        """Stores a column of targets if it is inside the image."""
        b, n = self.builder, self.n
        column = b.add(n.target_first_column, column)
        with b.if_then(b.icmp_unsigned("<", column, n.target_columns)):
            with b.if_then(b.icmp_unsigned("!=", self.opaque(n.more), const(0))):
                for at, exists, pointer in self._targets(column):
                    with b.if_then(exists):
                        before = self.read(pointer, const(0), mask)
                        b.store(b.fadd(before, b.load(done[at])), done[at])
            for at, exists, pointer in self._targets(column):
                with b.if_then(exists):
                    self.write(b.load(done[at]), pointer, const(0), mask)

    def _move_on(self, sums, start):
        """Each column's registers take the sums of the column behind it, the last ones ``start``."""
        b = self.builder
        order = range(self.slot_count) if self.up > 1 else range(self.slot_count)[::-1]
        for slot in order:
            other = slot + self.up if self.up > 1 else slot - 1
            for k in range(self.high):
                for g in range(self.up):
                    known = sums.get((k, g, other))
                    b.store(b.load(known) if known is not None else start, sums[k, g, slot])


class FilterWalk(Walk):
    """Nine sums += source * dy, and the sum of dy; ``w`` is where the sums are."""

    def _walk(self, source_mask, target_mask):
        b, n = self.builder, self.n
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        places = [(r, s) for r in range(SIDE) for s in range(SIDE)]
        sums = {place: self.variable() for place in places}
        bias = self.variable()
        for at, total in enumerate(sums.values()):
            b.store(self.read(self.w, const(at * self.lanes), None), total)
        b.store(self.read(self.start_at, const(0), None), bias)
        dy = {(k, 0, slot): self.variable() for k in range(self.high)
              for slot in range(self.slot_count)}  # fmt: skip
        for one in dy.values():
            b.store(zero, one)

        def multiply(value, uses, slots):
            for k, _, r in uses:
                for s, slot in slots:
                    factor = b.load(dy[k, 0, slot])
                    b.store(self.fma(value, factor, b.load(sums[r, s]), None), sums[r, s])

        with cgutils.for_range(b, n.steps) as loop:
            with b.if_then(b.icmp_unsigned("<", loop.index, n.target_columns)):
                for at, exists, pointer in self._targets(loop.index):
                    with b.if_then(exists):
                        b.store(self.read(pointer, const(0), target_mask), dy[at, 0, 0])
            with b.if_then(b.icmp_unsigned("!=", self.opaque(n.more), const(0))):
                for k in range(self.high):
                    b.store(b.fadd(b.load(bias), b.load(dy[k, 0, 0])), bias)
            self._sources(loop.index, source_mask, multiply)
            self._move_on(dy, zero)
        for at, total in enumerate(sums.values()):
            self.write(b.load(total), self.w, const(at * self.lanes), None)
        self.write(b.load(bias), self.start_at, const(0), None)


def _walking(emitter):
    """The intrinsic of an emitter.

    walk(up, down, order, o, x, xo, w, wo, start, so, y, yo, numbers): ``up`` and ``down`` are
    constants; the source is x and w are the weights (or sums) of the window, a vector each;
    ``start`` is what a target begins with (the sum of dy); the target is y (dy).
    """

    def walk(typing, up, down, order, o, x, xo, w, wo, start, so, y, yo, numbers):
        if not all(isinstance(one, types.IntegerLiteral) for one in (up, down)):
            return None
        i = types.intp

        def generate(context, builder, signature, arguments):
            _, _, *rest, numbers = arguments
            order, x, w, start, y = (
                pointer(context, builder, signature.args[2 + at], *rest[at : at + 2])
                for at in (0, 2, 4, 6, 8)
            )
            numbers = cgutils.unpack_tuple(builder, numbers)
            made = emitter(builder, signature.args[4].dtype, up.literal_value, down.literal_value,
                           order, x, y, numbers)  # fmt: skip
            made.emit(w, start)
            return context.get_dummy_value()

        return types.void(up, down, order, i, x, i, w, i, start, i, y, i, NUMBERS), generate

    return intrinsic(walk)


walk = _walking(Walk)
filter_walk = _walking(FilterWalk)
