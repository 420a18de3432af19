"""A row of pixels of any window over images of which a pixel's channels are vectors, as LLVM IR.

The sums of a few neighbouring targets of one vector of channels stay in registers through the
whole window.  A row of the window is unrolled: its taps' weights are loaded, then each source pixel
once, which is multiplied at once with all taps by which targets of the tile see it.  So there are
three times as many multiply-adds as loads, whatever the window, and as many independent sums as
hide their latency.

Source pixels outside the image are branched around, a bit for each; rows outside are not among
those of the call, so that padding is never multiplied.  Turns are those of channel_tile.py.
"""

from __future__ import annotations

from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .channel_tile import PERMUTES, Tile
from .vectors import REGISTERS, const, pointer

#: Targets of a tile: these sums, the weights of a row of the window and a source fill registers.
WIDE = 14 if REGISTERS == 32 else 7

#: Taps of a row that are unrolled, of depthwise windows and of groups of several channels; wider
#: windows are summed piece by piece.
UNROLLED = {False: (1, 2, 3, 4, 5, 7), True: (1, 3)}

#: What is added to the taps of a row where groups have several channels.
GROUPED = 8

FIELDS = (
    "vectors",  # how many
    "source_channels", "target_channels",  # all that there are
    "source_each", "target_each",  # of one vector
    "planes", "plane_source", "plane_weights",  # along the third axis: how many, their steps
    "turns", "turn_weights",  # for each plane
    "rows", "row_source", "row_weights",  # of the window
    "tap_weights",  # from one tap of a row to the next
    "weights", "start",  # from a vector's weights to the next one's, and to what targets begin with
    "source_column", "target_column",  # steps, in elements
    "first",  # the first tap that is used, behind a vector's first weight
    "source_columns", "target_columns",  # bits: which are inside?
    "resume",  # do targets begin with what they hold?
)  # fmt: skip
NUMBERS = types.UniTuple(types.int64, len(FIELDS))


class RowTile(Tile):
    """target = start + ``taps`` columns of a window over source."""

    def __init__(self, builder, dtype, wide, down, taps, grouped, order, x, w, y, numbers):
        super().__init__(builder, dtype, 1, down, order, x, w, y, ())
        self.n = SimpleNamespace(**dict(zip(FIELDS, numbers)))
        self.wide, self.taps, self.grouped = wide, taps, grouped
        self.uses = [[(target, at - target * down) for target in range(wide)
                      if 0 <= at - target * down < taps]
                     for at in range((wide - 1) * down + taps)]  # fmt: skip

    def _vector(self, x, w, y, source_mask, target_mask):
        b, n = self.builder, self.n
        sums = [self.variable() for _ in range(self.wide)]
        start = self.read(w, n.start, None)
        for total in sums:
            b.store(start, total)
        with b.if_then(b.icmp_signed("!=", n.resume, const(0))):
            for at, place in self._columns(y, n.target_columns, n.target_column, self.wide):
                b.store(self.read(place, const(0), target_mask), sums[at])
        w = b.gep(w, [n.first])
        with cgutils.for_range(b, n.planes) as plane:
            source = b.gep(x, [b.mul(plane.index, n.plane_source)])
            weights = b.gep(w, [b.mul(plane.index, n.plane_weights)])
            with cgutils.for_range(b, n.turns) as turn:
                of_turn = b.gep(weights, [b.mul(turn.index, n.turn_weights)])
                order = self._order(turn.index) if self.grouped else None
                with cgutils.for_range(b, n.rows) as row:
                    self._row(b.gep(source, [b.mul(row.index, n.row_source)]),
                              b.gep(of_turn, [b.mul(row.index, n.row_weights)]), sums, order,
                              source_mask)  # fmt: skip
        for at, place in self._columns(y, n.target_columns, n.target_column, self.wide):
            self.write(b.load(sums[at]), place, const(0), target_mask)

    def _row(self, source, weights, sums, order, mask):
        b, n = self.builder, self.n
        taps = [self.read(weights, b.mul(n.tap_weights, const(tap)), None)
                for tap in range(self.taps)]  # fmt: skip
        for at, place in self._columns(source, n.source_columns, n.source_column, len(self.uses)):
            value = self.read(place, const(0), mask)
            if self.grouped:
                value = self._permuted(value, order)
            for target, tap in self.uses[at]:
                total = sums[target]
                b.store(self.fma(value, taps[tap], b.load(total), None), total)

    def _columns(self, start, bits, column_step, count):
        """(column, pointer) of each pixel of the row; the loop is for those inside."""
        bits = self.opaque(bits)
        for at, place in enumerate(self._chain(start, column_step, count)):
            with self.builder.if_then(self._bit(bits, at)):
                yield at, place


@intrinsic
def row_tile(typing, wide, down, kind, order, x, xo, w, wo, y, yo, numbers):
    """``wide`` targets of a row, ``down`` source pixels apart; both constants.

    ``kind`` is one of UNROLLED, with GROUPED or without.  Offsets point at the source of target 0's first tap, inside the
    image or not, at the weights of the first vector, and at target 0; ``numbers`` are FIELDS.
    """
    if not all(isinstance(one, types.IntegerLiteral) for one in (wide, down)):
        return None
    i = types.intp

    def generate(context, builder, signature, arguments):
        _, _, kind, order, *rest, numbers = arguments
        order = pointer(context, builder, signature.args[3], order, const(0))
        places = [pointer(context, builder, signature.args[4 + at], *rest[at : at + 2])
                  for at in (0, 2, 4)]  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        end = builder.append_basic_block("taps.end")
        cases = builder.switch(kind, end)
        for grouped in (False, True) if PERMUTES else (False,):
            for taps in UNROLLED[grouped]:
                block = builder.append_basic_block(f"taps.{taps}")
                cases.add_case(const(taps + grouped * GROUPED), block)
                builder.position_at_end(block)
                RowTile(builder, signature.args[4].dtype, wide.literal_value, down.literal_value,
                        taps, grouped, order, *places, numbers).emit()  # fmt: skip
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(wide, down, i, order, x, i, w, i, y, i, NUMBERS), generate
