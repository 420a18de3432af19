"""Products of float32 matrices on the AMX tiles of recent Intel processors.

The tile unit multiplies bfloat16 (8 bits of significand) into float32 sums, sixteen times as
fast as the vector unit multiplies float32.  A float32 has 24 bits, so it is the sum of three
bfloat16 parts, high + middle + low, exactly; of the nine products of parts the six of order
2^-16 and above are computed:

    a*b = ah*bh + (ah*bm + am*bh) + (ah*bl + am*bm + al*bh)        error about 2^-24

which leaves float32's accuracy at 2.5 times the vector unit's speed (Henry, Tang & Heinecke 2019,
"Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations",
arXiv:1904.06376).  A part is cut off, not rounded: exact, and nothing overflows.

Two things differ from a direct sum and are looked after by the callers: an infinity becomes NaN
(inf - inf in the middle part), so outputs that are not finite are computed again directly; and
the unit takes denormals as zero, so data of tiny scale goes another way (`TINY`).
"""

from __future__ import annotations

import ctypes
import functools
import sys

import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ..emitted.vectors import const, element_pointer

PARTS = 3
SIDE = 32  # rows and columns of a block: two tiles of 16 each way, four accumulators
DEPTH = 32  # terms of the sum in one step
TILE = (SIDE, SIDE, DEPTH)  # as plans name it
#: bytes of a packed step: parts x two tiles of 16 rows of 64 bytes
STEP_BYTES = PARTS * 2 * 1024

#: If the largest magnitude of an operand is below this, its low parts may be denormal.
TINY = np.float32(2.0**-60)

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_BYTE, _INT, _VOID = ir.IntType(8), ir.IntType(64), ir.VoidType()


@functools.cache
def available() -> bool:
    """Can this process use the tiles?  Linux grants them on request, once for all threads."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if sys.platform != "linux" or not {"+amx-tile", "+amx-bf16", "+avx512f"} <= set(features):
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def _shapes():
    """The tile configuration: palette 1, every tile 16 rows of 64 bytes."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    shapes[16:32].view(np.uint16)[:] = 64
    shapes[48:56] = 16
    return shapes


SHAPES = _shapes()


def _emit(builder, name, *arguments):
    kind = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, arguments)


def _tile(number):
    return ir.Constant(_BYTE, number)


def _bytes(context, builder, array_type, array, offset):
    """Pointer ``offset`` bytes behind an array's first element."""
    first = element_pointer(context, builder, array_type, array, const(0))
    return builder.gep(builder.bitcast(first, _BYTE.as_pointer()), [offset])


@intrinsic
def begin(typing, shapes):
    """Sets the tile shapes; every thread does it before its first `block`."""

    def generate(context, builder, signature, arguments):
        start = _bytes(context, builder, signature.args[0], arguments[0], const(0))
        _emit(builder, "ldtilecfg", start)
        return context.get_dummy_value()

    return types.void(shapes), generate


@intrinsic
def end(typing):
    """Gives the tiles back, so that switching threads does not save 8 KiB of them."""

    def generate(context, builder, signature, arguments):
        _emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


class _Block:
    """Emits one step: tiles 0-3 are the accumulators, 4 and 5 hold A, 6 and 7 hold B."""

    def __init__(self, builder, a, a_row, a_next, a_part, b, b_row, b_next, b_part):
        self.builder = builder
        self.operands = {"a": (4, a, a_row, a_next, a_part), "b": (6, b, b_row, b_next, b_part)}

    def load(self, operand, part):
        first, start, row, following, part_bytes = self.operands[operand]
        build = self.builder
        start = build.gep(start, [build.mul(part_bytes, const(part))])
        for i in range(2):
            at = build.gep(start, [build.mul(following, const(i))])
            _emit(build, "tileloadd64", _tile(first + i), at, row)

    def multiply(self):
        for i in range(2):
            for j in range(2):
                _emit(self.builder, "tdpbf16ps", _tile(2 * i + j), _tile(4 + i), _tile(6 + j))

    def emit(self, turned):
        """The six products, ordered so that 14 tile loads serve 24 multiplications.

        ``turned``: A and B change places, so that C transposed has the bits of C.
        """
        for loads in (("a0", "b2"), ("b1",), ("a1",), ("b0",), ("a2",), ("a0",)):
            for operand, part in loads:
                self.load({"a": "b", "b": "a"}[operand] if turned else operand, int(part))
            self.multiply()


