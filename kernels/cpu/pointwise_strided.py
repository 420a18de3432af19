"""The forward convolution and dx of 1 x 1 windows with a stride, as products without one.

Such a window reads one pixel in stride * stride.  Forward takes those out of x first; dx is the
product on those pixels, put between zeros (or the bias) afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from . import amx_matmul
from .implicit_gemm import in_one_row
from .jit import array, kernel, out, prange, triple
from .memory import load, step, store
from .padded_rows import pad_row
from .vectors import fill_row, spread_even


@dataclass(frozen=True)
class Program:
    inner: object  # the plan of the product
    stride: tuple[int, int, int]
    shape: tuple[int, ...]  # of the source or target without the stride
    at: int  # its place in the workspace, in bytes
    size: int  # of the workspace, in bytes


def without_stride(g):
    """The geometry of the product, or None where there is no stride, or there is padding."""
    if g.taps > 1 or g.stride == (1, 1, 1) or any((*g.before, *g.after)):
        return None
    row = (1, 1, g.out_plane)
    return replace(g, size=row, out=row, stride=(1, 1, 1), dilation=(1, 1, 1))


def build(g, inner, itemsize) -> Program:
    """``inner`` is the plan of the product on `without_stride`."""
    shape = (g.batch, g.in_channels, 1, 1, g.out_plane)
    at = -(-inner.workspace_bytes // 64) * 64
    return Program(inner, g.stride, shape, at, at + prod(shape) * itemsize)


def run(v, u, w, bias, plan, workspace) -> bool:
    """As amx_matmul.run_images; False, and v is to be computed otherwise, where that is False."""
    program, threads = plan.program, plan.threads
    forward = plan.operation == "conv_forward"
    end = program.at + prod(program.shape) * v.itemsize
    thin = workspace[program.at : end].view(v.dtype).reshape(program.shape)
    other = in_one_row(v if forward else u)
    if other is None:
        return False
    if forward:
        take(v.dtype, threads, thin, u, program.stride)
        return amx_matmul.run_images(other, thin, w, bias, program.inner, workspace)
    if not amx_matmul.run_images(thin, other, w, bias, program.inner, workspace):
        return False
    put(v.dtype, threads, v, thin, bias, program.stride)
    return True


@kernel(lambda F: (out(F, 5), array(F, 5), triple))
def take(thin, x, stride):
    """thin (N, C, 1, 1, pixels) = every stride-th pixel of x (N, C, D, H, W)."""
    N, C, D, H, W = x.shape
    width = (W + stride[2] - 1) // stride[2]
    for task in prange(N * C):
        n, c = task // C, task % C
        to = n * step(thin, 0) + c * step(thin, 1)
        for d in range(0, D, stride[0]):
            for h in range(0, H, stride[1]):
                start = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
                pad_row(thin, to, x, start, stride[2] * step(x, 4), 0, width, width)
                to += width


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 1), triple))
def put(x, thin, bias, stride):
    """Every stride-th pixel of x (N, C, D, H, W) = thin; the others are the bias, or zero."""
    N, C, D, H, W = x.shape
    width = (W + stride[2] - 1) // stride[2]
    for task in prange(N * C):
        n, c = task // C, task % C
        start = n * step(thin, 0) + c * step(thin, 1)
        value = load(bias, c * step(bias, 0)) if bias.size else x.dtype.type(0)
        for d in range(D):
            for h in range(H):
                to = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
                if step(x, 4) == 1:
                    fill_row(x, to, value, W)
                else:
                    for w in range(W):
                        store(x, to + w * step(x, 4), value)
                if d % stride[0] or h % stride[1]:
                    continue
                if step(x, 4) * stride[2] == 2:
                    spread_even(x, to, thin, start, width)
                else:
                    for q in range(width):
                        store(x, to + q * stride[2] * step(x, 4), load(thin, start + q))
                start += width
