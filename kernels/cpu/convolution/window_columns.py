"""Convolutions of few outputs by way of their columns: what each output's window reads, in order.

    y (K, pixels) = w (K, C*T*R*S) @ columns (C*T*R*S, pixels)
    columns of dx = w^T @ dy        dw = dy @ columns^T

Where windows, strides and padding leave few outputs of a small image, padded copies of blocks
(implicit_gemm.py, amx_conv.py) are mostly rims and rows of two or three numbers.  Columns are read
by a table of places, a vector at a time, and are multiplied as matrices: so many images and one
group at a time that they take MOST_BYTES at most.

With channels last a pixel's column is a row, (pixels, T*R*S*C), and the weights are brought into
that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from gradroute.geometry import MatmulGeometry

from ..emitted.memory import load, step, store
from ..emitted.placed_rows import add_places, tables, take_places
from ..emitted.vectors import ITEMSIZE, LANES, add_row, copy_row, fill_row, finite_row
from ..jit import array, int64, kernel, out, prange
from ..products import planned_product
from . import columns as sums
from .blocks import pieces_of
from .implicit_gemm import in_one_row
from .patches import copy, swap
from .regions import forward_axes, pads

#: Bytes of columns of several images at a time, and of those of a single one at most.
MOST_BYTES, IMAGE_BYTES = 16 * 1024 * 1024, 24 * 1024 * 1024

#: Pixels of an image, below which one product serves several images: they fill vectors together.
JOINED_BELOW = 128

#: Numbers that are one thread's at a time.
PIECE = 1 << 14


@dataclass(frozen=True)
class Program:
    pieces: tuple  # (first image, end, plan of the product, the same with channels last)
    images: int  # of a piece, at most
    places: np.ndarray  # placed_rows.tables: of each tap and output, or input and window, ...
    begins: np.ndarray  # ... and of their vectors
    listed: np.ndarray  # the same places one row after the other, with channels last
    rows: int  # of the tables
    joined: bool
    pads: bool
    at: int  # of the columns in the workspace, in bytes; behind them what `_Rooms` says
    size: int  # of the workspace, in bytes


def _reads(g):
    """(taps, outputs): the place in an image's plane that an output reads through a tap, or -1."""
    found = np.zeros((1,) * 6, np.int64)
    inside = np.ones((1,) * 6, bool)
    for axis in range(3):
        at = (np.arange(g.window[axis])[:, None] * g.dilation[axis] - g.before[axis]
              + np.arange(g.out[axis]) * g.stride[axis])  # fmt: skip
        shape = [1] * 6
        shape[axis], shape[3 + axis] = at.shape
        at = at.reshape(shape)
        inside = inside & (at >= 0) & (at < g.size[axis])
        found = found * g.size[axis] + at
    return np.where(inside, found, -1).reshape(g.taps, g.out_plane)


