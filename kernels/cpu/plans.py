"""Which algorithm serves an operation on a geometry, and the scratch memory it needs.

A plan is made from sizes alone and cached by them; nothing is run or allocated.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np

from gradroute.alignment import aligned_array
from gradroute.errors import WorkspaceError

from ..contract import Plan
from . import (
    amx,
    amx_dw,
    amx_matmul,
    amx_pointwise_dw,
    amx_program,
    depthwise,
    implicit_gemm,
    matrix_product,
    pixel_conv,
    pixel_dw,
    pointwise_dw,
    pointwise_strided,
    regions,
    weight_gradient,
    winograd,
    winograd_dw,
)
from .vectors import ITEMSIZE, TARGET

#: Below this many multiply-adds (or elements) a parallel region costs more than it saves: the
#: region takes about 3 microseconds, in which one core does some 100,000 of them.
SERIAL_BELOW = 100_000

#: Times that a multiply-add takes an operation's step: pooling compares, and keeps who won.
STEPS = {"max_pool_forward": 3, "max_pool_backward": 3}

#: Below this many multiply-adds the loops of direct.py are done before a product has packed.
DIRECT_BELOW = 4_000

#: Cells of a padded image for each of the image's own, or of the result's, beyond which padding
#: is not written out: the loops of direct.py skip what it would multiply.
FAR = 4096

#: Below this many multiply-adds cutting float32 into parts costs more than AMX saves.
AMX_ABOVE = 2_000_000

#: Below this many multiply-adds transforming the weights costs more than the products it saves.
WINOGRAD_ABOVE = 1_000_000

#: Workspace beyond the packed weights, for all threads together.
BUFFER_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class CpuPlan(Plan):
    """A plan with what the driver of its algorithm needs, worked out once."""

    program: object = field(default=None, compare=False, repr=False)
    #: makes the plan for data that this one's algorithm finds it cannot serve
    otherwise: object = field(default=None, compare=False, repr=False)


_CONV = ("conv_forward", "conv_dx", "conv_dw")


@lru_cache(maxsize=4096)
def plan(operation, geometry, dtype, settings) -> Plan:
    """The plan for ``operation`` (a function of the contract) on ``geometry``.

    ``geometry`` is the operation's geometry; an element count or a shape for those without one.
    """
    return _plan(operation, geometry, dtype, settings)


def _plan(operation, geometry, dtype, settings, without=None):
    """``without`` names an algorithm that the arrays at hand are not for."""
    work = _work(geometry)
    threads = 1 if work * STEPS.get(operation, 1) < SERIAL_BELOW else settings.threads
    made = CpuPlan("numba", operation, "direct", threads=threads)
    tiled = TARGET and work >= DIRECT_BELOW and not (operation in _CONV and _far(geometry))
    for algorithm, serves, build in _CHOICES:
        if tiled and algorithm != without and serves(operation, geometry, dtype, settings):
            found = build(made, geometry, dtype, settings)
            limit = settings.workspace_limit
            if limit is None or found.workspace_bytes <= limit:
                return found
    if operation in ("conv_forward", "conv_dx") and tiled:
        few = pixel_conv.serves(geometry, dtype, operation == "conv_forward")
        made = (_pixel_conv if few else _implicit_gemm)(made, geometry, dtype, settings)
    if operation == "conv_dw" and tiled:
        few = pixel_dw.serves(geometry)
        made = (_pixel_dw if few else _weight_gradient)(made, geometry, dtype, settings)
    if operation == "matmul" and tiled:
        made = _matmul(made, geometry, dtype, settings)
    if operation in _CONV and depthwise.serves(geometry):
        made = _depthwise(made, geometry, dtype, settings)
    return made


def _far(g) -> bool:
    """Do taps reach so far beyond the image that a padded copy of it would be mostly zeros?"""
    spans = [n + before + after + (r - 1) * d for n, before, after, r, d
             in zip(g.size, g.before, g.after, g.window, g.dilation)]  # fmt: skip
    return math.prod(spans) > FAR * max(g.plane, g.out_plane)


def _depthwise(other, g, dtype, settings):
    """``other`` serves arrays in a layout that the depthwise kernels do not know."""
    size = depthwise.workspace_elements(g, dtype, other.threads) * ITEMSIZE[dtype]
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return other
    built = depthwise.build(g, other.operation, dtype)
    return replace(other, algorithm="depthwise", workspace_bytes=size, program=built,
                   blocking=built.blocking, otherwise=lambda: other)  # fmt: skip


def _pointwise_serves(operation, g, dtype, settings) -> bool:
    """dw as inner products of the images as they lie, where AMX does not serve.

    Forward and dx take a stride away for the sake of AMX.
    """
    if operation in ("conv_forward", "conv_dx"):
        thin = pointwise_strided.without_stride(g)
        return (thin is not None and _amx_serves(operation, thin, dtype, settings)
                and amx_matmul.serves_images(thin))  # fmt: skip
    if operation != "conv_dw" or not pointwise_dw.serves(g) or depthwise.serves(g):
        return False
    return not _amx_serves(operation, g, dtype, settings)


def _pointwise(made, g, dtype, settings):
    other = partial(_plan, made.operation, g, dtype, settings, "pointwise")
    if made.operation != "conv_dw":
        inner = _amx(made, pointwise_strided.without_stride(g), dtype, settings)
        built = pointwise_strided.build(g, inner, ITEMSIZE[dtype])
        return replace(made, algorithm="pointwise", workspace_bytes=built.size,
                       blocking=inner.blocking, program=built, otherwise=other)  # fmt: skip
    built = pointwise_dw.build(g, dtype, made.threads)
    p = built.layout
    blocking = {"tile": (pointwise_dw.HEIGHT, pointwise_dw.WIDTH), "run": p.run,
                "images": p.images, "parts": p.parts}  # fmt: skip
    return replace(made, algorithm="pointwise", workspace_bytes=built.size * ITEMSIZE[dtype],
                   blocking=blocking, program=built, otherwise=other)  # fmt: skip


def _winograd_serves(operation, g, dtype, settings) -> bool:
    """Do the products saved outweigh the transforms?  It takes channels, tiles, and full ones."""
    if operation not in _CONV or settings.precision == "strict":
        return False
    if not winograd.serves(g) or g.multiply_adds < WINOGRAD_ABOVE:
        return False
    if min(g.in_channels, g.out_channels) // g.groups < 32:
        return False
    tiles, filled = winograd.tiles(g, flip=operation == "conv_dx")
    # dw sums a product for each weight and point over all tiles: few tiles are not worth them
    return tiles >= (64 if operation == "conv_dw" else 16) and filled >= 0.5


def _winograd(made, g, dtype, settings):
    if made.operation == "conv_dw":
        built = winograd_dw.build(g, dtype, made.threads, BUFFER_BYTES)
    else:
        flip = made.operation == "conv_dx"
        built = winograd.build(g, flip, dtype, made.threads, BUFFER_BYTES)
    p = built.layout
    blocking = {"tile": (winograd.SIDE, winograd.SIDE), "columns": p.columns,
                "blocks": (p.pieces, p.pieces_h, p.pieces_w)}  # fmt: skip
    strict = partial(plan, made.operation, g, dtype, replace(settings, precision="strict"))
    return replace(made, algorithm="winograd", workspace_bytes=built.size * ITEMSIZE[dtype],
                   blocking=blocking, program=built, otherwise=strict)  # fmt: skip


def _amx_serves(operation, g, dtype, settings) -> bool:
    """Is there enough to multiply, and little enough padding to whole tiles, for AMX to win?"""
    if operation not in (*_CONV, "matmul") or dtype != "float32":
        return False
    if settings.precision == "strict" or not amx.available() or _work(g) < AMX_ABOVE:
        return False
    if operation == "matmul":
        return amx_matmul.serves(g)
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    # a 1x1 window reads what it cuts once: with few channels that costs more than it saves
    least = 2 * amx.SIDE if g.taps == 1 and operation != "conv_dw" else 1
    if operation == "conv_dw" and g.taps > 1 and channels <= amx.SIDE and pixel_dw.serves(g):
        return False  # half of a register of channels: the vectors are as fast, and copy less
    return min(rows, channels) >= least and min(_fill(rows), _fill(channels)) >= 0.7


def _fill(count):
    """The part of whole tiles that ``count`` rows make use of."""
    return count / (-(-count // amx.SIDE) * amx.SIDE)


def _amx(made, g, dtype, settings):
    if made.operation == "matmul":
        built = amx_matmul.build(g.batch, g.rows, g.columns, g.inner, made.threads,
                                 own_left=g.rows > g.columns)  # fmt: skip
        return _amx_matmul(made, g, dtype, settings, built)
    if made.operation == "conv_dw" and amx_pointwise_dw.serves(g):
        return _amx_pointwise_dw(made, g, dtype, settings)
    if _one_to_one(g) and made.operation != "conv_dw" and amx_matmul.serves_images(g):
        built = amx_matmul.build_images(g, made.operation == "conv_dx", made.threads)
        return _amx_matmul(made, g, dtype, settings, built)
    return _amx_conv(made, g, dtype, settings)


def _amx_conv(made, g, dtype, settings):
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if made.operation == "conv_dw":
        built = amx_dw.build(regions.forward_axes(g), g, made.threads, BUFFER_BYTES // 2)
    elif made.operation == "conv_forward":
        built = amx_program.build(regions.forward_axes(g), g.batch, g.groups, rows, channels,
                                  made.threads, BUFFER_BYTES)  # fmt: skip
    else:
        built = amx_program.build(regions.dx_axes(g), g.batch, g.groups, channels, rows,
                                  made.threads, BUFFER_BYTES)  # fmt: skip
    s = built.blocks
    blocking = {"tile": (amx.SIDE, amx.SIDE, amx.DEPTH), "images": s.images,
                "block": (s.block_d, s.block_h, s.block_w)}  # fmt: skip
    strict = partial(plan, made.operation, g, dtype, replace(settings, precision="strict"))
    return replace(made, algorithm="amx", workspace_bytes=built.size, blocking=blocking,
                   program=built, otherwise=strict)  # fmt: skip


def _amx_pointwise_dw(made, g, dtype, settings):
    built = amx_pointwise_dw.build(g, made.threads)
    blocking = {"tile": (amx.SIDE, amx.SIDE, amx.DEPTH), "run": built.runs.run,
                "images": built.runs.images, "parts": built.layout.parts}  # fmt: skip
    strict = partial(plan, made.operation, g, dtype, replace(settings, precision="strict"))
    return replace(made, algorithm="amx", workspace_bytes=built.size, blocking=blocking,
                   program=built, otherwise=strict)  # fmt: skip


def _amx_matmul(made, g, dtype, settings, built):
    p = built.blocking
    blocking = {"tile": (amx.SIDE, amx.SIDE, amx.DEPTH), "width": p.width, "chunk": p.chunk}
    strict = partial(plan, made.operation, g, dtype, replace(settings, precision="strict"))
    return replace(made, algorithm="amx", workspace_bytes=built.size, blocking=blocking,
                   program=built, otherwise=strict)  # fmt: skip


#: what is tried before the register tile's general algorithms: name, is it ahead here?, its plan
_CHOICES = (
    ("pointwise", _pointwise_serves, _pointwise),
    ("winograd", _winograd_serves, _winograd),
    ("amx", _amx_serves, _amx),
)


def _matmul(made, g, dtype, settings):
    built = matrix_product.build(g, dtype, made.threads)
    size = built.size * ITEMSIZE[dtype]
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return made  # the direct loops need none
    p = built.blocking
    blocking = {"rows": p.rows, "columns": p.columns, "panel": p.panel, "chunk": p.chunk,
                "parts": p.parts}  # fmt: skip
    return replace(made, algorithm="packed", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _pixel_conv(made, g, dtype, settings):
    built = pixel_conv.build(g, dtype, made.threads, made.operation == "conv_forward")
    size = built.size * ITEMSIZE[dtype]
    most = BUFFER_BYTES if settings.workspace_limit is None else settings.workspace_limit
    if size > most:
        return _implicit_gemm(made, g, dtype, settings)
    p = built.product
    blocking = {"columns": p.tile, "images": p.images,
                "block": (p.block_d, p.block_h, p.block_w)}  # fmt: skip
    return replace(made, algorithm="pixel_major", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _pixel_dw(made, g, dtype, settings):
    built = pixel_dw.build(regions.forward_axes(g), g, dtype, made.threads)
    size = built.size * ITEMSIZE[dtype]
    most = BUFFER_BYTES if settings.workspace_limit is None else settings.workspace_limit
    if size > most:
        return _weight_gradient(made, g, dtype, settings)
    p = built.sums
    blocking = {"panel": p.panel, "columns": p.tile, "parts": p.parts, "images": p.images,
                "block": (p.block_d, p.block_h, p.block_w)}  # fmt: skip
    return replace(made, algorithm="pixel_major", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _weight_gradient(made, g, dtype, settings):
    item, budget = ITEMSIZE[dtype], BUFFER_BYTES // 2
    if settings.workspace_limit is not None:
        budget = settings.workspace_limit // 2
    built = weight_gradient.build(regions.forward_axes(g), g, dtype, made.threads, max(1, budget))
    size = built.size * item
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return made  # the direct loops need none
    p, s = built.reduction, built.blocks
    blocking = {"panel": p.panel, "columns": p.columns, "run": p.run, "parts": p.parts,
                "images": s.images, "block": (s.block_d, s.block_h, s.block_w)}  # fmt: skip
    return replace(made, algorithm="implicit_gemm", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


@lru_cache(maxsize=4096)
def _implicit_gemm(made, g, dtype, settings, flat=True):
    """``flat``: a window of 1 may take every image as one row, if the arrays' strides allow it."""
    flat = flat and _one_to_one(g)
    seen = replace(g, size=(1, 1, g.plane), out=(1, 1, g.plane)) if flat else g
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if made.operation == "conv_forward":
        axes, source = regions.forward_axes(seen), seen.size
    else:
        axes, source = regions.dx_axes(seen), seen.out
        rows, channels = channels, rows
    item, budget = ITEMSIZE[dtype], BUFFER_BYTES
    if settings.workspace_limit is not None:
        budget = settings.workspace_limit - math.prod(g.w_shape) * item - 1024
    built = implicit_gemm.build(axes, source, g.batch, g.groups, rows, channels, dtype,
                                made.threads, max(budget, 1), flat)  # fmt: skip
    size = built.size * item
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return made  # the direct loops need none
    p, s = built.product, built.blocks
    blocking = {"panel": p.panel, "columns": p.columns, "chunk": p.chunk, "images": s.images,
                "block": (s.block_d, s.block_h, s.block_w)}  # fmt: skip
    otherwise = partial(_implicit_gemm, made, g, dtype, settings, False) if flat else None
    return replace(made, algorithm="implicit_gemm", workspace_bytes=size, blocking=blocking,
                   program=built, otherwise=otherwise)  # fmt: skip


