"""Depthwise 3x3 on planes of which a whole row fits a vector (7x7 and 14x14 images), and in strips
of such rows at stride 2.

strips.py serves any width with blocks of rows, and its masks, pointers and branches for each row
of a block take longer than the sums of so small a plane.  Here a source row is read once for all
three rows of the window, and the sums of the target rows that it reaches move on from register to
register.  Padding is not multiplied: masks leave out the columns outside the image, and rows
outside are passed over.  The order of the sums is that of strips.py.
"""

from __future__ import annotations

from ..emitted.lanes import splat_like
from ..emitted.memory import load, step
from ..emitted.row_lanes import places
from ..emitted.vectors import LANES, VECTOR_BYTES
from ..jit import FLOATS, Kernel, array, inlined, int64, out, prange
from .narrow_lanes import (
    ROWS,
    columns,
    interleaved,
    like_lanes,
    multiply_add,
    read,
    strip,
    vector,
    window,
    write,
)

#: Lanes from which on strips of a lane less than a vector are worth it.
ENOUGH = 8


def way(g, stride, operation, dtype):
    """The key of KERNELS for a depthwise convolution of single rows that depthwise_conv.py serves.

    None where strips.py serves it.
    """
    if g.window != (1, 3, 3) or g.dilation[1:] != (1, 1) or g.in_channels != g.groups:
        return None
    if g.size[0] != 1 or g.out[0] != 1 or g.before[0]:
        return None
    lanes = LANES[dtype]
    if operation == "conv_dx" and stride == 2:  # a lane is a pair of targets
        pairs = (g.size[2] - 1 + g.before[2]) // 2 + 1
        return "up" if g.out_channels == g.groups and pairs <= lanes else None
    if operation == "conv_dx" and g.out_channels != g.groups:
        return None
    needed = g.size[2] if operation == "conv_dx" else g.out[2] + stride - 1
    # loads and stores of whole AVX-512 registers nearly all go across cache lines
    half = " half" if VECTOR_BYTES == 64 and needed <= lanes // 2 else ""
    if needed <= lanes:
        return ("same" if stride == 1 else "down") + half
    return "strips" if stride == 2 and lanes >= ENOUGH else None


def blocking(way):
    """What a plan shows: the rows of the target that are summed before the next strip or plane."""
    return {"rows": ROWS if way == "strips" else 3, "piece": (3, 3)}


@inlined
def _across(total, row, taps, where):
    """total + one row of the window."""
    total = multiply_add(row[0], taps[0], total, where[0])
    total = multiply_add(row[1], taps[1], total, where[1])
    return multiply_add(row[2], taps[2], total, where[2])


@inlined
def _taps(w, at, like):
    """A row of the weights, a register each."""
    return (splat_like(load(w, at), like), splat_like(load(w, at + step(w, 5)), like),
            splat_like(load(w, at + 2 * step(w, 5)), like))  # fmt: skip


