"""A tile of pixels of a 3x3 window over channels-last images, as LLVM IR: lanes are channels.

The sums of a few neighbouring pixels of one vector of channels stay in registers, beside the nine
weights; each source pixel is loaded once and multiplied at once with all that it reaches.  Then
comes the next vector of channels: memory is read and written in the order in which it lies, which
is what the processor's own prefetching follows.

Source pixels outside the image are branched around, a bit for each row and column of the tile, so
that padding is never multiplied; targets outside it are not stored.

With several channels a group a turn sees one channel of each group: each lane its own group's
source channel number (lane + turn), brought into place by a permutation; a vector that holds one
group needs none (group_tile.py).

Target ``t*up`` and source ``t*down`` belong together, as in strips.py.
"""

from __future__ import annotations

from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.vectors import REGISTERS, VECTOR_BYTES, const, element_pointer
from .strips import PlaneEmitter

#: Rows and columns of the window.
SIDE = 3

#: Rows and columns of a tile of targets, by ``up``; with 2 they are pairs.
HIGH = {1: 4, 2: 2} if REGISTERS == 32 else {1: 2, 2: 1}
WIDE = {1: 4, 2: 2}

#: Can lanes be permuted by numbers known at run time only?
PERMUTES = VECTOR_BYTES >= 32

_FIELDS = (
    "vectors",  # how many
    "source_channels", "target_channels",  # all that there are
    "source_each", "target_each",  # of one vector
    "source_row", "source_column", "target_row", "target_column",  # steps, in elements
    "source_rows", "source_columns", "target_rows", "target_columns",  # bits: which are inside?
    "planes", "plane_source", "plane_weights",  # along the third axis: how many, their steps
    "turns",  # for each plane
    "weights", "start",  # from a vector's weights to the next one's, and to what targets begin with
)  # fmt: skip
NUMBERS = types.UniTuple(types.int64, len(_FIELDS))


def uses(count, up, down):
    """Along one axis, for each source of a tile of ``count`` targets: [(target, tap)].

    The first source is target 0's tap 0, or with ``up`` 2 its tap 2.
    """
    found = {}
    for target in range(count * up):
        for tap in range(SIDE):
            if (target - tap) % up == 0:
                source = target * down + tap if up == 1 else (target - tap) // up
                found.setdefault(source, []).append((target, tap))
    return [found[source] for source in sorted(found)]


