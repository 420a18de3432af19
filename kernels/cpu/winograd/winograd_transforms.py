"""The transforms of Winograd's minimal filtering, for a vector of channels at a time.

m outputs of an r-tap filter take m + r - 1 multiplications instead of r*m: they are coefficients of
a product of polynomials, which is multiplied at m + r - 1 points.  Here those are six, so that in
two dimensions 36 multiplications make

    y = AT [ (G w GT) * (BT x B) ] A            4 x 4 outputs of a 3 x 3 window instead of 144,
                                                2 x 2 of a 5 x 5 window instead of 100

and dw, which correlates the same signal with the gradients of a tile, is the same with the roles of
the outer transforms exchanged.  (Winograd 1980, "Arithmetic complexity of computations"; Lavin &
Gray 2016, "Fast algorithms for convolutional neural networks", arXiv:1509.09308.)

The points are 0, 5/8, -5/8, 3/2, -3/2 and infinity: exact in binary, and with half the error of
the usual 0, 1, -1, 2, -2 (why it depends on them: Barabasz et al. 2020, "Error analysis and
improving the accuracy of Winograd convolution for deep neural networks", arXiv:1803.10986).

Every function takes a square of vectors, one channel a lane, so nothing is ever shuffled.  BT only
knows the points: it is the same for all windows.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emitted.vectors import Emitter, cases, const, element_pointer

WINDOWS = (3, 5)  # those there are transforms for
POINTS = 6
PRODUCTS = POINTS * POINTS

#: the finite ones
_POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))


def side_of(window):
    """Outputs of a tile, each way."""
    return POINTS - window + 1


def _others(point):
    return [other for other in _POINTS if other != point]


def _expanded(roots):
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [0, *coefficients], [*coefficients, 0]
        coefficients = [high - root * low for high, low in zip(shifted, scaled)]
    return coefficients


def _signal():
    """BT: for each point the polynomial that is zero at the other points; at infinity, at all."""
    return [*([*_expanded(_others(point)), 0] for point in _POINTS), _expanded(_POINTS)]


def _filter(taps):
    """G: powers of each point, divided by the product of its distances to the others."""
    finite = [[point**i / prod(point - other for other in _others(point)) for i in range(taps)]
              for point in _POINTS]  # fmt: skip
    return [*finite, [*[0] * (taps - 1), 1]]


def _inverse(outputs):
    """AT: powers of each point; the one at infinity belongs to the last output."""
    return [[*(point**i for point in _POINTS), int(i == outputs - 1)] for i in range(outputs)]


class _Transform(Emitter):
    """Emits result = matrix * square * transposed matrix."""

    def __init__(self, builder, dtype, matrix):
        super().__init__(builder, dtype)
        self.matrix = matrix
        self.fma = self.intrinsic(f"llvm.fma.{self.suffix}", *[self.vector] * 4)

    def combine(self, coefficients, values):
        """The sum of coefficient * value, from the first to the last."""
        build, total = self.builder, None
        for coefficient, value in zip(coefficients, values):
            if coefficient == 0:
                continue
            factor = ir.Constant(self.vector, [float(coefficient)] * self.lanes)
            if total is None:
                total = value if coefficient == 1 else build.fmul(factor, value)
            elif coefficient == 1:
                total = build.fadd(total, value)
            elif coefficient == -1:
                total = build.fsub(total, value)
            else:
                total = build.call(self.fma, [factor, value, total])
        return total

    def emit(self, read):
        """{(i, j): vector} of the result, with read(i, j) giving the square's vectors."""
        size = len(self.matrix[0])
        columns = []
        for j in range(size):
            column = [read(i, j) for i in range(size)]
            columns.append([self.combine(row, column) for row in self.matrix])
        for i in range(len(self.matrix)):
            for j, row in enumerate(self.matrix):
                yield i, j, self.combine(row, [column[i] for column in columns])


def _transform(context, builder, kind, matrix, biased, arguments):
    """Emits a transform by ``matrix``; ``arguments`` are those of the intrinsics below."""
    work, start, row, column, to, to_row, to_column, bias = arguments
    e = _Transform(builder, kind.dtype, matrix)
    source, target, added = (
        element_pointer(context, builder, kind, work, offset) for offset in (start, to, bias)
    )

    def at(first, row, column, i, j):
        offset = builder.add(builder.mul(row, const(i)), builder.mul(column, const(j)))
        return e.at(first, offset)

    results = e.emit(lambda i, j: builder.load(at(source, row, column, i, j), align=e.size))
    vector = builder.load(e.at(added, const(0)), align=e.size) if biased else None
    for i, j, value in results:
        if biased:
            value = builder.fadd(value, vector)
        builder.store(value, at(target, to_row, to_column, i, j), align=e.size)


# Each takes (work, start, row, column, to, to_row, to_column, bias): the square's vector (i, j) is
# read at start + i*row + j*column, the result's (i, j) written at to + i*to_row + j*to_column.
@intrinsic
def transform_signal(typing, work, start, row, column, to, to_row, to_column, bias):
    def generate(context, builder, signature, arguments):
        _transform(context, builder, signature.args[0], _signal(), False, arguments)
        return context.get_dummy_value()

    return types.void(work, *[types.intp] * 7), generate


def _for_windows(matrix, biased=False):
    """A switch over the window, behind the others' arguments, with matrix(window) in each case.

    ``biased``: plus a vector.
    """

    @intrinsic
    def emitted(typing, work, start, row, column, to, to_row, to_column, bias, window):
        def generate(context, builder, signature, arguments):
            *arguments, window = arguments
            for case in cases(builder, window, WINDOWS):
                _transform(context, builder, signature.args[0], matrix(case), biased, arguments)
            return context.get_dummy_value()

        return types.void(work, *[types.intp] * 8), generate

    return emitted


transform_window = _for_windows(_filter)
transform_outputs = _for_windows(lambda window: _inverse(side_of(window)), biased=True)
#: of dw: the gradients are the filter, and the window is what comes out
transform_gradients = _for_windows(lambda window: _filter(side_of(window)))
transform_dw = _for_windows(_inverse)
