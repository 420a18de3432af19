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

from llvmlite import ir
from numba import types
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

    def emit(self, a, a_step, b, table, depth, c, ldc, start, resume):
        first = self._first(c, ldc, resume, lambda i: self.broadcast(start, i))
        self._store(self._loop(first, a, a_step, b, table, depth), c, ldc)

    def _first(self, c, ldc, resume, start):
        """What the accumulators begin with: C, or start(row) in every column."""
        build = self.builder
        entries = []
        with build.if_else(resume) as (resumed, fresh):
            with resumed:
                entries.append(([build.load(self._cell(c, ldc, i, j), align=self.size)
                                 for i, j in self.cells()], build.block))  # fmt: skip
            with fresh:
                starts = [start(i) for i in range(self.rows)]
                entries.append(([starts[i] for i, _ in self.cells()], build.block))
        first = []
        for cell in range(self.rows * VECTORS):
            phi = build.phi(self.vector)
            for values, block in entries:
                phi.add_incoming(values[cell], block)
            first.append(phi)
        return first

    def _store(self, last, c, ldc):
        for value, (i, j) in zip(last, self.cells()):
            self.builder.store(value, self._cell(c, ldc, i, j), align=self.size)

    def _cell(self, c, ldc, i, j):
        start = self.builder.mul(ldc, const(i))
        return self.at(c, self.builder.add(start, const(j * self.lanes)))

    def _loop(self, first, a, a_step, b, table, depth):
        """The sum over k; returns the accumulators after the last step."""
        build = self.builder

        def load(k, pointers):
            row = build.gep(b, [build.load(build.gep(table, [k]))])
            return self._columns(row), lambda i: self.broadcast(pointers[0], i)

        return self._sum(first, depth, [(a, a_step)], load)

    def _columns(self, row):
        return [self.builder.load(self.at(row, const(j * self.lanes)), align=self.size)
                for j in range(VECTORS)]  # fmt: skip

    def _sum(self, first, depth, moving, load):
        """``moving``: pointers and by how much each moves a step; ``load`` reads A's and B's."""
        build = self.builder
        before = build.block
        body, done = (build.append_basic_block(name) for name in ("tile.step", "tile.done"))
        build.cbranch(build.icmp_signed(">", depth, const(0)), body, done)
        build.position_at_end(body)
        k = build.phi(const(0).type)
        pointers = [build.phi(pointer.type) for pointer, _ in moving]
        sums = [build.phi(self.vector) for _ in first]
        columns, factor_of = load(k, pointers)
        after = []
        for i in range(self.rows):  # each factor just before its use, or they fill the registers
            factor = factor_of(i)
            for j in range(VECTORS):
                after.append(build.call(self.fma, [factor, columns[j], sums[i * VECTORS + j]]))
        following = build.add(k, const(1))
        moved = [(phi, pointer, build.gep(phi, [by])) for phi, (pointer, by) in zip(pointers, moving)]
        for phi, initial, next_value in ((k, const(0), following), *moved,
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


class _StridedTile(_Tile):
    """The tile of two plain matrices: A and B at strides of their own, from zero or C on."""

    #: rows of A that share a pointer: the others are one or two strides behind it
    SHARED = 3

    def emit_strided(self, a, a_step, a_row, b, b_step, depth, c, ldc, resume):
        build = self.builder
        first = self._first(c, ldc, resume, lambda i: ir.Constant(self.vector, [0.0] * self.lanes))
        twice = build.mul(a_row, const(2))
        heads = [build.gep(a, [build.mul(a_row, const(i))])
                 for i in range(0, self.rows, self.SHARED)]

        def load(k, pointers):
            def factor(i):
                head = pointers[1 + i // self.SHARED]
                behind = (None, a_row, twice)[i % self.SHARED]
                return self.broadcast(build.gep(head, [behind]) if behind else head, 0)

            return self._columns(pointers[0]), factor

        moving = [(b, b_step), *((head, a_step) for head in heads)]
        self._store(self._sum(first, depth, moving, load), c, ldc)


@intrinsic
def _tile(typing, rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume):
    """A switch over ``rows`` with one emitted tile per case; see `tile`."""
    index = types.intp
    signature = types.void(index, a, index, index, b, index, table, index, index,
                           c, index, index, start, index, index)  # fmt: skip

    def generate(context, builder, signature, arguments):
        rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume = arguments

        pa, pb, pt, pc, ps = (
            pointer(context, builder, signature.args[position], arguments[position], offset)
            for position, offset in ((1, ao), (4, bo), (6, to), (9, co), (12, so))
        )
        resumed = builder.icmp_signed("!=", resume, const(0))
        end = builder.append_basic_block("tiles.end")
        switch = builder.switch(rows, end)
        for count in range(1, ROWS + 1):
            block = builder.append_basic_block(f"tile.{count}")
            switch.add_case(const(count), block)
            builder.position_at_end(block)
            emitter = _Tile(builder, signature.args[9].dtype, count)
            emitter.emit(pa, a_step, pb, pt, depth, pc, ldc, ps, resumed)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


@helper
def tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume):
    """rows x COLUMNS of C from A[ao + k*a_step + i] and B[bo + table[to + k] + j], k < depth.

    C's rows are ldc apart.  It begins with start[so + i], or with what it holds if ``resume``.
    """
    _tile(rows, a, ao, a_step, b, bo, table, to, depth, c, co, ldc, start, so, resume)


@intrinsic
def address(typing, array, offset):
    """Where an array's element ``offset`` elements behind its first lies in memory."""

    def generate(context, builder, signature, arguments):
        at = pointer(context, builder, signature.args[0], *arguments)
        return builder.ptrtoint(at, const(0).type)

    return types.intp(array, types.intp), generate


@intrinsic
def _strided(typing, zero, rows, a, a_step, a_row, b, b_step, depth, c, ldc, resume):
    """A switch over ``rows`` as in `_tile`; see `strided_tile`."""

    def generate(context, builder, signature, arguments):
        zero, rows, a, a_step, a_row, b, b_step, depth, c, ldc, resume = arguments
        a, b, c = (builder.inttoptr(at, zero.type.as_pointer()) for at in (a, b, c))
        resumed = builder.icmp_signed("!=", resume, const(0))
        end = builder.append_basic_block("tiles.end")
        switch = builder.switch(rows, end)
        for count in range(1, ROWS + 1):
            block = builder.append_basic_block(f"tile.{count}")
            switch.add_case(const(count), block)
            builder.position_at_end(block)
            emitter = _StridedTile(builder, signature.args[0], count)
            emitter.emit_strided(a, a_step, a_row, b, b_step, depth, c, ldc, resumed)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(zero, *[types.intp] * 10), generate


@helper
def strided_tile(zero, rows, a, a_step, a_row, b, b_step, depth, c, ldc, resume):
    """rows x COLUMNS of C from A[k*a_step + i*a_row] and B[k*b_step + j], k < depth.

    a, b and c are addresses, so that one build serves operands packed and as they lie; the other
    numbers count elements, whose type is that of ``zero``.
    """
    _strided(zero, rows, a, a_step, a_row, b, b_step, depth, c, ldc, resume)
