"""Vectors as values: a kernel that says which elements it handles side by side.

LLVM vectorises a loop when it can prove things about it: unit strides, no overlap, a trip count
worth the prologue.  Pooling over rows of 13 with a stride of 2, a winner of another width and a
NaN rule is not such a loop.  With a value that *is* a vector nothing has to be proven:

    best = splat(x.dtype.type(-np.inf), 16)                  # 16 lanes of x's dtype
    value = lanes_load(x, at, 2, 0, count, best)             # x[at + 2*lane]; best's beyond count
    best = choose(beats(value, best, False, False), value, best)
    lanes_store(y, to, 1, 0, count, best)

LLVM splits vectors wider than the machine's, so that 16 lanes of float32 are one register with
AVX-512, two with AVX2, four with NEON.  `first` and `end` name the lanes that take part; the
others are neither read nor written, so a strip may hang over the edge of an array.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .vectors import element_pointer

_I1, _I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """``count`` elements of ``dtype`` side by side; of booleans, the answer to a comparison."""

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        super().__init__(name=f"lanes({dtype}, {count})")


def _element(context, dtype):
    return _I1 if dtype == types.boolean else context.get_value_type(dtype)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        element = _I1
        if kind.dtype != types.boolean:
            element = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


class LanesEmitter:
    """Emits vector code of one lane count into the function being built."""

    def __init__(self, context, builder, kind):
        self.builder, self.count = builder, kind.count
        self.element = _element(context, kind.dtype)
        self.size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        self.vector = ir.VectorType(self.element, self.count)

    def numbers(self, values):
        return ir.Constant(ir.VectorType(_I32, self.count), list(values))

    def splat(self, value):
        vector = ir.VectorType(value.type, self.count)
        undefined = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, undefined, self.numbers([0] * self.count))

    def between(self, first, end, lane=range):
        """The lanes whose number (by default their own) lies in first..end-1; both fit 31 bits."""
        lanes = self.numbers(lane(self.count))
        first, end = (self.splat(self.builder.trunc(bound, _I32)) for bound in (first, end))
        low = self.builder.icmp_signed(">=", lanes, first)
        return self.builder.and_(low, self.builder.icmp_signed("<", lanes, end))

    def covers(self, first, end, count):
        zero, last = ir.Constant(I64, 0), ir.Constant(I64, count)
        return self.builder.and_(
            self.builder.icmp_signed("<=", first, zero), self.builder.icmp_signed(">=", end, last)
        )

    def call(self, name, result, arguments):
        element = {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(self.element))
        element = element or f"i{self.element.width}"
        pointers = f".v{self.count}p0" if name in ("gather", "scatter") else ".p0"
        pointers = "" if name == "compressstore" else pointers
        name = f"llvm.masked.{name}.v{self.count}{element}{pointers}"
        kind = ir.FunctionType(result, [value.type for value in arguments])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), arguments
        )

    def at(self, pointer):
        return self.builder.bitcast(pointer, self.vector.as_pointer())

    def load(self, pointer, mask, fill):
        """The vector behind a pointer to its first element; all of it if mask is None."""
        if mask is None:
            return self.builder.load(self.at(pointer), align=self.size)
        align = ir.Constant(_I32, self.size)
        return self.call("load", self.vector, [self.at(pointer), align, mask, fill])

    def store(self, pointer, mask, value):
        if mask is None:
            self.builder.store(value, self.at(pointer), align=self.size)
        else:
            align = ir.Constant(_I32, self.size)
            self.call("store", ir.VoidType(), [value, self.at(pointer), align, mask])

    def spread(self, pointer, stride):
        """Pointers to every lane's element."""
        b = self.builder
        bytes_of = [self.size * lane for lane in range(self.count)]
        lanes = ir.Constant(ir.VectorType(I64, self.count), bytes_of)
        start = self.splat(b.ptrtoint(pointer, I64))
        places = b.add(start, b.mul(lanes, self.splat(stride)))
        return b.inttoptr(places, ir.VectorType(pointer.type, self.count))

    def load_every_second(self, pointer, mask_of, fill):
        """Elements 0, 2, 4 ...: two loads that end with the last element needed, and a shuffle."""
        half = self.count // 2
        behind = self.builder.gep(pointer, [ir.Constant(I64, self.count - 1)])
        low = self.load(pointer, mask_of(range), fill)
        high = self.load(behind, mask_of(lambda n: range(n - 1, 2 * n - 1)), fill)
        picks = [2 * i for i in range(half)]
        picks += [self.count + 2 * i - (self.count - 1) for i in range(half, self.count)]
        return self.builder.shuffle_vector(low, high, self.numbers(picks))


