"""The table of what is refused: a call that makes one mistake, and the words its message needs.

Every row is (what is wrong, words, call); ``call(out)`` gets an array that nothing may be written
to, of the shape and dtype that the correct call would fill.
"""

import numpy as np

import gradroute as gr

X = np.linspace(-1, 1, 2 * 4 * 6 * 7).reshape(2, 4, 6, 7)
W = np.linspace(-1, 1, 3 * 4 * 3 * 3).reshape(3, 4, 3, 3)
B = np.zeros(3)
Y = np.ones((2, 3, 4, 5))
POOLED = np.ones((2, 4, 3, 3))
WINNER = np.zeros((2, 4, 3, 3), np.uint8)
LOGITS = np.zeros((3, 5))
LABELS = np.array([0, 4, 2])


def _conv(words, what, *arrays, **options):
    return (f"conv: {what}", words, Y.shape,
            lambda out: gr.conv(*(arrays or (X, W)), **options, out=out))  # fmt: skip


def _transposed(words, what, *arrays, **options):
    return (f"conv_transpose: {what}", words, (2, 2, 8, 9),
            lambda out: gr.conv_transpose(*(arrays or (X, np.ones((4, 2, 3, 3)))), **options,
                                          out=out))  # fmt: skip


def _pool(words, what, window=2, x=X, **options):
    return (f"avg_pool: {what}", words, POOLED.shape,
            lambda out: gr.avg_pool(x, window, **options, out=out))  # fmt: skip


def _max_pool(words, what, window=2, x=X, **options):
    return (f"max_pool: {what}", words, POOLED.shape,
            lambda out: gr.max_pool(x, window, **options, out=(out, None)))  # fmt: skip


def _back(words, what, dy=POOLED, winner=WINNER, x_shape=X.shape, window=2, **options):
    return (f"max_pool_backward: {what}", words, X.shape,
            lambda out: gr.max_pool_backward(dy, winner, x_shape, window, **options,
                                             out=out))  # fmt: skip


def _scatter(words, what, index, src=None, **options):
    """The out that must stay is scatter_add's own first argument."""
    src = np.ones((3, 4)) if src is None else src
    return (f"scatter_add: {what}", words, (5, 4),
            lambda out: gr.scatter_add(out, index, src, **options))  # fmt: skip


def _loss(words, what, logits=LOGITS, labels=LABELS):
    return (f"softmax_cross_entropy: {what}", words, LOGITS.shape,
            lambda out: gr.softmax_cross_entropy(logits, labels, out=(None, out)))  # fmt: skip


def _other(words, what, shape, call):
    return (what, words, shape, call)


def _bad(array, where, value):
    array = array.copy()
    array[where] = value
    return array


