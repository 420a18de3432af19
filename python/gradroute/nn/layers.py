"""One class a layer.  A layer owns its options and parameters, and remembers nothing of a call.

    y, kept = layer.forward(x)                  # kept: what backward needs of this call, no more
    dx, gradients = layer.backward(dy, kept)    # gradients: {"w": dw, "b": db}

So a layer can be run by itself, as often as wanted, without disturbing the network it is in.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

import gradroute as gr
from gradroute.errors import ArgumentValueError
from gradroute.options import integer, padding_pairs, per_axis
from gradroute.kernels.contract import ACTIVATIONS, SLOPE_FROM_OUTPUT

from .base import Layer, choice, flag

_LAYOUTS = ("channels_first", "channels_last")


def _window(window) -> tuple[int, ...]:
    """An integer is a square window over two axes; a sequence has one length per axis."""
    axes = len(window) if hasattr(window, "__len__") and np.ndim(window) else 2
    if not 1 <= axes <= 3:
        raise ArgumentValueError(f"window must have one to three lengths, got {window!r}")
    return per_axis(window, "window", axes, at_least=1)


# ---- layers with weights ------------------------------------------------------------------


class _Weighted(Layer):
    """w and, where ``bias``, b of one entry per output.  Backward needs x and w."""

    def __init__(self, inputs, outputs, *shown, bias, **options):
        super().__init__(inputs, outputs, *shown, **options)
        self.inputs, self.outputs = inputs, outputs
        self.bias = flag(bias, "bias")

    @abstractmethod
    def _w_shape(self):
        """The shape of w."""

    def shapes(self):
        return {"w": self._w_shape(), **({"b": (self.outputs,)} if self.bias else {})}

    def forward(self, x, keep=True):
        w, b = self.parameters["w"], self.parameters.get("b")
        return getattr(gr, self.kind)(x, w, b, **self.options), ((x,) if keep else None)

    def backward(self, dy, kept, need_dx=True):
        need = (*(("x",) if need_dx else ()), *self.parameters)
        function = getattr(gr, f"{self.kind}_backward")
        dx, dw, db = function(dy, *kept, self.parameters["w"], need=need, **self.options)
        return dx, {"w": dw, "b": db} if self.bias else {"w": dw}

    def __repr__(self):
        return super().__repr__() if self.bias else f"{super().__repr__()[:-1]}, bias=False)"


class Linear(_Weighted):
    """y = gr.linear(x, w, b) over x's last axis: w is (out_features, in_features).  Keeps x.

    >>> import gradroute as gr
    >>> gr.nn.Linear(128, 10).shapes()
    {'w': (10, 128), 'b': (10,)}
    """

    kind = "linear"

    def __init__(self, in_features, out_features, *, bias=True):
        super().__init__(
            integer(in_features, "in_features", at_least=1),
            integer(out_features, "out_features", at_least=1),
            bias=bias,
        )

    def _w_shape(self):
        return (self.outputs, self.inputs)

    @property
    def fan_in(self):
        return float(self.inputs)


class _Convolution(_Weighted):
    def __init__(self, in_channels, out_channels, window, *, bias, **options):
        self.window = _window(window)
        super().__init__(
            integer(in_channels, "in_channels", at_least=1),
            integer(out_channels, "out_channels", at_least=1),
            self.window,
            bias=bias,
            **options,
        )
        choice(options["layout"], "layout", _LAYOUTS)
        self.groups = integer(options["groups"], "groups", at_least=1)
        for name, channels in (("in_channels", self.inputs), ("out_channels", self.outputs)):
            if channels % self.groups:
                raise ArgumentValueError(
                    f"groups must divide the channels: {name} is {channels}, groups={self.groups}"
                )
        for name in ("stride", "dilation"):
            per_axis(options[name], name, len(self.window), at_least=1)
        padding_pairs(options["padding"], len(self.window))


class Conv(_Convolution):
    """y = gr.conv(x, w, b): w is (out_channels, in_channels / groups, *window), b (out_channels,).

    ``window`` is one integer for a square 2-D window, or one length per spatial axis: (3,) for
    1-D, (3, 3, 3) for 3-D.  The other options are those of `gradroute.conv`.  It keeps x for
    backward.  Raises ArgumentValueError or ArgumentTypeError for options that cannot be used.

    >>> import gradroute as gr
    >>> gr.nn.Conv(3, 8, 3, padding=1).shapes()
    {'w': (8, 3, 3, 3), 'b': (8,)}
    """

    kind = "conv"

    def __init__(
        self, in_channels, out_channels, window, *, stride=1, padding=0, dilation=1, groups=1,
        bias=True, layout="channels_first",
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, window, bias=bias,
            stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout,
        )  # fmt: skip

    def _w_shape(self):
        return (self.outputs, self.inputs // self.groups, *self.window)

    @property
    def fan_in(self):
        return float(math.prod(self._w_shape()[1:]))


class ConvTranspose(_Convolution):
    """y = gr.conv_transpose(x, w, b): w is (in_channels, out_channels / groups, *window).

    ``window`` and the other options are read as in `Conv`; it keeps x for backward.

    >>> import gradroute as gr
    >>> gr.nn.ConvTranspose(8, 4, 2, stride=2).shapes()
    {'w': (8, 4, 2, 2), 'b': (4,)}
    """

    kind = "conv_transpose"

    def __init__(
        self, in_channels, out_channels, window, *, stride=1, padding=0, output_padding=0,
        dilation=1, groups=1, bias=True, layout="channels_first",
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, window, bias=bias, stride=stride, padding=padding,
            output_padding=output_padding, dilation=dilation, groups=groups, layout=layout,
        )  # fmt: skip
        per_axis(output_padding, "output_padding", len(self.window), at_least=0)

    def _w_shape(self):
        return (self.inputs, self.outputs // self.groups, *self.window)

    @property
    def fan_in(self):
        # of the taps along an axis only every stride-th reaches one output
        strides = per_axis(self.options["stride"], "stride", len(self.window), at_least=1)
        taps = math.prod(max(r / s, 1.0) for r, s in zip(self.window, strides))
        return self.inputs // self.groups * taps


# ---- layers without weights ---------------------------------------------------------------


class _Pool(Layer):
    def __init__(self, window, **options):
        super().__init__(window, **options)
        self.window = window
        choice(options["layout"], "layout", _LAYOUTS)
        flag(options["ceil_mode"], "ceil_mode")


class MaxPool(_Pool):
    """y = gr.max_pool(x, window)[0]; keeps the winners (a byte each) and x's shape, not x.

    The options are those of `gradroute.max_pool`; stride None is the window.

    >>> import gradroute as gr
    >>> gr.nn.MaxPool(2).options["ties"]
    'first'
    """

    kind = "max_pool"

    def __init__(
        self, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
        layout="channels_first", ties="first", nan="propagate",
    ):  # fmt: skip
        super().__init__(
            window, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
            layout=layout, ties=choice(ties, "ties", ("first", "last")),
            nan=choice(nan, "nan", ("propagate", "omit")),
        )  # fmt: skip

    def forward(self, x, keep=True):
        y, winner = gr.max_pool(x, self.window, winner=keep, **self.options)
        return y, ((winner, x.shape) if keep else None)

    def backward(self, dy, kept, need_dx=True):
        if not need_dx:
            return None, {}
        geometry = {k: v for k, v in self.options.items() if k not in ("ties", "nan")}
        return gr.max_pool_backward(dy, *kept, self.window, **geometry), {}


class AvgPool(_Pool):
    """y = gr.avg_pool(x, window); keeps x's shape only.

    The options are those of `gradroute.avg_pool`; stride None is the window.

    >>> import gradroute as gr
    >>> gr.nn.AvgPool(2).options["count_include_pad"]
    True
    """

    kind = "avg_pool"

    def __init__(
        self, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
        count_include_pad=True, layout="channels_first",
    ):  # fmt: skip
        super().__init__(
            window, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
            count_include_pad=flag(count_include_pad, "count_include_pad"), layout=layout,
        )  # fmt: skip

    def forward(self, x, keep=True):
        return gr.avg_pool(x, self.window, **self.options), ((x.shape,) if keep else None)

    def backward(self, dy, kept, need_dx=True):
        if not need_dx:
            return None, {}
        return gr.avg_pool_backward(dy, *kept, self.window, **self.options), {}


class Activation(Layer):
    """y = gr.activate(x, name); keeps y alone where the slope is a function of y, else x alone.

    >>> import gradroute as gr
    >>> gr.nn.Activation("relu")
    Activation('relu')
    """

    kind = "activate"

    def __init__(self, name):
        super().__init__(name)
        self.name = choice(name, "name", ACTIVATIONS)
        self._keeps = "y" if name in SLOPE_FROM_OUTPUT else "x"

    def forward(self, x, keep=True):
        y = gr.activate(x, self.name)
        return y, ((y if self._keeps == "y" else x,) if keep else None)

    def backward(self, dy, kept, need_dx=True):
        if not need_dx:
            return None, {}
        return gr.activate_backward(dy, self.name, **{self._keeps: kept[0]}), {}


class Flatten(Layer):
    """(N, ...) -> (N, the product of the rest), in row-major order of the layout at hand.

    >>> import gradroute as gr
    >>> gr.nn.Flatten()
    Flatten()
    """

    kind = "flatten"

    def forward(self, x, keep=True):
        if x.ndim < 1:
            raise ArgumentValueError("x must have a batch axis, got a 0-d array")
        y = x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 would not do for an empty batch
        return y, ((x.shape,) if keep else None)

    def backward(self, dy, kept, need_dx=True):
        return (dy.reshape(kept[0]) if need_dx else None), {}
