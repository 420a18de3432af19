"""A random call of a random public function, with arguments that fit together."""

import math

import numpy as np
from calls import PublicCall
from oracle import pool_windows, transpose_windows, windows
from values import LAYOUTS, shape_in

import gradroute as gr
from gradroute.errors import ArgumentValueError
from gradroute.geometry import pool_geometry
from gradroute.kernels.contract import ACTIVATIONS, SLOPE_FROM_OUTPUT

#: one call in so many is large enough for several threads and the blocked algorithms
LARGE = 25


def between(rng, low, high):
    """low..high, the small ones more often."""
    return low + int((high + 1 - low) * rng.random() ** 1.5)


def chance(rng, share):
    return bool(rng.random() < share)


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


# ---- windows ------------------------------------------------------------------------------


def _axes(rng, large):
    """Sizes and options of one to three spatial axes on which the window fits."""
    rank = pick(rng, 1, 2, 2, 2, 3)
    most = ({1: 400, 2: 40, 3: 12} if large else {1: 24, 2: 10, 3: 6})[rank]
    plain = chance(rng, 0.4)  # 3x3, stride 1 and the like: what the special kernels serve
    size, window, stride, dilation, padding = [], [], [], [], []
    common = pick(rng, 1, 2, 3, 3, 3, 5), pick(rng, 1, 1, 2), pick(rng, 0, 1, 1, 2)
    for _ in range(rank):
        r, s, p = common if plain else (between(rng, 1, 5), between(rng, 1, 4), 0)
        d = 1 if plain else pick(rng, 1, 1, 2, 3)
        pads = (p, p) if plain else (between(rng, 0, 3), between(rng, 0, 3))
        least = max(1, (r - 1) * d + 1 - sum(pads))
        size.append(between(rng, least, max(least, most)))
        window.append(r), stride.append(s), dilation.append(d), padding.append(pads)
    if chance(rng, 0.1) and all(
        n >= (r - 1) * d + 1 or s <= n for n, r, s, d in zip(size, window, stride, dilation)
    ):
        padding = "same"
    return tuple(size), tuple(window), {
        "stride": _form(rng, stride), "dilation": _form(rng, dilation), "padding": _pads(padding),
    }  # fmt: skip


def _form(rng, values):
    """The same option as callers write it: an integer, a tuple, a list, NumPy's integers."""
    if len(set(values)) == 1 and chance(rng, 0.5):
        return pick(rng, values[0], np.int64(values[0]))
    return pick(rng, tuple(values), tuple(values), list(values), np.array(values))


def _pads(padding):
    if isinstance(padding, str) or not all(a == b for a, b in padding):
        return padding if isinstance(padding, str) else tuple(padding)
    return tuple(a for a, _ in padding)


def _channels(rng, large):
    """groups, input and output channels of one group."""
    if chance(rng, 0.15):  # depthwise
        return between(rng, 1, 40 if large else 9), 1, pick(rng, 1, 1, 2)
    groups = pick(rng, 1, 1, 1, 2, 3)
    most = 48 if large else 9
    return groups, between(rng, 1, most), between(rng, 1, most)


def _need(rng, options, names):
    if chance(rng, 0.2):
        options["need"] = tuple(name for name in names if chance(rng, 0.5))
    return options


def conv(rng, large):
    size, window, options = _axes(rng, large)
    groups, own, out = _channels(rng, large)
    options |= {"groups": groups, "layout": pick(rng, *LAYOUTS)}
    batch, layout = between(rng, 0 if chance(rng, 0.05) else 1, 3), options["layout"]
    x, w = (batch, groups * own, *size), (groups * out, own, *window)
    result = windows(size, window, **_only_windows(options)).out
    return _forward_or_back(rng, ("conv", gr.conv, gr.conv_backward), layout, x, w,
                            (batch, groups * out, *result), groups * out, options)  # fmt: skip


