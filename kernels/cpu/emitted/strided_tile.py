"""The register tile of two plain matrices: a fixed step from one element to the next.

As microkernel.py has it, but A and B both lie at strides of their own, so that operands are
multiplied as they lie; and everything is an address, so that one build serves operands that are
packed, that lie in an argument, and results in either.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import helper, inlined
from ..microkernel import ROWS, VECTORS, Tile
from .vectors import ITEMSIZE, VECTOR_BYTES, Emitter, cases, const, element_pointer

#: Rows of A that share a pointer: the others are one or two strides behind it, which the address
#: of a load may add.  A pointer for each would take more registers than there are.
SHARED = 3

#: Steps ahead of the sum at which L1 is asked for packed B.  A core alone would fetch it in time
#: from L2 by itself; one whose other hardware thread is at work has half the loads in flight.
NEAR = 8


class _StridedTile(Tile):
    """Emits the tile for one number of rows and vectors into the function being built."""

    def __init__(self, builder, dtype, rows, vectors=VECTORS, columns=None):
        super().__init__(builder, dtype, rows, table_of_a=False)
        self.vectors = vectors
        self.left = None  # columns for the last vector, if it may not be full
        if columns is not None:
            self.left = builder.sub(columns, const((vectors - 1) * self.lanes))

    def cells(self):
        return [(i, j) for i in range(self.rows) for j in range(self.vectors)]

    def _read(self, c, ldc, i, j):
        if self.left is None or j < self.vectors - 1:
            return super()._read(c, ldc, i, j)
        return self.masked_load(self._cell(c, ldc, i, j), self.first_lanes(self.left))

    def _write_all(self, values, c, ldc):
        """The last vector of each row only as far as there are columns."""
        if self.left is None:
            self._write_vectors(values, c, ldc, self.vectors)
            return
        build = self.builder
        whole = build.icmp_signed(">=", self.left, const(self.lanes))
        with build.if_else(whole) as (full, part):
            with full:
                self._write_vectors(values, c, ldc, self.vectors)
            with part:
                self._write_vectors(values, c, ldc, self.vectors - 1)
                mask = self.first_lanes(self.left)
                for value, (i, j) in zip(values, self.cells()):
                    if j == self.vectors - 1:
                        self.masked_store(value, self._cell(c, ldc, i, j), mask)

    def _write_vectors(self, values, c, ldc, vectors):
        """The first ``vectors`` of each row."""
        for value, (i, j) in zip(values, self.cells()):
            if j < vectors:
                self._write(value, c, ldc, i, j)

    def emit_strided(self, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead, runs,
                     packed=None):  # fmt: skip
        """``packed``: (where B is copied to while it is read, whether it is) or None."""
        build = self.builder
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        with build.if_else(resume) as (resumed, fresh):
            with resumed:
                before = [self._read(c, ldc, i, j) for i, j in self.cells()]
                resumed_at = build.block
            with fresh:
                fresh_at = build.block
        first = []
        for value in before:
            phi = build.phi(self.vector)
            phi.add_incoming(value, resumed_at)
            phi.add_incoming(zero, fresh_at)
            first.append(phi)
        heads = [build.gep(a, [build.mul(a_row, const(i))]) for i in range(0, self.rows, SHARED)]
        last = self._sum(first, depth, (b, *heads), (b_step, *[a_step] * len(heads)), a_row,
                         ahead, runs, packed)  # fmt: skip
        self._write_all(last, c, ldc)

    def _fetch(self, at, level=2):
        """Asks for the cache line at ``at``: for a later tile, from L2, or for this one (3)."""
        build, i32 = self.builder, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [at.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(build.module, kind, "llvm.prefetch.p0")
        build.call(function, [at, i32(0), i32(level), i32(1)])

    def _after(self, fetched, k, stride, run=None, place=None, jump=None):
        """What to fetch next."""
        build = self.builder
        if run is not None:
            last = build.sub(run, const(1))
            ends = build.icmp_signed("==", build.and_(build.add(k, place), last), last)
            stride = build.select(ends, jump, stride)
        return build.gep(fetched, [stride])

    def _copy(self, columns, strip, wanted, k):
        """Step k of B to a packed strip."""
        build = self.builder
        with build.if_then(wanted):
            to = build.gep(strip, [build.mul(k, const(VECTORS * self.lanes))])
            for j, vector in enumerate(columns):
                build.store(vector, self._column(to, j), align=self.size)

    def _sum(self, first, depth, starts, steps, a_row, ahead, runs, packed):
        """The accumulators after the last step; ``starts`` move by ``steps``: B, A's heads.

        ``runs`` is what `_after` takes.
        """
        build = self.builder
        twice = build.mul(a_row, const(2))
        # packed strips go on with the next one; rows of other matrices would end elsewhere
        strips = build.icmp_signed("==", steps[0], const(VECTORS * self.lanes))
        if packed is not None:  # neither do those that become one
            strips = build.or_(strips, packed[1])
        near = build.select(strips, build.mul(steps[0], const(NEAR)), const(0))
        before = build.block
        body, done = (build.append_basic_block(name) for name in ("tile.step", "tile.done"))
        build.cbranch(build.icmp_signed(">", depth, const(0)), body, done)
        build.position_at_end(body)
        k = build.phi(const(0).type)
        pointers = [build.phi(start.type) for start in starts]
        fetched = build.phi(ahead.type)
        sums = [build.phi(self.vector) for _ in first]
        self._fetch(fetched)
        for j in range(self.vectors):
            following = build.add(near, const(j * self.lanes))
            self._fetch(build.gep(pointers[0], [following]), level=3)
        columns = [build.load(self._column(pointers[0], j), align=self.size)
                   for j in range(self.vectors)]  # fmt: skip
        if packed is not None:
            self._copy(columns, *packed, k)
        after = []
        for i in range(self.rows):  # each factor just before its use, or they fill the registers
            head = pointers[1 + i // SHARED]
            behind = (const(0), a_row, twice)[i % SHARED]
            factor = self.broadcast(build.gep(head, [behind]), 0)
            for j in range(self.vectors):
                total = sums[i * self.vectors + j]
                after.append(build.call(self.fma, [factor, columns[j], total]))
        following = build.add(k, const(1))
        moved = [build.gep(phi, [step]) for phi, step in zip(pointers, steps)]
        next_fetch = self._after(fetched, k, *runs)
        for phi, initial, next_value in ((k, const(0), following), (fetched, ahead, next_fetch),
                                         *zip(pointers, starts, moved), *zip(sums, first, after)):
            phi.add_incoming(initial, before)
            phi.add_incoming(next_value, build.block)
        end = build.block
        build.cbranch(build.icmp_signed("<", following, depth), body, done)
        build.position_at_end(done)
        results = [build.phi(self.vector) for _ in first]
        for phi, initial, value in zip(results, first, after):
            phi.add_incoming(initial, before)
            phi.add_incoming(value, end)
        return results


@intrinsic
def address(typing, array, offset):
    """Where an array's element ``offset`` elements behind its first lies in memory."""

    def generate(context, builder, signature, arguments):
        at = element_pointer(context, builder, signature.args[0], *arguments)
        return builder.ptrtoint(at, const(0).type)

    return types.intp(array, types.intp), generate