CONV = [
    _conv(["x"], "an unbatched image", X[0], W),
    _conv(["x"], "six axes", np.ones((1, 1, 1, 1, 1, 1)), W),
    _conv(["w"], "w of another rank", X, W[0]),
    _conv(["w", "4", "5"], "channel mismatch", X, np.ones((3, 5, 3, 3))),
    _conv(["groups"], "groups that do not divide the channels", X, W, groups=3),
    _conv(["groups"], "groups that do not divide the filters", X, np.ones((3, 2, 3, 3)), groups=2),
    _conv(["groups"], "no groups", groups=0),
    _conv(["groups"], "negative groups", groups=-1),
    _conv(["groups"], "groups as a bool", groups=True),
    _conv(["groups"], "groups as a float", groups=1.0),
    _conv(["b"], "a bias of the wrong length", X, W, np.zeros(4)),
    _conv(["b"], "a bias of the wrong rank", X, W, np.zeros((1, 3))),
    _conv(["window", "9"], "a window larger than the input", X, np.ones((3, 4, 9, 3))),
    _conv(["window"], "a dilated window larger than the input", dilation=3),
    _conv(["stride"], "stride zero", stride=0),
    _conv(["stride"], "stride negative", stride=(1, -2)),
    _conv(["stride"], "stride as a bool", stride=True),
    _conv(["stride"], "stride as a float", stride=2.0),
    _conv(["stride"], "stride as text", stride="2"),
    _conv(["stride"], "stride None", stride=None),
    _conv(["stride"], "one stride too many", stride=(1, 1, 1)),
    _conv(["stride"], "a nested stride", stride=((1, 1), (1, 1))),
    _conv(["dilation"], "dilation zero", dilation=0),
    _conv(["dilation"], "one dilation for two axes", dilation=(1,)),
    _conv(["padding"], "padding negative", padding=-1),
    _conv(["padding"], "one negative side", padding=((0, 1), (-1, 0))),
    _conv(["padding"], "padding as a bool", padding=False),
    _conv(["padding"], "an unknown padding", padding="full"),
    _conv(["padding"], "four numbers", padding=(1, 1, 1, 1)),
    _conv(["padding"], "three sides", padding=((1, 1, 1), (1, 1, 1))),
    _conv(["padding"], "one pair for two axes", padding=((1, 1),)),
    _conv(["padding"], "padding None", padding=None),
    _conv(["layout"], "an unknown layout", layout="NCHW"),
    _conv(["layout"], "no layout", layout=None),
    _conv(["layout"], "a layout as an array", layout=np.array([1, 2])),
    _conv(["64 bits"], "positions beyond 64 bits", padding="same", dilation=2**62),
    _conv(["64 bits"], "a stride that overflows with the image", stride=2**63 - 1),
    _conv(["64 bits"], "a result beyond 64 bits", padding=2**40),
    _conv(["x"], "an empty spatial axis", np.ones((2, 4, 0, 7)), W),
    _conv(["x"], "no channels", np.ones((2, 0, 6, 7)), np.ones((3, 0, 3, 3))),
    _conv(["w"], "no filters", X, np.ones((0, 4, 3, 3))),
    _conv(["x", "int"], "integers", X.astype(np.int64), W),
    _conv(["x", "complex"], "complex numbers", X.astype(complex), W),
    _conv(["x", "object"], "objects", X.astype(object), W),
    _conv(["w", "bool"], "bools", X, W.astype(bool)),
    _conv(["x"], "a list", X.tolist(), W),
    _conv(["w", "astype"], "two dtypes", X, W.astype(np.float32)),
    _other(["dy", "(2, 3, 4, 5)"], "conv_backward: dy of the wrong shape", X.shape,
           lambda out: gr.conv_backward(np.ones((2, 3, 4, 4)), X, W, out=(out, None, None))),
    _other(["need"], "conv_backward: an unknown gradient", X.shape,
           lambda out: gr.conv_backward(Y, X, W, need=("x", "y"), out=(out, None, None))),
    _other(["need"], "conv_backward: need as a number", X.shape,
           lambda out: gr.conv_backward(Y, X, W, need=3, out=(out, None, None))),
    _other(["out"], "conv_backward: an out for what is not needed", X.shape,
           lambda out: gr.conv_backward(Y, X, W, need=("w",), out=(out, None, None))),
    _transposed(["w", "4", "3"], "channel mismatch", X, np.ones((3, 2, 3, 3))),
    _transposed(["output_padding"], "output_padding that reaches the stride", output_padding=1),
    _transposed(["output_padding"], "negative output_padding", output_padding=-1, stride=2),
    _transposed(["padding"], "padding that crops everything", padding=4),
    _transposed(["groups"], "groups that do not divide", groups=3),
    _transposed(["b"], "a bias of the wrong length", X, np.ones((4, 2, 3, 3)), np.ones(4)),
    _other(["cols", "(2, 36, 20)"], "col2im: columns of the wrong shape", X.shape,
           lambda out: gr.col2im(np.ones((2, 36, 21)), X.shape, 3, out=out)),
    _other(["window"], "im2col: a window for too many axes", (2, 36, 20),
           lambda out: gr.im2col(X, (3, 3, 3), out=out)),
    _other(["x_shape"], "col2im: x_shape as a number", X.shape,
           lambda out: gr.col2im(np.ones((2, 36, 20)), 7, 3, out=out)),
]  # fmt: skip