def _accumulators(builder, name, c, ldc):
    for i in range(2):
        for j in range(2):
            row = builder.gep(c, [builder.mul(ldc, const(16 * i))])
            _emit(builder, name, _tile(2 * i + j), builder.gep(row, [const(64 * j)]), ldc)


def _block_intrinsic(turned):
    """A SIDE x SIDE block of C from ``steps`` steps of the sum; all offsets count bytes of work.

    Step k multiplies A at a + table[entry + k] * a_table + k * ... with B likewise; see `operand`
    below: a packed operand passes table factor 0 and advances STEP_BYTES a step, one that lies in
    an image passes 1 and is found through the table, A that passes -n through what lies n entries
    behind.
    """

    @intrinsic
    def emitted(typing, work, a, a_table, a_row, a_next, a_part, b, b_table, b_row, b_next, b_part,
                table, entry, steps, c, ldc, resume):  # fmt: skip
        def generate(context, builder, signature, arguments):
            (work, a, a_table, a_row, a_next, a_part, b, b_table, b_row, b_next, b_part,
             table, entry, steps, c, ldc, resume) = arguments  # fmt: skip
            base = _bytes(context, builder, signature.args[0], work, const(0))
            offsets = element_pointer(context, builder, signature.args[11], table, entry)
            c = builder.gep(base, [c])
            with builder.if_else(builder.icmp_signed("!=", resume, const(0))) as (resumed, fresh):
                with resumed:
                    _accumulators(builder, "tileloadd64", c, ldc)
                with fresh:
                    for i in range(4):
                        _emit(builder, "tilezero", _tile(i))
            with cgutils.for_range(builder, steps, intp=_INT) as loop:
                k, packed = loop.index, builder.mul(loop.index, const(STEP_BYTES))
                offset = builder.load(builder.gep(offsets, [k]))

                def start(first, table_factor, offset):
                    through = builder.icmp_signed("!=", table_factor, const(0))
                    further = builder.select(through, offset, packed)
                    return builder.gep(base, [builder.add(first, further)])

                own = builder.select(builder.icmp_signed("<", a_table, const(0)),
                                     builder.sub(k, a_table), k)  # fmt: skip
                of_a = builder.load(builder.gep(offsets, [own]))

                step = _Block(builder, start(a, a_table, of_a), a_row, a_next, a_part,
                              start(b, b_table, offset), b_row, b_next, b_part)  # fmt: skip
                step.emit(turned)
            _accumulators(builder, "tilestored64", c, ldc)
            return context.get_dummy_value()

        index = types.intp
        return types.void(work, *[index] * 10, table, *[index] * 5), generate

    return emitted


block = _block_intrinsic(turned=False)
turned_block = _block_intrinsic(turned=True)


