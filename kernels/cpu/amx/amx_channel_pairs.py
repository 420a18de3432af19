"""Two channels of an image, cut into AMX tiles as they are read, and rows freed of a stride."""

from __future__ import annotations

from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.vectors import const, element_pointer
from .amx_tiles import PARTS, STEP_BYTES, Cut

LANES = 16  # a tile's columns


@intrinsic
def split_channel_pair(typing, work, to, first, second, count, apart):
    """Cuts ``count`` pixels of two channels into words of two bfloat16, with zeros behind them.

    ``first`` and ``second`` are addresses.  A square of pixels lies ``apart`` bytes behind the one
    before; ``to`` counts bytes of ``work``, to the channels' row in the first square's tile.
    Returns the largest magnitude seen.
    """

    def generate(context, builder, signature, arguments):
        work, to, first, second, count, apart = arguments
        start = element_pointer(context, builder, signature.args[0], work, const(0))
        start = builder.gep(builder.bitcast(start, ir.IntType(8).as_pointer()), [to])
        pair = _Pair(builder, (first, second), start, apart)
        whole = builder.and_(count, const(-2 * LANES))
        with cgutils.for_range_slice(builder, const(0), whole, const(2 * LANES),
                                     ir.IntType(64)) as (pixel, _):  # fmt: skip
            pair.square(pixel)
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            pair.square(whole, builder.sub(count, whole))
        return pair.cut.result()

    index = types.intp
    return float32(work, index, index, index, index, index), generate


class _Pair:
    """Emits the cutting of a square's pixels of two channels: a row of its tiles."""

    def __init__(self, builder, channels, start, apart):
        self.builder, self.channels, self.start, self.apart = builder, channels, start, apart
        self.cut = Cut(builder, LANES)

    def square(self, pixel, left=None):
        """From ``pixel`` on; only ``left`` of them exist, where that is given."""
        build = self.builder
        square = build.mul(build.lshr(pixel, const((2 * LANES).bit_length() - 1)), self.apart)
        for half in range(2):
            at = build.mul(build.add(pixel, const(half * LANES)), const(4))
            mask = None
            if left is not None:
                mask = first_lanes(build, build.sub(left, const(half * LANES)))
            pair = [self.cut.load(channel, at, mask) for channel in self.channels]
            for p in range(PARTS):
                (low, first), (high, second) = (self.cut.part(values) for values in pair)
                pair = [first, second]
                word = build.or_(build.lshr(low, self.cut.splat(16)), high)
                place = const(p * STEP_BYTES // PARTS + half * 1024)
                self.cut.store(word, self.start, build.add(square, place))


def first_lanes(builder, count):
    """A mask of the first ``count`` lanes of a vector: none below 1."""
    last = const(LANES)
    count = builder.select(builder.icmp_signed("<", count, last), count, last)
    count = builder.select(builder.icmp_signed(">", count, const(0)), count, const(0))
    bits = builder.sub(builder.shl(const(1), count), const(1))
    return builder.bitcast(builder.trunc(bits, ir.IntType(LANES)),
                           ir.VectorType(ir.IntType(1), LANES))  # fmt: skip


@intrinsic
def every_second(typing, work, to, source, row, width, rows):
    """Copies every second float32 of ``rows`` rows, of which ``width`` are wanted, side by side.

    ``source`` is an address and ``row`` the bytes between rows; up to a vector of ``work`` behind
    the last number is written, too.
    """

    def generate(context, builder, signature, arguments):
        work, to, source, row, width, rows = arguments
        target = element_pointer(context, builder, signature.args[0], work, to)
        vector = ir.VectorType(ir.FloatType(), LANES)
        even = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(0, 2 * LANES, 2)))
        cut = Cut(builder, LANES)
        short = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * (LANES - 1) + [0])

        def copy(start, done, i, masks):
            at = builder.mul(i, const(8))
            pair = [cut.lanes_at(start, builder.add(at, const(64 * half)), masks[half])
                    for half in range(2)]  # fmt: skip
            to = builder.gep(target, [builder.add(done, i)])
            builder.store(builder.shuffle_vector(*pair, even),
                          builder.bitcast(to, vector.as_pointer()), align=4)  # fmt: skip

        whole = builder.and_(width, const(-LANES))
        wanted = builder.sub(builder.mul(builder.sub(width, whole), const(2)), const(1))
        masks = [first_lanes(builder, builder.sub(wanted, const(half * LANES)))
                 for half in range(2)]  # fmt: skip
        with cgutils.for_range(builder, rows, intp=ir.IntType(64)) as loop:
            start = builder.add(source, builder.mul(row, loop.index))
            done = builder.mul(width, loop.index)
            with cgutils.for_range_slice(builder, const(0), whole, const(LANES),
                                         ir.IntType(64)) as (i, _):  # fmt: skip
                copy(start, done, i, (None, short))
            with builder.if_then(builder.icmp_signed("<", whole, width)):
                copy(start, done, whole, masks)
        return context.get_dummy_value()

    index = types.intp
    return types.void(work, index, index, index, index, index), generate
