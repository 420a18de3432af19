"""The register tile: the inner loop of every matrix product in this backend, emitted as LLVM IR.

    C[i, j] = start[i] (or C[i, j]) + sum over k of A[k, i] * B[k, j]      i < rows, j < columns

One step of k loads `vectors` vectors of B and multiplies them with `rows` broadcast elements of
A into rows * vectors accumulators that stay in registers from the first step to the last.
Written as loops this is what compilers are bad at; emitted as IR with one phi per accumulator,
LLVM has nothing left to decide.  The blocking, and why:

- rows * vectors accumulators + vectors of B + one broadcast must fit the register file.
- Each step issues rows + vectors loads and rows * vectors multiply-adds; a core does two of
  either per cycle, and needs 8 to 10 independent accumulators to hide the latency of one.
  AVX-512 (32 registers): 14 x 2.  AVX2 (16 registers): 6 x 2.  NEON has 32, but multiplies with
  nothing that lies in memory, so that factors pass through registers, too: 12 x 2.
- B is addressed through a table of offsets: the rows of B may be taps of an image as it lies,
  so convolution needs no im2col matrix (the idea of indirect GEMM: Dukhan, arXiv:1907.02129).
  `tile_of_vectors` finds A through the table instead, where A lies a vector of k at a time.
- `rows` is chosen at run time among 1..ROWS, so the last rows of a matrix cost what they are.

The sum runs over k in order, one fused multiply-add each: the same bits whatever the tile.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from .emitted.vectors import LANES, VECTOR_BYTES, Emitter, cases, const, element_pointer
from .jit import helper

ROWS = {64: 14, 32: 6, 16: 12}[VECTOR_BYTES]
VECTORS = 2
COLUMNS = {name: VECTORS * lanes for name, lanes in LANES.items()}  # of a tile


class Tile(Emitter):
    """Emits the tile for one number of rows into the function being built.

    One operand is walked through, a fixed step for each k; the other is found through the table.
    """

    def __init__(self, builder, dtype, rows, table_of_a):
        super().__init__(builder, dtype)
        self.rows, self.table_of_a = rows, table_of_a
        self.a_row = self.lanes if table_of_a else 1
        self.fma = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)

    def broadcast(self, pointer, index):
        return self.splat(self.builder.load(self.builder.gep(pointer, [const(index)])))

    def cells(self):
        return ((i, j) for i in range(self.rows) for j in range(VECTORS))

    def emit(self, walked, walked_step, found, table, depth, c, ldc, start, resume):
        build = self.builder
        entries = []
        with build.if_else(resume) as (resumed, fresh):
            with resumed:
                entries.append(([self._read(c, ldc, i, j) for i, j in self.cells()],
                                build.block))  # fmt: skip
            with fresh:
                splats = [self.broadcast(start, i) for i in range(self.rows)]
                entries.append(([splats[i] for i, _ in self.cells()], build.block))
        first = []
        for cell in range(self.rows * VECTORS):
            phi = build.phi(self.vector)
            for values, block in entries:
                phi.add_incoming(values[cell], block)
            first.append(phi)
        last = self._loop(first, walked, walked_step, found, table, depth)
        for value, (i, j) in zip(last, self.cells()):
            self._write(value, c, ldc, i, j)

    def _read(self, c, ldc, i, j):
        return self.builder.load(self._cell(c, ldc, i, j), align=self.size)

    def _write(self, value, c, ldc, i, j):
        self.builder.store(value, self._cell(c, ldc, i, j), align=self.size)

    def _cell(self, c, ldc, i, j):
        start = self.builder.mul(ldc, const(i))
        return self.at(c, self.builder.add(start, const(j * self.lanes)))

    def _column(self, b, j):
        return self.at(b, const(j * self.lanes))

    def _loop(self, first, walked, walked_step, found, table, depth):
        """The sum over k; returns the accumulators after the last step."""
        build = self.builder
        before = build.block
        body, done = (build.append_basic_block(name) for name in ("tile.step", "tile.done"))
        build.cbranch(build.icmp_signed(">", depth, const(0)), body, done)
        build.position_at_end(body)
        k = build.phi(const(0).type)
        pointer = build.phi(walked.type)
        sums = [build.phi(self.vector) for _ in first]
        row = build.gep(found, [build.load(build.gep(table, [k]))])
        a, b = (row, pointer) if self.table_of_a else (pointer, row)
        columns = [build.load(self._column(b, j), align=self.size)
                   for j in range(VECTORS)]  # fmt: skip
        after = []
        for i in range(self.rows):
            factor = self.broadcast(a, i * self.a_row)
            for j in range(VECTORS):
                after.append(build.call(self.fma, [factor, columns[j], sums[i * VECTORS + j]]))
        following = build.add(k, const(1))
        for phi, initial, next_value in ((k, const(0), following),
                                         (pointer, walked, build.gep(pointer, [walked_step])),
                                         *zip(sums, first, after)):  # fmt: skip
            phi.add_incoming(initial, before)
            phi.add_incoming(next_value, body)
        build.cbranch(build.icmp_signed("<", following, depth), body, done)
        build.position_at_end(done)
        results = [build.phi(self.vector) for _ in first]
        for phi, initial, value in zip(results, first, after):
            phi.add_incoming(initial, before)
            phi.add_incoming(value, body)
        return results


def _tile_intrinsic(table_of_a):
    """A switch over ``rows`` with one emitted tile per case; see `tile`."""

    @intrinsic
    def emitted(typing, rows, walked, wo, walked_step, found, fo, table, to, depth,
                c, co, ldc, start, so, resume):  # fmt: skip
        index = types.intp
        signature = types.void(index, walked, index, index, found, index, table, index, index,
                               c, index, index, start, index, index)  # fmt: skip

        def generate(context, builder, signature, arguments):
            rows, _, wo, walked_step, _, fo, _, to, depth, _, co, ldc, _, so, resume = arguments
            pw, pf, pt, pc, ps = (
                element_pointer(context, builder, signature.args[at], arguments[at], offset)
                for at, offset in ((1, wo), (4, fo), (6, to), (9, co), (12, so))
            )
            resumed = builder.icmp_signed("!=", resume, const(0))
            for count in cases(builder, rows, range(1, ROWS + 1)):
                emitter = Tile(builder, signature.args[9].dtype, count, table_of_a)
                emitter.emit(pw, walked_step, pf, pt, depth, pc, ldc, ps, resumed)
            return context.get_dummy_value()

        return signature, generate

    return emitted


_tile = _tile_intrinsic(table_of_a=False)
_tile_of_vectors = _tile_intrinsic(table_of_a=True)


@helper
def tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume):
    """rows x COLUMNS of C from A[ao + k*a_step + i] and B[bo + table[to + k] + j], k < depth.

    C's rows are ldc apart.  It begins with start[so + i], or with what it holds if ``resume``.
    """
    _tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume)


@helper
def tile_of_vectors(rows, a, ao, table, to, b, bo, b_step, depth, c, co, ldc, start, so, resume):
    """As `tile`, from A[ao + table[to + k] + i*lanes] and B[bo + k*b_step + j]."""
    _tile_of_vectors(rows, b, bo, b_step, a, ao, table, to, depth, c, co, ldc, start, so, resume)