def _one_to_one(g) -> bool:
    """Does every output element read one input element, its own?"""
    return g.window == g.stride == (1, 1, 1) and g.before == g.after == (0, 0, 0)


def _work(geometry) -> int:
    """About how many elements or multiply-adds an operation touches."""
    if isinstance(geometry, int):
        return geometry
    if isinstance(geometry, tuple):
        return math.prod(geometry)
    if hasattr(geometry, "multiply_adds"):
        return geometry.multiply_adds
    if hasattr(geometry, "taps"):
        return geometry.batch * geometry.channels * geometry.out_plane * geometry.taps
    if hasattr(geometry, "summed"):
        g = geometry
        return g.batch * g.summed * g.rows * g.columns * g.inner
    return geometry.outer * geometry.count * geometry.inner


#: The last workspace of each thread is kept for its next call, up to this size: fresh memory
#: costs a page fault per 4 KiB, more than the arithmetic of a small layer.
KEPT_BYTES = 32 * 1024 * 1024
_kept = threading.local()


def otherwise(plan):
    """The plan for data that this one's algorithm cannot serve, with its workspace.

    None where there is no such plan, or no memory for it: the direct loops need none, and what
    this call or an earlier one of the same caller has written is not left half done.
    """
    other = plan.otherwise() if plan.otherwise else None
    try:
        return other, workspace(other) if other else None
    except WorkspaceError:
        return None, None


def workspace(plan):
    """The scratch memory a plan asks for: 64-byte aligned bytes, or None.

    It is valid until this thread's next call of workspace().
    """
    size = plan.workspace_bytes
    if not size:
        return None
    memory = getattr(_kept, "memory", None)
    if memory is not None and len(memory) >= size:
        return memory
    try:
        memory = aligned_array((size,), np.dtype(np.uint8))
    except MemoryError:
        raise WorkspaceError(
            f"{plan.operation} ({plan.algorithm}) needs a workspace of {size} bytes, and there is "
            "not that much memory"
        ) from None
    if size <= KEPT_BYTES:
        _kept.memory = memory
    return memory
