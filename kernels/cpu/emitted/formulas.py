"""The activations and their slopes as formulas on vectors: exp, expm1, log1p and erfc included.

LLVM calls a library once for each lane of such a function; these are polynomials and bits of
numbers, in the lanes' own dtype.  exp and expm1: x = k log(2) + r with |r| <= log(2) / 2 by adding
and subtracting a number so large that what is left of x is an integer (Cody & Waite 1980), a series
for expm1(r), and 2**k by the bits that adding it left.  All exponentials here fall: 2**64 times too
large until their last step, so that denormal results are rounded once.
log1p(u), 0 <= u <= 1, is 2 atanh(u / (2 + u)).  erfc is a polynomial fitted to erfc(z) exp(z**2) /
t in t = 2 / (2 + z) at Chebyshev's points, right to 1e-15 (after Press et al., "Numerical recipes",
6.2).  In float32 the rounding of x**2 alone would cost erfc's tail its digits, so that what x * x
loses is kept beside it; without fused multiply-adds float64 serves.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...contract import ACTIVATIONS, ELU_ALPHA, LEAKY_SLOPE
from .lanes import Lanes, LanesEmitter
from .vectors import TARGET

#: element -> (bits of a fraction, the exponent of 1, log(2) as a short number and the rest of it,
#: where exp is 0, the range in which 2**k is a normal number, (expm1(r) - r) / r**2 as a series,
#: terms of atanh's)
#: (in float32 the series with the least largest relative error, by Lawson's iteration: 3e-9)
_KINDS = {
    "float32": (23, 127, 0.693359375, -2.12194440e-4, -104.0, -87.0, 88.0,
                (0.49999993346496535, 0.16666519129068803, 0.041668405704371144,
                 0.008368898768544195, 0.0013814223021415942), 7),
    "float64": (52, 1023, 6.93147180369123816490e-01, 1.90821492927058770002e-10, -746.0, -708.0,
                709.0, tuple(1 / math.factorial(n) for n in range(2, 15)), 16),
}  # fmt: skip

#: Exponentials are 2 to this power too large until their last step.
_LIFT = 64

#: of u = 2 t - 1, from the constant on
_ERFC = (
    0.5107913526210118, 0.34358034220690536, 0.13973604627794017, 0.018221115753413866,
    -0.010755330940551767, -0.0032395925326627493, 0.0015453059501721663, 0.00041864800911864327,
    -0.00033153596951670036, -1.7185510228970984e-05, 7.223078005558086e-05,
    -1.7075587078862068e-05, -1.0830840140061017e-05, 8.064338825028904e-06,
    -6.061660648176088e-07, -1.8303070086835044e-06, 1.0753034265368385e-06,
    1.0360790539807586e-08, -3.7262437397408343e-07, 1.5349222085928225e-07,
    6.651691098356388e-08, -5.297335962428669e-08, -5.021930669720097e-09, 6.86212563148957e-09,
)  # fmt: skip

#: float32: the normal distribution's function at -a, over t exp(-a**2 / 2), of u = 2 t - 1 with t =
#: 1 / (1 + a * _NEAR), with the least largest relative error: 2e-8.  At _FAR 2**k is 0.
_NEAR, _FAR = 0.4, 16.2722
_TAIL = (
    0.28266265988349915, 0.17347680032253265, 0.05279480293393135, -0.0036943235900253057,
    -0.00655459426343441, 0.0006402481812983751, 0.0010100262006744742, -0.0002738309558480978,
    -0.00012517422146629542, 6.338772072922438e-05,
)  # fmt: skip


class _Lanes:
    """Emits arithmetic on vectors of one kind of floats."""

    def __init__(self, context, builder, kind):
        self.context, self.builder, self.kind = context, builder, kind
        self.emit = LanesEmitter(context, builder, kind)
        self.one, self.zero = self.number(1.0), self.number(0.0)

    def number(self, value):
        one = ir.Constant(self.emit.element, value)
        return ir.Constant(self.emit.vector, [one] * self.emit.count)

    def wide(self, value):
        """The same numbers in float64, with what emits arithmetic on them."""
        if self.kind.dtype == types.float64:
            return self, value
        wide = _Lanes(self.context, self.builder, Lanes(types.float64, self.kind.count))
        return wide, self.builder.fpext(value, wide.emit.vector)

    def narrow(self, value):
        """float64 rounded to this kind."""
        return value if self.kind.dtype == types.float64 else (
            self.builder.fptrunc(value, self.emit.vector))  # fmt: skip

    def add(self, a, b):
        return self.builder.fadd(a, b)

    def sub(self, a, b):
        return self.builder.fsub(a, b)

    def mul(self, a, b):
        return self.builder.fmul(a, b)

    def div(self, a, b):
        return self.builder.fdiv(a, b)

    def below(self, a, b):
        """Where a < b; false beside a NaN."""
        return self.builder.fcmp_ordered("<", a, b)

    def choose(self, where, yes, no):
        return self.builder.select(where, yes, no)

    def call(self, name, *arguments):
        suffix = {4: "f32", 8: "f64"}[self.emit.size]
        kind = ir.FunctionType(self.emit.vector, [self.emit.vector] * len(arguments))
        name = f"llvm.{name}.v{self.emit.count}{suffix}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name),
                                 arguments)  # fmt: skip

    def abs(self, a):
        return self.call("fabs", a)

    def minus_abs(self, a):
        return self.builder.fneg(self.abs(a))

    def polynomial(self, x, coefficients):
        """By Horner's rule, from the constant on."""
        total = self.number(coefficients[-1])
        for one in reversed(coefficients[:-1]):
            total = self.call("fmuladd", total, x, self.number(one))
        return total

    # ---- elementary functions --------------------------------------------------------------

    def _reduced(self, x, least, lift):
        """r and 2**(k + lift)."""
        bits, bias, high, low, *_ = _KINDS[str(self.kind.dtype)]
        x = self.choose(self.below(x, self.number(least)), self.number(least), x)
        large = self.number(1.5 * 2.0**bits + bias + lift)
        turned = self.call("fmuladd", x, self.number(1 / math.log(2)), large)
        times = self.sub(turned, large)
        r = self.call("fmuladd", times, self.number(-high), x)
        return self.call("fmuladd", times, self.number(-low), r), self._power(turned)

    def _power(self, turned):
        """2**k of the number k + (the exponent of 1) that has been added to a large one."""
        bits, width = _KINDS[str(self.kind.dtype)][0], ir.IntType(8 * self.emit.size)
        whole = ir.VectorType(width, self.emit.count)
        by = ir.Constant(whole, [ir.Constant(width, bits)] * self.emit.count)
        power = self.builder.shl(self.builder.bitcast(turned, whole), by)
        return self.builder.bitcast(power, self.emit.vector)

    def exp(self, x):
        """Of x <= 0."""
        *_, least, _, _, series, _ = _KINDS[str(self.kind.dtype)]
        r, power = self._reduced(x, least, _LIFT)
        value = self.mul(self.polynomial(r, (1.0, 1.0, *series)), power)
        return self.mul(value, self.number(2.0**-_LIFT))

    def expm1(self, x):
        *_, least, most, series, _ = _KINDS[str(self.kind.dtype)]
        x = self.choose(self.below(self.number(most), x), self.number(most), x)
        r, power = self._reduced(x, least, 0)
        grown = self.call("fmuladd", self.mul(r, r), self.polynomial(r, series), r)
        value = self.call("fmuladd", power, grown, self.sub(power, self.one))
        return self.call("copysign", value, x)  # that of -0 is -0

    def log1p(self, u):
        """Of 0 <= u <= 1."""
        terms = _KINDS[str(self.kind.dtype)][-1]
        s = self.div(u, self.add(self.number(2.0), u))
        z, twice = self.mul(s, s), self.add(s, s)
        series = self.polynomial(z, [1 / (2 * n + 3) for n in range(terms)])
        return self.call("fmuladd", self.mul(twice, z), series, twice)

    def normal(self, x):
        """The normal distribution's function and density; only for float64."""
        z = self.mul(self.abs(x), self.number(math.sqrt(0.5)))
        t = self.div(self.number(2.0), self.add(self.number(2.0), z))
        fall = self.exp(self.builder.fneg(self.mul(z, z)))
        fitted = self.polynomial(self.sub(self.add(t, t), self.one), _ERFC)
        tail = self.mul(self.mul(self.mul(self.number(0.5), t), fitted), fall)
        whole = self.choose(self.below(x, self.zero), tail, self.sub(self.one, tail))
        return whole, self.mul(fall, self.number(1 / math.sqrt(2 * math.pi)))

    def short_normal(self, x):
        """Of float32 x: ``a`` = |x| (_FAR at most), ``ratio`` and ``fall``.

        fall is 2**64 exp(-a**2 / 2), and ratio * fall * 2**-64 the normal distribution's function
        at -a: that power is for the last step.
        """
        bits, bias, high, low, *_, series, _ = _KINDS["float32"]
        b, a = self.builder, self.abs(x)
        a = self.choose(self.below(self.number(_FAR), a), self.number(_FAR), a)
        square = self.mul(a, a)
        lost = self.call("fma", a, a, b.fneg(square))
        large = self.number(1.5 * 2.0**bits + bias + _LIFT)
        turned = self.call("fma", square, self.number(-0.5 / math.log(2)), large)
        times = self.sub(turned, large)
        r = self.call("fma", times, self.number(2 * high), square)  # -2 times that of the exponent
        r = self.add(self.call("fma", times, self.number(2 * low), r), lost)
        halved = [one * (-0.5) ** n for n, one in enumerate((1.0, 1.0, *series))]
        fall = self.mul(self.polynomial(r, halved), self._power(turned))
        t = self.div(self.one, self.call("fma", a, self.number(_NEAR), self.one))
        u = self.call("fma", t, self.number(2.0), self.number(-1.0))
        return a, self.mul(self.polynomial(u, _TAIL), t), fall

    def short(self):
        """Is this float32 on a machine that multiplies and adds at once?"""
        return self.kind.dtype == types.float32 and TARGET is not None

    def sigmoids(self, x):
        """sigmoid(x) and sigmoid(-x)."""
        small = self.exp(self.minus_abs(x))  # never overflows
        below, whole = self.below(x, self.zero), self.add(self.one, small)
        return (self.div(self.choose(below, small, self.one), whole),
                self.div(self.choose(below, self.one, small), whole))  # fmt: skip


