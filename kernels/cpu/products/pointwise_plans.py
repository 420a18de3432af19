"""Which products serve a convolution with a window of 1 x 1: conv_plans.py asks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gradroute.geometry import MatmulGeometry

from ..amx import amx_matmul, amx_pointwise, amx_pointwise_dw, amx_tiles
from ..emitted.vectors import ITEMSIZE
from . import (
    inner_product,
    joined_dw,
    joined_product,
    matrix_vector,
    pixel_rows,
    pixel_strips,
    pointwise,
)
from .matmul_plans import amx_plan, matmul_plan

#: Below this many multiply-adds of a 1x1 window with few weights cutting costs more than AMX saves;
#: below twice as many, if what is cut is multiplied with one panel of weights only.
STRIPS_BELOW = 40_000_000

#: Below this many pixels in all they do not pay for cutting the weights.
ALONE = 512

#: Fewer pixels of an image, of fewer channels, take longer to bring together than to multiply.
SHORT, FEW = 32, 64


def pointwise_plan(made, g, dtype, settings, again, tiles, single=True):
    """Products with each image or, for channels last, with the whole batch.

    ``tiles``: do the channels fill AMX tiles?  Not ``single``: images are no matrices of their own.
    Arguments else as in conv_plans.py.
    """
    lone = pointwise.of_one_pixel(g)
    g = replace(g, stride=(1, 1, 1)) if lone else g
    images = _images(made, g, dtype, settings, tiles) if single and not lone else None
    batch = _batch(made, g, dtype, settings)
    built = pointwise.build(g, images, batch, ITEMSIZE[dtype])
    if images is not None and "amx" in (images.algorithm, batch.algorithm):
        other = partial(again, replace(settings, precision="strict"))
    else:
        other = partial(again, settings, "pointwise")
    found = replace(made, algorithm="pointwise", workspace_bytes=built.size, program=built,
                    blocking=_blocking(images or batch), otherwise=other)  # fmt: skip
    if images is None or isinstance(images.program, amx_pointwise_dw.Program):
        return found  # the same product in either layout
    return replace(found, last=replace(found, blocking=_blocking(batch)))


def _blocking(product):
    return {"product": product.algorithm, **product.blocking}


def _batch(made, g, dtype, settings):
    """The product with all pixels of the batch as one matrix, for channels last."""
    rows, channels = _product_channels(made, g)
    pixels = g.batch * g.out_plane
    product = MatmulGeometry(1, 1, rows, pixels, channels)
    if made.operation == "conv_dw":
        product = MatmulGeometry(1, 1, rows, channels, pixels)
    elif pointwise.of_one_pixel(g):  # their channels lie side by side: rows of a matrix
        product = MatmulGeometry(1, 1, pixels, rows, channels)
    unlimited = _unlimited(settings)
    lone = pointwise.of_one_pixel(g) and made.operation == "conv_forward"
    return (matrix_vector.plan(made, product, dtype, unlimited)
            or lone and inner_product.plan(made, product, dtype)
            or matmul_plan(made, product, dtype, unlimited))  # fmt: skip


def _images(made, g, dtype, settings, tiles):
    """The product with the pixels of each image, or None where another algorithm is ahead."""
    rows, channels = _product_channels(made, g)
    vectors = replace(_unlimited(settings), precision="strict")
    if made.operation == "conv_dw":
        if tiles:
            return _runs(made, amx_pointwise_dw.build(g, made.threads))
        product = MatmulGeometry(1, g.batch, rows, channels, g.out_plane)
        packed = matmul_plan(made, product, dtype, vectors)
        rows_serve = pixel_rows.serves(rows, channels, g.out_plane, dtype)
        if rows_serve:
            return _rows(packed, g, rows, channels, dtype)
        if joined_dw.serves(g, rows, channels):
            return _joined_dw(packed, g, rows, channels, dtype)
        return packed
    product = MatmulGeometry(g.batch, 1, rows, g.out_plane, channels)
    strips = pixel_strips.serves(rows, channels, g.out_plane, dtype)
    stride = g.stride if made.operation == "conv_forward" else (1, 1, 1)
    strided = stride != (1, 1, 1)
    least = STRIPS_BELOW * (1 if rows > amx_tiles.SIDE else 2)
    few = strips and g.multiply_adds < least and not strided
    lone = g.batch * g.out_plane < ALONE and g.out_plane >= pointwise.LEAST_PIXELS
    if tiles and amx_matmul.serves_images(g) and not (few or lone):
        built = amx_matmul.build(g.batch, rows, g.out_plane, channels, made.threads,
                                 own_left=False, shared_once=True)  # fmt: skip
        found = amx_plan(made, product, built, settings)
        if channels > amx_pointwise.MOST_CHANNELS:
            return found
        return _runs(found, amx_pointwise.build(g, rows, channels, stride, made.threads))
    small = g.out_plane < pointwise.LEAST_PIXELS
    packed = None if small else matmul_plan(made, product, dtype, vectors)
    # a sum in parts has other bits, and how many threads there are is not to choose between them
    in_order = packed is None or packed.blocking["parts"] == 1
    shares = in_order and joined_product.shares(g.batch, g.out_plane, dtype, made.threads)
    if strips and not small and not (strided and shares):
        return _strips(packed, g, rows, channels, dtype)
    if g.out_plane < SHORT and min(rows, channels) < FEW:
        return packed
    if joined_product.serves(channels) and (small or shares or strided and rows <= channels):
        return _joined(made, packed, g, rows, channels, stride, dtype)
    return packed


def _joined(made, packed, g, rows, channels, stride, dtype):
    """One product with the pixels of all images; ``packed`` serves those that lie otherwise."""
    built = joined_product.build(g.batch, rows, channels, g.out_plane, stride, g.out[2],
                                 made.operation == "conv_dx", dtype, made.threads)  # fmt: skip
    p, size = built.layout, built.size * ITEMSIZE[dtype]
    blocking = {"rows": p.rows, "columns": p.columns, "panel": p.panel, "chunk": p.chunk,
                "depth": p.depth, "packed once": int(p.packed_at > 0)}  # fmt: skip
    least = packed.workspace_bytes if packed else 0
    return replace(made, algorithm="joined", workspace_bytes=max(size, least), blocking=blocking,
                   program=built, otherwise=lambda: packed)  # fmt: skip


def _joined_dw(packed, g, rows, channels, dtype):
    """``packed`` serves images that lie otherwise."""
    built = joined_dw.build(g.batch, rows, channels, g.out_plane, g.stride, g.out[2], dtype,
                            packed.threads)  # fmt: skip
    p = built.layout
    blocking = {"rows": p.rows, "columns": p.columns, "panel": p.panel, "parts": p.parts,
                "pieces": p.pieces, "images": p.images}  # fmt: skip
    return _before(packed, built, dtype, algorithm="joined", blocking=blocking)


def _rows(packed, g, rows, channels, dtype):
    """``packed`` serves images that lie otherwise."""
    built = pixel_rows.build(g.batch, rows, channels, g.out_plane, dtype, packed.threads)
    blocking = {"run": built.layout.run, "parts": built.layout.parts}
    return _before(packed, built, dtype, algorithm="rows", blocking=blocking)


def _runs(other, built):
    """Runs of pixels on AMX tiles; ``other`` serves images that do not lie right for them."""
    blocking = {"run": built.runs.run, "images": built.runs.images}
    if hasattr(built.layout, "parts"):
        blocking["parts"] = built.layout.parts
    return replace(other, algorithm="amx", blocking=blocking, program=built,
                   workspace_bytes=max(built.size, other.workspace_bytes),
                   otherwise=lambda: other)  # fmt: skip


def _strips(packed, g, rows, channels, dtype):
    """``packed`` serves images whose pixels do not lie side by side."""
    built = pixel_strips.build(rows, channels, g.batch * g.out_plane, dtype, packed.threads)
    p = built.blocking
    blocking = {"panel": p.panel, "columns": p.width, "strips": p.block}
    return _before(packed, built, dtype, algorithm="strips", blocking=blocking)


def _before(packed, built, dtype, **named):
    """The plan of ``built``, which leaves images that lie otherwise to ``packed``."""
    size = max(built.size * ITEMSIZE[dtype], packed.workspace_bytes)
    return replace(packed, workspace_bytes=size, program=built, otherwise=lambda: packed, **named)


def _product_channels(made, g):
    """Channels of a group that the product writes, or that are dw's rows, and the others."""
    channels = g.out_channels // g.groups, g.in_channels // g.groups
    return channels[::-1] if made.operation == "conv_dx" else channels


def _unlimited(settings):
    """Whether the workspace is within the limit is asked of the whole convolution."""
    return replace(settings, workspace_limit=None)
