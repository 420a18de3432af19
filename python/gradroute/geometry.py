"""Every derived size of a call, computed once.

The classes are frozen and hashable: plans are cached by them.  All spatial tuples have three
entries, (D, H, W) order; a missing axis is of size 1 with window 1, stride 1 and no padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from .errors import ArgumentValueError
from .options import GeometryOf, integer, lift, padding_pairs, per_axis

Triple = tuple[int, int, int]
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Window:
    """How a window moves over an image: shared by convolution and pooling."""

    size: Triple  # (D, H, W)
    window: Triple  # (T, R, S)
    out: Triple  # (Z, P, Q)
    stride: Triple
    dilation: Triple
    before: Triple  # padding in front of each axis
    after: Triple  # padding behind each axis, as asked for

    def __hash__(self):  # computed once: plans are looked up by geometry on every call
        return self._hash

    @cached_property
    def _hash(self):
        fields = (getattr(self, name) for name in self.__dataclass_fields__)
        return hash((type(self).__name__, *fields))

    @property
    def taps(self) -> int:
        return math.prod(self.window)

    @property
    def plane(self) -> int:
        """Elements of one channel of one image."""
        return math.prod(self.size)

    @property
    def out_plane(self) -> int:
        return math.prod(self.out)


@dataclass(frozen=True)
class ConvGeometry(Window):
    batch: int  # N
    in_channels: int  # C
    out_channels: int  # K
    groups: int  # G

    __hash__ = Window.__hash__

    @property
    def x_shape(self):
        return (self.batch, self.in_channels, *self.size)

    @property
    def w_shape(self):
        return (self.out_channels, self.in_channels // self.groups, *self.window)

    @property
    def y_shape(self):
        return (self.batch, self.out_channels, *self.out)

    @property
    def multiply_adds(self) -> int:
        return self.batch * self.out_plane * math.prod(self.w_shape)


@dataclass(frozen=True)
class PoolGeometry(Window):
    batch: int  # N
    channels: int  # C

    __hash__ = Window.__hash__

    @property
    def x_shape(self):
        return (self.batch, self.channels, *self.size)

    @property
    def y_shape(self):
        return (self.batch, self.channels, *self.out)

    @property
    def cols_shape(self):
        return (self.batch, self.channels, *self.window, *self.out)

    @property
    def winner_dtype(self) -> str:
        """The smallest unsigned integer that can name every tap."""
        if self.taps <= 1 << 8:
            return "uint8"
        return "uint16" if self.taps <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class MatmulGeometry:
    """y (B, I, J) = sum over e of a (B, E, I, L) @ b (B, E, L, J)."""

    batch: int  # B
    summed: int  # E
    rows: int  # I
    columns: int  # J
    inner: int  # L


@dataclass(frozen=True)
class LinearGeometry:
    """dx (I, L) = dy (I, J) @ w (J, L), dw (J, L) = dy^T @ x, db (J,) = the sum of dy's rows."""

    rows: int  # I
    features: int  # J
    inputs: int  # L
    need: str  # which of them: "x", "w" and "b" in this order

    @property
    def multiply_adds(self) -> int:
        """Of one of the products."""
        return self.rows * self.features * self.inputs

    @property
    def to_x(self) -> MatmulGeometry:
        return MatmulGeometry(1, 1, self.rows, self.inputs, self.features)

    @property
    def to_w(self) -> MatmulGeometry:
        return MatmulGeometry(1, 1, self.features, self.inputs, self.rows)


@dataclass(frozen=True)
class ScatterGeometry:
    """out (A, R, B) receives src (A, I, B) at the rows that index (I,) names."""

    outer: int  # A
    rows: int  # R
    inner: int  # B
    count: int  # I


# ---- from shapes and options to sizes -----------------------------------------------------