# ---- the activations: a value, its slope from the input, its slope from the output ---------


def _not_above(m, x):
    """min(x, 0); NaN stays."""
    return m.choose(m.below(m.zero, x), m.zero, x)


def _branches(m, x, below):
    """x above 0, and elsewhere, also for NaN, what ``below`` is."""
    return m.choose(m.below(m.zero, x), x, below)


def _step(m, x, below):
    """1 above 0, and elsewhere what ``below`` is."""
    return m.choose(m.below(m.zero, x), m.one, below)


def _tanh(m, x):
    grown = m.expm1(m.mul(m.number(-2.0), m.abs(x)))
    value = m.div(m.builder.fneg(grown), m.add(m.number(2.0), grown))
    return m.call("copysign", value, x)


def _tanh_slope(m, x):
    """1 - tanh(x)**2 without its cancellation."""
    small = m.exp(m.mul(m.number(-2.0), m.abs(x)))
    whole = m.add(m.one, small)
    slope = m.div(m.mul(m.number(4.0), small), m.mul(whole, whole))
    return m.choose(m.below(m.one, slope), m.one, slope)  # near 0 it may have been rounded up


def _softplus(m, x):
    above = m.choose(m.builder.fcmp_ordered("<=", x, m.zero), m.zero, x)
    return m.add(above, m.log1p(m.exp(m.minus_abs(x))))