def _planes(name, up, down, strips=False, part=1):
    """The kernel for one pair of strides: v = u convolved with w (G, rows, 1, 1, 3, 3), + b."""

    def body(v, u, w, b, top, left, slots):
        N, K, _, P, Q = v.shape
        H, W = u.shape[3], u.shape[4]
        KG = w.shape[1]
        zero = vector(v.dtype.type(0), part)
        for slot in prange(slots):
            first, end = slot * N * K // slots, (slot + 1) * N * K // slots
            where = window(down, left, W, Q, zero)
            there = places(0, Q, 1, zero)
            n, k = first // K, first % K
            g, i = k // KG, k % KG
            for _ in range(first, end):
                uo = n * step(u, 0) + g * step(u, 1)
                wo = g * step(w, 0) + i * step(w, 1)
                vo = n * step(v, 0) + k * step(v, 1)
                start = zero
                if b.size:
                    start = splat_like(load(b, k * step(b, 0)), zero)
                taps = (_taps(w, wo, zero), _taps(w, wo + step(w, 4), zero),
                        _taps(w, wo + 2 * step(w, 4), zero))  # fmt: skip
                if up == 2:
                    _rows_up(v, vo - left, left, u, uo, H, W, top, taps, start)
                elif down == 1:
                    _rows(v, vo, P, there, u, uo - left, H, top, taps, start, where)
                elif strips:
                    _strips_down(v, vo, P, Q, u, uo - left, H, W, top, left, taps, start)
                else:
                    _rows_down(v, vo, P, there, u, uo - left, H, top, taps, start, where)
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
            row = columns(1, u, uo + h * step(u, 3), where, start)
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
            total = _across(total, columns(2, u, uo + h * step(u, 3), where, start), taps[1],
                            where)  # fmt: skip
        if 0 <= h + 1 < H:
            row = columns(2, u, uo + (h + 1) * step(u, 3), where, start)
            total = _across(total, row, taps[2], where)
            following = _across(following, row, taps[0], where)
        if p >= 0:
            write(v, vo + p * step(v, 3), there, total)
        total = following


@inlined
def _strips_down(v, vo, P, Q, u, uo, H, W, top, left, taps, start):
    """Stride 2, any width: blocks of rows that stay in L1, and in each a strip after the other."""
    width = strip(Q, start)
    for p in range(0, P, ROWS):
        for q in range(0, Q, width):
            count = min(width, Q - q)
            where, there = window(2, left - 2 * q, W, count, start), places(0, count, 1, start)
            _rows_down(v, vo + p * step(v, 3) + q, min(ROWS, P - p), there, u, uo + 2 * q, H,
                       top - 2 * p, taps, start, where)  # fmt: skip


@inlined
def _rows_up(v, vo, left, u, uo, P, Q, top, taps, start):
    """dx of stride 2: rows and columns counted with the padding go by pairs, of which the even one
    is reached by two source rows (or columns) and the odd one by one."""
    H, W = v.shape[3], v.shape[4]
    this, before = places(0, Q, 1, start), places(1, Q + 1, 1, start)
    low = places(left, left + W, 1, start)
    high = places(left - like_lanes(start), left + W - like_lanes(start), 1, start)
    following = start, start
    for p in range((H - 1 + top) // 2 + 1):
        upper, lower = following, (start, start)
        following = start, start
        if p < P:
            right = read(u, uo + p * step(u, 3), this, start)
            pair = right, read(u, uo + p * step(u, 3) - step(u, 4), before, start)
            upper = _pairs(upper, pair, taps[0], this, before)
            lower = _pairs(lower, pair, taps[1], this, before)
            following = _pairs(following, pair, taps[2], this, before)
        h = 2 * p - top
        if h >= 0:
            _write_pairs(v, vo + h * step(v, 3), upper, low, high, left + W)
        if 0 <= h + 1 < H:
            _write_pairs(v, vo + (h + 1) * step(v, 3), lower, low, high, left + W)


@inlined
def _pairs(total, pair, taps, this, before):
    """The even and the odd columns of a target row, + one row of the window."""
    even = multiply_add(pair[0], taps[0], total[0], this)
    return (multiply_add(pair[1], taps[2], even, before),
            multiply_add(pair[0], taps[1], total[1], this))  # fmt: skip


@inlined
def _write_pairs(v, at, total, low, high, end):
    write(v, at, low, interleaved(total[0], total[1], 0))
    if end > like_lanes(total[0]):
        write(v, at + like_lanes(total[0]), high, interleaved(total[0], total[1], 1))


KERNELS = {
    "same": _planes("narrow_planes", 1, 1),
    "same half": _planes("narrow_planes_half", 1, 1, part=2),
    "down": _planes("narrow_planes_down", 1, 2),
    "down half": _planes("narrow_planes_down_half", 1, 2, part=2),
    "strips": _planes("narrow_planes_strips", 1, 2, strips=True),
    "up": _planes("narrow_planes_up", 2, 1),
}
