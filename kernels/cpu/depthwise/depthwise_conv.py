"""Convolution with few channels per group: depthwise, and groups of a few channels.

Each plane of the result is the sum over its group's few source planes, lines of vectors at a time
(column_windows.py; strips.py for 3x3 and for dx at stride 2), and is written where it lies: no
copy, no packing, no workspace but the sums of dw and, with channels last, the weights.
"""

from __future__ import annotations

from typing import NamedTuple

from ..emitted.memory import load, step, store
from ..emitted.vectors import LANES, TARGET, VECTOR_BYTES, fill_row
from ..jit import FLOATS, Kernel, array, inlined, int64, out, prange, triple
from . import (
    channel_filters,
    channel_planes,
    channel_windows,
    column_windows,
    depthwise_last,
    narrow_filters,
)
from . import narrow_planes as narrow
from .filter_strips import filter_plane
from .strips import BLOCK, LARGEST, PIECE, WHOLE, plane


def stride_of(g):
    """The stride that all axes with more than one output share: 1 or 2, or None."""
    found = {stride for stride, out in zip(g.stride, g.out) if out > 1} or {1}
    return found.pop() if len(found) == 1 and found <= {1, 2} else None


def serves(g) -> bool:
    """Is this a convolution for the kernels of this file?"""
    return _small(g) and (g.in_channels // g.groups) * (g.out_channels // g.groups) <= 64


def serves_last(g, dtype) -> bool:
    """Or one with channels last, of groups that fill a vector?"""
    return _small(g) and channel_planes.serves(g, stride_of(g), dtype)


def _small(g):
    small = max(*g.size, *g.out, *g.before, *g.dilation, *g.window) < LARGEST
    return TARGET is not None and small and g.groups > 1 and stride_of(g) is not None


def workspace_elements(g, operation, dtype, threads) -> int:
    """The sums of dw, or the weights of a channels-last call: whichever is more."""
    channels = -(-g.in_channels // LANES[dtype]) * LANES[dtype]
    tiles = channel_planes.serves(g, stride_of(g), dtype)
    if operation == "conv_dw":
        size = (g.taps + 1) * max(channels, threads * LANES[dtype])
        return max(size, channel_filters.workspace_elements(g, dtype)) if tiles else size
    if tiles:
        return channel_planes.workspace_elements(g, operation, dtype, threads)
    return channel_windows.workspace_elements(g, dtype) if channel_windows.serves(g) else 0


class Program(NamedTuple):
    """What a call needs to know of its geometry."""

    geometry: object
    stride: int
    turned: tuple  # padding: at stride 1 dx is the forward pass with the window turned round
    narrow: object  # the kernel of narrow_planes.py or narrow_filters.py for such planes, or None
    columns: object  # of column_windows.py, for channels-first images, or None
    last: object  # of channel_planes.py or channel_filters.py, for channels-last images, or None
    rows: object  # of channel_windows.py, for the others, or None
    blocking: dict


def build(g, operation, dtype) -> Program:
    """The program for a geometry that this file serves."""
    stride, turned, last, rows, columns = stride_of(g), g.before, None, None, None
    if stride == 1 and operation == "conv_dx":
        axes = zip(g.window, g.dilation, g.before)
        turned = tuple((size - 1) * dilation - before for size, dilation, before in axes)
    module = channel_filters if operation == "conv_dw" else channel_planes
    if channel_planes.serves(g, stride, dtype):
        last = module.build(g, stride, operation, dtype)
    elif operation != "conv_dw" and channel_windows.serves(g):
        rows = channel_windows.build(g, stride, operation)
    way = narrow.way(g, stride, operation, dtype)
    if way is not None:
        kernels = narrow_filters.KERNELS if operation == "conv_dw" else narrow.KERNELS
        return Program(g, stride, turned, kernels[way], None, last, rows, narrow.blocking(way))
    blocking = {"rows": BLOCK[1], "piece": (PIECE, PIECE)}
    if _by_columns(g, stride, operation):
        columns = column_windows.build(g, stride, operation, dtype)
        blocking = columns.blocking
    return Program(g, stride, turned, None, columns, last, rows, blocking)


def _by_columns(g, stride, operation):
    """Is column_windows.py ahead of strips.py, or the only one?"""
    if stride == 2:
        return operation == "conv_forward"
    # strips.py loads a source row for three rows of the window, and sums 3x3 in one piece
    sources = g.out_channels if operation == "conv_dx" else g.in_channels
    return operation != "conv_dw" and (g.window[1:] != (3, 3) or sources != g.groups)


def run(v, u, w, b, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + b, forward or dx as plan says.

    False, and nothing written, if the arrays' layout is not served.
    """
    p, dtype, threads = plan.program, v.dtype, plan.threads
    g, turned = p.geometry, w
    if p.stride == 1 and plan.operation == "conv_dx":
        turned = w[..., ::-1, ::-1, ::-1]
    if _rows_lie(v) and _rows_lie(u):
        if p.narrow:
            p.narrow(dtype, threads, v, u, turned, b, p.turned[1], p.turned[2], threads)
        elif p.columns:
            c = p.columns
            c.kernel(dtype, threads, v, u, w, b, c.planes, c.tiles, c.steps, threads)
        else:
            kernel = planes if p.stride == 1 else planes_up
            kernel(dtype, threads, v, u, turned, b, g.dilation, p.turned, threads)
        return True
    if not _channels_side_by_side(v, u):
        return False
    if p.last:
        p.last.kernel(dtype, threads, v, u, turned, b, p.last.order, g.dilation, p.turned,
                      workspace.view(dtype), threads)  # fmt: skip
        return True
    if p.rows:
        r = p.rows
        r.kernel(dtype, threads, v, u, w, b, r.planes, r.rows, r.tiles, r.steps,
                 workspace.view(dtype), threads)  # fmt: skip
    return p.rows is not None


def dw(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty."""
    p, dtype, work = plan.program, dw.dtype, workspace.view(dw.dtype)
    g, stride = p.geometry, p.stride
    if _rows_lie(x) and _rows_lie(dy):
        if p.narrow:
            p.narrow(dtype, plan.threads, dw, db, dy, x, g.before[1], g.before[2], g.groups)
        else:
            kernel = filters if stride == 1 else filters_down
            kernel(dtype, plan.threads, dw, db, dy, x, work, g.dilation, g.before, g.groups,
                   plan.threads)  # fmt: skip
        return True
    if p.last and _channels_side_by_side(x, dy):
        p.last.kernel(dtype, plan.threads, dw, db, dy, x, p.last.order, g.dilation, g.before, work,
                      g.groups, p.last.parts)  # fmt: skip
        return work[0] == 0
    if not _channels_lie(g, x, dy, db):
        return False
    depthwise_last.filters(dtype, plan.threads, dw, db, dy, x, work, stride, g.dilation, g.before)
    return True


def _channels_lie(g, x, y, b):
    """Are these channels-last images of a depthwise convolution without a multiplier?"""
    return (g.groups == g.in_channels == g.out_channels
            and (b.size == 0 or b.strides[0] == b.itemsize or b.size == 1)
            and _channels_side_by_side(x, y))  # fmt: skip


def _channels_side_by_side(*arrays):
    return all(a.strides[1] == a.itemsize or a.shape[1] == 1 for a in arrays)


def _rows_lie(a):
    return a.strides[4] == a.itemsize or a.shape[4] == 1


@inlined
def piece(left, most, whole):
    """Rows or columns of the next piece of a window of which ``left`` remain."""
    if whole:
        return WHOLE
    return PIECE if left >= PIECE and most == PIECE else 1


def _planes(name, up):
    """The kernel for one stride of targets (see strips.py): v = u convolved with w, + b."""
    apart = up > 1

    def body(v, u, w, b, dilation, before, slots):
        N, K = v.shape[0], v.shape[1]
        KG = w.shape[1]
        for slot in prange(slots):
            first, end = slot * N * K // slots, (slot + 1) * N * K // slots
            n, k = first // K, first % K
            g, i = k // KG, k % KG
            for _ in range(first, end):  # a division costs as much as a row of a small plane
                uo = n * step(u, 0) + g * w.shape[2] * step(u, 1)
                wo = g * step(w, 0) + i * step(w, 1)
                start = load(b, k * step(b, 0)) if b.size else v.dtype.type(0)
                _image(v, n * step(v, 0) + k * step(v, 1), u, uo, w, wo, start, dilation, before)
                k, i = k + 1, i + 1
                if i == KG:
                    g, i = g + 1, 0
                if k == K:
                    n, k, g = n + 1, 0, 0

    @inlined
    def _image(v, vo, u, uo, w, wo, start, dilation, before):
        """One channel of one image."""
        _, _, channels, T, R, S = w.shape
        high = PIECE if not apart or dilation[1] == 1 else 1
        wide = PIECE if not apart or dilation[2] == 1 else 1
        whole = R == S == WHOLE and high == wide == PIECE
        for z in range(v.shape[2]):
            at = vo + z * step(v, 2)
            resume = 0
            for t in range(T):
                d = z - before[0] + t * dilation[0]
                if apart:
                    d = z + before[0] - t * dilation[0]
                    if d % up:
                        continue
                    d //= up
                if d < 0 or d >= u.shape[2]:
                    continue
                for c in range(channels):
                    uc = uo + c * step(u, 1) + d * step(u, 2)
                    wc = wo + c * step(w, 2) + t * step(w, 3)
                    r = 0
                    while r < R:
                        rows = piece(R - r, high, whole)
                        s = 0
                        while s < S:
                            columns = piece(S - s, wide, whole)
                            _plane(v, at, u, uc, w, wc, r, s, rows, columns, start,
                                   dilation, before, resume)  # fmt: skip
                            resume = 1
                            s += columns
                        r += rows
            if not resume:
                for p in range(v.shape[3]):
                    fill_row(v, at + p * step(v, 3), start, v.shape[4])

    @inlined
    def _plane(v, vo, u, uo, w, wo, r, s, rows, columns, start, dilation, before, resume):
        """One piece of the window over a whole plane."""
        P, Q = v.shape[3], v.shape[4]
        top, left = before[1] - r * dilation[1], before[2] - s * dilation[2]
        every, first, end, column, last = dilation[1], 0, P, 0, Q
        if apart:
            every, first, end = 1, top // up, (P - 1 + top) // up + 1
            column, last = left // up, (Q - 1 + left) // up + 1
        at = wo + r * step(w, 4) + s * step(w, 5)
        for residue in range(min(every, end - first)):
            numbers = (step(u, 3), u.shape[3], u.shape[4], step(w, 4), step(w, 5),
                       step(v, 3), P, Q, column, last, first + residue, end,
                       top, left, every, dilation[2], resume)  # fmt: skip
            plane(up, 1, rows, columns, u, uo, w, at, v, vo, start, numbers)

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   triple, triple, int64), FLOATS)  # fmt: skip


planes = _planes("planes", 1)
planes_up = _planes("planes_up", 2)


def _filters(name, down):
    """The kernel for one stride: dw, and db if it is not empty."""

    def body(dw, db, dy, x, work, dilation, before, groups, slots):
        K, CG, T, R, S = dw.shape
        N, _, Z, P, Q = dy.shape
        lanes = VECTOR_BYTES // dw.itemsize
        zero = dw.dtype.type(0)
        for slot in prange(slots):
            sums = slot * (T * R * S + 1) * lanes
            bias = sums + T * R * S * lanes
            for task in range(slot * K * CG // slots, (slot + 1) * K * CG // slots):
                k, c = task // CG, task % CG
                fill_row(work, sums, zero, (T * R * S + 1) * lanes)
                for plane in range(N * Z):
                    n, z = plane // Z, plane % Z
                    yo = n * step(dy, 0) + k * step(dy, 1) + z * step(dy, 2)
                    xo = n * step(x, 0) + (k // (K // groups) * CG + c) * step(x, 1)
                    todo = 1 if c == 0 and db.size else 0
                    for t in range(T):
                        d = z * down - before[0] + t * dilation[0]
                        if d < 0 or d >= x.shape[2]:
                            continue
                        _windows(dw, dy, yo, x, xo + d * step(x, 2), work, sums + t * R * S * lanes,
                                 bias, dilation, before, lanes, todo)  # fmt: skip
                        todo = 0
                    if todo:
                        for i in range(P * Q):
                            value = load(dy, yo + i // Q * step(dy, 3) + i % Q * step(dy, 4))
                            store(work, bias, load(work, bias) + value)
                for tap in range(T * R * S):
                    at = tap // (R * S) * step(dw, 2) + tap // S % R * step(dw, 3)
                    at += k * step(dw, 0) + c * step(dw, 1) + tap % S * step(dw, 4)
                    store(dw, at, _sum(work, sums + tap * lanes, lanes))
                if c == 0 and db.size:
                    store(db, k * step(db, 0), _sum(work, bias, lanes))

    @inlined
    def _windows(dw, dy, yo, x, xo, work, sums, bias, dilation, before, lanes, todo):
        """Every piece of the window over one plane."""
        R, S, P, Q = dw.shape[3], dw.shape[4], dy.shape[3], dy.shape[4]
        r = 0
        while r < R:
            rows, s = piece(R - r, PIECE, R == S == WHOLE), 0
            while s < S:
                columns = piece(S - s, PIECE, R == S == WHOLE)
                for residue in range(min(dilation[1], P)):
                    numbers = (step(x, 3), x.shape[3], x.shape[4], S * lanes, lanes,
                               step(dy, 3), P, Q, 0, Q, residue, P, before[1] - r * dilation[1],
                               before[2] - s * dilation[2], dilation[1], dilation[2],
                               todo)  # fmt: skip
                    filter_plane(down, rows, columns, x, xo, work, sums + (r * S + s) * lanes,
                                 work, bias, dy, yo, numbers)  # fmt: skip
                todo = 0
                s += columns
            r += rows

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1),
                                   triple, triple, int64, int64), FLOATS)  # fmt: skip


@inlined
def _sum(work, at, lanes):
    """The sum of the lanes of a vector, by halves."""
    width = lanes // 2
    while width:
        for i in range(width):
            store(work, at + i, load(work, at + i) + load(work, at + width + i))
        width //= 2
    return load(work, at)


filters = _filters("filters", 1)
filters_down = _filters("filters_down", 2)