def _same_padding(size, window, stride, dilation) -> tuple[int, int]:
    """ONNX SAME_UPPER: output ceil(size/stride), the odd cell behind."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _check_size(what: str, *factors: int) -> None:
    if math.prod(factors) > _LARGEST:
        raise ArgumentValueError(f"{what} would have {math.prod(factors)} elements, beyond 64 bits")


def _check_positions(size, window, pads, stride, dilation) -> None:
    """Kernels compute every position that a window can have, also off the image, in 64 bits."""
    for n, r, (before, after), s, d in zip(size, window, pads, stride, dilation):
        if n + before + after + (r - 1) * d + s > _LARGEST:
            raise ArgumentValueError(
                f"an axis of size {n} with window {r}, stride {s}, padding {before} + {after} and "
                f"dilation {d} has positions beyond 64 bits"
            )


def _options(window, stride, padding, dilation, axes):
    """window, stride, padding and dilation, parsed, for ``axes`` spatial axes."""
    window = per_axis(window, "window", axes, at_least=1)
    stride = per_axis(stride, "stride", axes, at_least=1)
    dilation = per_axis(dilation, "dilation", axes, at_least=1)
    return window, stride, padding_pairs(padding, axes), dilation


def _pads(pads, size, window, stride, dilation):
    if pads != "same":
        return pads
    return tuple(_same_padding(*axis) for axis in zip(size, window, stride, dilation))


def _lifted(size, window, out, stride, dilation, pads) -> dict:
    return {
        "size": lift(size, 1),
        "window": lift(window, 1),
        "out": lift(out, 1),
        "stride": lift(stride, 1),
        "dilation": lift(dilation, 1),
        "before": lift(tuple(before for before, _ in pads), 0),
        "after": lift(tuple(after for _, after in pads), 0),
    }


@GeometryOf
def conv_geometry(x_shape, w_shape, *, stride, padding, dilation, groups) -> ConvGeometry:
    """Geometry of y = conv(x, w) from the shapes (N, C, ...) and (K, C/G, ...)."""
    axes = len(x_shape) - 2
    groups = integer(groups, "groups", at_least=1)
    (batch, channels, *size), (out_channels, group_channels, *window) = x_shape, w_shape
    _check_channels(channels, out_channels, groups, "x", "w's first axis")
    if group_channels * groups != channels:
        raise ArgumentValueError(
            f"w must have x's channels / groups = {channels // groups} on its second axis, got "
            f"{group_channels} (x has {channels} channels, groups={groups})"
        )
    window, stride, pads, dilation = _options(window, stride, padding, dilation, axes)
    pads = _pads(pads, size, window, stride, dilation)
    _check_positions(size, window, pads, stride, dilation)
    out = []
    for n, r, (before, after), s, d in zip(size, window, pads, stride, dilation):
        extent = (r - 1) * d + 1
        if n + before + after < extent:
            raise ArgumentValueError(
                f"window {r} (with dilation {d}: {extent}) is larger than the padded input "
                f"{n} + {before} + {after}"
            )
        out.append((n + before + after - extent) // s + 1)
    _check_size("the output", batch, out_channels, *out)
    return ConvGeometry(
        **_lifted(size, window, out, stride, dilation, pads),
        batch=batch, in_channels=channels, out_channels=out_channels, groups=groups,
    )  # fmt: skip


@GeometryOf
def conv_transpose_geometry(
    x_shape, w_shape, *, stride, padding, output_padding, dilation, groups
) -> ConvGeometry:
    """Geometry of the convolution whose dx is conv_transpose(x, w): w is (C, K/G, ...).

    Seen from that convolution, x is dy (its K is our C) and the result is dx.
    """
    axes = len(x_shape) - 2
    groups = integer(groups, "groups", at_least=1)
    (batch, channels, *size), (w_channels, group_channels, *window) = x_shape, w_shape
    if w_channels != channels:
        raise ArgumentValueError(
            f"w must have x's {channels} channels on its first axis, got {w_channels}"
        )
    out_channels = group_channels * groups
    _check_channels(channels, out_channels, groups, "x", "the output")
    window, stride, pads, dilation = _options(window, stride, padding, dilation, axes)
    extra = per_axis(output_padding, "output_padding", axes, at_least=0)
    out, used = [], []
    for axis, (n, r, s, d, e) in enumerate(zip(size, window, stride, dilation, extra)):
        if e >= max(s, d):
            raise ArgumentValueError(
                f"output_padding must be below max(stride, dilation) = {max(s, d)}, got {e}"
            )
        full = (n - 1) * s + (r - 1) * d + 1 + e
        if pads == "same":
            crop = max(full - n * s, 0)
            used.append((crop // 2, crop - crop // 2))
            out.append(n * s)
        else:
            used.append(pads[axis])
            out.append(full - sum(pads[axis]))
        if out[-1] < 1:
            raise ArgumentValueError(
                f"padding {used[-1]} crops the whole output of {full} on spatial axis {axis}"
            )
    _check_positions(out, window, used, stride, dilation)
    _check_size("the output", batch, out_channels, *out)
    return ConvGeometry(
        **_lifted(out, window, size, stride, dilation, used),
        batch=batch, in_channels=out_channels, out_channels=channels, groups=groups,
    )  # fmt: skip


def _check_channels(in_channels, out_channels, groups, in_name, out_name):
    for count, name in ((in_channels, in_name), (out_channels, out_name)):
        if count < 1:
            raise ArgumentValueError(f"{name} has no channels")
        if count % groups:
            raise ArgumentValueError(
                f"groups must divide the channels: {name} has {count}, groups={groups}"
            )


@GeometryOf
def pool_geometry(x_shape, *, window, stride, padding, dilation, ceil_mode) -> PoolGeometry:
    """Geometry of pooling x (N, C, ...); every window is sure to see an input element."""
    axes = len(x_shape) - 2
    batch, channels, *size = x_shape
    stride = window if stride is None else stride
    window, stride, pads, dilation = _options(window, stride, padding, dilation, axes)
    pads = _pads(pads, size, window, stride, dilation)
    _check_positions(size, window, pads, stride, dilation)
    out = []
    for n, r, (before, after), s, d in zip(size, window, pads, stride, dilation):
        steps = n + before + after - (r - 1) * d - 1
        if steps < 0:
            raise ArgumentValueError(
                f"window {r} (with dilation {d}: {(r - 1) * d + 1}) is larger than the padded "
                f"input {n} + {before} + {after}"
            )
        count = (-(-steps // s) if ceil_mode else steps // s) + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1  # the last window would start behind the input and its front padding
        _refuse_empty_window(n, r, before, s, d, count)
        out.append(count)
    _check_size("the output", batch, channels, *out)
    return PoolGeometry(
        **_lifted(size, window, out, stride, dilation, pads), batch=batch, channels=channels
    )


def _refuse_empty_window(size, window, before, stride, dilation, count):
    """Along one axis: does every window position have a tap inside the input?"""
    for position in _border_positions(before, stride, dilation, count):
        start = position * stride - before
        first = max(0, -(-(-start) // dilation)) if start < 0 else 0  # first tap at or behind 0
        if first >= window or start + first * dilation >= size:
            raise ArgumentValueError(
                f"pooling window {position} on an axis of size {size} would see only padding "
                f"(window {window}, stride {stride}, padding before {before}, dilation {dilation})"
            )


def _border_positions(before, stride, dilation, count):
    """The window positions that say whether all of them see the input.

    In front of it the taps fall in the same way again after ``period`` positions, and fewer of
    them reach the input the further in front the window starts; behind it the last is the worst.
    """
    period = dilation // math.gcd(stride, dilation)
    yield from range(min(count, -(-before // stride), period))
    yield count - 1


@GeometryOf
def im2col_geometry(x_shape, *, window, stride, padding, dilation) -> PoolGeometry:
    """Geometry of im2col: a pool's, but windows that see only padding are allowed."""
    batch, channels, *size = x_shape
    axes = len(size)
    window, stride, pads, dilation = _options(window, stride, padding, dilation, axes)
    conv = conv_geometry(
        (batch, 1, *size), (1, 1, *window), stride=stride, padding=pads, dilation=dilation, groups=1
    )
    _check_size("the columns", batch, channels, *window, *conv.out)
    shared = {name: getattr(conv, name) for name in Window.__dataclass_fields__}
    return PoolGeometry(**shared, batch=batch, channels=channels)