POOL = [
    _pool(["window"], "window zero", 0),
    _pool(["window"], "window as a bool", True),
    _pool(["window"], "one window too many", (2, 2, 2)),
    _pool(["window"], "no window", None),
    _pool(["window"], "a window larger than the padded input", 8),
    _pool(["window", "padding"], "a window that sees only padding in front", 2, padding=2),
    _pool(["window", "padding"], "a window that sees only padding behind", 2,
          padding=((0, 3), (0, 0))),
    _pool(["window", "padding"], "a dilated window whose taps all miss", 2,
          x=np.ones((1, 1, 1, 9)), dilation=(2, 1), padding=((1, 1), (0, 0))),
    _pool(["stride"], "stride zero", stride=0),
    _pool(["stride"], "stride negative", stride=-2),
    _pool(["dilation"], "dilation zero", dilation=0),
    _pool(["ceil_mode"], "ceil_mode as a number", ceil_mode=1),
    _pool(["count_include_pad"], "count_include_pad as text", count_include_pad="no"),
    _pool(["x"], "an unbatched image", x=X[0, 0]),
    _pool(["x", "int"], "integers", x=X.astype(int)),
    _max_pool(["ties"], "an unknown rule for ties", ties="both"),
    _max_pool(["nan"], "an unknown rule for NaN", nan="ignore"),
    _max_pool(["winner"], "winner as a number", winner=1),
    _max_pool(["window", "padding"], "a window that sees only padding", padding=2),
    _max_pool(["x", "uint8"], "8-bit integers", x=X.astype(np.uint8)),
    _other(["out"], "max_pool: an out for the winner that is not wanted", POOLED.shape,
           lambda out: gr.max_pool(X, 2, winner=False, out=(out, WINNER.copy()))),
    _back(["dy", "(2, 4, 3, 3)"], "dy of the wrong shape", dy=np.ones((2, 4, 3, 4))),
    _back(["winner"], "a winner of the wrong shape", winner=WINNER[..., :2]),
    _back(["winner"], "a float winner", winner=WINNER.astype(float)),
    _back(["winner"], "a bool winner", winner=WINNER.astype(bool)),
    _back(["winner", "window"], "a winner outside its window",
          winner=_bad(WINNER, (1, 3, 2, 1), 4)),
    _back(["winner"], "a winner far outside", winner=_bad(WINNER, (0, 0, 0, 0), 255)),
    _back(["winner"], "a negative winner",
          winner=_bad(WINNER.astype(np.int64), (1, 0, 2, 2), -1)),
    _back(["winner"], "a winner that would wrap to a tap",
          winner=_bad(WINNER.astype(np.int64), (1, 0, 2, 2), 256)),
    _back(["winner", "padding"], "a winner on padding", dy=np.ones((2, 4, 4, 4)), padding=1,
          winner=np.zeros((2, 4, 4, 4), np.uint8)),
    _back(["x_shape"], "x_shape without channels", x_shape=(6, 7)),
    _back(["x_shape"], "a negative x_shape", x_shape=(2, 4, -6, 7)),
    _back(["x_shape"], "a float x_shape", x_shape=(2, 4, 6.0, 7)),
    _other(["index"], "index_to_winner: an index outside its window", None,
           lambda out: gr.index_to_winner(_bad(WINNER.astype(int), ..., 41), X.shape, 2)),
    _other(["index"], "index_to_winner: a negative index", None,
           lambda out: gr.index_to_winner(_bad(WINNER.astype(int), ..., -1), X.shape, 2)),
    _other(["index"], "index_to_winner: a float index", None,
           lambda out: gr.index_to_winner(WINNER.astype(float), X.shape, 2)),
    _other(["winner"], "max_unpool: a winner outside its window", X.shape,
           lambda out: gr.max_unpool(POOLED, _bad(WINNER, (0, 1, 0, 2), 9), X.shape, 2, out=out)),
    _other(["dx"], "max_unpool_backward: dx of the wrong shape", POOLED.shape,
           lambda out: gr.max_unpool_backward(X[:1], WINNER, X.shape, 2, out=out)),
    _other(["dy"], "avg_pool_backward: dy of the wrong shape", X.shape,
           lambda out: gr.avg_pool_backward(POOLED[:1], X.shape, 2, out=out)),
]  # fmt: skip

FAR = np.broadcast_to(np.ones((1, 1)), (2**40, 1))

