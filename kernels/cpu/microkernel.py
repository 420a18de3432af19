"""The register tile: the inner loop of every matrix product in this backend, emitted as LLVM IR.

    C[i, j] = start[i] (or C[i, j]) + sum over k of A[k, i] * B[k, j]      i < rows, j < columns

One step of k loads `vectors` vectors of B and multiplies them with `rows` broadcast elements of
A into rows * vectors accumulators that stay in registers from the first step to the last.
Written as loops this is what compilers are bad at; emitted as IR with one phi per accumulator,
LLVM has nothing left to decide.  The blocking, and why:

- rows * vectors accumulators + vectors of B + one broadcast must fit the register file.
- Each step issues rows + vectors loads and rows * vectors multiply-adds; a core does two of
  either per cycle, and needs 8 to 10 independent accumulators to hide the latency of one.
  AVX-512 and NEON (32 registers): 14 x 2.  AVX2 (16 registers): 6 x 2.
- B is addressed through a table of offsets: the rows of B may be taps of an image as it lies,
  so convolution needs no im2col matrix (the idea of indirect GEMM: Dukhan, arXiv:1907.02129).
- `rows` is chosen at run time among 1..ROWS, so the last rows of a matrix cost what they are.

The sum runs over k in order, one fused multiply-add each: the same bits whatever the tile.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import helper
from .vectors import LANES, REGISTERS, Emitter, const, pointer

ROWS = 14 if REGISTERS == 32 else 6
VECTORS = 2
COLUMNS = {name: VECTORS * lanes for name, lanes in LANES.items()}  # of a tile


class _Tile(Emitter):
    """Emits the tile for one number of rows into the function being built."""

    def __init__(self, builder, dtype, rows):
        super().__init__(builder, dtype)
        self.rows = rows
        self.fma = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)

    def broadcast(self, pointer, index):
        return self.splat(self.builder.load(self.builder.gep(pointer, [const(index)])))

    def cells(self):
        return ((i, j) for i in range(self.rows) for j in range(VECTORS))

    def emit(self, a, a_step, b, b_gap, table, depth, c, c_gap, ldc, start, resume, counts):
        """``counts`` are the elements in use of each vector of C, or None: all of them."""
        build = self.builder
        self.b_gap, self.c_gap = b_gap, c_gap
        masks = counts and [self.first_lanes(count) for count in counts]
        entries = []
        with build.if_else(resume) as (resumed, fresh):
            with resumed:
                entries.append(([self._read(c, ldc, i, j, masks) for i, j in self.cells()],
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
        last = self._loop(first, a, a_step, b, table, depth)
        for value, (i, j) in zip(last, self.cells()):
            if masks:
                self.masked_store(value, self._cell(c, ldc, i, j), masks[j])
            else:
                build.store(value, self._cell(c, ldc, i, j), align=self.size)

    def _read(self, c, ldc, i, j, masks):
        if masks:
            return self.masked_load(self._cell(c, ldc, i, j), masks[j])
        return self.builder.load(self._cell(c, ldc, i, j), align=self.size)

    def _cell(self, c, ldc, i, j):
        b = self.builder
        return self.at(c, b.add(b.mul(ldc, const(i)), b.mul(self.c_gap, const(j))))

    def _loop(self, first, a, a_step, b, table, depth):
        """The sum over k; returns the accumulators after the last step."""
        build = self.builder
        before = build.block
        body, done = (build.append_basic_block(name) for name in ("tile.step", "tile.done"))
        build.cbranch(build.icmp_signed(">", depth, const(0)), body, done)
        build.position_at_end(body)
        k = build.phi(const(0).type)
        pointer = build.phi(a.type)
        sums = [build.phi(self.vector) for _ in first]
        row = build.gep(b, [build.load(build.gep(table, [k]))])
        columns = [build.load(self.at(row, build.mul(self.b_gap, const(j))), align=self.size)
                   for j in range(VECTORS)]  # fmt: skip
        after = []
        for i in range(self.rows):
            factor = self.broadcast(pointer, i)
            for j in range(VECTORS):
                after.append(build.call(self.fma, [factor, columns[j], sums[i * VECTORS + j]]))
        following = build.add(k, const(1))
        for phi, initial, next_value in ((k, const(0), following),
                                         (pointer, a, build.gep(pointer, [a_step])),
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


def _switch(builder, rows, dtype, *arguments):
    """A switch over ``rows`` with one emitted tile per case."""
    end = builder.append_basic_block("tiles.end")
    switch = builder.switch(rows, end)
    for count in range(1, ROWS + 1):
        block = builder.append_basic_block(f"tile.{count}")
        switch.add_case(const(count), block)
        builder.position_at_end(block)
        _Tile(builder, dtype, count).emit(*arguments)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def _tile(typing, rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume):
    """See `tile`."""
    index = types.intp
    signature = types.void(index, a, index, index, b, index, table, index, index,
                           c, index, index, start, index, index)  # fmt: skip

    def generate(context, builder, signature, arguments):
        rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume = arguments

        pa, pb, pt, pc, ps = (
            pointer(context, builder, signature.args[position], arguments[position], offset)
            for position, offset in ((1, ao), (4, bo), (6, to), (9, co), (12, so))
        )
        dtype = signature.args[9].dtype
        gap = const(LANES[dtype.name])
        _switch(builder, rows, dtype, pa, a_step, pb, gap, pt, depth, pc, gap, ldc, ps,
                builder.icmp_signed("!=", resume, const(0)), None)  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


@helper
def tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume):
    """rows x COLUMNS of C from A[ao + k*a_step + i] and B[bo + table[to + k] + j], k < depth.

    C's rows are ldc apart.  It begins with start[so + i], or with what it holds if ``resume``.
    """
    _tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume)


@intrinsic
def _tile_apart(typing, rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc,
                start, so, resume, counts):  # fmt: skip
    """See `tile_apart`."""
    index = types.intp
    signature = types.void(index, a, index, index, b, index, index, table, index, index,
                           c, index, index, index, start, index, index, counts)  # fmt: skip

    def generate(context, builder, signature, arguments):
        (rows, a, ao, a_step, b, bo, b_gap, table, to, depth,
         c, co, c_gap, ldc, start, so, resume, counts) = arguments  # fmt: skip

        pa, pb, pt, pc, ps = (
            pointer(context, builder, signature.args[position], arguments[position], offset)
            for position, offset in ((1, ao), (4, bo), (7, to), (10, co), (14, so))
        )
        _switch(builder, rows, signature.args[10].dtype, pa, a_step, pb, b_gap, pt, depth, pc,
                c_gap, ldc, ps, builder.icmp_signed("!=", resume, const(0)),
                cgutils.unpack_tuple(builder, counts))  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


@helper
def tile_apart(rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc, start, so,
               resume, counts):  # fmt: skip
    """A tile whose vectors lie b_gap apart in B and c_gap in C, VECTORS == len(counts) of them.

    Of each only the first counts[j] elements of C are written or, if ``resume``, read.
    """
    _tile_apart(rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc, start, so,
                resume, counts)  # fmt: skip
