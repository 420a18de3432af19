"""The matrix product on the register tile: which parts of it are packed, and which lie right.

A task is a block of rows and columns of one product.  Block by block of the sum it packs b into
strips one tile wide (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication",
2008), then multiplies panel after panel of a with every strip.  Packing is left out where memory
is as the tile wants it, or nearly:

- a is read as it lies where its rows or its columns are contiguous, as the tile takes strides;
  but not rows that share cache sets, nor columns far apart that several strips would read.
- b is read as it lies where its rows are contiguous, and it stays in L1 or few panels read it.

Tiles ask for what comes next: the first of a panel for the next panel of a, then for its sums, or
for the next block of b.  Nothing else would, as rows of a come a few bytes at a time.

Few rows and columns with a long sum are cut along the sum, into parts that sizes alone decide:
each has sums of its own, which are added in order.  So are pieces of every longer sum, as the
error of a sum in one go grows with the root of its length.
"""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..emitted.strided_tile import address, copy_rows, strided_tile
from ..emitted.transposition import transpose
from ..emitted.vectors import LINE, add_row, copy_row, fill_row
from ..jit import array, helper, inlined, kernel, out, prange
from .product_blocks import BLOCKING


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 2), out(F, 1), BLOCKING))
def product(y, a, b, bias, work, p):
    """y = a @ b + bias; each slot is one thread's share of the blocks."""
    tasks = blocks_of_product(y, p)
    for slot in prange(p.slots):
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            block_of_product(task, slot, y, a, b, bias, work, p)
    if p.parts > 1:
        for slot in prange(p.slots):
            add_parts(slot, y, work, bias, p)


