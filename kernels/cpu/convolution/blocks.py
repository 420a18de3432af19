"""Blocks of a padded source: which there are, and the copy of one into a buffer.

A block is some images by a box of buffer positions (regions.py).  Its buffer is

    [channel][source phase][image][d][h][w]        channels ``plane`` elements apart

with zeros where the source is padded.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numba import int64, types

from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row
from ..emitted.transposition import transpose
from ..emitted.vectors import LANES, copy_row, fill_row, spread_even
from ..jit import helper
from .direct import span
from .regions import source_phases, target_phases

#: Positions of a block from which on the last, partly filled tile hardly matters.
TILES_WIDTH = 256

#: Numbers that are copied in the time that a row's start takes, a plane's, which is in other pages
#: of memory, and a position's products.
ROW_START, PLANE_START, MULTIPLIED = 18, 70, 16


class Blocks(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    batch: int
    groups: int
    channels: int  # of a group
    split_d: int  # source phases per axis, and the other numbers of regions.Axis
    split_h: int
    split_w: int
    lead_d: int
    lead_h: int
    lead_w: int
    span_d: int
    span_h: int
    span_w: int
    reach_d: int
    reach_h: int
    reach_w: int
    images: int  # in a block
    block_d: int  # buffer positions of a block, without reach
    block_h: int
    block_w: int
    row: int  # between rows, planes, images and channels of a buffer
    area: int
    volume: int
    plane: int
    lanes: int


BLOCKS = types.NamedUniTuple(int64, len(Blocks._fields), Blocks)


def blocks(axes, batch, groups, channels, dtype, limit, shares) -> tuple[Blocks, np.ndarray]:
    """Blocks of at most ``limit`` positions a source phase, if there can be ``shares`` of them.

    With the source phases that are copied, as an array of their (d, h, w).
    """
    used = source_phases(axes)
    images, block = cut(axes, batch, max(1, limit // max(1, len(used))), groups, shares)
    return lay(axes, batch, groups, channels, dtype, images, block)


def lay(axes, batch, groups, channels, dtype, images, block, shared=0):
    """Blocks of ``images`` by ``block`` positions, and the source phases that are copied.

    The last ``shared`` positions of a row are the first of the next one.
    """
    used = source_phases(axes)
    spans, reach = ([getattr(axis, name) for axis in axes] for name in ("span", "reach"))
    depth, height, row = (b + r for b, r in zip(block, reach))
    row -= shared
    volume, lanes = depth * height * row, LANES[dtype]
    if not any(reach):
        volume = -(-volume // lanes) * lanes  # every tap reads whole lines of the cache
    # an odd number of vectors between channels spreads them over all sets of the cache
    plane = (-(-(len(used) * images * volume + shared) // lanes) | 1) * lanes
    made = Blocks(
        batch, groups, channels, *(axis.split for axis in axes), *(axis.lead for axis in axes),
        *spans, *reach, images, *block, row, height * row, volume, plane, lanes,
    )  # fmt: skip
    return made, np.array(used, np.int64).reshape(-1, 3)


def cut(axes, batch, limit, groups, shares):
    """(images, (d, h, w)) of a block of at most ``limit`` positions of a source phase."""
    spans, reach = ([getattr(axis, name) for axis in axes] for name in ("span", "reach"))
    block = list(spans)

    def size():
        return math.prod(b + r for b, r in zip(block, reach))

    if spans[0] > 1 and size() > limit:
        block = _least_copied(spans, reach, limit)
    for axis in range(3):
        if size() > limit:  # as few even parts as are short enough
            beside = size() // (block[axis] + reach[axis])
            longest = max(1, limit // beside - reach[axis])
            block[axis] = -(-spans[axis] // max(1, -(-spans[axis] // longest)))
    images = min(-(-batch * groups // shares), limit // size())
    # but enough small images to fill the tiles, as long as each thread has a block
    few = min(-(-TILES_WIDTH // size()), batch * groups // max(1, shares // 4))
    images = max(1, min(max(images, few), batch))
    while _pieces(spans, block) * -(-batch // images) * groups < shares and math.prod(block) > 256:
        axis = next(axis for axis in range(3) if block[axis] > 1)
        block[axis] = -(-block[axis] // 2)
    return images, tuple(block)


def _least_copied(spans, reach, limit):
    """The box of at most ``limit`` positions whose rims and rows cost least, or one position."""
    found = [1, 1, 1]
    least = math.inf
    for height, width in itertools.product(*(even_lengths(whole, limit) for whole in spans[1:])):
        longest = limit // ((height + reach[1]) * (width + reach[2])) - reach[0]
        if longest < 1:
            continue
        depth = -(-spans[0] // -(-spans[0] // longest))
        block = [depth, height, width]
        copied = (height + reach[1]) * (width + reach[2] + ROW_START) + PLANE_START
        copied *= depth + reach[0]
        multiplied = depth * height * (width + reach[2]) * MULTIPLIED
        cost = _pieces(spans, block) * (copied + multiplied)
        if cost < least:
            found, least = block, cost
    return found


#: Pieces of a batch that a plan lists at most: no memory holds the images of more.
MOST_PIECES = 1 << 12


def pieces_of(batch, most) -> list[tuple[int, int]] | None:
    """(first, end) of even pieces of a batch, ``most`` images or fewer; None if they are many."""
    count = -(-batch // most)
    if count > MOST_PIECES:
        return None
    images = -(-batch // count)
    return [(n, min(n + images, batch)) for n in range(0, batch, images)]


def even_lengths(span, limit):
    """The lengths of even parts of an axis that are at most ``limit``, the longest first.

    From one length to the next in one step: an axis may be 2^31 long where its array has no memory
    of that size (a broadcast one), and to try every number of parts would take minutes.
    """
    lengths = [-(-span // -(-span // limit))]
    while lengths[-1] > 1:
        parts = -(-span // (lengths[-1] - 1))
        lengths.append(-(-span // parts))
    return lengths


def _pieces(spans, block):
    return math.prod(-(-span // length) for span, length in zip(spans, block))


def count(s: Blocks) -> int:
    """The number of blocks, all groups together."""
    pieces = _pieces((s.span_d, s.span_h, s.span_w), (s.block_d, s.block_h, s.block_w))
    return pieces * -(-s.batch // s.images) * s.groups


def tap_offsets(axes, used, s: Blocks):
    """For each target phase: its phase trio, its taps, and each tap's offset in a channel."""
    place = {tuple(phase): i * s.images * s.volume for i, phase in enumerate(used.tolist())}
    for trio, all_taps in target_phases(axes):
        yield trio, all_taps, [
            place[tuple(tap.phase for tap in taps)]
            + taps[0].shift * s.area + taps[1].shift * s.row + taps[2].shift
            for taps in all_taps
        ]  # fmt: skip