@intrinsic
def split_pairs(typing, work, first, second, words, part, count):
    """Cuts two rows of float32 into words of two bfloat16 side by side, one row for each part.

    words[w + p*part + j] = part p of work[first + j] and, in the upper half, of work[second + j].
    Offsets count elements; ``count`` is rounded up to whole vectors.  Returns the largest
    magnitude seen.
    """
    lanes = 16

    def generate(context, builder, signature, arguments):
        work, first, second, words, part, count = arguments
        vector = ir.VectorType(ir.FloatType(), lanes)
        integers = ir.VectorType(ir.IntType(32), lanes)
        base = element_pointer(context, builder, signature.args[0], work, const(0))

        def splat(value):
            return ir.Constant(integers, [value] * lanes)

        def at(offset, kind):
            return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

        largest = cgutils.alloca_once_value(builder, splat(0))
        with cgutils.for_range_slice(builder, const(0), count, const(lanes), _INT) as (j, _):
            values = [builder.load(at(builder.add(row, j), vector), align=4)
                      for row in (first, second)]  # fmt: skip
            for value in values:
                size = builder.and_(builder.bitcast(value, integers), splat(0x7FFFFFFF))
                seen = builder.load(largest)
                larger = builder.icmp_unsigned(">", size, seen)
                builder.store(builder.select(larger, size, seen), largest)
            for p in range(PARTS):
                cut = [builder.and_(builder.bitcast(value, integers), splat(0xFFFF0000))
                       for value in values]  # fmt: skip
                word = builder.or_(builder.lshr(cut[0], splat(16)), cut[1])
                to = builder.add(builder.add(words, builder.mul(part, const(p))), j)
                builder.store(word, at(to, integers), align=4)
                values = [builder.fsub(value, builder.bitcast(one, vector))
                          for value, one in zip(values, cut)]  # fmt: skip
        return _largest(builder, builder.load(largest), integers)

    index = types.intp
    return float32(work, index, index, index, index, index), generate


@intrinsic
def split_row(typing, work, source, to, part, count):
    """Cuts a row of float32 into one row of bfloat16 for each part, ``part`` bytes apart.

    ``source`` counts elements, ``to`` bytes of ``work``; ``count`` is rounded up to a multiple of
    DEPTH.  Returns the largest magnitude seen.
    """

    def generate(context, builder, signature, arguments):
        work, source, to, part, count = arguments
        vector = ir.VectorType(ir.FloatType(), DEPTH)
        integers = ir.VectorType(ir.IntType(32), DEPTH)
        halves = ir.VectorType(ir.IntType(16), DEPTH)
        base = _bytes(context, builder, signature.args[0], work, const(0))

        def splat(value):
            return ir.Constant(integers, [value] * DEPTH)

        largest = cgutils.alloca_once_value(builder, splat(0))
        with cgutils.for_range_slice(builder, const(0), count, const(DEPTH), _INT) as (j, _):
            start = builder.gep(base, [builder.mul(builder.add(source, j), const(4))])
            value = builder.load(builder.bitcast(start, vector.as_pointer()), align=4)
            size = builder.and_(builder.bitcast(value, integers), splat(0x7FFFFFFF))
            seen = builder.load(largest)
            larger = builder.icmp_unsigned(">", size, seen)
            builder.store(builder.select(larger, size, seen), largest)
            for p in range(PARTS):
                cut = builder.and_(builder.bitcast(value, integers), splat(0xFFFF0000))
                half = builder.trunc(builder.lshr(cut, splat(16)), halves)
                row = builder.add(to, builder.add(builder.mul(part, const(p)),
                                                  builder.mul(j, const(2))))  # fmt: skip
                at = builder.bitcast(builder.gep(base, [row]), halves.as_pointer())
                builder.store(half, at, align=2)
                value = builder.fsub(value, builder.bitcast(cut, vector))
        return _largest(builder, builder.load(largest), integers)

    index = types.intp
    return float32(work, index, index, index, index), generate


