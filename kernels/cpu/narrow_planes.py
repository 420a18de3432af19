"""Depthwise 3x3 on planes of which a whole row fits a vector: 7x7 and 14x14 images.

strips.py serves any width with blocks of rows, and its masks, pointers and branches for each row
of a block take longer than the sums of so small a plane.  Here a source row is read once for all
three rows of the window, and the sums of the rows of the target that it reaches move on from
register to register.  Padding is not multiplied: masks leave out the columns outside the image, and
rows outside are passed over.  The order of the sums is that of strips.py.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import FLOATS, Kernel, array, inlined, int64, out, prange
from .lanes import Lanes, _Emit, _pointer, add, splat_like
from .memory import load, step, store
from .row_lanes import places
from .vectors import LANES, VECTOR_BYTES

#: What a plan shows: the rows of the target whose sums are in registers at once.
BLOCKING = {"rows": 3, "piece": (3, 3)}


def serves(g, stride, operation, dtype) -> bool:
    """Is this a depthwise convolution of single rows?  ``g`` is one that depthwise.py serves."""
    if operation == "conv_dx" and (stride != 1 or g.out_channels != g.groups):
        return False
    square = g.window == (1, 3, 3) and g.dilation[1:] == (1, 1) and g.size[0] == g.out[0] == 1
    columns = g.size[2] if operation == "conv_dx" else g.out[2]
    return (square and g.before[0] == 0 and g.in_channels == g.groups
            and columns <= LANES[dtype] - (stride - 1))  # fmt: skip


@intrinsic
def vector(typing, value):
    """A register of one value."""
    kind = Lanes(value, VECTOR_BYTES * 8 // value.bitwidth)

    def generate(context, builder, signature, arguments):
        return _Emit(context, builder, kind).splat(arguments[0])

    return kind(value), generate


@intrinsic
def read(typing, source, offset, where, like):
    """The elements behind ``offset`` in the lanes of ``where``; the others are 0 and not read."""

    def generate(context, builder, signature, arguments):
        emit = _Emit(context, builder, signature.return_type)
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        return emit.load(pointer, arguments[2], ir.Constant(emit.vector, [0.0] * emit.count))

    return like(source, types.int64, where, like), generate


@intrinsic
def write(typing, target, offset, where, value):
    """Writes the lanes of ``where``."""

    def generate(context, builder, signature, arguments):
        emit = _Emit(context, builder, signature.args[3])
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        emit.store(pointer, arguments[2], arguments[3])
        return context.get_dummy_value()

    return types.void(target, types.int64, where, value), generate


@intrinsic
def multiply_add(typing, a, b, total, where):
    """total + a*b, rounded once, in the lanes of ``where``; total in the others."""

    def generate(context, builder, signature, arguments):
        a, b, total, where = arguments
        kind = ir.FunctionType(total.type, [total.type] * 3)
        size = 8 * _Emit(context, builder, signature.args[2]).size
        name = f"llvm.fma.v{signature.args[2].count}f{size}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.select(where, builder.call(function, [a, b, total]), total)

    return total(a, b, total, where), generate


@intrinsic
def every_second(typing, low, high, first):
    """Lane l is element 2*l + first of low and high side by side; the last one's, if there is none."""
    if not isinstance(first, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        emit = _Emit(context, builder, signature.return_type)
        most = 2 * emit.count - 1
        picks = [min(2 * lane + first.literal_value, most) for lane in range(emit.count)]
        return builder.shuffle_vector(*arguments[:2], emit.numbers(picks))

    return low(low, high, first), generate


@intrinsic
def sum_lanes(typing, value):
    """The sum of a register's lanes, by halves."""

    def generate(context, builder, signature, arguments):
        emit = _Emit(context, builder, signature.args[0])
        (value,), width = arguments, emit.count // 2
        while width:
            other = emit.numbers([(lane + width) % emit.count for lane in range(emit.count)])
            value = builder.fadd(value, builder.shuffle_vector(value, value, other))
            width //= 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), generate


@inlined
def _window(down, left, W, Q, like):
    """For each column of the window the lanes that it reaches, then those to read at stride 2."""
    return (_lanes(down, left, W, Q, like), _lanes(down, left - 1, W, Q, like),
            _lanes(down, left - 2, W, Q, like), places(left, left + W, 1, like),
            places(left - like_lanes(like), left + W - like_lanes(like), 1, like))  # fmt: skip


@inlined
def _lanes(down, left, W, Q, like):
    """The targets q < Q with 0 <= q*down - left < W."""
    return places((left + down - 1) // down, min(Q, (W - 1 + left) // down + 1), 1, like)


@intrinsic
def like_lanes(typing, like):
    """How many lanes a register has."""
    count = like.count
    return types.int64(like), lambda *_: ir.Constant(ir.IntType(64), count)


@inlined
def _columns(down, u, at, where, like):
    """A source row as each of the three columns of the window sees it."""
    if down == 1:
        return (read(u, at, where[0], like), read(u, at + 1, where[1], like),
                read(u, at + 2, where[2], like))  # fmt: skip
    low = read(u, at, where[3], like)
    high = read(u, at + like_lanes(like), where[4], like)
    return every_second(low, high, 0), every_second(low, high, 1), every_second(low, high, 2)


@inlined
def _across(total, row, taps, where):
    """total + one row of the window."""
    total = multiply_add(row[0], taps[0], total, where[0])
    total = multiply_add(row[1], taps[1], total, where[1])
    return multiply_add(row[2], taps[2], total, where[2])


@inlined
def _taps(w, at):
    """A row of the weights, a register each."""
    return (vector(load(w, at)), vector(load(w, at + step(w, 5))),
            vector(load(w, at + 2 * step(w, 5))))  # fmt: skip


def _planes(name, down):
    """The kernel for one stride: v = u convolved with w (G, rows, 1, 1, 3, 3), + b."""

    def body(v, u, w, b, top, left, slots):
        N, K, _, P, Q = v.shape
        H, W = u.shape[3], u.shape[4]
        KG = w.shape[1]
        zero = vector(v.dtype.type(0))
        for slot in prange(slots):
            first, end = slot * N * K // slots, (slot + 1) * N * K // slots
            where = _window(down, left, W, Q, zero)
            there = places(0, Q, 1, zero)
            n, k = first // K, first % K
            g, i = k // KG, k % KG
            for _ in range(first, end):
                uo = n * step(u, 0) + g * step(u, 1) - left * step(u, 4)
                wo = g * step(w, 0) + i * step(w, 1)
                vo = n * step(v, 0) + k * step(v, 1)
                start = zero
                if b.size:
                    start = splat_like(load(b, k * step(b, 0)), zero)
                taps = _taps(w, wo), _taps(w, wo + step(w, 4)), _taps(w, wo + 2 * step(w, 4))
                if down == 1:
                    _rows(v, vo, P, there, u, uo, H, top, taps, start, where)
                else:
                    _rows_down(v, vo, P, there, u, uo, H, top, taps, start, where)
                k, i = k + 1, i + 1
                if i == KG:
                    g, i = g + 1, 0
                if k == K:
                    n, k, g = n + 1, 0, 0

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   int64, int64, int64), FLOATS)  # fmt: skip