def conv_transpose(rng, large):
    size, window, options = _axes(rng, large)
    groups, own, out = _channels(rng, large)
    plain = {name: np.broadcast_to(options[name], len(size)) for name in ("stride", "dilation")}
    extra, pads = [], []
    for n, r, s, d in zip(size, window, plain["stride"], plain["dilation"]):
        extra.append(between(rng, 0, max(s, d) - 1))
        left = int((n - 1) * s + (r - 1) * d + extra[-1])
        before = between(rng, 0, min(left, 3))
        pads.append((before, between(rng, 0, min(left - before, 3))))
    options |= {"groups": groups, "layout": pick(rng, *LAYOUTS), "output_padding": tuple(extra)}
    if options["padding"] != "same":
        options["padding"] = tuple(pads)
    batch, layout = between(rng, 1, 3), options["layout"]
    x, w = (batch, groups * own, *size), (groups * own, out, *window)
    result = transpose_windows(size, window, **_only_windows(options)).size
    pair = ("conv_transpose", gr.conv_transpose, gr.conv_transpose_backward)
    return _forward_or_back(rng, pair, layout, x, w, (batch, groups * out, *result),
                            groups * out, options)  # fmt: skip


def _only_windows(options):
    return {k: v for k, v in options.items() if k not in ("groups", "layout")}


def _forward_or_back(rng, pair, layout, x, w, y, features, options):
    name, forward, back = pair
    x, y = shape_in(x, layout), shape_in(y, layout)
    if chance(rng, 0.4):
        floats = {"x": x, "w": w} | ({"b": (features,)} if chance(rng, 0.5) else {})
        return _call(name, forward, floats, **options)
    options = _need(rng, options, ("x", "w", "b"))
    return _call(f"{name}_backward", back, {"dy": y, "x": x, "w": w}, **options)


def _call(name, function, floats, rest=(), integers=None, **options):
    return PublicCall(name, function, floats, integers or {}, rest, tuple(options.items()))


def columns(rng, large):
    size, window, options = _axes(rng, large)
    options["layout"] = layout = pick(rng, *LAYOUTS)
    batch, channels = between(rng, 1, 3), between(rng, 1, 8)
    x = shape_in((batch, channels, *size), layout)
    if chance(rng, 0.5):
        return _call("im2col", gr.im2col, {"x": x}, (_form(rng, window),), **options)
    places = math.prod(windows(size, window, **_only_windows(options)).out)
    pair = channels * math.prod(window), places
    cols = (batch, *(pair if layout == LAYOUTS[0] else pair[::-1]))
    return _call("col2im", gr.col2im, {"cols": cols}, (x, _form(rng, window)), **options)


# ---- pools --------------------------------------------------------------------------------


def _pooling(rng, large):
    while True:
        size, window, options = _axes(rng, large)
        options["ceil_mode"] = chance(rng, 0.3)
        if chance(rng, 0.2):
            options["stride"] = None
        x = (between(rng, 0 if chance(rng, 0.05) else 1, 3), between(rng, 1, 8), *size)
        try:  # every window has to see something
            pool_geometry(x, window=window, **options)
        except ArgumentValueError:
            continue
        out = pool_windows(size, window, **options).out
        layout = options["layout"] = pick(rng, *LAYOUTS)
        return shape_in(x, layout), _form(rng, window), shape_in((*x[:2], *out), layout), options


def max_pool(rng, large):
    x, window, _, options = _pooling(rng, large)
    options |= {"ties": pick(rng, "first", "last"), "nan": pick(rng, "propagate", "omit")}
    options["winner"] = chance(rng, 0.8)
    return _call("max_pool", gr.max_pool, {"x": x}, (window,), **options)


def winners(rng, large):
    """The functions that take a winner: here that of some random image."""
    x, window, y, options = _pooling(rng, large)
    with gr.config(backend="reference"):
        image = rng.integers(0, 4, x).astype(np.float64)
        winner = gr.max_pool(image, window, ties=pick(rng, "first", "last"), **options)[1]
        index = gr.winner_to_index(winner, x, window, **options)
    name, floats = pick(
        rng, ("max_pool_backward", {"dy": y}), ("max_pool_backward", {"dy": y}),
        ("max_unpool", {"y": y}), ("max_unpool_backward", {"dx": x}),
        ("winner_to_index", {}), ("index_to_winner", {}),
    )  # fmt: skip
    taken = {"index": index} if name == "index_to_winner" else {"winner": winner}
    taken = {key: a.astype(pick(rng, a.dtype, np.int64, np.uint32)) for key, a in taken.items()}
    return _call(name, getattr(gr, name), floats, (x, window), taken, **options)


