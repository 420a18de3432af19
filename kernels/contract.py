"""Every kernel's signature, shapes and rules, once.

A backend is a folder beside this file with the modules named in `KERNELS`; each exports exactly
the functions listed there, with exactly these signatures (tests/test_contract.py holds them to
it), and its ``__init__`` exports ``plan(operation, geometry, dtype, settings)`` and
``workspace(plan)``.  The functions below are never called: they are the text to read.

Canonical form.  The ops layer hands every image over with three spatial axes, channels second,
whatever the caller's rank and layout: an axis of length 1 stands in for a missing D or H, and a
channels-last array arrives as a transposed view.  So

    x  (N, C, D, H, W)      dy and y (N, K, Z, P, Q)      w (K, C/G, T, R, S)

with N batch, C input and K output channels, G groups, (D, H, W) input, (T, R, S) window and
(Z, P, Q) output.  Strides are arbitrary: negative, zero (broadcast) or padded.

What a kernel may rely on: arguments were checked, all float arrays share one dtype, arrays are
aligned and in native byte order, outputs do not overlap inputs, every axis of x, w and y except
the batch is at least 1 long.  What it must do: write every element of its outputs and nothing
else, never write to an input, allocate nothing inside a parallel region, and give the same bits
whatever the number of threads.

Every kernel ends in ``plan, workspace``: the `Plan` made for this call, and the scratch memory
that it asked for (a 64-byte-aligned uint8 array of at least ``plan.workspace_bytes``; None for 0).

Value checks (``check_*``) look at the contents of integer arrays.  They return the flat position
of the first bad value, or -1: as an int, or as a 0-d device array where reading it back would
make the host wait.  A kernel that takes ``bad`` receives that result and writes nothing when it
is not -1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Names accepted by gr.activate, in the order of the CUDA and Numba switch statements.
ACTIVATIONS = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "silu")

#: Activations whose slope is a function of their output.
SLOPE_FROM_OUTPUT = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")

#: Slope of leaky_relu below zero, and the scale of elu.
LEAKY_SLOPE = 0.01
ELU_ALPHA = 1.0


@dataclass(frozen=True)
class Plan:
    """How one operation on one geometry will be computed; made without running it.

    ``blocking`` names the sizes the algorithm chose (tile, chunk, split); ``threads`` is the
    number of threads the kernel may use, 1 for problems too small to share.
    """

    backend: str
    operation: str
    algorithm: str
    workspace_bytes: int = 0
    threads: int = 1
    blocking: dict = field(default_factory=dict, hash=False)


# ---- conv ---------------------------------------------------------------------------------


def conv_forward(y, x, w, b, geometry, plan, workspace):
    """y[n,k,z,p,q] = b[k] + sum over c,t,r,s of w[k,c,t,r,s] * x[n, g*C/G + c, ...].

    The input position on each axis is ``o*stride - before + tap*dilation``; outside the image it
    reads as zero (and 0 * inf is not computed there).  b is (K,) or None.  Geometry: ConvGeometry.
    """


def conv_dx(dx, dy, w, b, geometry, plan, workspace):
    """dx[n,c,...] = b[c] + the sum of dy * w over every output that read that input.

    b is (C,) or None: with it this is the forward pass of the transposed convolution, whose
    input is dy and whose output is dx.
    """


def conv_dw(dw, db, dy, x, geometry, plan, workspace):
    """dw[k,c,t,r,s] = sum over n,z,p,q of dy[n,k,z,p,q] * x[n, ...]; db[k] = sum of dy[:, k].

    db is None when it is not wanted.
    """


def bias_gradient(db, dy, plan, workspace):
    """db[k] = sum over n,z,p,q of dy[n,k,z,p,q]."""


def im2col(cols, x, geometry, plan, workspace):
    """cols[n,c,t,r,s,z,p,q] = the input that output (z,p,q) reads through tap (t,r,s), or 0.

    cols is an (N, C, T, R, S, Z, P, Q) view.  Geometry: PoolGeometry (there is no K).
    """


def col2im(x, cols, geometry, plan, workspace):
    """x[n,c,d,h,w] = sum of every cols entry that im2col would have read from it."""


# ---- pool ---------------------------------------------------------------------------------


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    """y = the largest element of each window, winner = its row-major position in the window.

    winner (N, C, Z, P, Q), of geometry.winner_dtype, or None.  Padding never wins, also among
    -inf.  -0.0 equals 0.0.  nan "propagate": the first NaN in row-major order wins, whatever
    ``ties`` says; "omit": NaN ranks below -inf, so only an all-NaN window gives NaN.  Among equal
    candidates ties "first" | "last" decides, in row-major order.
    """


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    """dx[i] = sum of dy over the windows whose winner is i, in row-major window order."""


def max_unpool_forward(x, y, winner, bad, geometry, plan, workspace):
    """x[i] = y of the last window in row-major order whose winner is i; 0 where there is none."""


def max_unpool_backward(dy, dx, winner, bad, geometry, plan, workspace):
    """dy[o] = dx at the winner of o where o is the window whose value x kept, else 0."""


def check_winner(winner, geometry, plan, workspace):
    """Position of the first winner that lies outside its window or on padding, or -1."""


def winner_to_index(index, winner, bad, geometry, plan, workspace):
    """index (N, C, Z, P, Q) int64 = position of the winner in its (D, H, W) plane, row-major."""


def check_index_in_window(index, geometry, plan, workspace):
    """Position of the first plane index that is no tap of its window, or -1."""


def index_to_winner(winner, index, bad, geometry, plan, workspace):
    """The inverse of winner_to_index."""


def avg_pool_forward(y, x, geometry, count_include_pad, plan, workspace):
    """y = sum of the window's inputs / divisor.

    The divisor is the number of taps inside the input, or with count_include_pad inside the
    padded input; cells that ceil_mode adds beyond it never count.
    """


def avg_pool_backward(dx, dy, geometry, count_include_pad, plan, workspace):
    """dx[i] = sum of dy / divisor over the windows that cover i."""


# ---- matmul -------------------------------------------------------------------------------


def matmul(y, a, b, bias, geometry, plan, workspace):
    """y[i] = sum over e of a[i, e] @ b[i, e], plus bias.

    y (B, I, J), a (B, E, I, L), b (B, E, L, J), bias (J,) or None.  The sum over E is what a
    gradient needs when its argument was broadcast over batch axes; E is 1 otherwise.  Any of
    B, E, I, J, L may be 0: an empty sum is 0.  Geometry: MatmulGeometry.
    """


def linear_backward(dx, dw, db, dy, x, w, geometry, plan, workspace):
    """dx = dy @ w, dw = dy^T @ x and db[j] = sum over i of dy[i, j]; None where not wanted.

    dx and x (I, L), dw and w (J, L), dy (I, J), db (J,); I, J and L may be 0.  x is None where
    dw is, w where dx is; dx is contiguous.  Geometry: LinearGeometry.
    """


# ---- scatter ------------------------------------------------------------------------------


def check_index(rows, index, size, mode, plan, workspace):
    """rows = index brought into 0..size-1 by ``mode`` ("raise" | "wrap" | "clip").

    index is 1-D of any integer dtype, rows (len(index),) int64.  "raise" counts negative indices
    from the end; returns the position of the first index outside -size..size-1, or -1.  On the
    CPU rows may be ``index`` itself, of int64 under "raise": it stays as it is.
    """


def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    """out[a, rows[i], b] += src[a, i, b] for i in order.  Geometry: ScatterGeometry.

    Where many entries share each of a few elements, pieces of them, by sizes alone, may first be
    summed on their own, each in order, and piece after piece then be added.
    out (A, R, B), rows (I,) int64, src (A, I, B).  On the CPU negative rows count from the end, and
    rows are contiguous, as is src where B is 1.
    """


# ---- activation ---------------------------------------------------------------------------


def activate(y, x, name, plan, workspace):
    """y = name(x), element by element; x and y are 1-D and contiguous.  NaN stays NaN."""


def activate_backward(dx, dy, saved, name, from_output, plan, workspace):
    """dx = dy * slope, with the slope taken from the input, or from the output if from_output."""


def linear_slope(dz, db, dy, y, name, plan, workspace):
    """dz = dy * slope, taken from the output y, and db[k] = sum over n of dz[n,k].

    The step of linear_backward in front of its products; dz, dy and y are (N, K) and contiguous.
    """


def check_labels(labels, classes, plan, workspace):
    """Position of the first label outside 0..classes-1, or -1.  labels: 1-D, any integer dtype."""


def softmax_cross_entropy(loss, dlogits, logits, labels, bad, plan, workspace):
    """loss () = mean over n of log(sum(exp(logits[n]))) - logits[n, label]; dlogits / N with it."""


#: module -> the kernels it exports
KERNELS = {
    "conv": (conv_forward, conv_dx, conv_dw, bias_gradient, im2col, col2im),
    "pool": (max_pool_forward, max_pool_backward, max_unpool_forward, max_unpool_backward,
             check_winner, winner_to_index, check_index_in_window, index_to_winner,
             avg_pool_forward, avg_pool_backward),
    "matmul": (matmul, linear_backward),
    "scatter": (check_index, scatter_add),
    "activation": (activate, activate_backward, linear_slope, check_labels, softmax_cross_entropy),
}  # fmt: skip
