"""Loads and stores at an element offset from an array's first element.

Indexing an array of unknown strides costs Numba a wrap-around test and a multiplication per axis
and keeps LLVM from vectorising; an offset computed once per row does neither.  Offsets count
elements, may be negative (negative strides), and are not checked: kernels stay inside the arrays
by construction, and the tests run them with canaries around every output.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from ..jit import inlined
from .vectors import element_pointer


@intrinsic
def load(typing, array, offset):
    """array's element ``offset`` elements behind its first."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, signature.args[0], *arguments)
        return context.unpack_value(builder, signature.args[0].dtype, pointer)

    return array.dtype(array, types.intp), generate


@intrinsic
def store(typing, array, offset, value):
    """Writes ``value``, cast to the array's dtype, ``offset`` elements behind its first."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, signature.args[0], *arguments[:2])
        context.pack_value(builder, signature.args[0].dtype, arguments[2], pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@intrinsic
def _size_bits(typing, array):
    """log2 of an element's size: a constant, where ``array.itemsize`` is a field to divide by."""

    def generate(context, builder, signature, arguments):
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        return context.get_constant(types.int64, size.bit_length() - 1)

    return types.int64(array), generate


@inlined
def step(array, axis):
    """The stride of an axis in elements."""
    return array.strides[axis] >> _size_bits(array)