OTHERS = [
    _other(["64 bits"], "matmul: a product beyond 64 bits", None,
           lambda out: gr.matmul(FAR, FAR.T)),
    _other(["a", "b"], "matmul: inner sizes that differ", (2, 4),
           lambda out: gr.matmul(np.ones((2, 3)), np.ones((4, 4)), out=out)),
    _other(["a"], "matmul: a number", (2, 4), lambda out: gr.matmul(np.ones(()), np.ones((3, 4)),
                                                                    out=out)),
    _other(["broadcast"], "matmul: batch axes that do not broadcast", (2, 2, 4),
           lambda out: gr.matmul(np.ones((2, 2, 3)), np.ones((3, 3, 4)), out=out)),
    _other(["dy"], "matmul_backward: dy of the wrong shape", (2, 3),
           lambda out: gr.matmul_backward(np.ones((2, 5)), np.ones((2, 3)), np.ones((3, 4)),
                                          out=(out, None))),
    _other(["w"], "linear: features that differ", (2, 4),
           lambda out: gr.linear(np.ones((2, 3)), np.ones((4, 5)), out=out)),
    _other(["w"], "linear: w of the wrong rank", (2, 4),
           lambda out: gr.linear(np.ones((2, 3)), np.ones(3), out=out)),
    _other(["b"], "linear: a bias of the wrong length", (2, 4),
           lambda out: gr.linear(np.ones((2, 3)), np.ones((4, 3)), np.ones(3), out=out)),
    _other(["activation"], "linear: an unknown activation", (2, 4),
           lambda out: gr.linear(np.ones((2, 3)), np.ones((4, 3)), activation="swish", out=out)),
    _other(["activate_backward", "x="], "linear_backward: gelu, whose slope is not in y", (2, 3),
           lambda out: gr.linear_backward(np.ones((2, 4)), np.ones((2, 3)), np.ones((4, 3)),
                                          y=np.ones((2, 4)), activation="gelu",
                                          out=(out, None, None))),
    _other(["y"], "linear_backward: no y for the slope", (2, 3),
           lambda out: gr.linear_backward(np.ones((2, 4)), np.ones((2, 3)), np.ones((4, 3)),
                                          activation="relu", out=(out, None, None))),
    _other(["activation"], "activate: an unknown name", (3,),
           lambda out: gr.activate(np.ones(3), "swish", out=out)),
    _other(["activation"], "activate: no name", (3,),
           lambda out: gr.activate(np.ones(3), None, out=out)),
    _other(["x", "y"], "activate_backward: neither x nor y", (3,),
           lambda out: gr.activate_backward(np.ones(3), "relu", out=out)),
    _other(["x"], "activate_backward: gelu from y", (3,),
           lambda out: gr.activate_backward(np.ones(3), "gelu", y=np.ones(3), out=out)),
    _other(["x", "(3,)"], "activate_backward: x of another shape", (3,),
           lambda out: gr.activate_backward(np.ones(3), "relu", x=np.ones(4), out=out)),
    _loss(["labels", "5"], "a label out of range", labels=np.array([0, 5, 1])),
    _loss(["labels"], "a negative label", labels=np.array([0, -1, 1])),
    _loss(["labels"], "a huge label", labels=np.array([0, 2**64 - 1, 1], np.uint64)),
    _loss(["labels"], "float labels", labels=np.zeros(3)),
    _loss(["labels"], "one label too few", labels=LABELS[:2]),
    _loss(["labels"], "one-hot labels", labels=np.zeros((3, 5), int)),
    _loss(["logits"], "logits of three axes", logits=np.zeros((3, 5, 2))),
    _scatter(["index", "5"], "an index out of range", np.array([0, 5, 1])),
    _scatter(["index"], "an index too far below zero", np.array([0, 1, -6])),
    _scatter(["index"], "a huge index", np.array([0, 1, 2**63], np.uint64)),
    _scatter(["index"], "a float index", np.array([0.0, 1.0, 2.0])),
    _scatter(["index"], "a bool index", np.array([True, False, True])),
    _scatter(["index"], "an index as a list", [0, 1, 2]),
    _scatter(["src", "(3, 4)"], "src of the wrong shape", np.array([0, 1, 2]), np.ones((3, 5))),
    _scatter(["src"], "src of another dtype", np.array([0, 1, 2]), np.ones((3, 4), np.float32)),
    _scatter(["axis"], "an axis that out does not have", np.array([0, 1, 2]), axis=2),
    _scatter(["axis"], "axis as a float", np.array([0, 1, 2]), axis=0.0),
    _scatter(["axis"], "axis as a bool", np.array([0, 1, 2]), axis=False),
    _scatter(["mode"], "mode as an array", np.array([0, 1, 2]), mode=np.array([], int)),
    _scatter(["mode"], "an unknown mode", np.array([0, 1, 2]), mode="ignore"),
    _other(["operation"], "plan: an unknown operation", None,
           lambda out: gr.plan("convolve", X, W)),
    _other(["plan"], "plan: an option that the operation does not have", None,
           lambda out: gr.plan("conv", X, W, strides=2)),
]  # fmt: skip

BAD_INPUTS = [*CONV, *POOL, *OTHERS]