@inlined
def _rows(v, vo, P, there, u, uo, H, top, taps, start, where):
    """Stride 1: the targets p, p + 1 and p + 2 share the source row that completes p."""
    ending, middle, begun = start, start, start
    for p in range(-2, P):
        h = p + 2 - top
        if 0 <= h < H:
            row = _columns(1, u, uo + h * step(u, 3), where, start)
            ending = _across(ending, row, taps[2], where)
            middle = _across(middle, row, taps[1], where)
            begun = _across(begun, row, taps[0], where)
        if p >= 0:
            write(v, vo + p * step(v, 3), there, ending)
        ending, middle, begun = middle, begun, start


@inlined
def _rows_down(v, vo, P, there, u, uo, H, top, taps, start, where):
    """Stride 2: the last source row of a target is the first one of the next."""
    total = start
    for p in range(-1, P):
        h, following = 2 * p + 1 - top, start
        if 0 <= h < H:
            total = _across(total, _columns(2, u, uo + h * step(u, 3), where, start), taps[1],
                            where)  # fmt: skip
        if 0 <= h + 1 < H:
            row = _columns(2, u, uo + (h + 1) * step(u, 3), where, start)
            total = _across(total, row, taps[2], where)
            following = _across(following, row, taps[0], where)
        if p >= 0:
            write(v, vo + p * step(v, 3), there, total)
        total = following


planes = _planes("narrow_planes", 1)
planes_down = _planes("narrow_planes_down", 2)


