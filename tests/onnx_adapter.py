"""ONNX operators expressed through gradroute's functions.

What ONNX words differently is translated here: auto_pad, output_shape, storage_order, the
transposes and factors of Gemm, indices that count over the whole array.
"""

import numpy as np
import onnx

import gradroute as gr


def attributes(node):
    """The node's attributes; text as str."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def run(graph, inputs):
    """The graph's outputs, node by node."""
    values = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    names = [i.name for i in graph.input if i.name not in values]
    values.update(zip(names, inputs, strict=True))
    for node in graph.node:
        arguments = [values[name] if name else None for name in node.input]
        results = _OPERATORS[node.op_type](attributes(node), arguments, len(node.output))
        values.update(zip(node.output, results))
    return [values[output.name] for output in graph.output]


# ---- padding ------------------------------------------------------------------------------


def _pairs(pads):
    """[before..., after...] -> (before, after) per axis"""
    axes = len(pads) // 2
    return tuple(zip(pads[:axes], pads[axes:]))


def _same_lower(size, window, stride, dilation):
    """The odd cell in front."""
    found = []
    for n, r, s, d in zip(size, window, stride, dilation):
        total = max((-(-n // s) - 1) * s + (r - 1) * d + 1 - n, 0)
        found.append((total - total // 2, total // 2))
    return tuple(found)


def _window_options(a, size, window):
    axes = len(size)
    stride, dilation = a.get("strides", [1] * axes), a.get("dilations", [1] * axes)
    padding = _pairs(a.get("pads", [0] * (2 * axes)))
    if a.get("auto_pad") == "SAME_UPPER":
        padding = "same"
    elif a.get("auto_pad") == "SAME_LOWER":
        padding = _same_lower(size, window, stride, dilation)
    return {"stride": stride, "padding": padding, "dilation": dilation}


def _transpose_options(a, size, window):
    """output_shape says how much to crop, or how much to add where nothing is left to crop."""
    axes = len(size)
    stride, dilation = a.get("strides", [1] * axes), a.get("dilations", [1] * axes)
    extra = list(a.get("output_padding", [0] * axes))
    wanted = a.get("output_shape")
    upper = a.get("auto_pad") == "SAME_UPPER"
    if wanted is None and a.get("auto_pad", "NOTSET") != "NOTSET":
        wanted = [n * s for n, s in zip(size, stride)]
    padding = _pairs(a.get("pads", [0] * (2 * axes)))
    if wanted is not None:
        padding = []
        for i, (n, r, s, d) in enumerate(zip(size, window, stride, dilation)):
            total = (n - 1) * s + extra[i] + (r - 1) * d + 1 - wanted[i]
            if total < 0:
                extra[i] -= total
                total = 0
            less = total // 2
            padding.append((less, total - less) if upper else (total - less, less))
    return {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}


# ---- operators ----------------------------------------------------------------------------


def _conv(a, inputs, _):
    x, w, *b = inputs
    options = _window_options(a, x.shape[2:], w.shape[2:])
    return [gr.conv(x, w, *b, groups=a.get("group", 1), **options)]


def _conv_transpose(a, inputs, _):
    x, w, *b = inputs
    options = _transpose_options(a, x.shape[2:], w.shape[2:])
    return [gr.conv_transpose(x, w, *b, groups=a.get("group", 1), **options)]


def _pool_options(a, x):
    options = _window_options(a, x.shape[2:], a["kernel_shape"])
    return {**options, "ceil_mode": bool(a.get("ceil_mode", 0))}


def _max_pool(a, inputs, outputs):
    (x,) = inputs
    options = _pool_options(a, x)
    y, winner = gr.max_pool(x, a["kernel_shape"], **options)
    if outputs == 1:
        return [y]
    index = gr.winner_to_index(winner, x.shape, a["kernel_shape"], **options)
    order = "F" if a.get("storage_order", 0) else "C"
    index = np.ravel_multi_index(np.unravel_index(index, x.shape[2:]), x.shape[2:], order=order)
    planes = np.arange(np.prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    return [y, index + planes * np.prod(x.shape[2:], dtype=int)]


def _max_unpool(a, inputs, _):
    y, index = inputs
    window, stride = a["kernel_shape"], a["strides"]
    size = [(n - 1) * s + r for n, s, r in zip(y.shape[2:], stride, window)]
    shape = (*y.shape[:2], *size)
    index = index % np.prod(size, dtype=int)  # from the whole array to the plane
    winner = gr.index_to_winner(index, shape, window, stride=stride)
    return [gr.max_unpool(y, winner, shape, window, stride=stride)]


def _average_pool(a, inputs, _):
    (x,) = inputs
    include = bool(a.get("count_include_pad", 0))
    return [gr.avg_pool(x, a["kernel_shape"], **_pool_options(a, x), count_include_pad=include)]


def _global_average_pool(_, inputs, __):
    return [gr.avg_pool(inputs[0], inputs[0].shape[2:])]


def _global_max_pool(_, inputs, __):
    return [gr.max_pool(inputs[0], inputs[0].shape[2:], winner=False)[0]]


def _gemm(a, inputs, _):
    one, two, *c = inputs
    one = one.T if a.get("transA") else one
    w = two if a.get("transB") else two.T  # linear takes (out, in)
    one = one * one.dtype.type(a.get("alpha", 1.0))
    c = c[0] * c[0].dtype.type(a.get("beta", 1.0)) if c else None
    if c is None or c.shape == w.shape[:1]:
        return [gr.linear(one, w, c)]
    return [gr.linear(one, w) + c]


def _matmul(_, inputs, __):
    return [gr.matmul(*inputs)]


def _scatter_elements(a, inputs, _):
    data, index, updates = inputs
    places = list(np.indices(index.shape))
    axis = a.get("axis", 0)
    places[axis] = np.where(index < 0, index + data.shape[axis], index)
    flat = np.ravel_multi_index(places, data.shape).reshape(-1)
    out = data.copy()
    gr.scatter_add(out.reshape(-1), flat, updates.reshape(-1))
    return [out]


def _scatter_nd(_, inputs, __):
    data, index, updates = inputs
    return [gr.scatter_add(data.copy(), index[..., 0], updates)]


def _col2im(a, inputs, _):
    cols, size, window = inputs
    channels = cols.shape[1] // int(np.prod(window))
    options = _window_options(a, size, window)
    return [gr.col2im(cols, (len(cols), channels, *size), window, **options)]


def _softmax_cross_entropy(_, inputs, outputs):
    loss, dlogits = gr.softmax_cross_entropy(*inputs)
    labels = inputs[1]
    softmax = dlogits * len(labels)
    softmax[np.arange(len(labels)), labels] += 1
    return [loss, np.log(softmax)][:outputs]


_OPERATORS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Col2Im": _col2im,
    "SoftmaxCrossEntropyLoss": _softmax_cross_entropy,
    # what stands around them in the graphs that came from PyTorch
    "Unsqueeze": lambda a, inputs, _: [np.expand_dims(inputs[0], tuple(a["axes"]))],
    "Squeeze": lambda a, inputs, _: [np.squeeze(inputs[0], tuple(a["axes"]))],
    "Transpose": lambda a, inputs, _: [inputs[0].transpose(a["perm"])],
}
