"""Inner products of rows of pixels, a few rows with a few at a time, emitted as LLVM IR.

    C[j, i] += sum over n and p of A[n, i, p] * B[n, j, p]             i < HEIGHT, j < WIDTH

Where both operands of a sum lie along the rows of an image, lanes along the row need neither a
copy nor a transposition: HEIGHT * WIDTH vectors of partial sums stay in registers, and are added
up across their lanes at the end only.  The blocking, and why:

- A step issues HEIGHT + WIDTH loads and HEIGHT * WIDTH multiply-adds, of which a core does two
  each per cycle; a load that crosses a cache line counts twice.  The rows of A stay in L1 while
  those of B stream from L2, a vector for every HEIGHT multiply-adds.
- HEIGHT * WIDTH sums + WIDTH of B + one of A fit the registers: AVX-512 and NEON (32) 8 x 3,
  AVX2 (16) 4 x 2.

The order of a sum depends on the lengths of the rows only.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import helper
from .vectors import REGISTERS, Emitter, cases, const, element_pointer

HEIGHT, WIDTH = (8, 3) if REGISTERS == 32 else (4, 2)


class _Inner(Emitter):
    """Emits the products of ``high`` rows of A with ``wide`` rows of B."""

    def __init__(self, builder, dtype, high, wide):
        super().__init__(builder, dtype)
        self.high, self.wide = high, wide
        self.fma = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def emit(self, a, a_row, a_image, b, b_row, b_image, images, count, c):
        build = self.builder
        # variables that LLVM keeps in registers, [row of B][row of A] as in C
        sums = [cgutils.alloca_once(build, self.vector) for _ in range(self.high * self.wide)]
        for total in sums:
            build.store(self.zero, total)
        with cgutils.for_range(build, images, intp=const(0).type) as loop:
            rows = [self._rows(a, a_row, a_image, loop.index, self.high),
                    self._rows(b, b_row, b_image, loop.index, self.wide)]  # fmt: skip
            self.rows(
                count,
                lambda p: self._multiply(
                    sums, rows, lambda at: build.load(at, align=self.size), p),
                lambda p, mask: self._multiply(
                    sums, rows, lambda at: self.masked_load(at, mask), p),
            )
        self._add([build.load(total) for total in sums], c)

    def _rows(self, first, row, image, index, count):
        build = self.builder
        first = build.gep(first, [build.mul(index, image)])
        return [build.gep(first, [build.mul(row, const(i))]) for i in range(count)]

    def _multiply(self, sums, rows, read, p):
        """One step: a vector of every row."""
        columns = [read(self.at(row, p)) for row in rows[1]]
        for i, row in enumerate(rows[0]):
            factor = read(self.at(row, p))
            for j, column in enumerate(columns):
                total = sums[j * self.high + i]
                value = self.builder.call(self.fma, [factor, column, self.builder.load(total)])
                self.builder.store(value, total)

    def _add(self, vectors, c):
        """Adds the sums over the lanes of all vectors to C, side by side."""
        build = self.builder
        for at in range(0, len(vectors), self.lanes):
            some = vectors[at : at + self.lanes]
            mask = self.first_lanes(const(len(some)))
            to = self.at(c, const(at))
            before = self.masked_load(to, mask)
            self.masked_store(build.fadd(before, self._across(some)), to, mask)

    def _across(self, vectors):
        """One vector of the sums over the lanes of ``vectors``: neighbours added repeatedly."""
        vectors = vectors + [self.zero] * (self.lanes - len(vectors))
        even, odd = ([2 * lane + i for lane in range(self.lanes)] for i in (0, 1))
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2])
            vectors = [self.builder.fadd(self.shuffle(a, b, even), self.shuffle(a, b, odd))
                       for a, b in pairs]  # fmt: skip
        return vectors[0]


@intrinsic
def _inner_tile(typing, high, wide, a, ao, a_row, a_image, b, bo, b_row, b_image, images, count,
                c, co):  # fmt: skip
    """A switch over ``high`` and ``wide``; see `inner_tile`."""

    def generate(context, builder, signature, arguments):
        high, wide, _, ao, a_row, a_image, _, bo, b_row, b_image, images, count, _, co = arguments
        pa, pb, pc = (element_pointer(context, builder, signature.args[at], arguments[at], offset)
                      for at, offset in ((2, ao), (6, bo), (12, co)))  # fmt: skip
        size = builder.add(builder.mul(high, const(WIDTH + 1)), wide)
        sizes = [rows * (WIDTH + 1) + columns for rows in range(1, HEIGHT + 1)
                 for columns in range(1, WIDTH + 1)]  # fmt: skip
        for case in cases(builder, size, sizes):
            emitter = _Inner(builder, signature.args[12].dtype, *divmod(case, WIDTH + 1))
            emitter.emit(pa, a_row, a_image, pb, b_row, b_image, images, count, pc)
        return context.get_dummy_value()

    i = types.intp
    return types.void(i, i, a, i, i, i, b, i, i, i, i, i, c, i), generate


@helper
def inner_tile(high, wide, a, ao, a_row, a_image, b, bo, b_row, b_image, images, count, c, co):
    """C[co + j*high + i] += sum over n < images and p < count of

    A[ao + n*a_image + i*a_row + p] * B[bo + n*b_image + j*b_row + p], for i < high and j < wide.
    """
    _inner_tile(high, wide, a, ao, a_row, a_image, b, bo, b_row, b_image, images, count, c, co)