@inlined
def _along(sums, row, dy, where):
    """The sums of one row of the window, + dy times a source row."""
    return (multiply_add(row[0], dy, sums[0], where[0]),
            multiply_add(row[1], dy, sums[1], where[1]),
            multiply_add(row[2], dy, sums[2], where[2]))  # fmt: skip


def _filters(name, down):
    """The kernel for one stride: dw (K, 1, 1, 3, 3), and db unless it is empty."""

    def body(dw, db, dy, x, top, left, groups):
        for k in prange(dw.shape[0]):
            _filter(down, dw, db, dy, x, top, left, groups, k)

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5),
                                   int64, int64, int64), FLOATS)  # fmt: skip


@inlined
def _filter(down, dw, db, dy, x, top, left, groups, k):
    """One filter: its sums stay in registers from the first image to the last."""
    N, K, _, P, Q = dy.shape
    H, W = x.shape[3], x.shape[4]
    zero = vector(dw.dtype.type(0))
    where, there = _window(down, left, W, Q, zero), places(0, Q, 1, zero)
    sums, total = ((zero, zero, zero), (zero, zero, zero), (zero, zero, zero)), zero
    first = k // (K // groups) * step(x, 1) - left * step(x, 4)
    for n in range(N):
        yo, xo = n * step(dy, 0) + k * step(dy, 1), n * step(x, 0) + first
        if down == 1:
            sums = _image(sums, dy, yo, P, there, x, xo, H, top, where, zero)
        else:
            sums = _image_down(sums, dy, yo, P, there, x, xo, H, top, where, zero)
        if db.size:
            for p in range(P):
                total = add(total, read(dy, yo + p * step(dy, 3), there, zero))
    to = k * step(dw, 0)
    _store_sums(dw, to, sums[0])
    _store_sums(dw, to + step(dw, 3), sums[1])
    _store_sums(dw, to + 2 * step(dw, 3), sums[2])
    if db.size:
        store(db, k * step(db, 0), sum_lanes(total))


@inlined
def _store_sums(dw, at, row):
    store(dw, at, sum_lanes(row[0]))
    store(dw, at + step(dw, 4), sum_lanes(row[1]))
    store(dw, at + 2 * step(dw, 4), sum_lanes(row[2]))


@inlined
def _image(sums, dy, yo, P, there, x, xo, H, top, where, zero):
    """Stride 1: a source row times the three rows of dy that it reaches, which move on with it."""
    upper, middle, lower = sums
    last, previous = zero, zero  # rows of dy of h + top - 2 and of h + top - 1
    if 0 <= top - 2 < P:
        last = read(dy, yo + (top - 2) * step(dy, 3), there, zero)
    if 0 <= top - 1 < P:
        previous = read(dy, yo + (top - 1) * step(dy, 3), there, zero)
    for h in range(min(H, P + 2 - top)):
        p, this = h + top, zero
        row = _columns(1, x, xo + h * step(x, 3), where, zero)
        if p < P:
            this = read(dy, yo + p * step(dy, 3), there, zero)
            upper = _along(upper, row, this, where)
        if 0 <= p - 1 < P:
            middle = _along(middle, row, previous, where)
        if 0 <= p - 2:
            lower = _along(lower, row, last, where)
        last, previous = previous, this
    return upper, middle, lower


@inlined
def _image_down(sums, dy, yo, P, there, x, xo, H, top, where, zero):
    """Stride 2: a row of dy times three source rows, the last of which is the next one's first."""
    upper, middle, lower = sums
    row, h = (zero, zero, zero), -top
    if 0 <= h < H:
        row = _columns(2, x, xo + h * step(x, 3), where, zero)
    for p in range(P):
        h = 2 * p - top
        this = read(dy, yo + p * step(dy, 3), there, zero)
        if 0 <= h < H:
            upper = _along(upper, row, this, where)
        if 0 <= h + 1 < H:
            row = _columns(2, x, xo + (h + 1) * step(x, 3), where, zero)
            middle = _along(middle, row, this, where)
        if 0 <= h + 2 < H:
            row = _columns(2, x, xo + (h + 2) * step(x, 3), where, zero)
            lower = _along(lower, row, this, where)
    return upper, middle, lower


filters = _filters("narrow_filters", 1)
filters_down = _filters("narrow_filters_down", 2)
