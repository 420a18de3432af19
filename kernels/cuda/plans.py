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
def _plan(operation, geometry, dtype, precision, limit, device) -> Plan:
    make = _MAKERS.get(operation)
    return make(operation, geometry, dtype, precision, limit) if make else launch.plan_of(operation)


def plan(operation: str, geometry, dtype: str, settings) -> Plan:
    """How this backend computes one operation; nothing is run."""
    runtime = launch.runtime()
    return _plan(
        operation, geometry, dtype, settings.precision, settings.workspace_limit,
        (runtime.multiprocessors, runtime.capability),
    )  # fmt: skip


def conv_sizes(geometry, transposed: bool):
    """(pixels of the result, its channels per group, source channels per group)."""
    pixels = geometry.batch * (geometry.plane if transposed else geometry.out_plane)
    source, out = geometry.in_channels, geometry.out_channels
    if transposed:
        source, out = out, source
    return pixels, out // geometry.groups, source // geometry.groups


def gather_grid(geometry, transposed: bool, tile_m: int, tile_n: int):
    """(blocks, pixel tiles, channel tiles) of a kernel that computes y, or transposed dx."""
    pixels, channels, _ = conv_sizes(geometry, transposed)
    classes = 1
    if transposed:  # positions that share their taps: the largest class decides the grid
        classes = math.prod(map(min, geometry.stride, geometry.size))
        counts = (-(-size // step) for size, step in zip(geometry.size, geometry.stride))
        pixels = geometry.batch * math.prod(counts)
    pixel_tiles, channel_tiles = -(-pixels // tile_m), -(-channels // tile_n)
    return classes * geometry.groups * pixel_tiles * channel_tiles, pixel_tiles, channel_tiles


# ---- tensor cores -------------------------------------------------------------------------

#: algorithm -> the GR_PRODUCT of tensor.cuh
PRODUCTS = {"tensor_tf32": "TF32", "tensor_3xtf32": "SPLIT", "tensor_16bit": "HALF"}
#: one block's result: pixels x channels, or filters x columns
TENSOR_M, TENSOR_N, TENSOR_THREADS = 128, 64, 128
#: fewer channels than this on either side are served better by the float units
TENSOR_CHANNELS = 16

#: Compute capabilities whose TF32 tensor cores multiply 7 times as fast as the float units or more,
#: so that three products per multiply-add pay: A100 (19.5 and 156 TFLOP/s), H100 (67 and 495), B200
#: (75 and 1100).  On 8.6, 8.9 and 12.0 they are once or twice as fast.
SPLIT_PAYS = ((8, 0), (9, 0), (10, 0), (10, 3))
#: multiply-adds per packed element from which the packing costs less than the faster products
#: save: 8 bytes at 3 TB/s take 2.7 ps, a multiply-add 0.05 ps at 40 TFLOP/s and 0.035 ps at 60
SPLIT_WORK = 256
#: most bytes of packed arrays for 3xTF32 unless config.workspace_limit is set
SPLIT_BOUND = 1 << 30


def enough_channels(geometry) -> bool:
    channels = min(geometry.in_channels, geometry.out_channels) // geometry.groups
    return channels >= TENSOR_CHANNELS


def tensor_algorithm(operation, geometry, dtype, precision):
    """The tensor-core algorithm that this call may use and profits from, or None.

    Products of 16-bit numbers are exact in float32, so those kernels are direct sums under every
    precision.  TF32 drops 13 bits of a float32 and needs precision="tf32"; 3xTF32 keeps them (its
    error, about 1e-7, is far below the 1e-5 of "standard"), but is no direct sum for "strict".
    """
    if not enough_channels(geometry):
        return None
    if dtype in ("float16", "bfloat16"):
        return "tensor_16bit"
    if dtype != "float32" or precision == "strict":
        return None
    if precision == "tf32":
        return "tensor_tf32"
    return "tensor_3xtf32" if _split_pays(operation, geometry) else None


def _split_pays(operation, geometry) -> bool:
    """Is 3xTF32 faster than the float units here, by arithmetic?  config.tune measures it."""
    runtime = launch.runtime()
    if runtime.capability not in SPLIT_PAYS:
        return False
    if operation == "conv_dw":
        tiles, most_splits = _filter_tiles(geometry, "float32")
        blocks = tiles * most_splits
    else:
        blocks, *_ = gather_grid(geometry, operation == "conv_dx", TENSOR_M, TENSOR_N)
    outputs = geometry.batch * geometry.out_plane * geometry.out_channels
    work = outputs * geometry.in_channels // geometry.groups * geometry.taps
    packed = sum(tensor_parts(operation, geometry, "float32")) // 4
    return blocks >= runtime.multiprocessors and work >= SPLIT_WORK * packed


def _filter_tiles(geometry, dtype):
    """(tiles of a filter gradient, the most parts that its pixels can be shared out to)."""
    pixels, out, source = conv_sizes(geometry, False)
    columns = padded(source, dtype) * geometry.taps
    tiles = geometry.groups * -(-out // TENSOR_M) * -(-columns // TENSOR_N)
    return tiles, max(1, pixels // (16 * 4 * vector(dtype)))


def vector(dtype) -> int:
    """Elements in 16 bytes."""
    return 8 if dtype in ("float16", "bfloat16") else 4


def padded(channels: int, dtype) -> int:
    """Channels of one group, rounded up to whole 16-byte vectors."""
    return -(-channels // vector(dtype)) * vector(dtype)


def packed_bytes(places: int, channels: int, dtype) -> int:
    """Bytes of ``places`` rows of one group's channels, rounded up to an aligned size."""
    bytes_ = places * padded(channels, dtype) * (16 // vector(dtype))
    return -(-bytes_ // 256) * 256


def tensor_parts(operation, geometry, dtype):
    """Bytes of the two packed arrays: source and filters, or dy and x for conv_dw."""
    groups = geometry.groups
    source, out = geometry.in_channels // groups, geometry.out_channels // groups
    x_places = geometry.batch * geometry.plane * groups
    dy_places = geometry.batch * geometry.out_plane * groups
    if operation == "conv_dw":
        return packed_bytes(dy_places, out, dtype), packed_bytes(x_places, source, dtype)
    if operation == "conv_dx":
        filters = geometry.in_channels * geometry.taps
        return packed_bytes(dy_places, out, dtype), packed_bytes(filters, out, dtype)
    filters = geometry.out_channels * geometry.taps
    return packed_bytes(x_places, source, dtype), packed_bytes(filters, source, dtype)


def tensor_plan(operation, geometry, dtype, algorithm, limit) -> Plan | None:
    """The plan of a tensor-core kernel; None if its packed arrays exceed the workspace."""
    parts = sum(tensor_parts(operation, geometry, dtype))
    blocking = {"tile": f"{TENSOR_M}x{TENSOR_N}"}
    if operation == "conv_dw":
        pixels, _, source = conv_sizes(geometry, False)
        tiles, _ = _filter_tiles(geometry, dtype)
        one = geometry.out_channels * source * geometry.taps * 4
        room = None if limit is None else max(1, limit - parts)
        blocking["splits"] = splits_for(tiles, pixels, 4 * vector(dtype), one, room)
        parts = max(parts + one * blocking["splits"], _bias_bytes(geometry.y_shape, dtype))
    if limit is not None and parts > limit:
        return None
    return launch.plan_of(operation, algorithm, parts, **blocking)


def _conv(operation, geometry, dtype, precision, limit):
    _, out, source = conv_sizes(geometry, operation == "conv_dx")
    if geometry.groups > 1 and min(out, source) < FEW_CHANNELS:
        bias = _bias_bytes(geometry.y_shape, dtype) if operation == "conv_dw" else 0
        return launch.plan_of(operation, "direct", bias)
    algorithm = tensor_algorithm(operation, geometry, dtype, precision)
    bound = SPLIT_BOUND if algorithm == "tensor_3xtf32" and limit is None else limit
    fast = algorithm and tensor_plan(operation, geometry, dtype, algorithm, bound)
    return fast or tiled_plan(operation, geometry, dtype, None, limit)


def tiled_plan(operation, geometry, dtype, name, limit) -> Plan:
    """The plan of conv_gather.cu or conv_filter.cu with the named tile, None for the best."""
    pixels, out, source = conv_sizes(geometry, operation == "conv_dx")
    if operation != "conv_dw":
        name = name or tile_for(pixels, out, dtype)
        return launch.plan_of(operation, "implicit_gemm", tile=name)
    width = source * geometry.taps
    name = name or tile_for(out, width, dtype)
    tile = TILES[name]
    tiles = geometry.groups * -(-out // tile.tile_m) * -(-width // tile.tile_n)
    one = geometry.out_channels * width * _ACCUM_BYTES.get(dtype, 4)
    splits = splits_for(tiles, pixels, tile.tile_k, one, limit)
    workspace = max(one * splits, _bias_bytes(geometry.y_shape, dtype))
    return launch.plan_of(operation, "implicit_gemm", workspace, tile=name, splits=splits)


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


def slope_tiles(columns: int) -> int:
    """Blocks of linear_slope across the columns."""
    return -(-columns // 32)


def _linear_slope(operation, shape, dtype, precision, limit):
    rows, columns = shape
    wanted = -(-2 * launch.runtime().multiprocessors // max(1, slope_tiles(columns)))
    chunks = max(1, min(wanted, rows // 64))
    bytes_ = columns * chunks * _ACCUM_BYTES.get(dtype, 4)
    return launch.plan_of(operation, "slope_and_sum", bytes_, chunks=chunks)


def _softmax(operation, shape, dtype, precision, limit):
    return launch.plan_of(operation, "warp_per_row", shape[0] * _ACCUM_BYTES.get(dtype, 4))


def _matmul(operation, geometry, dtype, precision, limit):
    return launch.plan_of(operation, "cublas")


def _linear_backward(operation, geometry, dtype, precision, limit):
    if "b" not in geometry.need:
        return launch.plan_of(operation, "cublas")
    shape = (geometry.rows, geometry.features, 1, 1, 1)
    return _bias(operation, shape, dtype, precision, limit)


def _scatter(operation, geometry, dtype, precision, limit):
    return launch.plan_of(operation, "sorted_segments")


_MAKERS = {
    "conv_forward": _conv,
    "conv_dx": _conv,
    "conv_dw": _conv,
    "bias_gradient": _bias,
    "linear_backward": _linear_backward,
    "linear_slope": _linear_slope,
    "softmax_cross_entropy": _softmax,
    "matmul": _matmul,
    "scatter_add": _scatter,
}

# ---- every compilation that a plan can ask for --------------------------------------------

_ALL = tuple(launch.REALS)
_TILED = tuple(tile.defines() for tile in TILES.values())
#: (source file, dtypes, variants of its other defines): what the compile gate compiles
COMPILATIONS = (
    ("activation", _ALL, ({},)),
    ("avg_pool", _ALL, ({},)),
    ("columns", _ALL, ({},)),
    ("conv_direct", _ALL, ({},)),
    ("conv_filter", ("float32", "float16", "bfloat16"), _TILED),
    ("conv_filter", ("float64",), _TILED[:1]),
    ("conv_finish", _ALL, ({},)),
    ("conv_gather", ("float32", "float16", "bfloat16"), _TILED),
    ("conv_gather", ("float64",), _TILED[:1]),
    ("conv_pack", _ALL[:1], ({}, {"round": 1})),
    ("conv_pack", ("float16", "bfloat16"), ({},)),
    ("conv_tensor", ("float32",), ({"product": "TF32"}, {"product": "SPLIT"})),
    ("conv_tensor", ("float16", "bfloat16"), ({"product": "HALF"},)),
    ("conv_tensor_filter", ("float32",), ({"product": "TF32"}, {"product": "SPLIT"})),
    ("conv_tensor_filter", ("float16", "bfloat16"), ({"product": "HALF"},)),
    ("loss", _ALL, ({},)),
    ("max_pool", _ALL, ({},)),
    ("scatter", _ALL, ({},)),
    ("scatter_atomic", ("float32", "float64"), ({},)),
    ("winner", ("float32",), ({},)),
)