def first_case(builder, cases, otherwise):
    """A value (or None) computed by the first case whose condition holds."""
    done = builder.append_basic_block("joined")
    results = []
    for condition, emit in [*cases, (None, otherwise)]:
        if condition is not None:
            here, following = builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(condition, here, following)
            builder.position_at_end(here)
        results.append((emit(), builder.block))
        builder.branch(done)
        if condition is not None:
            builder.position_at_end(following)
    builder.position_at_end(done)
    if results[0][0] is None:
        return None
    phi = builder.phi(results[0][0].type)
    for value, block in results:
        phi.add_incoming(value, block)
    return phi


def _is(builder, value, number):
    return builder.icmp_signed("==", value, ir.Constant(I64, number))


@intrinsic
def splat(typing, value, count):
    """``count`` (a constant) lanes of one value."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    kind = Lanes(value, count.literal_value)

    def generate(context, builder, signature, arguments):
        return LanesEmitter(context, builder, kind).splat(arguments[0])

    return kind(value, count), generate


@intrinsic
def splat_like(typing, value, like):
    """As many lanes of one value as ``like`` has."""
    kind = Lanes(value, like.count)

    def generate(context, builder, signature, arguments):
        return LanesEmitter(context, builder, kind).splat(arguments[0])

    return kind(value, like), generate


@intrinsic
def lanes_load(typing, array, offset, stride, first, end, fill):
    """Lane l is the array's element offset + l*stride for first <= l < end, else fill's lane."""
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, stride, first, end, fill = arguments
        emit = LanesEmitter(context, builder, signature.return_type)
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        whole = emit.covers(first, end, emit.count)
        two = ir.Constant(I64, 2)

        def elements(lanes):  # of a load that takes every second one
            last = builder.sub(builder.mul(end, two), ir.Constant(I64, 1))
            return emit.between(builder.mul(first, two), last, lanes)

        def every_second():
            zeros = emit.splat(ir.Constant(emit.element, 0))
            kept = emit.load_every_second(pointer, elements, zeros)
            return builder.select(emit.between(first, end), kept, fill)

        def gathered():
            align = ir.Constant(_I32, emit.size)
            pointers = emit.spread(pointer, stride)
            mask = emit.between(first, end)
            return emit.call("gather", emit.vector, [pointers, align, mask, fill])

        if isinstance(signature.args[2], types.IntegerLiteral):  # the one constant in use: 1
            return first_case(
                builder,
                [(whole, lambda: emit.load(pointer, None, None))],
                lambda: emit.load(pointer, emit.between(first, end), fill),
            )
        unit, double = _is(builder, stride, 1), _is(builder, stride, 2)
        return first_case(
            builder,
            [
                (builder.and_(unit, whole), lambda: emit.load(pointer, None, None)),
                (unit, lambda: emit.load(pointer, emit.between(first, end), fill)),
                (
                    builder.and_(double, whole),
                    lambda: emit.load_every_second(pointer, lambda lanes: None, None),
                ),
                (double, every_second),
            ],
            gathered,
        )

    if isinstance(stride, types.IntegerLiteral) and stride.literal_value != 1:
        return None
    stride = stride if isinstance(stride, types.IntegerLiteral) else i
    return Lanes(array.dtype, fill.count)(array, i, stride, i, i, fill), generate


@intrinsic
def lanes_store(typing, array, offset, stride, first, end, value):
    """Writes the lanes first..end-1 to the array's elements offset + l*stride."""
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, stride, first, end, value = arguments
        emit = LanesEmitter(context, builder, signature.args[5])
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        whole = emit.covers(first, end, emit.count)

        def scattered():
            align = ir.Constant(_I32, emit.size)
            pointers = emit.spread(pointer, stride)
            mask = emit.between(first, end)
            emit.call("scatter", ir.VoidType(), [value, pointers, align, mask])

        unit = _is(builder, stride, 1)
        first_case(
            builder,
            [
                (builder.and_(unit, whole), lambda: emit.store(pointer, None, value)),
                (unit, lambda: emit.store(pointer, emit.between(first, end), value)),
            ],
            scattered,
        )
        return context.get_dummy_value()

    return types.void(array, i, i, i, i, value), generate