def _gelu(m, x):
    if m.short():
        a, ratio, fall = m.short_normal(x)
        below = m.below(x, m.zero)
        tail = m.mul(m.choose(below, x, m.builder.fneg(a)), m.mul(ratio, fall))
        tail = m.mul(tail, m.number(2.0**-_LIFT))
        return m.choose(below, tail, m.add(x, tail))
    wide, given = m.wide(x)
    return m.narrow(wide.mul(given, wide.normal(given)[0]))


def _gelu_slope(m, x):
    if m.short():
        _, ratio, fall = m.short_normal(x)
        share = m.mul(m.abs(x), m.number(1 / math.sqrt(2 * math.pi)))
        tail = m.mul(m.mul(m.sub(ratio, share), fall), m.number(2.0**-_LIFT))
        return m.choose(m.below(x, m.zero), tail, m.sub(m.one, tail))
    wide, given = m.wide(x)
    whole, density = wide.normal(given)
    return m.narrow(wide.add(whole, wide.mul(given, density)))


def _silu_slope(m, x):
    up, down = m.sigmoids(x)
    return m.mul(up, m.add(m.one, m.mul(x, down)))


def _sigmoid_slope(m, x):
    small = m.exp(m.minus_abs(x))
    whole = m.add(m.one, small)
    return m.div(small, m.mul(whole, whole))


