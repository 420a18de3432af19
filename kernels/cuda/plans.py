"""Which kernel serves a shape, with which tile and how much workspace.

Every choice is made here, from the geometry alone: the same call takes the same path on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..contract import Plan
from . import launch

#: most bytes that partial sums of a filter gradient take unless config.workspace_limit says less
WORKSPACE_BOUND = 64 << 20
#: a group with fewer channels than this on either side leaves a tile mostly empty
FEW_CHANNELS = 8
#: elements of one channel that one block sums for a bias gradient
BIAS_CHUNK = 1 << 14

_ACCUM_BYTES = {"float64": 8}  # 4 otherwise


@dataclass(frozen=True)
class Tile:
    """One compilation of conv_gather.cu or conv_filter.cu: sizes per block and per thread."""

    tile_m: int
    tile_n: int
    tile_k: int
    thread_m: int
    thread_n: int

    @property
    def threads(self) -> int:
        return self.tile_m // self.thread_m * (self.tile_n // self.thread_n)

    def defines(self) -> dict:
        return dict(vars(self))


#: by name, which is what Plan.blocking shows
TILES = {
    "64x64x16": Tile(64, 64, 16, 4, 4),
    "128x128x8": Tile(128, 128, 8, 8, 8),
    "128x32x16": Tile(128, 32, 16, 8, 4),
}


def tile_for(rows: int, columns: int, dtype: str) -> str:
    """The tile that wastes least of a rows x columns result and still fills the device.

    Large tiles reuse each loaded value more often (128: 64 times per load, 64: 32 times), which
    pays once there are blocks for every multiprocessor.
    """
    blocks = -(-rows // 128) * -(-columns // 128)
    if dtype == "float64":
        return "64x64x16"
    if columns <= 32 and rows >= 128:
        return "128x32x16"
    if columns > 64 and blocks >= 2 * launch.runtime().multiprocessors:
        return "128x128x8"
    return "64x64x16"


# ---- operations ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _plan(operation, geometry, dtype, precision, limit, multiprocessors) -> Plan:
    make = _MAKERS.get(operation)
    return make(operation, geometry, dtype, precision, limit) if make else launch.plan_of(operation)


def plan(operation: str, geometry, dtype: str, settings) -> Plan:
    """How this backend computes one operation; nothing is run."""
    return _plan(
        operation, geometry, dtype, settings.precision, settings.workspace_limit,
        launch.runtime().multiprocessors,
    )  # fmt: skip


def conv_sizes(geometry, transposed: bool):
    """(pixels of the result, its channels per group, source channels per group)."""
    pixels = geometry.batch * (geometry.plane if transposed else geometry.out_plane)
    source, out = geometry.in_channels, geometry.out_channels
    if transposed:
        source, out = out, source
    return pixels, out // geometry.groups, source // geometry.groups


def _gather(operation, geometry, dtype, precision, limit):
    pixels, out, source = conv_sizes(geometry, operation == "conv_dx")
    if geometry.groups > 1 and min(out, source) < FEW_CHANNELS:
        return launch.plan_of(operation, "direct")
    return launch.plan_of(operation, "implicit_gemm", tile=tile_for(pixels, out, dtype))


def _filter(operation, geometry, dtype, precision, limit):
    pixels, out, source = conv_sizes(geometry, False)
    bias = _bias_bytes(geometry.y_shape, dtype)
    if geometry.groups > 1 and min(out, source) < FEW_CHANNELS:
        return launch.plan_of(operation, "direct", bias)
    width = source * geometry.taps
    name = tile_for(out, width, dtype)
    tile = TILES[name]
    tiles = geometry.groups * -(-out // tile.tile_m) * -(-width // tile.tile_n)
    one = geometry.out_channels * width * _ACCUM_BYTES.get(dtype, 4)
    splits = splits_for(tiles, pixels, tile.tile_k, one, limit)
    return launch.plan_of(
        operation, "implicit_gemm", max(one * splits, bias), tile=name, splits=splits
    )


def splits_for(tiles: int, pixels: int, tile_k: int, one: int, limit) -> int:
    """Into how many parts the pixels of a filter gradient are shared out.

    Enough for two blocks on every multiprocessor, each with at least 16 steps of its loop, and
    partial sums (``one`` bytes each) within the workspace.
    """
    wanted = -(-2 * launch.runtime().multiprocessors // tiles)
    room = max(1, min(limit or WORKSPACE_BOUND, WORKSPACE_BOUND) // one)
    return max(1, min(wanted, pixels // (16 * tile_k), room))


def bias_chunks(shape) -> int:
    """Parts of one channel's pixels in a bias gradient of dy (N, K, Z, P, Q)."""
    return max(1, -(-shape[0] * math.prod(shape[2:]) // BIAS_CHUNK))


def _bias_bytes(shape, dtype):
    return shape[1] * bias_chunks(shape) * _ACCUM_BYTES.get(dtype, 4)


def _bias(operation, shape, dtype, precision, limit):
    return launch.plan_of(operation, "tree", _bias_bytes(tuple(shape), dtype))


def _softmax(operation, shape, dtype, precision, limit):
    return launch.plan_of(operation, "warp_per_row", shape[0] * _ACCUM_BYTES.get(dtype, 4))


def _matmul(operation, geometry, dtype, precision, limit):
    return launch.plan_of(operation, "cublas")


def _scatter(operation, geometry, dtype, precision, limit):
    return launch.plan_of(operation, "sorted_segments")


_MAKERS = {
    "conv_forward": _gather,
    "conv_dx": _gather,
    "conv_dw": _filter,
    "bias_gradient": _bias,
    "softmax_cross_entropy": _softmax,
    "matmul": _matmul,
    "scatter_add": _scatter,
}