@intrinsic
def store_pairs(typing, array, offset, first, end, even, odd):
    """Writes even[0], odd[0], even[1], ... : the elements offset + e for first <= e < end."""
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, first, end, even, odd = arguments
        half = signature.args[4]
        emit = LanesEmitter(context, builder, Lanes(half.dtype, 2 * half.count))
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        picks = [lane + side * half.count for lane in range(half.count) for side in (0, 1)]
        value = builder.shuffle_vector(even, odd, emit.numbers(picks))
        first_case(
            builder,
            [(emit.covers(first, end, emit.count), lambda: emit.store(pointer, None, value))],
            lambda: emit.store(pointer, emit.between(first, end), value),
        )
        return context.get_dummy_value()

    return types.void(array, i, i, i, even, odd), generate


# ---- arithmetic: one intrinsic each -------------------------------------------------------


@intrinsic
def add(typing, a, b):
    """a + b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def equal(typing, a, b):
    """Which lanes of two vectors of integers are equal."""

    def generate(context, builder, signature, arguments):
        return builder.icmp_signed("==", *arguments)

    return Lanes(types.boolean, a.count)(a, b), generate


@intrinsic
def choose(typing, where, yes, no):
    """yes where the comparison held, else no."""
    return yes(where, yes, no), lambda _, builder, signature, arguments: builder.select(*arguments)


@intrinsic
def within(typing, a, first, end):
    """Which lanes of a vector of integers lie in first..end-1: bit l of the result is lane l."""

    def generate(context, builder, signature, arguments):
        a, first, end = arguments
        emit = LanesEmitter(context, builder, signature.args[0])
        low = builder.icmp_signed(">=", a, emit.splat(first))
        found = builder.and_(low, builder.icmp_signed("<", a, emit.splat(end)))
        return builder.zext(builder.bitcast(found, ir.IntType(emit.count)), I64)

    return types.int64(a, a.dtype, a.dtype), generate


@intrinsic
def beats(typing, new, old, last, omit):
    """Where a window's later element wins over the best one so far.

    The first NaN wins for good; under ``omit`` NaN ranks below -inf.  Among equals the first one
    stays, or the last under ``last``.  Comparisons that are true or false on NaN as needed, and no
    branch per lane.
    """

    def generate(context, builder, signature, arguments):
        new, old, last, omit = arguments
        width = signature.return_type.count
        emit = LanesEmitter(context, builder, Lanes(signature.args[0].dtype, width))
        compare = {"ordered": builder.fcmp_ordered, "unordered": builder.fcmp_unordered}

        def usual():  # not new <= old, old is a number
            above = compare["unordered"](">", new, old)
            return builder.and_(above, compare["ordered"]("ord", old, old))

        def any_rule():
            new_nan = compare["unordered"]("uno", new, new)
            old_nan = compare["unordered"]("uno", old, old)
            to_last, leave = emit.splat(last), emit.splat(omit)
            above = compare["ordered"](">", new, old)
            both_nan = builder.and_(leave, builder.and_(new_nan, old_nan))
            tie = builder.or_(compare["ordered"]("==", new, old), both_nan)
            wins = builder.or_(above, builder.and_(tie, to_last))
            over_nan = builder.select(
                omit,
                builder.and_(old_nan, builder.not_(new_nan)),
                builder.and_(new_nan, builder.not_(old_nan)),
            )
            return builder.or_(wins, over_nan)

        return first_case(builder, [(builder.not_(builder.or_(last, omit)), usual)], any_rule)

    return Lanes(types.boolean, new.count)(new, old, last, omit), generate