VALUE, FROM_INPUT, FROM_OUTPUT = range(3)
_FORMULAS = {
    "relu": (lambda m, x: m.choose(m.builder.fcmp_ordered("<=", x, m.zero), m.zero, x),
             lambda m, x: _step(m, x, m.zero), lambda m, y: _step(m, y, m.zero)),
    "leaky_relu": (lambda m, x: _branches(m, x, m.mul(m.number(LEAKY_SLOPE), x)),
                   lambda m, x: _step(m, x, m.number(LEAKY_SLOPE)),
                   lambda m, y: _step(m, y, m.number(LEAKY_SLOPE))),
    "elu": (lambda m, x: _branches(m, x, m.mul(m.number(ELU_ALPHA), m.expm1(_not_above(m, x)))),
            lambda m, x: _step(m, x, m.mul(m.number(ELU_ALPHA), m.exp(_not_above(m, x)))),
            lambda m, y: _step(m, y, m.add(y, m.number(ELU_ALPHA)))),
    "sigmoid": (lambda m, x: m.sigmoids(x)[0], _sigmoid_slope,
                lambda m, y: m.mul(y, m.sub(m.one, y))),
    "tanh": (_tanh, _tanh_slope, lambda m, y: m.mul(m.sub(m.one, y), m.add(m.one, y))),
    "softplus": (_softplus, lambda m, x: m.sigmoids(x)[0],
                 lambda m, y: m.builder.fneg(m.expm1(m.builder.fneg(y)))),
    "gelu": (_gelu, _gelu_slope),
    "silu": (lambda m, x: m.mul(x, m.sigmoids(x)[0]), _silu_slope),
}  # fmt: skip


@intrinsic
def formula(typing, values, name, kind):
    """The activation of number ``name``, or a slope of it: both are constants."""
    if not all(isinstance(one, types.IntegerLiteral) for one in (name, kind)):
        return None
    emitted = _FORMULAS[ACTIVATIONS[name.literal_value]][kind.literal_value]

    def generate(context, builder, signature, arguments):
        return emitted(_Lanes(context, builder, signature.args[0]), arguments[0])

    return values(values, name, kind), generate


@intrinsic
def exponential(typing, values):
    """exp, lane by lane, of numbers that are not above 0."""

    def generate(context, builder, signature, arguments):
        return _Lanes(context, builder, signature.args[0]).exp(arguments[0])

    return values(values), generate


@intrinsic
def widened(typing, values):
    """The same numbers in float64."""

    def generate(context, builder, signature, arguments):
        return _Lanes(context, builder, signature.args[0]).wide(arguments[0])[1]

    return Lanes(types.float64, values.count)(values), generate