@helper
def blocks_of_product(y, p):
    """Blocks, and parts of sums, that threads share."""
    blocks = y.shape[0] * ((y.shape[1] + p.rows - 1) // p.rows)
    return blocks * p.parts * ((y.shape[2] + p.columns - 1) // p.columns)


@helper
def block_at(task, y, p):
    """(part of the sums of all products, first row, rows, first column, columns) of a task."""
    _, I, J = y.shape
    down, across = (I + p.rows - 1) // p.rows, (J + p.columns - 1) // p.columns
    i0, j0 = task % down * p.rows, task // down % across * p.columns
    return task // (down * across), i0, min(p.rows, I - i0), j0, min(p.columns, J - j0)


@helper
def block_of_product(task, slot, y, a, b, bias, work, p):
    """One block of y, or a part of its sums."""
    base = slot * p.slot
    part, i0, rows, j0, columns = block_at(task, y, p)
    n = part // p.parts
    if p.parts > 1 or p.pieces > 1:
        total = base + p.total_at
        if p.parts > 1:
            total = p.parts_at + (part * y.shape[1] + i0) * p.columns
        _pieces(total, part % p.parts, work, base, a, b, n, i0, rows, j0, columns, p)
        if p.parts == 1:
            _add_bias(work, total, bias, i0, rows, j0, columns, p)
            write_block(y, n * step(y, 0) + i0 * step(y, 1) + j0 * step(y, 2), work, total,
                        p.columns, rows, columns, p)  # fmt: skip
        return
    # tiles go straight to y where its rows are contiguous, else by way of work
    whole = columns if step(y, 2) == 1 else 0
    to = n * step(y, 0) + i0 * step(y, 1) + j0 * step(y, 2)
    _begin(y, to, whole, work, base, a, bias, i0, rows, j0, columns, p)
    for e in range(a.shape[1]):
        _block(address(y, to), step(y, 1), whole, work, base, a, b, n, i0, rows, j0, columns,
               e, 0, a.shape[3], bias.size + e, p)  # fmt: skip
    write_block(y, to + whole * step(y, 2), work, base + p.c_at + whole, p.columns, rows,
                columns - whole, p)  # fmt: skip


@helper
def _pieces(total, part, work, base, a, b, n, i0, rows, j0, columns, p):
    """A part of the sums of a block to work[total:], one piece after the other."""
    L, count = a.shape[3], a.shape[1] * p.cuts
    for piece in range(part * p.pieces, (part + 1) * p.pieces):
        sums = total if piece == part * p.pieces else base + p.c_at
        first = piece * count // (p.parts * p.pieces)
        for cut in range(first, (piece + 1) * count // (p.parts * p.pieces)):
            e, at = cut // p.cuts, cut % p.cuts
            _block(address(work, sums), p.columns, p.columns, work, base, a, b, n, i0, rows, j0,
                   columns, e, at * L // p.cuts, (at + 1) * L // p.cuts, int(cut > first),
                   p)  # fmt: skip
        for row in range(rows if sums != total else 0):
            add_row(work, total + row * p.columns, work, sums + row * p.columns, columns)


@helper
def _add_bias(work, sums, bias, i0, rows, j0, columns, p):
    for i in range(rows if bias.size else 0):
        for j in range(columns):
            at = sums + i * p.columns + j
            store(work, at, load(work, at) + load(bias, _bias_at(bias, i0 + i, j0 + j)))


@helper
def _bias_at(bias, i, j):
    """One of (I, 1) or (1, J) numbers."""
    return i * step(bias, 0) if bias.shape[1] == 1 else j * step(bias, 1)


@helper
def _begin(y, to, whole, work, base, a, bias, i0, rows, j0, columns, p):
    """What the sums of a block begin with, unless the first tiles begin with zero themselves."""
    if bias.size:
        for i in range(rows):
            for j in range(whole):
                store(y, to + i * step(y, 1) + j, load(bias, _bias_at(bias, i0 + i, j0 + j)))
            for j in range(whole, columns):
                value = load(bias, _bias_at(bias, i0 + i, j0 + j))
                store(work, base + p.c_at + i * p.columns + j, value)
    elif a.shape[1] * a.shape[3] == 0:
        for i in range(rows):
            fill_row(y, to + i * step(y, 1), a.dtype.type(0), whole)
            fill_row(work, base + p.c_at + i * p.columns, a.dtype.type(0), columns)


@helper
def _block(to, ldc, whole, work, base, a, b, n, i0, rows, j0, columns, e, l0, end, resume, p):
    """Adds terms of the sums of a block: columns below ``whole`` at ``to``, others in the slot."""
    chunk = p.short_chunk if step(a, 2) == 1 and step(a, 3) != 1 else p.chunk
    for k in range(l0, end, chunk):
        depth = min(chunk, end - k)
        b_at = n * step(b, 0) + e * step(b, 1) + k * step(b, 2) + j0 * step(b, 3)
        lying = columns // p.width * p.width if _b_lies_right(b, rows, depth, p) else 0
        _pack_strips(work, base + p.b_at + lying * depth, b, b_at + lying * step(b, 3), depth,
                     columns - lying, p)  # fmt: skip
        a_at = n * step(a, 0) + e * step(a, 1) + i0 * step(a, 2) + k * step(a, 3)
        beyond_a, beyond_b = step(a, 0), step(b, 0)  # the next product, or part of the sum
        if p.parts > 1 or k + chunk < end:
            beyond_a, beyond_b = depth * step(a, 3), depth * step(b, 2)
        next_b = address(b, b_at + beyond_b)
        b_stride = _stride_of_next_b(a, b, rows, columns, depth, p)
        for i in range(0, rows, p.panel):
            next_a = a_at + ((i + p.panel) * step(a, 2) if i + p.panel < rows else beyond_a)
            next_c = to + ((i + p.panel) * ldc * p.item if i + p.panel < rows else 0)
            _panel(to + i * ldc * p.item, ldc, whole, work, base, base + p.c_at + i * p.columns,
                   a, a_at + i * step(a, 2), b, b_at, lying, min(p.panel, rows - i), columns,
                   depth, resume, address(a, next_a), next_b, b_stride, next_c, p)  # fmt: skip
            next_b += depth * b_stride * ((columns - 1) // p.width) * p.item
        resume = 1


@helper
def _b_lies_right(b, rows, depth, p):
    """May the tile read b itself?  Few panels read it, or L1 keeps it beside a."""
    near = abs(step(b, 2)) * depth * p.item <= 32 * 1024
    return step(b, 3) == 1 and (near or rows <= 2 * p.panel)


@helper
def a_lies_right(a, columns, p):
    """May the tile read a itself?"""
    if step(a, 2) == 1:
        return columns <= p.width or abs(step(a, 3)) * p.item <= 256
    if step(a, 3) != 1:
        return False
    return rows_keep_apart(step(a, 2), columns, p)


@helper
def rows_keep_apart(row, columns, p):
    """May rows ``row`` elements apart be read along, by all strips?"""
    if abs(row) * p.panel * p.item <= 4096:
        return True
    # a few lines apart, modulo the 4 KiB that a way of L1 holds, they push each other out
    apart = row * p.item & 4095
    return columns <= 2 * p.width or min(apart, 4096 - apart) >= 128


@helper
def asks_for_a(a, depth, p):
    """(tiles that ask for the next panel of a, bytes from that to what the first one asks for,

    bytes from tile to tile, elements from step to step).
    """
    if step(a, 2) == 1:  # where a row of it begins this panel ends; the others are a line or two
        return (p.panel * p.item + LINE - 1) // LINE, (p.panel - 1) * p.item, -LINE, step(a, 3)
    if step(a, 2) == depth:  # one piece
        return 1, 0, 0, max(LINE // p.item, p.panel)
    if step(a, 3) == 1:  # a row for each tile
        return p.panel, 0, step(a, 2) * p.item, 1
    return 0, 0, 0, 0


@helper
def _stride_of_next_b(a, b, rows, columns, depth, p):
    """What other tiles ask for at each step of the b that comes next, if it is read but once."""
    once = rows == a.shape[2] and columns >= b.shape[3] and a.shape[1] == 1
    if not once or (p.parts == 1 and (a.shape[0] == 1 or a.shape[3] > depth)):
        return 0
    tiles = (rows + p.panel - 1) // p.panel * max(1, (columns - 1) // p.width)
    return (columns + tiles - 1) // tiles


@inlined
def panel_of_a(work, base, a, a_at, rows, depth, columns, p):
    """(address, step of terms, step of rows) of a panel of a, which is packed if it lies wrong."""
    panel, a_step, a_row = address(a, a_at), step(a, 3), step(a, 2)
    if not a_lies_right(a, columns, p):
        pack_panel(work, base, a, a_at, rows, depth, p)
        panel, a_step, a_row = address(work, base), rows, 1
    return panel, a_step, a_row


@inlined
def pack_panel(work, to, a, a_at, rows, depth, p):
    """work[to:] = ``depth`` terms of ``rows`` rows of a, term after term."""
    if step(a, 2) == 1:
        copy_rows(work.dtype.type(0), address(work, to), rows, address(a, a_at), step(a, 3), depth,
                  rows)  # fmt: skip
    else:
        pack(work, to, rows, a, a_at, step(a, 3), step(a, 2), depth, rows, p.lanes)


@helper
def _panel(to, ldc, whole, work, base, sums, a, a_at, b, b_at, lying, rows, columns, depth, resume,
           next_a, next_b, b_stride, next_c, p):  # fmt: skip
    """A panel of a times every strip of b."""
    zero = work.dtype.type(0)
    panel, a_step, a_row = panel_of_a(work, base, a, a_at, rows, depth, columns, p)
    asks, first, apart, a_stride = asks_for_a(a, depth, p)
    next_a += first
    asks_c = asks + (p.panel if p.asks_for_sums else 0)
    c_stride = (columns + depth - 1) // depth
    for j in range(0, columns, p.width):
        strip, b_step = address(work, base + p.b_at + j * depth), p.width
        if j < lying:
            strip, b_step = address(b, b_at + j), step(b, 2)
        target, target_row = to + j * p.item, ldc
        if j >= whole:
            target, target_row = address(work, sums + j), p.columns
        tile = j // p.width
        if tile < asks:  # memory that is soon read and not yet in L2
            ahead, stride = next_a + tile * apart, a_stride
        elif tile < asks_c:
            ahead, stride = next_c + (tile - asks) * ldc * p.item, c_stride
        else:
            ahead, stride = next_b, b_stride
            next_b += depth * b_stride * p.item
        strided_tile(zero, rows, min(p.width, columns - j), panel, a_step, a_row, strip, b_step,
                     depth, target, target_row, resume, ahead, stride)  # fmt: skip


@helper
def _pack_strips(work, to, b, start, depth, columns, p):
    """A block of b, strip after strip; whole rows are read in one go.

    The last strip is filled up with zeros: what lay there may be denormal, which is slow.
    """
    rest = columns % p.width
    if rest:
        for at in range(depth):
            fill_row(work, to + (columns - rest) * depth + at * p.width + rest, work.dtype.type(0),
                     p.width - rest)  # fmt: skip
    if step(b, 3) == 1:
        for at in range(depth):
            for j in range(0, columns, p.width):
                copy_row(work, to + j * depth + at * p.width, b, start + at * step(b, 2) + j,
                         min(p.width, columns - j))  # fmt: skip
    else:
        for j in range(0, columns, p.width):
            pack(work, to + j * depth, p.width, b, start + j * step(b, 3), step(b, 2),
                 step(b, 3), depth, min(p.width, columns - j), p.lanes)  # fmt: skip


@helper
def pack(work, to, width, source, start, depth_step, step, depth, count, lanes):
    """work[to + l*width + i] = source[l, i], l < depth, i < count: either axis contiguous."""
    if step == 1:
        for at in range(depth):
            copy_row(work, to + at * width, source, start + at * depth_step, count)
    elif depth_step == 1:
        transpose(work, to, width, source, start, step, count, depth, lanes)
    else:
        for at in range(depth):
            for i in range(count):
                value = load(source, start + at * depth_step + i * step)
                store(work, to + at * width + i, value)


@helper
def add_parts(slot, y, work, bias, p):
    """Adds the parts of a slot's share of all rows of sums."""
    rows = y.shape[0] * y.shape[1]
    for row in range(slot * rows // p.slots, (slot + 1) * rows // p.slots):
        _add_parts_of_row(row, y, work, bias, p)


@helper
def _add_parts_of_row(row, y, work, bias, p):
    """Adds the parts of a row of sums in order, and writes them."""
    _, I, J = y.shape
    n, i = row // I, row % I
    first = p.parts_at + (n * p.parts * I + i) * p.columns
    for part in range(1, p.parts):
        add_row(work, first, work, first + part * I * p.columns, J)
    _add_bias(work, first, bias, i, 1, 0, J, p)
    write_block(y, n * step(y, 0) + i * step(y, 1), work, first, p.columns, 1, J, p)


@helper
def write_block(y, to, work, sums, row, rows, columns, p):
    """A block of sums, ``row`` elements from one row to the next, to its place in y."""
    if step(y, 2) == 1:
        for i in range(rows):
            copy_row(y, to + i * step(y, 1), work, sums + i * row, columns)
    elif step(y, 1) == 1:
        transpose(y, to, step(y, 2), work, sums, row, rows, columns, p.lanes)
    else:
        for i in range(rows):
            for j in range(columns):
                value = load(work, sums + i * row + j)
                store(y, to + i * step(y, 1) + j * step(y, 2), value)