class Tile(PlaneEmitter):
    """target = start + window over source."""

    def __init__(self, builder, dtype, up, down, order, x, w, y, numbers):
        super().__init__(builder, dtype, ())
        self.order, self.x, self.w, self.y = order, x, w, y
        self.n = SimpleNamespace(**dict(zip(_FIELDS, numbers)))
        self.high, self.wide = HIGH[up] * up, WIDE[up] * up
        self.row_uses, self.column_uses = uses(HIGH[up], up, down), uses(WIDE[up], up, down)

    def emit(self):
        """Vector after vector of channels; the last one may be partly used."""
        b, n = self.builder, self.n
        with cgutils.for_range(b, n.vectors) as loop:
            masks = []
            for total, each in ((n.source_channels, n.source_each),
                                (n.target_channels, n.target_each)):  # fmt: skip
                left = b.sub(total, b.mul(loop.index, each))
                masks.append(self.first_lanes(b.select(b.icmp_signed("<", left, each), left, each)))
            places = [b.gep(at, [b.mul(loop.index, by)]) for at, by in (
                (self.x, n.source_each), (self.w, n.weights), (self.y, n.target_each))]  # fmt: skip
            self.both_ways(masks, lambda whole: self._vector(
                *places, *((None, None) if whole else masks)))  # fmt: skip

    def _vector(self, x, w, y, source_mask, target_mask):
        b = self.builder
        sums = {(p, q): self.variable() for p in range(self.high) for q in range(self.wide)}
        start = self.read(w, self.n.start, None)
        for total in sums.values():
            b.store(start, total)

        def turn(weights, pixels):
            taps = self._taps(weights)
            for i, j, value in pixels:
                for p, r in self.row_uses[i]:
                    for q, s in self.column_uses[j]:
                        total = sums[p, q]
                        b.store(self.fma(value, taps[r, s], b.load(total), None), total)

        self._turns(x, w, source_mask, turn)
        for p, q, place in self._targets(y):
            self.write(b.load(sums[p, q]), place, const(0), target_mask)

    def _taps(self, weights):
        return {(r, s): self.read(weights, const((r * SIDE + s) * self.lanes), None)
                for r in range(SIDE) for s in range(SIDE)}  # fmt: skip

    def _turns(self, x, w, mask, emit):
        """emit(weights, pixels) for every plane and turn."""
        b, n = self.builder, self.n
        with cgutils.for_range(b, n.planes) as plane:
            source = b.gep(x, [b.mul(plane.index, n.plane_source)])
            weights = b.gep(w, [b.mul(plane.index, n.plane_weights)])
            with cgutils.for_range(b, n.turns) as turn:
                at = b.gep(weights, [b.mul(turn.index, const(SIDE * SIDE * self.lanes))])
                emit(at, self._pixels(source, self._order(turn.index), mask))

    def _pixels(self, source, order, mask):
        """(row, column, value) of each source pixel of the tile; the loop is for those inside."""
        for i, j, place in self._sources(source, self.n.source_row, self.n.source_column):
            yield i, j, self._permuted(self.read(place, const(0), mask), order)

    def _sources(self, source, row_step, column_step):
        """(row, column, pointer) of each source pixel of the tile; the loop is for those inside."""
        n = self.n
        return self._inside(source, n.source_rows, row_step, len(self.row_uses), n.source_columns,
                            column_step, len(self.column_uses))  # fmt: skip

    def _targets(self, y):
        """(row, column, pointer) of each target of the tile; the loop is for those inside."""
        n = self.n
        return self._inside(y, n.target_rows, n.target_row, self.high, n.target_columns,
                            n.target_column, self.wide)  # fmt: skip

    def _inside(self, start, rows, row_step, high, columns, column_step, wide):
        b = self.builder
        rows, columns = self.opaque(rows), self.opaque(columns)
        for i, row in enumerate(self.chain(start, row_step, high)):
            with b.if_then(self.bit(rows, i)):
                for j, place in enumerate(self.chain(row, column_step, wide)):
                    with b.if_then(self.bit(columns, j)):
                        yield i, j, place

    def _order(self, turn):
        """The vector of numbers by which this turn permutes lanes."""
        if not PERMUTES:
            return None
        b = self.builder
        kind = ir.VectorType(ir.IntType(32), VECTOR_BYTES // 4)
        order = b.gep(self.order, [b.mul(turn, const(VECTOR_BYTES // 4))])
        return b.load(b.bitcast(order, kind.as_pointer()), align=4)

    def _permuted(self, value, order):
        if not PERMUTES:
            return value
        b = self.builder
        kind = ir.VectorType(ir.FloatType(), VECTOR_BYTES // 4)
        name = "avx512.permvar.sf.512" if VECTOR_BYTES == 64 else "avx2.permps"
        function = self.intrinsic(f"llvm.x86.{name}", kind, kind, order.type)
        return b.bitcast(b.call(function, [b.bitcast(value, kind), order]), self.vector)


class FilterTile(Tile):
    """sums += source * dy: where Tile has weights, here are the sums, and dy are the targets.

    Zeros stand in for dy beyond the image.
    """

    def _vector(self, x, w, y, source_mask, target_mask):
        b, n = self.builder, self.n
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        dy = {(p, q): self.variable() for p in range(self.high) for q in range(self.wide)}
        for one in dy.values():
            b.store(zero, one)
        for p, q, place in self._targets(y):
            b.store(self.read(place, const(0), target_mask), dy[p, q])
        with b.if_then(b.icmp_signed(">=", n.start, const(0))):
            total = self.read(w, n.start, None)
            for one in dy.values():
                total = b.fadd(total, b.load(one))
            self.write(total, w, n.start, None)

        def turn(weights, pixels):
            sums = {}
            for at, value in self._taps(weights).items():
                sums[at] = self.variable()
                b.store(value, sums[at])
            for i, j, value in pixels:
                for p, r in self.row_uses[i]:
                    for q, s in self.column_uses[j]:
                        total = sums[r, s]
                        b.store(self.fma(value, b.load(dy[p, q]), b.load(total), None), total)
            for (r, s), total in sums.items():
                self.write(b.load(total), weights, const((r * SIDE + s) * self.lanes), None)

        self._turns(x, w, source_mask, turn)


def tiling(emitter):
    """The intrinsic of an emitter: tile(up, down, order, x, xo, w, wo, y, yo, numbers).

    ``up`` and ``down`` are constants; ``numbers`` are _FIELDS.  Offsets point at what row 0 and
    column 0 of the tile begin with, inside the image or not, and at the first vector's weights (or
    sums), a vector a tap; ``start`` leads from there to what targets begin with (the sum of dy, or
    is negative where that is not wanted).
    """

    def tile(typing, up, down, order, x, xo, w, wo, y, yo, numbers):
        if not all(isinstance(one, types.IntegerLiteral) for one in (up, down)):
            return None
        i = types.intp

        def generate(context, builder, signature, arguments):
            _, _, order, *rest, numbers = arguments
            order = element_pointer(context, builder, signature.args[2], order, const(0))
            places = (element_pointer(context, builder, signature.args[3 + at], *rest[at : at + 2])
                      for at in (0, 2, 4))  # fmt: skip
            numbers = cgutils.unpack_tuple(builder, numbers)
            emitter(builder, signature.args[3].dtype, up.literal_value, down.literal_value, order,
                    *places, numbers).emit()  # fmt: skip
            return context.get_dummy_value()

        return types.void(up, down, order, x, i, w, i, y, i, NUMBERS), generate

    return intrinsic(tile)


tile = tiling(Tile)
filter_tile = tiling(FilterTile)