def _turned(reads, plane):
    """(windows, inputs): the tap and output, as one number, of each window that reads an input,

    in order, or -1.
    """
    inputs, readers = reads.ravel(), np.arange(reads.size)
    readers, inputs = readers[inputs >= 0], inputs[inputs >= 0]
    order = np.argsort(inputs, kind="stable")
    readers, inputs = readers[order], inputs[order]
    counts = np.bincount(inputs, minlength=plane)
    turns = np.arange(len(inputs)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.full((max(1, counts.max(initial=0)), plane), -1, np.int64)
    found[turns, inputs] = readers
    return found


def column_bytes(g, dtype) -> int:
    """Of the columns of a group of one image."""
    return g.in_channels // g.groups * g.taps * g.out_plane * ITEMSIZE[dtype]


def _most_images(g, dtype):
    """Whose columns are made at a time."""
    return max(1, MOST_BYTES // column_bytes(g, dtype))


def pieces(g, dtype):
    """(first, end) of the images whose columns are made at a time; None if they are too many."""
    return pieces_of(g.batch, _most_images(g, dtype))


def first_product(g, dtype, operation, plan):
    """The plan of the product of the first images; ``plan`` makes one from its MatmulGeometry."""
    return _products(g, operation, min(g.batch, _most_images(g, dtype)), plan)[0]


def build(g, dtype, operation, plan) -> Program:
    """``plan`` makes the plan of a product from its MatmulGeometry."""
    K, L, P = g.out_channels // g.groups, g.in_channels // g.groups * g.taps, g.out_plane
    cuts = pieces(g, dtype)
    images = cuts[0][1]
    joined = P < JOINED_BELOW
    made = {count: _products(g, operation, count, plan) for count in {end - n for n, end in cuts}}
    at = max(one.workspace_bytes for pair in made.values() for one in pair)
    at = -(-at // 64) * 64
    numbers = images * (L + (K if joined else 0)) * P + prod(g.w_shape)
    if operation == "conv_dw" and len(cuts) > 1:
        numbers += K * L
    reads = _reads(g)
    places = listed = reads
    if operation == "conv_dx":
        places = listed = _turned(reads, g.plane)
        if joined:  # a tap's outputs of all images lie side by side
            places = np.where(listed < 0, -1, listed // P * (images * P) + listed % P)
    return Program(tuple((n, end, *made[end - n]) for n, end in cuts), images,
                   *tables(places, LANES[dtype]), listed.ravel().astype(np.int64), len(listed),
                   joined, operation != "conv_dx" and pads(forward_axes(g), g.size), at,
                   at + numbers * ITEMSIZE[dtype])  # fmt: skip


def _products(g, operation, n, plan):
    """The plan of the product of ``n`` images, and the same with channels last."""
    K, L, P = g.out_channels // g.groups, g.in_channels // g.groups * g.taps, g.out_plane
    batch, images, pixels = (1, 1, n * P) if P < JOINED_BELOW else (n, n, P)
    if operation == "conv_dw":
        return (plan(MatmulGeometry(1, images, K, L, pixels)),
                plan(MatmulGeometry(1, 1, K, L, n * P)))  # fmt: skip
    rows, terms = (K, L) if operation == "conv_forward" else (L, K)
    return (plan(MatmulGeometry(batch, 1, rows, pixels, terms)),
            plan(MatmulGeometry(1, 1, rows, n * P, terms)))  # fmt: skip


class _Rooms:
    """Where columns, joined outputs, w or dw in another order and another piece's dw lie."""

    def __init__(self, program, work, K, L, P, weights):
        first = program.at // work.itemsize
        behind = first + program.images * L * P
        self.images, self.joined = program.images, program.joined
        self.columns = work[first:behind]
        ordered = behind + (program.images * K * P if program.joined else 0)
        self.outputs = work[behind:ordered]
        self.ordered = work[ordered : ordered + weights]
        self.part = work[ordered + weights : ordered + weights + K * L]

    def matrix(self, n, L, P, last):
        """The columns of ``n`` images as (n, L, P), and as a product takes them: (B, L, pixels)."""
        room = self.columns[: n * L * P]
        if last:
            return room.reshape(n, P, L).swapaxes(1, 2), room.reshape(1, n * P, L).swapaxes(1, 2)
        if not self.joined:
            return (room.reshape(n, L, P),) * 2
        room = self.columns.reshape(L, self.images, P)
        return room[:, :n].swapaxes(0, 1), self.columns.reshape(1, L, -1)[:, :, : n * P]


def _lying(x, y):
    """(do channels lie side by side?, x as (N, C, 1, 1, plane), y as (N, K, 1, 1, pixels)).

    Nones where they lie otherwise than columns can be made of.
    """
    pair, size = (in_one_row(x), in_one_row(y)), x.itemsize
    if None in [None if image is None else 0 for image in pair]:
        return False, None, None
    if all(image.strides[4] == size for image in pair):
        return False, *pair
    dense = all(image.strides[1] == size and image.strides[4] == image.shape[1] * size
                for image in pair)  # fmt: skip
    whole = pair[1].strides[0] == pair[1].shape[4] * pair[1].strides[4] or len(y) == 1
    return (True, *pair) if dense and whole else (True, None, None)


def _as_product(y, n, end, k, K, last, joined, room):
    """A group of the outputs of images n to end as (B, K, pixels), and the copy that that is."""
    some, P = y[n:end, k : k + K], y.shape[4]
    if last:
        return some[:, :, 0, 0].transpose(1, 0, 2).reshape(1, K, -1), None
    if not joined or end - n == 1:
        return some[:, :, 0, 0], None
    rows = room[: K * (end - n) * P]
    return rows.reshape(1, K, -1), rows.reshape(K, end - n, 1, 1, P).swapaxes(0, 1)


def convolve(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S), plus bias, for the forward pass and dx.

    False, and v is to be computed otherwise, if the arrays lie otherwise, if the product says so or
    if weights that are not finite would be multiplied with padding.
    """
    p, forward = plan.program, plan.operation == "conv_forward"
    dtype, threads = v.dtype, plan.threads
    last, x, y = _lying(*((u, v) if forward else (v, u)))
    weights = w if forward else w.swapaxes(1, 2)  # (G, K/G, C/G, T, R, S)
    (G, K, C), P = weights.shape[:3], y.shape[4] if y is not None else 0
    if y is None or not weights.flags.c_contiguous:
        return False
    if p.pads and not _finite(weights, threads):
        return False
    taps = weights[0, 0, 0].size
    rooms = _Rooms(p, workspace.view(dtype), K, C * taps, P, weights.size)
    if last:
        ordered = rooms.ordered.reshape(G * K, taps, C)
        swap(dtype, threads, ordered, weights.reshape(G * K, C, taps))
        weights = ordered
    factors = weights.reshape(G, 1, 1, K, C * taps)
    for n, end, *products in p.pieces:
        for g in range(G):
            columns, matrix = rooms.matrix(end - n, C * taps, P, last)
            some, rows = _as_product(y, n, end, g * K, K, last, p.joined, rooms.outputs)
            cells = x[n:end, g * C : (g + 1) * C]
            biases = bias[g * w.shape[1] : (g + 1) * w.shape[1]]
            if forward:
                take(dtype, threads, columns, cells, p.places, p.begins, p.listed, p.rows,
                     int(last))  # fmt: skip
            elif rows is not None:
                copy(dtype, threads, rows, y[n:end, g * K : (g + 1) * K])
            factor = factors[g] if forward else factors[g].swapaxes(2, 3)
            target, source = (some, matrix) if forward else (matrix, some)
            factor = np.broadcast_to(factor, (len(target), *factor.shape[1:]))
            added = biases[:, None] if forward else biases[:0, None]
            if not planned_product.product(products[last], target, factor, source[:, None], added,
                                           workspace):  # fmt: skip
                return False
            if not forward:
                give(dtype, threads, cells, columns, biases, p.places, p.begins, p.listed, p.rows,
                     int(last))  # fmt: skip
            elif rows is not None:
                copy(dtype, threads, y[n:end, g * K : (g + 1) * K], rows)
    return True


def reduce(dw, db, dy, x, plan, workspace) -> bool:
    """dw from dy and x, and db of dy if it has elements; False as `convolve`, for dy."""
    p, dtype, threads = plan.program, dw.dtype, plan.threads
    last, x, y = _lying(x, dy)
    if y is None or not dw.flags.c_contiguous:
        return False
    (K, C), taps, P = dw.shape[:2], dw[0, 0].size, y.shape[4]
    G = x.shape[1] // C
    K, L = K // G, C * taps
    rooms = _Rooms(p, workspace.view(dtype), K, L, P, dw.size)
    ordered = rooms.ordered if last else dw.reshape(-1)
    for n, end, *products in p.pieces:
        for g in range(G):
            columns, matrix = rooms.matrix(end - n, L, P, last)
            some, rows = _as_product(y, n, end, g * K, K, last, p.joined, rooms.outputs)
            take(dtype, threads, columns, x[n:end, g * C : (g + 1) * C], p.places, p.begins,
                 p.listed, p.rows, int(last))  # fmt: skip
            if rows is not None:
                copy(dtype, threads, rows, y[n:end, g * K : (g + 1) * K])
            own = ordered[g * K * L : (g + 1) * K * L]
            target = rooms.part if n else own
            if not planned_product.product(products[last], target.reshape(1, K, L), some[None],
                                           matrix[None].swapaxes(2, 3),
                                           planned_product.NO_BIASES[dtype],
                                           workspace):  # fmt: skip
                return False
            if n:
                add(dtype, threads, own, target)
    if p.pads and not _finite(ordered, threads):
        return False
    if last:
        swap(dtype, threads, dw.reshape(G * K, C, taps), ordered.reshape(G * K, taps, C))
    if db.size:
        sums.bias_gradient(dtype, threads, db, dy)
    return True


@kernel(lambda F: (out(F, 3), array(F, 5), array("int32", 1), array("int32", 1), array(int64, 1),
                   int64, int64))  # fmt: skip
def take(columns, x, places, begins, listed, taps, last):
    """columns (N, C*taps, or taps*C if ``last``, pixels) of x (N, C, 1, 1, plane)."""
    N, C = x.shape[:2]
    P, width = columns.shape[2], len(places) // taps
    vectors = len(begins) // taps
    if last:
        for task in prange(N * P):
            n, pixel = task // P, task % P
            to = n * step(columns, 0) + pixel * step(columns, 2)
            for tap in range(taps):
                place = listed[tap * P + pixel]
                if place < 0:
                    fill_row(columns, to + tap * C, x.dtype.type(0), C)
                else:
                    copy_row(columns, to + tap * C, x, n * step(x, 0) + place * step(x, 4), C)
        return
    for task in prange(N * C):
        n, c = task // C, task % C
        start = n * step(x, 0) + c * step(x, 1)
        to = n * step(columns, 0) + c * taps * step(columns, 1)
        for tap in range(taps):
            take_places(columns, to + tap * step(columns, 1), x, start, places, tap * width,
                        begins, tap * vectors, P)  # fmt: skip


@kernel(lambda F: (out(F, 5), array(F, 3), array(F, 1), array("int32", 1), array("int32", 1),
                   array(int64, 1), int64, int64))  # fmt: skip
def give(x, columns, bias, places, begins, listed, windows, last):
    """x (N, C, 1, 1, plane) = the sum of the columns that are of each of its cells, plus bias.

    The tables have, for each of ``windows`` turns and each cell, a tap and output as one number.
    """
    N, C, plane, P = *x.shape[:2], x.shape[4], columns.shape[2]
    width, vectors = len(places) // windows, len(begins) // windows
    if last:
        for task in prange(N * plane):
            n, cell = task // plane, task % plane
            to = n * step(x, 0) + cell * step(x, 4)
            for c in range(C):
                store(x, to + c, load(bias, c * step(bias, 0)) if bias.size else x.dtype.type(0))
            for turn in range(windows):
                place = listed[turn * plane + cell]
                if place < 0:
                    break
                add_row(x, to, columns, n * step(columns, 0) + place % P * step(columns, 2)
                        + place // P * C, C)  # fmt: skip
        return
    taps = columns.shape[1] // C
    for task in prange(N * C):
        n, c = task // C, task % C
        to = n * step(x, 0) + c * step(x, 1)
        fill_row(x, to, load(bias, c * step(bias, 0)) if bias.size else x.dtype.type(0), plane)
        for turn in range(windows):
            add_places(x, to, columns, n * step(columns, 0) + c * taps * step(columns, 1), places,
                       turn * width, begins, turn * vectors, plane)  # fmt: skip


@kernel(lambda F: (out(F, 1), array(F, 1)))
def add(target, source):
    """target += source, both without gaps."""
    pieces = (len(target) + PIECE - 1) // PIECE
    for piece in prange(pieces):
        first = piece * PIECE
        add_row(target, first, source, first, min(PIECE, len(target) - first))


@kernel(lambda F: (out(int64, 1), array(F, 1)))
def count_finite(found, numbers):
    """found[0] = how many pieces of ``numbers`` have neither infinities nor NaN."""
    pieces, finite = (len(numbers) + PIECE - 1) // PIECE, 0
    for piece in prange(pieces):
        first = piece * PIECE
        finite += finite_row(numbers, first, min(PIECE, len(numbers) - first))
    found[0] = finite


def _finite(a, threads):
    """Are all elements of an array without gaps finite?"""
    found = np.zeros(1, np.int64)
    count_finite(a.dtype, threads, found, a.reshape(-1))
    return found[0] == -(-a.size // PIECE)