@intrinsic
def split_rows(typing, work, to, source, row):
    """Cuts a square of float32, SIDE rows of DEPTH, into one square of bfloat16 for each part.

    ``to`` counts bytes of ``work``, ``source`` is an address and ``row`` the bytes between its
    rows.  Returns the largest magnitude seen.
    """

    def generate(context, builder, signature, arguments):
        work, to, source, row = arguments
        target = _bytes(context, builder, signature.args[0], work, to)
        cut = Cut(builder, DEPTH)
        with cgutils.for_range(builder, const(SIDE), intp=_INT) as loop:
            values = cut.load(source, builder.mul(row, loop.index))
            for p in range(PARTS):
                high, values = cut.part(values)
                half = builder.trunc(builder.lshr(high, cut.splat(16)),
                                     ir.VectorType(ir.IntType(16), DEPTH))  # fmt: skip
                cut.store(half, target, builder.add(builder.mul(loop.index, const(2 * DEPTH)),
                                                    const(p * STEP_BYTES // PARTS)))  # fmt: skip
        return cut.result()

    return float32(work, types.intp, types.intp, types.intp), generate


@intrinsic
def split_row_pairs(typing, work, to, source, row):
    """Cuts DEPTH rows of SIDE float32 into words of two bfloat16, of one row and of the next.

    For each part two tiles of 16 columns; arguments and result as those of `split_rows`.
    """

    def generate(context, builder, signature, arguments):
        work, to, source, row = arguments
        target = _bytes(context, builder, signature.args[0], work, to)
        cut = Cut(builder, 16)
        with cgutils.for_range(builder, const(DEPTH // 2), intp=_INT) as loop:
            first = builder.mul(row, builder.mul(loop.index, const(2)))
            for half in range(2):
                at = builder.add(first, const(64 * half))
                pair = [cut.load(source, at), cut.load(source, builder.add(at, row))]
                for p in range(PARTS):
                    (low, first_rest), (high, second_rest) = (cut.part(values) for values in pair)
                    pair = [first_rest, second_rest]
                    word = builder.or_(builder.lshr(low, cut.splat(16)), high)
                    cut.store(word, target, builder.add(builder.mul(loop.index, const(64)),
                                                        const((2 * p + half) * 1024)))  # fmt: skip
        return cut.result()

    return float32(work, types.intp, types.intp, types.intp), generate


class Cut:
    """Emits the cutting of vectors of float32 into bfloat16 parts, and the largest magnitude."""

    def __init__(self, builder, lanes):
        self.builder = builder
        self.vector = ir.VectorType(ir.FloatType(), lanes)
        self.integers = ir.VectorType(ir.IntType(32), lanes)
        self.largest = cgutils.alloca_once_value(builder, self.splat(0))

    def splat(self, value):
        return ir.Constant(self.integers, [value] * self.integers.count)

    def lanes_at(self, address, offset, mask=None):
        """The vector at ``address`` + ``offset``, or the lanes of ``mask`` of it and zeros."""
        build = self.builder
        at = build.inttoptr(build.add(address, offset), self.vector.as_pointer())
        if mask is None:
            return build.load(at, align=4)
        lanes = self.vector.count
        kind = ir.FunctionType(self.vector, [at.type, ir.IntType(32), mask.type, self.vector])
        name = f"llvm.masked.load.v{lanes}f32.p0"
        function = cgutils.get_or_insert_function(build.module, kind, name)
        zeros = ir.Constant(self.vector, [0.0] * lanes)
        return build.call(function, [at, ir.Constant(ir.IntType(32), 4), mask, zeros])

    def load(self, address, offset, mask=None):
        """As `lanes_at`, and notes the largest magnitude."""
        build = self.builder
        values = self.lanes_at(address, offset, mask)
        size = build.and_(build.bitcast(values, self.integers), self.splat(0x7FFFFFFF))
        seen = build.load(self.largest)
        build.store(build.select(build.icmp_unsigned(">", size, seen), size, seen), self.largest)
        return values

    def part(self, values):
        """The next part's bits, in the upper half of each integer, and what it leaves."""
        build = self.builder
        high = build.and_(build.bitcast(values, self.integers), self.splat(0xFFFF0000))
        return high, build.fsub(values, build.bitcast(high, self.vector))

    def store(self, values, target, offset):
        at = self.builder.bitcast(self.builder.gep(target, [offset]), values.type.as_pointer())
        self.builder.store(values, at, align=4)

    def result(self):
        return _largest(self.builder, self.builder.load(self.largest), self.integers)


def _largest(builder, bits, integers):
    """The largest of a vector of magnitudes, as a float32."""
    name = f"llvm.vector.reduce.umax.v{integers.count}i32"
    kind = ir.FunctionType(ir.IntType(32), [integers])
    reduce = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.bitcast(builder.call(reduce, [bits]), ir.FloatType())