@helper
def locate(task, s):
    """(group, first image, images, first d, h and w) of block ``task``."""
    high = (s.span_h + s.block_h - 1) // s.block_h
    wide = (s.span_w + s.block_w - 1) // s.block_w
    pieces = (s.span_d + s.block_d - 1) // s.block_d * high * wide
    rest = task // s.groups
    n0, piece = rest // pieces * s.images, rest % pieces
    return (task % s.groups, n0, min(s.images, s.batch - n0), piece // (high * wide) * s.block_d,
            piece // wide % high * s.block_h, piece % wide * s.block_w)  # fmt: skip


@helper
def fill(work, buffer, u, used, c0, channels, n0, images, d0, h0, w0, s):
    """Copies the channels c0, c0 + 1, ... of one block, with zeros where it is padded."""
    width = min(s.block_w, s.span_w - w0) + s.reach_w
    zero = u.dtype.type(0)
    w_step = step(u, 4) * s.split_w
    for i in range(images):
        for z in range(min(s.block_d, s.span_d - d0) + s.reach_d):
            for y in range(min(s.block_h, s.span_h - h0) + s.reach_h):
                for f in range(used.shape[0]):  # inside, so that memory is read in order, once
                    d = (z + d0) * s.split_d + used[f, 0] - s.lead_d
                    h = (y + h0) * s.split_h + used[f, 1] - s.lead_h
                    to = buffer + (f * s.images + i) * s.volume + z * s.area + y * s.row
                    if d < 0 or d >= u.shape[2] or h < 0 or h >= u.shape[3]:
                        for c in range(channels):
                            fill_row(work, to + c * s.plane, zero, width)
                        continue
                    left = w0 * s.split_w + used[f, 2] - s.lead_w
                    first, end = span(left, s.split_w, u.shape[4], width)
                    start = ((n0 + i) * step(u, 0) + c0 * step(u, 1) + d * step(u, 2)
                             + h * step(u, 3) + left * step(u, 4))  # fmt: skip
                    if step(u, 1) != 1 or w_step == 1:
                        for c in range(channels):
                            pad_row(work, to + c * s.plane, u, start + c * step(u, 1), w_step,
                                    first, end, width)  # fmt: skip
                        continue
                    # channels last: a transposition
                    if first > 0 or end < width:
                        for c in range(channels):
                            fill_row(work, to + c * s.plane, zero, first)
                            fill_row(work, to + c * s.plane + end, zero, width - end)
                    transpose(work, to + first, s.plane, u, start + first * w_step, w_step,
                              end - first, channels, s.lanes)  # fmt: skip


@helper
def overlap(base, count, start, block):
    """The part of base..base+count-1 inside start..start+block-1, as (first, how many)."""
    first = max(base, start)
    return first, min(base + count, start + block) - first


@helper
def write_row(v, to, work, at, rows, width, p):
    """A row of pixels of one panel's channels from the temporary to the result."""
    w_step, k_step = p.step_w * step(v, 4), step(v, 1)
    if w_step == 1:
        for i in range(rows):
            copy_row(v, to + i * k_step, work, at + i * p.temp, width)
    elif w_step == 2 and k_step != 1:
        for i in range(rows):
            spread_even(v, to + i * k_step, work, at + i * p.temp, width)
    elif k_step == 1:
        transpose(v, to, w_step, work, at, p.temp, rows, width, p.lanes)
    else:
        for i in range(rows):
            for q in range(width):
                store(v, to + i * k_step + q * w_step, load(work, at + i * p.temp + q))
