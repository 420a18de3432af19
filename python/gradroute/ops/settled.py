"""A call like one before does not check again what it shares with that one.

What an operation checks and works out before it allocates (dtypes, shapes, options, geometry, plan)
depends on the forms of its arrays, on its options and on the settings.  `settled` keeps what a
check returned with the settings under which it ran, so that another setting finds nothing of it:

    @settled
    def _conv(x, w, b, stride, ...):  # raises, or returns the call and what its body needs
        ...
        return call, geometry, shape, plan

    call, geometry, shape, plan = _conv((x, w, b), (stride, ...), out)

Only calls are kept whose arrays the kernels read as they are.  Everything else, and everything
that was refused, is checked anew: errors are the same at every call.

What is left of a small call then is making results and finding the kernel.  ``settled(ready=...)``
has that done beforehand too, by a function that is given what was found, the arrays and the
options.  It may return a function of the arrays that is all of the call's body, or None; a kept
call has it as ``call.at_once``.
"""

from __future__ import annotations

import marshal
import math
from functools import partial
from operator import attrgetter

import numpy as np

from ..alignment import ALIGNED_FROM, empty
from ..config import config
from .call import Call, readable
from .checks import raise_pending

#: all that a check may look at in an array
_form = attrgetter("__class__", "dtype", "shape", "strides", "flags.num")

#: Forms of calls that are kept under one setting; beyond, all are forgotten.
MOST = 1024

_PLAIN = {int, str, bool, type(None)}


class PlainCall(Call):
    """A call without `out` on arrays that the kernels read as they are; many calls share it."""

    __slots__ = ("at_once",)

    def __init__(self, call):
        for name in Call.__slots__:
            setattr(self, name, getattr(call, name))
        self.inputs = self._out = self.at_once = None  # the first two are those of one call

    def input(self, array):
        return array

    def empty(self, shape, dtype=None):
        try:
            return empty(shape, dtype or self.dtype)
        except (ValueError, MemoryError):
            return super().empty(shape, dtype)  # has the words for it

    def result(self, shape, out=None, name="out", dtype=None, even=False, whole=False):
        return self.empty(shape, dtype)

    def maker(self, shape, dtype=None):
        """`empty` of one shape, with nothing left to ask."""
        dtype = self.dtype if dtype is None else dtype
        if math.prod(shape) * dtype.itemsize < ALIGNED_FROM:
            return partial(np.empty, tuple(shape), dtype)
        return partial(self.empty, tuple(shape), dtype)

    def finish(self, made):
        return made

    def finish_all(self, *made):
        return made


def settled(check=None, *, ready=None):
    """Decorator of a check: (arrays, options, out) -> what it returns, looked up if possible.

    Of the arrays the last may be None: not given.
    """
    if check is None:
        return partial(settled, ready=ready)

    def look_up(arrays, options, out=None):
        given = arrays if arrays[-1] is not None else arrays[:-1]
        kept, key = config.current().settled, None
        if out is None:
            try:
                # as bytes 1, True and 1.0 differ, which are equal
                key = (check, tuple(map(_form, given)), marshal.dumps(options, 2))
                found = kept.get(key)
            except (AttributeError, ValueError):  # no NumPy array, an option that is no plain value
                key = found = None
            if found is not None:
                raise_pending(wait=False)
                return found
        found = check(*arrays, *options)
        if key is not None and _as_is(found[0], given) and _plain(options):
            if len(kept) >= MOST:
                kept.clear()
            call = PlainCall(found[0])
            if ready is not None:
                call.at_once = ready((call, *found[1:]), given, options)
            kept[key] = (call, *found[1:])
        return found

    return look_up


def _plain(options) -> bool:
    """Are these values and tuples of Python's own?  Others may have the same bytes."""
    return all(_plain(one) if type(one) is tuple else type(one) in _PLAIN for one in options)


def _as_is(call, arrays) -> bool:
    """Do the kernels read all these arrays as they are?"""
    if call.library != "numpy" or call.moved or call.compute != call.dtype.name:
        return False
    return all(type(array) is np.ndarray and readable(array) for array in arrays)
