"""About how long a convolution takes by a plan, to choose between two ways to compute the same.

Nanoseconds of THREADS on the machine of docs/performance.md in float32: multiply-adds at the
rate of their unit, with what tiles compute for nothing at the ends of rows, and elements copied,
with the rims of blocks, which are copied several times.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from ..amx import amx_tiles
from ..amx.amx_program import round_up
from ..emitted.vectors import ITEMSIZE, LANES
from ..microkernel import COLUMNS
from ..pixel_major import inside_taps
from ..winograd import winograd_program

#: Ways are compared by their plans for so many threads, whatever number is asked for: what serves a
#: call, and so its bits, must not depend on that.
THREADS = 2

#: A multiply-add by tiles and by vectors, forward (or dx) and dw.
TILES = {False: 0.003, True: 0.005}
VECTORS = {False: 0.006, True: 0.007}
#: One by vectors of pixels that lie anywhere, and the times that a sum is copied there.
SCATTERED, SORTED = 0.007, 3
#: Winograd's multiply-adds, its transforms of a number of a tile, and of one of the weights or of
#: dw's sums, which L2 does not hold.
WINOGRAD = {False: 0.0079, True: 0.0075}
OF_TILE, OF_WEIGHTS = {False: 0.055, True: 0.15}, {False: 0.19, True: 0.47}
#: The same for phases, which are small images, and whose own copies MOVED does not cover.
OF_PHASES, TRANSFORMED, SUMMED = 0.0057, 0.26, 4
#: A number copied into a block, one moved out of an image or back.
COPIED, MOVED = 0.17, 0.5
#: A number read by a table of places, a product's call, a row of windows that patches.py copies.
PLACED, CALL, TURNED_ROW = 0.33, 20_000, 15
#: A number of dy from beyond L2, which the product with FEW times fewer columns reads in order.
STREAMED, FEW = 0.07, 4
#: A row of a phase moved, beside its numbers, and one copied into a block or out of it.
MOVED_ROW, ROW = 2, 3
#: A weight packed, and one read from beyond L2; bytes of weights that stay in it.
PACKED, READ, L2_BYTES = 0.45, 0.2, 1024 * 1024
#: What cells of a dilated image cost more: a multiply-add, as taps share less that is in L1 (with
#: cells along W nothing), and then a row copied in or out.
APART, CELL_ROW = {True: 0.0004, False: 0.0008}, 6
#: Cells of a padded image for each of the image's own, or of the result's, beyond which padding
#: is not written out: the loops of direct.py skip what it would multiply.
FAR = 4096
#: A byte of memory that the process has not touched before.
PAGES = 0.7


def compared(found, made, build):
    """``found``, which is ``build(made)``, as it is for THREADS."""
    return found if made.threads == THREADS else build(replace(made, threads=THREADS))


def cost(plan, g, dtype) -> float | None:
    """Of ``plan`` on ConvGeometry ``g``; None where it is not known."""
    if plan.algorithm == "winograd":
        return _winograd_of_phases(g, plan.operation)
    dw, tiles = plan.operation == "conv_dw", plan.algorithm == "amx"
    if plan.algorithm == "patches":
        rows = 0 if plan.program.whole else math.prod((g.batch, g.in_channels, g.taps, g.out_plane))
        rows //= g.window[2] * g.out[2]
        copied = math.prod(g.x_shape) * COPIED + rows * TURNED_ROW
        return direct_sums(g, plan.blocking["product"], dw) + copied
    if plan.algorithm == "inside_taps":
        return _inside(plan.program, dtype)
    if plan.algorithm == "pixel_major":
        return _by_pixels(plan.program, dtype, dw)
    if plan.algorithm == "columns":
        return by_columns(g, plan.program.pieces[0][2], dtype, dw)
    if not tiles and plan.algorithm != "implicit_gemm":
        return None
    if not dw:
        return of_program(plan.program, tiles)
    s = plan.program.beside.blocks if tiles else plan.program.blocks
    block, reach = (s.block_d, s.block_h, s.block_w), (s.reach_d, s.reach_h, s.reach_w)
    rim = math.prod(b + r for b, r in zip(block, reach)) / math.prod(block)
    side, used = (amx_tiles.SIDE, plan.program.beside.used) if tiles else (
        COLUMNS[dtype], plan.program.used)  # fmt: skip
    filled = _columns(s.images, *block, side, s) / (s.images * math.prod(block))
    copied = g.batch * g.in_channels * g.plane * rim
    rows = (-(-s.batch // s.images) * _pieces(s) * len(used) * s.images * g.in_channels
            * (block[0] + reach[0]) * (block[1] + reach[1]))  # fmt: skip
    multiplied = g.multiply_adds * filled * (TILES if tiles else VECTORS)[True]
    written = math.prod(g.w_shape) * PACKED if tiles else 0
    return multiplied + copied * COPIED + rows * ROW + written


def _pieces(s):
    return math.prod(-(-n // held) for n, held in zip(
        (s.span_d, s.span_h, s.span_w), (s.block_d, s.block_h, s.block_w)))  # fmt: skip


def _by_pixels(program, dtype, dw) -> float:
    """Of pixel_conv.Program or pixel_dw.Program: vectors along channels, x copied as it lies."""
    s, p = program.blocks, program.sums if dw else program.product
    size = (p.depth, p.height, p.across) if dw else (p.size_d, p.size_h, p.size_w)
    held = (p.block_d, p.block_h, p.block_w)
    blocks = -(-s.batch // p.images) * math.prod(-(-n // b) for n, b in zip(size, held))
    blocks *= s.groups
    rows = blocks * p.images * s.channels * (s.block_d + s.reach_d) * (s.block_h + s.reach_h)
    copied = rows * (s.block_w + s.reach_w)
    depth = p.weights if dw else p.depth
    pixels = blocks * p.images * math.prod(held)
    vectors = p.width // p.lanes
    vectors += vectors % 2 * 0.5  # a vector alone takes more than the half of a pair
    multiplied = pixels * depth * vectors * p.lanes
    turned = pixels * p.width * (1 if dw else p.step_d * p.step_h * p.step_w)
    weights = depth * p.width * blocks * (2 if dw else 1)
    far = weights * READ if depth * p.width * ITEMSIZE[dtype] > L2_BYTES else 0
    packed = depth * p.width * s.groups * (p.parts if dw else 2)  # weights by one thread
    alone = 2 if (s.groups * p.parts if dw else blocks) == 1 else 1
    each = multiplied * VECTORS[dw] + (copied + turned) * COPIED + rows * ROW
    return alone * (each + far) + packed * PACKED


def by_columns(g, product, dtype, dw) -> float:
    """By way of window_columns.py, whose products are as ``product``, the plan of the first."""
    columns, outputs = g.in_channels // g.groups * g.taps, math.prod(g.y_shape)
    copied = math.prod((g.batch, g.in_channels, g.taps, g.out_plane)) * PLACED
    multiplied, read = direct_sums(g, product.algorithm, dw), READ
    few = FEW * columns * g.groups <= g.out_channels
    if dw and few and outputs * ITEMSIZE["float32"] > L2_BYTES:
        read = STREAMED
        multiplied *= -(-columns // LANES[dtype]) * LANES[dtype] / columns
    weights = math.prod(g.w_shape) * (PACKED if product.algorithm == "amx" else READ)
    return copied + multiplied + weights + outputs * read + g.groups * CALL


def direct_sums(g, product, dw) -> float:
    """Of nothing but the multiply-adds, as products by an algorithm of this name."""
    return g.multiply_adds * (TILES if product == "amx" else VECTORS)[dw]


def _inside(program, dtype) -> float:
    """Of inside_taps.Program."""
    s, p = program.blocks, program.layout
    blocks = -(-s.batch // p.images)
    weights = p.depth * p.width * s.groups
    each = inside_taps.height(program.tables.counts(), p.images) * p.width * SCATTERED
    written = SORTED * len(program.tables.order) * p.width
    each += p.images * (s.channels * s.block_w + written) * COPIED
    shared = -(-program.tasks // 2) * 2 / program.tasks
    return blocks * s.groups * each * shared + weights * PACKED / 2


def of_program(program, tiles) -> float:
    """Of the forward pass or dx by an amx_program.Program (``tiles``) or implicit_gemm.Program."""
    p = program.product
    s, used = (program.beside.blocks, program.beside.used) if tiles else (
        program.blocks, program.used)  # fmt: skip
    if tiles:
        rows, side = p.panels * amx_tiles.SIDE * amx_tiles.DEPTH, amx_tiles.SIDE
        packed = p.steps * p.panels * amx_tiles.SIDE * amx_tiles.DEPTH
        ends = [*program.phases[1:, 9].tolist(), len(program.table) // 2]
        terms = [end - first for first, end in zip(program.phases[:, 9].tolist(), ends)]
    else:
        rows, side = p.rows * s.channels, p.columns
        packed = rows * len(program.taps)
        terms = program.phases[:, 9].tolist()
    block, spans = (s.block_d, s.block_h, s.block_w), (s.span_d, s.span_h, s.span_w)
    pieces = [-(-n // held) for n, held in zip(spans, block)]
    columns, written = 0, 0
    for phase, steps in zip(program.phases.tolist(), terms):
        boxes = itertools.product(*map(_parts, phase[3:6], block))
        columns += steps * sum(
            _columns(s.images, *(length for length, _ in box), side, s)
            * math.prod(times for _, times in box) for box in boxes)  # fmt: skip
        written += s.images * phase[3] * phase[4] * pieces[2] * p.rows
    copied = math.prod(pieces) * len(used) * s.images * s.volume * s.channels
    copied *= p.splits if tiles else 1
    each = columns * rows * (TILES if tiles else VECTORS)[False] + copied * COPIED
    each += (copied // s.row + written) * ROW
    if len(program.phases) > 1 and p.step_d * p.step_h * p.step_w == 1:
        each += columns * rows * APART[s.reach_w > 0]
        each += 0 if s.reach_w else (copied // s.row + written) * CELL_ROW
    return s.groups * (-(-s.batch // s.images) * each + packed * PACKED)


def _parts(count, held):
    """The lengths of the pieces of an axis, and how many there are of each."""
    return [(length, times) for length, times in ((held, count // held), (count % held, 1))
            if length * times]  # fmt: skip


def _columns(images, depth, height, width, side, s):
    """Columns that are multiplied for a box of positions: amx_blocks.runs_of."""
    run = (height - 1) * s.row + width
    through = (images - 1) * s.volume + (depth - 1) * s.area + run
    return min(-(-run // side) * images * depth, -(-through // side)) * side


def winograd(g, operation, dtype) -> float:
    """Of winograd_conv.py or winograd_dw.py: whole panels of columns, whole vectors of channels."""
    dw = operation == "conv_dw"
    tiles, _ = winograd_program.tiles(g, operation == "conv_dx")
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    if operation == "conv_dx":
        channels, rows = rows, channels
    rows = round_up(rows, COLUMNS[dtype])
    numbers = tiles * (round_up(channels, LANES[dtype]) + rows)
    transformed = numbers * OF_TILE[dw] + channels * rows * OF_WEIGHTS[dw]
    if dtype == "float64" and not dw:
        transformed *= 2  # beside multiply-adds, which also take twice as long
    multiplied = tiles * channels * rows * WINOGRAD[dw]
    return winograd_program.PRODUCTS * g.groups * (multiplied + transformed)


def _winograd_of_phases(g, operation):
    tiles, _ = winograd_program.tiles(g, operation == "conv_dx")
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    weights = channels * rows * (SUMMED if operation == "conv_dw" else 1)
    transformed = tiles * (channels + rows) + weights
    multiplied = tiles * channels * rows * OF_PHASES
    return winograd_program.PRODUCTS * g.groups * (multiplied + transformed * TRANSFORMED)


def by_phases(built, one, dtype) -> float | None:
    """Of phases.Program ``built``, whose phases are convolutions of geometry ``one``."""
    found = cost(built.inner, one, dtype)
    if found is None or not built.batches:
        return found
    moved = built.batches * one.batch * (one.in_channels * one.plane
                                         + one.out_channels * one.out_plane)  # fmt: skip
    return built.batches * found + moved * (MOVED + MOVED_ROW / one.size[2])


def fresh(size, kept) -> float:
    """Of a workspace of ``size`` bytes that is too large to be kept between calls."""
    return size * PAGES if size > kept else 0.0


def far(g) -> bool:
    """Do taps reach so far beyond the image that a padded copy of it would be mostly zeros?"""
    spans = [n + before + after + (r - 1) * d for n, before, after, r, d
             in zip(g.size, g.before, g.after, g.window, g.dilation)]  # fmt: skip
    return math.prod(spans) > FAR * max(g.plane, g.out_plane)
