"""dx of few channels: the products of all taps at once, then added up where their windows lie.

    taps (C*T*R*S, pixels) = w^T (C*T*R*S, K) @ dy (K, pixels)        dx = col2im(taps)

One or three channels are as many rows of a register tile, which then reads dy for each tap anew;
as rows of one product the taps of all windows read it once.  Some images at a time, so that what
the product writes is still in the caches when it is added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..emitted.vectors import ITEMSIZE
from ..products import pointwise
from .blocks import pieces_of
from .columns import col2im

#: Bytes of the taps of the images that are worked on at a time.
MOST_BYTES = 2 * 1024 * 1024

#: Channels, beyond which the tile's rows are full enough without the taps.
MOST_CHANNELS = 3


@dataclass(frozen=True)
class Program:
    products: tuple  # (first image, end, plan of the 1x1 convolution) of each piece of the batch
    taps: tuple[int, ...]  # C, T, R, S
    place: tuple  # the windows' stride, padding before, dilation
    at: int  # of the taps in the workspace, in bytes
    size: int  # of the workspace, in bytes


def serves(g) -> bool:
    """Are there few channels, and output channels and pixels enough for the product?"""
    return (g.groups == 1 and g.taps > 1 and g.in_channels <= MOST_CHANNELS
            and g.out_channels >= pointwise.LEAST_CHANNELS and g.in_channels * g.taps >= 8
            and g.batch * g.out_plane >= pointwise.LEAST_BATCH)  # fmt: skip


def _seen(g, images):
    """The 1x1 convolution, from taps to outputs, whose dx the taps are."""
    one, none = (1, 1, 1), (0, 0, 0)
    return replace(g, size=(1, 1, g.out_plane), out=(1, 1, g.out_plane), window=one, stride=one,
                   dilation=one, before=none, after=none, batch=images,
                   in_channels=g.in_channels * g.taps)  # fmt: skip


def build(g, dtype, plan, most) -> Program | None:
    """``plan`` makes the plan of a 1x1 convolution's dx from its geometry.

    None where the taps of an image take more than ``most`` bytes, with the product's workspace,
    or there are too many images.
    """
    image = g.in_channels * g.taps * g.out_plane * ITEMSIZE[dtype]
    images = min(g.batch, max(2, MOST_BYTES // image))
    while images:
        cuts = pieces_of(g.batch, images)
        if cuts is None:
            return None
        each = cuts[0][1]
        plans = {count: plan(_seen(g, count)) for count in {end - n for n, end in cuts}}
        at = -(-max(one.workspace_bytes for one in plans.values()) // 64) * 64
        if at + each * image <= most:
            return Program(tuple((n, end, plans[end - n]) for n, end in cuts),
                           (g.in_channels, *g.window), (g.stride, g.before, g.dilation), at,
                           at + each * image)  # fmt: skip
        images //= 2
    return None


def run(v, u, w, bias, plan, workspace) -> bool:
    """v, dx, from u, dy, and w (1, C, K, T, R, S), plus bias; False as pointwise.convolve."""
    program, K, pixels = plan.program, w.shape[2], prod(u.shape[2:])
    if u.strides[1] == u.itemsize:  # channels side by side: others read them as they lie
        return False
    rows = w[0].transpose(1, 0, 2, 3, 4).reshape(K, -1).T[None, :, :, None, None, None]
    room = workspace[program.at :].view(v.dtype)
    nothing = bias[:0]
    for n, end, product in program.products:
        taps = room[: (end - n) * rows.shape[1] * pixels].reshape(end - n, -1, 1, 1, pixels)
        if not pointwise.convolve(taps, u[n:end], rows, nothing, product, workspace):
            return False
        col2im(v.dtype, plan.threads, v[n:end], taps.reshape(end - n, *program.taps, *u.shape[2:]),
               *program.place)  # fmt: skip
    if bias.size:
        np.add(v, bias[:, None, None, None], out=v)
    return True
