"""Blocks of pixels of a convolution whose source is copied padded but not split by stride.

The copy has the channels one after the other, each an image, or where they lie side by side in
the source leaves them so: then it is that of an image of one channel whose rows are all their
channels long.

A block is cut so that the pixels of a smaller one, at an edge, are the first of a whole one's: one
table of offsets serves all.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from ..convolution.blocks import Blocks, fill
from ..convolution.direct import span
from ..emitted.memory import step
from ..emitted.transposition import transpose
from ..emitted.vectors import copy_row, fill_row
from ..jit import helper, inlined

#: the only source phase of a copy that is not split
WHOLE = np.zeros((1, 3), np.int64)


def cut(batch, size, limit):
    """(images, (d, h, w)) of blocks of at most ``limit`` pixels."""
    block = [1, 1, 1]
    for axis in (2, 1, 0):
        pieces = -(-size[axis] // limit)
        block[axis] = -(-size[axis] // pieces)
        if pieces > 1:
            return 1, tuple(block)
        limit //= block[axis]
    pieces = -(-batch // limit)
    return -(-batch // pieces), tuple(block)


def copies(g, channels, lead, size, images, block, lanes, within) -> Blocks:
    """What a block of pixels reads, as blocks.fill copies it.

    ``g`` is a ConvGeometry, ``lead`` the padding before and ``size`` that of the pixels; ``within``
    is the number of channels that lie side by side, 1 if they do not.
    """
    lead, reach = list(lead), [(n - 1) * apart for n, apart in zip(g.window, g.dilation)]
    spans, held = ([(n - 1) * stride + 1 for n, stride in zip(ns, g.stride)]
                   for ns in (size, block))  # fmt: skip
    for numbers in (lead, spans, reach, held):
        numbers[2] *= within
    depth, height, row = map(operator.add, held, reach)
    # an odd number of vectors between channels spreads them over all sets of the cache
    plane = (-(-images * depth * height * row // lanes) | 1) * lanes
    return Blocks(
        g.batch, g.groups, channels // within, 1, 1, 1, *lead, *spans, *reach, images, *held, row,
        height * row, depth * height * row, plane, lanes,
    )  # fmt: skip


def tables(g, channels, images, block, s: Blocks, within, taps_first=False):
    """Where in a copy each pixel of a block begins, and each (channel, tap) from there.

    Or, with ``taps_first``, each (tap, channel).
    """
    rises = (s.area, s.row, within)
    pixels = offsets((images, *block), (s.volume, *map(operator.mul, g.stride, rises)))
    taps, channel = list(map(operator.mul, g.dilation, rises)), 1 if within > 1 else s.plane
    if taps_first:
        return pixels, offsets((*g.window, channels), (*taps, channel))
    return pixels, offsets((channels, *g.window), (channel, *taps))


def beside(image, groups):
    """An image (N, C, D, H, W) as (N, 1, D, H, W*C), or None: are channels not side by side?

    In groups, which `fill_block` copies, it is the image itself.
    """
    n, c, d, h, w = image.shape
    if groups > 1:
        return image if image.strides[1] == image.itemsize else None
    if c == 1 or image.strides[1::3] != (image.itemsize, c * image.itemsize):
        return None
    return image.transpose(0, 2, 3, 4, 1).reshape(n, 1, d, h, w * c)


def offsets(counts, steps):
    """The offsets of all elements of an array of this shape and these strides, in order."""
    axes = np.ogrid[tuple(slice(count) for count in counts)]
    # along an axis of one element the stride may be more than 64 bits hold
    return sum(axis * (step if axis.size > 1 else 0) for axis, step in zip(axes, steps)).ravel()


def pieces(size, block):
    """Into how many blocks an image is cut."""
    return math.prod(-(-n // held) for n, held in zip(size, block))


@helper
def fill_block(work, buffer, u, whole, apart, g, n0, images, d0, h0, w0, s):
    """blocks.fill for all channels of group g; ``apart``: they are to be side by side, so many."""
    if apart:
        _fill_pixels(work, buffer, u, g, apart, n0, images, d0, h0, w0, s)
    else:
        fill(work, buffer, u, whole, g * s.channels, s.channels, n0, images, d0, h0, w0, s)


@helper
def _fill_pixels(work, buffer, u, g, channels, n0, images, d0, h0, w0, s):
    """The same of ``channels`` side by side, which in u need not be."""
    width = min(s.block_w, s.span_w - w0) + s.reach_w
    left = (w0 - s.lead_w) // channels
    first, end = span(left, 1, u.shape[4], width // channels)
    for i in range(images):
        for z in range(min(s.block_d, s.span_d - d0) + s.reach_d):
            for y in range(min(s.block_h, s.span_h - h0) + s.reach_h):
                d, h = z + d0 - s.lead_d, y + h0 - s.lead_h
                to = buffer + i * s.volume + z * s.area + y * s.row
                if d < 0 or d >= u.shape[2] or h < 0 or h >= u.shape[3]:
                    fill_row(work, to, u.dtype.type(0), width)
                    continue
                fill_row(work, to, u.dtype.type(0), first * channels)
                start = ((n0 + i) * step(u, 0) + g * channels * step(u, 1) + d * step(u, 2)
                         + h * step(u, 3) + left * step(u, 4))  # fmt: skip
                if step(u, 4) == 1:
                    transpose(work, to + first * channels, channels, u, start + first, step(u, 1),
                              channels, end - first, s.lanes)  # fmt: skip
                else:
                    for x in range(first, end):
                        copy_row(work, to + x * channels, u, start + x * step(u, 4), channels)
                fill_row(work, to + end * channels, u.dtype.type(0), width - end * channels)


@inlined
def joined(image, images, depth, height, width):
    """A box of ``image`` (N, C, D, H, W) as fewer rows, where they lie behind one another."""
    apart = step(image, 4)
    if step(image, 3) == width * apart:
        width, height = width * height, 1
        if depth == 1 or step(image, 2) == width * apart:
            width, depth = width * depth, 1
            if step(image, 0) == width * apart:
                width, images = width * images, 1
    return images, depth, height, width
