"""The products of groups of channels that lie side by side, as 1x1 windows with channels last ask.

A group's part of a pixel is a few lines of memory, the next pixel's is as far as all groups take:
product after product, that reads memory as often as there are groups, as processors fetch what lies
between, too.  So all groups take a block of pixels in turn, which stays in L2 meanwhile.
"""

from __future__ import annotations

from ..jit import array, kernel, out, prange
from ..microkernel import ROWS
from .matrix_product import block_of_product, blocks_of_product
from .product_blocks import BLOCKING

#: Bytes of a block of pixels, with all channels in and out: that of a thread stays in its L2.
BLOCK_BYTES = 1024 * 1024


def fits(plan, groups) -> bool:
    """Is ``plan``, of a product (pixels as columns) of one of the groups, for these kernels?"""
    return groups > 1 and plan.algorithm == "packed" and plan.program.turned.parts == 1


def run(v, u, w, bias, plan, workspace):
    """v (C, P) = w (G, rows, channels) times u, group by group, plus bias; pixels apart."""
    groups, pixels = len(w), v.shape[1]
    y, a = (matrix.T.reshape(pixels, groups, -1).transpose(1, 0, 2) for matrix in (v, u))
    p = plan.program.turned
    most = BLOCK_BYTES // ((len(v) + len(u)) * v.itemsize) // ROWS * ROWS
    p = p._replace(rows=min(p.rows, max(2 * ROWS, most)))
    product(v.dtype, plan.threads, y, a[:, None], w.swapaxes(1, 2)[:, None],
            bias.reshape(groups, 1, -1) if bias.size else bias.reshape(groups, 0, 0),
            workspace.view(v.dtype), p)  # fmt: skip


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 3), out(F, 1), BLOCKING))
def product(y, a, b, bias, work, p):
    """y[g] = a[g] @ b[g] + bias[g], block by block of their rows."""
    groups, tasks = y.shape[0], blocks_of_product(y, p)
    for slot in prange(p.slots):
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, block = task % groups, task // groups
            block_of_product(g * (tasks // groups) + block, slot, y, a, b, bias[g], work, p)
