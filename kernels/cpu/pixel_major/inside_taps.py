"""Forward and dx where many taps see nothing but padding: the sums of each pixel's own taps.

    y[pixel, k] = b[k] + sum over (tap inside the image, c) of x[c, pixel + tap] * w[(tap, c), k]

Pixels of an image fall into classes that see the same taps (tap_classes.py): at the edge of a
5 x 5 window on 7 x 7, in each row of a dx without padding, in each phase of a dx with a stride.  A
class is rows of tiles of its own (pixel_tile.py), from all images of a block, and its taps are runs
of the packed weights, so that nothing is multiplied with padding, and no image is copied with it.

A thread takes some whole images and the channels of one tile at a time, with all pixels of it,
and brings the sums into the image's order when it writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..convolution.blocks import BLOCKS, Blocks, fill
from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import load, step, store
from ..emitted.pixel_tile import pixel_tile
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, copy_row, fill_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .pixel_blocks import WHOLE
from .tap_classes import Tables, tables

#: Bytes of the images of a block, which L2 holds beside a tile's weights, and of its sums.
SOURCE_BYTES = 1024 * 1024
SUMS_BYTES = 512 * 1024

#: The same of the blocks of all threads together, unless they are of one image.
BLOCKS_BYTES = 24 * 1024 * 1024

#: Weights, at most.
MOST = 1 << 23

#: A tile of fewer rows waits for its weights about as long as one of this many, in a unit of ROWS.
LEAST_ROWS = 0.45

#: Steps that take as long as reading a tile's sums and writing them.
RESUMED = 4


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # target channels of a group
    width: int  # rows up to whole vectors
    tile: int  # columns of a tile
    lanes: int
    item: int  # bytes of an element
    tiles: int  # of a group's channels
    depth: int  # (tap, source channel): weights of a target channel
    chunk: int  # source channels that lie together in their order
    images: int  # of a block
    slots: int  # threads with memory of their own: images, sums, those in order
    packed_at: int  # the workspace: bias, packed weights, slots
    slots_at: int
    slot: int
    sums_at: int
    ordered_at: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    blocks: Blocks  # of images without padding, each as one row
    tables: Tables
    tasks: int
    size: int  # of the workspace, in elements


def serves(g, dtype, forward) -> bool:
    """Are there weights, but not too many, and few enough pixels for an image to be a block?"""
    target, source, channels = g.out_plane, g.plane, g.in_channels
    if not forward:
        target, source, channels = source, target, g.out_channels
    weights, item = math.prod(g.w_shape), ITEMSIZE[dtype]
    return (g.taps > 1 and 0 < weights <= MOST and g.batch * target * source > 0
            and target * COLUMNS[dtype] * item <= SUMS_BYTES
            and channels // g.groups * source * item <= SOURCE_BYTES)  # fmt: skip


def build(g, dtype, threads, forward) -> Program:
    """For ConvGeometry ``g``; its dx where not ``forward``."""
    lanes, item, tile = LANES[dtype], ITEMSIZE[dtype], COLUMNS[dtype]
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    source, target = g.plane, g.out_plane
    if not forward:
        rows, channels, source, target = channels, rows, target, source
    width = -(-rows // lanes) * lanes
    tiles = -(-width // tile)
    most = min(SOURCE_BYTES // (channels * source * item), SUMS_BYTES // (target * tile * item),
               BLOCKS_BYTES // (threads * (channels * source + target * tile) * item))  # fmt: skip
    images = _images(g, forward, max(1, most), g.groups * tiles, threads)
    # an odd number of vectors between channels spreads them over all sets of the cache
    plane = (-(-images * source // lanes) | 1) * lanes
    blocks = Blocks(g.batch, g.groups, channels, 1, 1, 1, 0, 0, 0, 1, 1, source, 0, 0, 0, images,
                    1, 1, source, source, source, source, plane, lanes)  # fmt: skip
    made = tables(g, forward, channels, images, plane)
    depth = g.taps * channels
    packed_at = g.groups * width
    slots_at = packed_at * (1 + depth)
    sums_at = channels * plane
    ordered_at = sums_at + max(images * target, g.taps) * tile
    slot = ordered_at + target * tile + lanes
    tasks = -(-g.batch // images) * g.groups * tiles
    slots = min(threads, tasks)
    layout = Layout(rows, width, tile, lanes, item, tiles, depth, made.chunk, images, slots,
                    packed_at, slots_at, slot, sums_at, ordered_at)  # fmt: skip
    return Program(layout, blocks, made, tasks, slots_at + slots * slot)


def _images(g, forward, most, beside, threads):
    """How many images a block is of, so that tiles are full and threads have even shares."""
    channels = (g.in_channels if forward else g.out_channels) // g.groups
    counts = tables(g, forward, channels, 1, 1).counts()
    best, least = 1, math.inf
    for images in range(1, min(most, g.batch) + 1):
        if images > 2 * ROWS and images < min(most, g.batch):
            continue
        tasks = -(-g.batch // images) * beside
        cost = -(-tasks // threads) * height(counts, images)
        if cost < least:
            best, least = images, cost
    return best


def height(counts, images) -> float:
    """Rows of tiles times steps for a block; ``counts`` is what Tables.counts gives."""
    total = 0.0
    for pixels, steps, runs in counts:
        rows = pixels * images
        pieces = -(-rows // ROWS)
        total += (steps + RESUMED * runs) * max(rows, pieces * LEAST_ROWS * ROWS)
    return total


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and nothing written, if an image's pixels do not lie evenly.
    """
    program = plan.program
    v, u = in_one_row(v), in_one_row(u)
    if v is None or u is None:
        return False
    t = program.tables
    convolve(v.dtype, plan.threads, v, u, w, bias, workspace.view(v.dtype), t.taps, t.places,
             t.steps, t.classes, t.runs, t.order, WHOLE, program.blocks,
             program.layout)  # fmt: skip
    return True


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1), out(F, 1), array(int64, 1),
                   array(int64, 1), array(int64, 1), array(int64, 2), array(int64, 2),
                   array(int64, 2), array(int64, 2), BLOCKS, LAYOUT))  # fmt: skip