@intrinsic
def copy_rows(typing, zero, target, target_step, source, source_step, rows, count):
    """``rows`` rows of at most ROWS numbers between addresses; the steps count elements.

    The masks are made once: a loop over single rows would make them, and branch, for each.
    """

    def generate(context, builder, signature, arguments):
        zero, target, target_step, source, source_step, rows, count = arguments
        e = Emitter(builder, signature.args[0])
        target, source = (builder.inttoptr(at, zero.type.as_pointer()) for at in (target, source))
        masks = [e.first_lanes(builder.sub(count, const(at))) for at in range(0, ROWS, e.lanes)]
        with cgutils.for_range(builder, rows) as loop:
            read = builder.gep(source, [builder.mul(loop.index, source_step)])
            write = builder.gep(target, [builder.mul(loop.index, target_step)])
            for i, mask in enumerate(masks):
                at = const(i * e.lanes)
                e.masked_store(e.masked_load(e.at(read, at), mask), e.at(write, at), mask)
        return context.get_dummy_value()

    return types.void(zero, *[types.intp] * 6), generate


@intrinsic
def copy_strips(typing, target, to, apart, source, start, strips):
    """target[to + strip*apart + j] = source[start + strip*COLUMNS + j], j < COLUMNS."""

    def generate(context, builder, signature, arguments):
        target, to, apart, source, start, strips = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[3], source, start)
        with cgutils.for_range(builder, strips) as loop:
            first = builder.gep(write, [builder.mul(loop.index, apart)])
            vectors = builder.mul(loop.index, const(VECTORS))
            for j in range(VECTORS):
                at = builder.mul(builder.add(vectors, const(j)), const(e.lanes))
                value = builder.load(e.at(read, at), align=e.size)
                builder.store(value, e.at(first, const(j * e.lanes)), align=e.size)
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp, source, types.intp, types.intp), generate


