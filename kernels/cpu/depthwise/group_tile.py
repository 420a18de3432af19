"""channel_tile.py's tiles where a vector holds one group: 9 to 16 channels of float32, 5 to 8 else.

No lane has to be brought into another's place there: turn c shows all lanes the group's source
channel c, a broadcast.  Each channel of each source pixel is loaded once a turn, so the tile's
source pixels are copied before to where they lie side by side: an even number of channels puts the
pixels of a tile into few sets of the nearest cache, which would not keep them from turn to turn.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from ..emitted.vectors import const
from .channel_tile import SIDE, FilterTile, Tile, tiling


class _OneGroup:
    """What both tiles do otherwise: the turns, and how sources are read."""

    def _turns(self, x, w, mask, emit):
        b, n = self.builder, self.n
        columns = len(self.column_uses)
        count = len(self.row_uses) * columns * self.lanes
        room = cgutils.alloca_once(b, ir.ArrayType(self.element, count))
        room = b.bitcast(room, self.element.as_pointer())
        with cgutils.for_range(b, n.planes) as plane:
            source = b.gep(x, [b.mul(plane.index, n.plane_source)])
            weights = b.gep(w, [b.mul(plane.index, n.plane_weights)])
            for i, j, place in self._sources(source, n.source_row, n.source_column):
                at = const((i * columns + j) * self.lanes)
                self.write(self.read(place, const(0), mask), room, at, None)
            with cgutils.for_range(b, n.turns) as turn:
                at = b.gep(weights, [b.mul(turn.index, const(SIDE * SIDE * self.lanes))])
                emit(at, self._shown(b.gep(room, [turn.index])))

    def _shown(self, room):
        """(row, column, value) of each source pixel: one channel of it in all lanes."""
        row = const(len(self.column_uses) * self.lanes)
        for i, j, place in self._sources(room, row, const(self.lanes)):
            yield i, j, self.splat(self.builder.load(place))


class GroupTile(_OneGroup, Tile):
    """target = start + window over source."""


class GroupFilterTile(_OneGroup, FilterTile):
    """sums += source * dy."""


group_tile = tiling(GroupTile)
group_filter_tile = tiling(GroupFilterTile)
