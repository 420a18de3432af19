"""The transforms of Winograd's minimal filtering, for a vector of channels at a time.

m outputs of a 3-tap filter take m + 2 multiplications instead of 3*m: with the polynomials that
signal and filter are, multiplied at m + 2 points.  In two dimensions

    y = AT [ (G w GT) * (BT x B) ] A            4 x 4 outputs: 36 multiplications instead of 144

and dw, which correlates the same signal with 4 x 4 gradients, is the same with the roles of the
outer transforms exchanged.  The points are 0, 1, -1, 2, -2 and infinity.  (Winograd 1980,
"Arithmetic complexity of computations"; Lavin & Gray 2016, "Fast algorithms for convolutional
neural networks", arXiv:1509.09308.)

Every function takes a square of vectors, one channel a lane, so nothing is ever shuffled.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import Emitter, const, pointer

SIDE = 4  # outputs of a tile, each way
WINDOW = 3
POINTS = SIDE + WINDOW - 1
PRODUCTS = POINTS * POINTS

#: of the signal: tiles of POINTS x POINTS, SIDE apart
SIGNAL = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)


def _filter(taps):
    """Powers of each point, divided by the product of its distances to the others."""
    points = ((0, 1 / 4), (1, -1 / 6), (-1, -1 / 6), (2, 1 / 24), (-2, 1 / 24))
    finite = tuple(tuple(point**i * scale for i in range(taps)) for point, scale in points)
    return (*finite, (*[0] * (taps - 1), 1))


def _inverse(outputs):
    """Powers of each point; the one at infinity belongs to the last output."""
    return tuple((*(point**i for point in (0, 1, -1, 2, -2)), int(i == outputs - 1))
                 for i in range(outputs))  # fmt: skip


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


def _intrinsic(matrix, biased=False):
    """The transform with ``matrix`` of a square of vectors into another.

    ``biased``: plus a vector everywhere, which is that vector added at the point (1, 1), as every
    power of 1 is 1.
    """

    @intrinsic
    def transform(typing, work, start, row, column, to, to_row, to_column, bias):
        def generate(context, builder, signature, arguments):
            work, start, row, column, to, to_row, to_column, bias = arguments
            e = _Transform(builder, signature.args[0].dtype, matrix)
            source, target, added = (
                pointer(context, builder, signature.args[0], work, offset)
                for offset in (start, to, bias)
            )

            def at(first, row, column, i, j):
                offset = builder.add(builder.mul(row, const(i)), builder.mul(column, const(j)))
                return e.at(first, offset)

            def read(i, j):
                value = builder.load(at(source, row, column, i, j), align=e.size)
                if biased and i == j == 1:
                    vector = builder.load(e.at(added, const(0)), align=e.size)
                    value = builder.fadd(value, vector)
                return value

            for i, j, value in e.emit(read):
                builder.store(value, at(target, to_row, to_column, i, j), align=e.size)
            return context.get_dummy_value()

        return types.void(work, *[types.intp] * 7), generate

    return transform


# Each takes (work, start, row, column, to, to_row, to_column, bias): the square's vector (i, j) is
# read at start + i*row + j*column, the result's (i, j) written at to + i*to_row + j*to_column.
transform_signal = _intrinsic(SIGNAL)
transform_window = _intrinsic(_filter(WINDOW))
transform_outputs = _intrinsic(_inverse(SIDE), biased=True)
#: of dw: the gradients are the filter, and the window is what comes out
transform_gradients = _intrinsic(_filter(SIDE))
transform_dw = _intrinsic(_inverse(WINDOW))