@intrinsic
def _strided(typing, zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead,
             stride):  # fmt: skip
    """See `strided_tile`."""
    return types.void(zero, *[types.intp] * 13), _each_size


@intrinsic
def _runs_tile(typing, zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume,
               ahead, stride, run, place, jump):  # fmt: skip
    """See `runs_tile`."""
    return types.void(zero, *[types.intp] * 16), _each_size


def _each_size(context, builder, signature, arguments):
    """A switch over rows and vectors with one emitted tile per case."""
    (zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead,
     *runs) = arguments  # fmt: skip
    a, b, c, ahead = (builder.inttoptr(at, zero.type.as_pointer()) for at in (a, b, c, ahead))
    resumed = builder.icmp_signed("!=", resume, const(0))
    lanes = VECTOR_BYTES // ITEMSIZE[signature.args[0].name]
    wide = builder.zext(builder.icmp_signed(">", columns, const(lanes)), const(0).type)
    number = builder.add(builder.mul(wide, const(ROWS)), rows)
    for case in cases(builder, number, range(1, VECTORS * ROWS + 1)):
        vectors, count = (case - 1) // ROWS + 1, (case - 1) % ROWS + 1
        emitter = _StridedTile(builder, signature.args[0], count, vectors, columns)
        emitter.emit_strided(a, a_step, a_row, b, b_step, depth, c, ldc, resumed, ahead, runs)
    return context.get_dummy_value()


@intrinsic
def _panel(typing, zero, rows, a, a_step, b, b_step, depth, c, ldc, resume, ahead, stride, run,
           place, jump, packed):  # fmt: skip
    """A switch over rows; see `panel_tile`."""

    def generate(context, builder, signature, arguments):
        zero, rows, a, a_step, b, b_step, depth, c, ldc, resume, ahead, *runs, packed = arguments
        copies = builder.icmp_signed("!=", packed, const(0))
        a, b, c, ahead, packed = (builder.inttoptr(at, zero.type.as_pointer())
                                  for at in (a, b, c, ahead, packed))  # fmt: skip
        resumed = builder.icmp_signed("!=", resume, const(0))
        for count in cases(builder, rows, range(1, ROWS + 1)):
            emitter = _StridedTile(builder, signature.args[0], count)
            emitter.emit_strided(a, a_step, const(1), b, b_step, depth, c, ldc, resumed, ahead,
                                 runs, (packed, copies))  # fmt: skip
        return context.get_dummy_value()

    return types.void(zero, *[types.intp] * 15), generate


@helper
def strided_tile(zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead,
                 stride):  # fmt: skip
    """rows x columns of C from A[k*a_step + i*a_row] and B[k*b_step + j], k < depth.

    There are COLUMNS columns at most; of B whole vectors are read.
    a, b and c are addresses; the other numbers count elements, whose type is that of ``zero``.
    C's rows are ldc apart.  It begins with zero, or with what it holds if ``resume``.
    Meanwhile memory from ``ahead`` on is fetched, ``stride`` elements further at each step.
    """
    _strided(zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead, stride)


@helper
def runs_tile(zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead,
              stride, run, place, jump):  # fmt: skip
    """`strided_tile`, but what is fetched lies in runs of ``run`` times ``stride``.

    ``run`` is a power of two.  Of the first ``place`` were fetched before; behind the last of a run it goes on ``jump``
    elements further.  A step takes some more instructions: some 2% of a product.
    """
    _runs_tile(zero, rows, columns, a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead,
               stride, run, place, jump)  # fmt: skip


@inlined
def run_from(array, start, apart, done, bits, hop):
    """(address, stride, run, place, jump), as `runs_tile` takes them.

    Of runs of 2^``bits`` times ``hop`` elements, ``apart`` from one to the next, the first at
    ``start``, ``done`` steps were fetched before.
    """
    run = 1 << bits
    place = done & (run - 1)
    at = address(array, start + (done >> bits) * apart + place * hop)
    return at, hop, run, place, apart - (run - 1) * hop


@helper
def panel_tile(zero, rows, a, a_step, b, b_step, depth, c, ldc, resume, ahead, stride, run, place,
               jump, packed):  # fmt: skip
    """`runs_tile` of COLUMNS columns, and of an A whose rows lie side by side.

    Unless the address ``packed`` is zero B is copied there, COLUMNS elements after COLUMNS.
    """
    _panel(zero, rows, a, a_step, b, b_step, depth, c, ldc, resume, ahead, stride, run, place, jump,
           packed)  # fmt: skip
