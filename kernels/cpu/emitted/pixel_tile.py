"""The register tile of a sum over pixels, emitted as LLVM IR.

    C[i, j] = start[i, j] + sum over k of A[places[i] + steps[k]] * B[k, j]

microkernel.py with the factors' parts exchanged: here it is A, the one that is broadcast, that is
read through tables, a row for each place and a step for each k: where an image lies, row i may be
any tap of any channel and k any pixel.  B has a fixed step from one k to the next.  Everything is
an address, as in strided_tile.py, so that B and C may lie in the workspace or in an argument.
`run_tile` has rows that lie side by side, as the channels of a pixel do: they take no table and no
registers, so that a tile of one vector may be as many times higher.

LLVM would load all of a step's broadcasts first and move accumulators out of their way; an empty
instruction that seems to turn a row's sums into the pointer for the next row keeps the order.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..jit import helper
from ..microkernel import ROWS, VECTORS
from .vectors import VECTOR_BYTES, Emitter, cases, const

#: Rows of a tile of one vector that lie side by side: as many sums as in the largest of the others.
TALL = ROWS * VECTORS

#: how inline assembly names a vector register
_REGISTER = "w" if VECTOR_BYTES == 16 else "v" if VECTOR_BYTES == 64 else "x"


class _PixelTile(Emitter):
    """Emits the tile for one number of rows and vectors into the function being built."""

    def __init__(self, builder, dtype, rows, vectors, in_run=False):
        super().__init__(builder, dtype)
        self.rows, self.vectors, self.in_run = rows, vectors, in_run
        self.fma = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)

    def emit(self, a, places, steps, depth, b, b_step, c, ldc, start, start_step):
        build = self.builder
        offsets = [const(i) for i in range(self.rows)]
        if not self.in_run:
            offsets = [build.load(build.gep(places, [offset])) for offset in offsets]
        first = [self.builder.load(at, align=self.size)
                 for at in self._cells(start, start_step)]  # fmt: skip
        last = self._loop(first, a, offsets, steps, depth, b, b_step)
        for value, at in zip(last, self._cells(c, ldc)):
            build.store(value, at, align=self.size)

    def _cells(self, pointer, step):
        for i in range(self.rows):
            row = self.builder.mul(step, const(i))
            for j in range(self.vectors):
                yield self.at(pointer, self.builder.add(row, const(j * self.lanes)))

    def _loop(self, first, a, offsets, steps, depth, b, b_step):
        """The sum over k, of at least one step; returns the accumulators after the last."""
        build = self.builder
        before = build.block
        body, done = (build.append_basic_block(name) for name in ("pixel.step", "pixel.done"))
        build.branch(body)
        build.position_at_end(body)
        k, row = build.phi(const(0).type), build.phi(b.type)
        sums = [build.phi(self.vector) for _ in first]
        at = build.gep(a, [build.load(build.gep(steps, [k]))])
        columns = [build.load(self.at(row, const(j * self.lanes)), align=self.size)
                   for j in range(self.vectors)]  # fmt: skip
        after = []
        for i, offset in enumerate(offsets):
            factor = self.splat(build.load(build.gep(at, [offset])))
            made = [build.call(self.fma, [factor, column, sums[i * self.vectors + j]])
                    for j, column in enumerate(columns)]  # fmt: skip
            after += made
            at = self._behind(at, made)
        following = build.add(k, const(1))
        for phi, initial, value in ((k, const(0), following),
                                    (row, b, build.gep(row, [b_step])),
                                    *zip(sums, first, after)):  # fmt: skip
            phi.add_incoming(initial, before)
            phi.add_incoming(value, body)
        build.cbranch(build.icmp_signed("<", following, depth), body, done)
        build.position_at_end(done)
        return after

    def _behind(self, pointer, values):
        """The same pointer, known only once ``values`` are."""
        kind = ir.FunctionType(pointer.type, [pointer.type] + [self.vector] * len(values))
        empty = ir.InlineAsm(kind, "", "=r,0" + f",{_REGISTER}" * len(values))
        return self.builder.call(empty, [pointer, *values])


def _tile(in_run):
    """A switch over rows and vectors with one emitted tile per case; see `pixel_tile`."""

    @intrinsic
    def emitted(typing, zero, rows, vectors, a, places, steps, depth, b, b_step, c, ldc, start,
                start_step):  # fmt: skip
        def generate(context, builder, signature, arguments):
            zero, rows, vectors, *addresses, start_step = arguments
            a, places, steps, depth, b, b_step, c, ldc, start = addresses
            pa, pb, pc, ps = (builder.inttoptr(at, zero.type.as_pointer())
                              for at in (a, b, c, start))  # fmt: skip
            pp, pt = (builder.inttoptr(at, const(0).type.as_pointer()) for at in (places, steps))
            size = builder.add(builder.mul(vectors, const(TALL + 1)), rows)
            sizes = [wide * (TALL + 1) + high for wide in range(1, VECTORS + 1)
                     for high in range(1, (TALL // wide if in_run else ROWS) + 1)]  # fmt: skip
            for case in cases(builder, size, sizes):
                wide, high = divmod(case, TALL + 1)
                emitter = _PixelTile(builder, signature.args[0], high, wide, in_run)
                emitter.emit(pa, pp, pt, depth, pb, b_step, pc, ldc, ps, start_step)
            return context.get_dummy_value()

        return types.void(zero, *[types.intp] * 12), generate

    return emitted


_pixel_tile, _run_tile = _tile(in_run=False), _tile(in_run=True)


@helper
def pixel_tile(zero, rows, vectors, a, places, steps, depth, b, b_step, c, ldc, start, start_step):
    """rows x vectors of C from A[places[i] + steps[k]] and B[k*b_step + j], k < depth.

    a to start are addresses but for ``depth``, which is at least 1, and for the steps, which count
    elements, whose type is that of ``zero``.  C's rows are ldc apart, those of what it begins with
    start_step (0: all begin alike).
    """
    _pixel_tile(zero, rows, vectors, a, places, steps, depth, b, b_step, c, ldc, start, start_step)


@helper
def run_tile(zero, rows, vectors, a, steps, depth, b, b_step, c, ldc, start, start_step):
    """`pixel_tile` from A[i + steps[k]], of up to TALL rows where there is one vector."""
    _run_tile(zero, rows, vectors, a, 0, steps, depth, b, b_step, c, ldc, start, start_step)