def avg_pool(rng, large):
    x, window, y, options = _pooling(rng, large)
    options["count_include_pad"] = chance(rng, 0.5)
    if chance(rng, 0.5):
        return _call("avg_pool", gr.avg_pool, {"x": x}, (window,), **options)
    return _call("avg_pool_backward", gr.avg_pool_backward, {"dy": y}, (x, window), **options)


# ---- the rest -----------------------------------------------------------------------------


def matmul(rng, large):
    most = 120 if large else 20
    batch = [between(rng, 0 if chance(rng, 0.05) else 1, 4) for _ in range(between(rng, 0, 2))]
    i, inner, j = (between(rng, 0 if chance(rng, 0.1) else 1, most) for _ in range(3))

    def side(ends):
        axes = [n if chance(rng, 0.7) else 1 for n in batch]
        return (*axes[between(rng, 0, len(axes)) :], *ends)

    a = (inner,) if chance(rng, 0.1) else side((i, inner))
    b = (inner,) if chance(rng, 0.1) else side((inner, j))
    if chance(rng, 0.5):
        return _call("matmul", gr.matmul, {"a": a, "b": b})
    dy = np.matmul(np.empty(a, np.int8), np.empty(b, np.int8)).shape
    options = _need(rng, {}, ("a", "b"))
    return _call("matmul_backward", gr.matmul_backward, {"dy": dy, "a": a, "b": b}, **options)


def linear(rng, large):
    most = 150 if large else 20
    least = 0 if chance(rng, 0.05) else 1
    lead = tuple(between(rng, least, most // 5) for _ in range(pick(rng, 0, 1, 1, 2)))
    inner, features = between(rng, 1, most), between(rng, 1, most)
    name = pick(rng, None, *ACTIVATIONS)
    x, w, y = (*lead, inner), (features, inner), (*lead, features)
    if chance(rng, 0.5):
        floats = {"x": x, "w": w} | ({"b": (features,)} if chance(rng, 0.5) else {})
        return _call("linear", gr.linear, floats, activation=name)
    name = name if name in SLOPE_FROM_OUTPUT else None
    floats = {"dy": y, "x": x, "w": w} | ({"y": y} if name else {})
    options = _need(rng, {"activation": name}, ("x", "w", "b"))
    return _call("linear_backward", gr.linear_backward, floats, **options)


def scatter_add(rng, large):
    out = tuple(between(rng, 1, 30 if large else 7) for _ in range(between(rng, 1, 3)))
    index = tuple(between(rng, 0, 100 if large else 7) for _ in range(between(rng, 0, 2)))
    axis, mode = int(rng.integers(-len(out), len(out))), pick(rng, "raise", "wrap", "clip")
    size, at = out[axis], axis % len(out)
    low, high = (-size, size) if mode == "raise" else (-3 * size, 3 * size)
    kind = pick(rng, np.int64, np.int64, np.int32, np.int16)
    names = np.asarray(rng.integers(low, high, index)).astype(kind)
    src = (*out[:at], *index, *out[at + 1 :])
    return _call("scatter_add", gr.scatter_add, {"out": out, "src": src}, (), {"index": names},
                 axis=axis, mode=mode)  # fmt: skip


def activation(rng, large):
    most = 60 if large else 9
    shape = tuple(between(rng, 0, most) for _ in range(between(rng, 0, 3)))
    name = pick(rng, *ACTIVATIONS)
    if chance(rng, 0.5):
        return _call("activate", gr.activate, {"x": shape}, (name,))
    saved = pick(rng, "x", "y") if name in SLOPE_FROM_OUTPUT else "x"
    return _call("activate_backward", gr.activate_backward, {"dy": shape, saved: shape}, (name,))


def loss(rng, large):
    rows, classes = between(rng, 1, 300 if large else 9), between(rng, 1, 12)
    labels = rng.integers(0, classes, rows).astype(pick(rng, np.int64, np.int32, np.uint8))
    return _call("softmax_cross_entropy", gr.softmax_cross_entropy, {"logits": (rows, classes)}, (),
                 {"labels": labels})  # fmt: skip


FAMILIES = (conv, conv, conv, conv_transpose, columns, max_pool, winners, winners, avg_pool,
            matmul, matmul, linear, scatter_add, activation, loss)  # fmt: skip


def draw(rng):
    """(call, whether it is a large one)"""
    large = int(rng.integers(LARGE)) == 0
    return pick(rng, *FAMILIES)(rng, large), large