def convolve(v, u, w, bias, work, taps, places, steps, classes, runs, order, whole, s, p):
    """v (N, K, 1, 1, pixels): see run.  The tables are those of tap_classes.Tables."""
    panels = s.groups * p.tiles * s.channels
    for slot in prange(p.slots):
        for task in range(slot * panels // p.slots, (slot + 1) * panels // p.slots):
            tile = task // s.channels
            _pack(work, p.slots_at + slot * p.slot, w, bias, taps, tile // p.tiles, tile % p.tiles,
                  task % s.channels, p)  # fmt: skip
    tasks = (s.batch + p.images - 1) // p.images * s.groups * p.tiles
    for slot in prange(p.slots):
        buffer, before = p.slots_at + slot * p.slot, -1
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            block = task // p.tiles
            n0, g = block // s.groups * p.images, block % s.groups
            images = min(p.images, s.batch - n0)
            if block != before:
                fill(work, buffer, u, whole, g * s.channels, s.channels, n0, images, 0, 0, 0, s)
            before = block
            k = task % p.tiles * p.tile
            columns = min(p.tile, p.width - k)
            _sums(work, buffer, images, g * p.width + k, columns, places, steps, classes, runs, p)
            for image in range(images):
                to = (n0 + image) * step(v, 0) + (g * p.rows + k) * step(v, 1)
                _write(v, to, work, buffer, image, columns, min(columns, p.rows - k), order,
                       classes.shape[0] > 1, p)  # fmt: skip


@helper
def _pack(work, temp, w, bias, taps, g, tile, c, p):
    """The weights of one source channel for one tile: [(tap, channel)][column]; the bias."""
    _, _, channels, T, R, S = w.shape
    k, count = tile * p.tile, T * R * S
    columns, rows = min(p.tile, p.width - k), min(p.tile, p.rows - k)
    start, k_step = g * step(w, 0) + k * step(w, 1) + c * step(w, 2), step(w, 1)
    if c == 0:
        fill_row(work, g * p.width + k, work.dtype.type(0), columns)
        for i in range(rows if bias.size else 0):
            store(work, g * p.width + k + i, load(bias, (g * p.rows + k + i) * step(bias, 0)))
    if rows < columns:  # lanes without a row, too: denormals are slow
        fill_row(work, temp, work.dtype.type(0), count * columns)
    if step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S:
        transpose(work, temp, columns, w, start, k_step, rows, count, p.lanes)
    else:
        for tap in range(count):
            at = (start + tap // (R * S) * step(w, 3) + tap // S % R * step(w, 4)
                  + tap % S * step(w, 5))  # fmt: skip
            for i in range(rows):
                store(work, temp + tap * columns + i, load(w, at + i * k_step))
    first = c // p.chunk * p.chunk
    together = min(p.chunk, channels - first)
    to = p.packed_at + (g * p.width + k) * p.depth + (first * count + c - first) * columns
    for i in range(count):
        copy_row(work, to + i * together * columns, work, temp + taps[i] * columns, columns)


@helper
def _sums(work, buffer, images, k, columns, places, steps, classes, runs, p):
    """The sums of a block's pixels, class after class, in the ``columns`` channels from k on."""
    zero = work.dtype.type(0)
    weights, bias = address(work, p.packed_at + k * p.depth), address(work, k)
    source, sums = address(work, buffer), buffer + p.sums_at
    for i in range(classes.shape[0]):
        base, rows = classes[i, 0], classes[i, 1] * images
        if classes[i, 2] == classes[i, 3]:  # a pixel that no tap reaches
            for row in range(rows):
                copy_row(work, sums + (base + row) * columns, work, k, columns)
            continue
        tiles = (rows + ROWS - 1) // ROWS
        for tile in range(tiles):  # of about the same height
            begin, end = base + tile * rows // tiles, base + (tile + 1) * rows // tiles
            to = address(work, sums + begin * columns)
            start, start_step = bias, 0
            for one in range(classes[i, 2], classes[i, 3]):
                first, depth = runs[one, 0], runs[one, 1]
                pixel_tile(zero, end - begin, columns // p.lanes, source, address(places, begin),
                           address(steps, first), depth, weights + first * columns * p.item,
                           columns, to, columns, start, start_step)  # fmt: skip
                start, start_step = to, columns


@helper
def _write(v, to, work, buffer, image, columns, rows, order, sorts, p):
    """One image's sums of ``rows`` channels to their places."""
    sums, apart, pixels = buffer + p.sums_at, step(v, 4), v.shape[4]
    if step(v, 1) == 1:
        for q in range(pixels):
            at = sums + (order[q, 0] + image * order[q, 1]) * columns
            copy_row(v, to + q * apart, work, at, rows)
        return
    lying = sums + image * pixels * columns
    if sorts:
        lying = buffer + p.ordered_at
        for q in range(pixels):
            at = sums + (order[q, 0] + image * order[q, 1]) * columns
            copy_row(work, lying + q * columns, work, at, columns)
    if apart == 1:
        transpose(v, to, step(v, 1), work, lying, columns, pixels, rows, p.lanes)
        return
    for q in range(pixels):
        for i in range(rows):
            store(v, to + q * apart + i * step(v, 1), load(work, lying + q * columns + i))
