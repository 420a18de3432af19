"""Reading the caller's options: integers, sequences, padding; and caching what is made of them."""

from __future__ import annotations

import operator
from functools import lru_cache

from .errors import ArgumentTypeError, ArgumentValueError

_LARGEST = 2**63 - 1


def integer(value, name: str, *, at_least: int) -> int:
    """A Python or NumPy integer, not a bool, not below ``at_least``."""
    if type(value) is not int:
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            raise ArgumentTypeError(f"{name} must be an integer, got the bool {value!r}")
        try:
            value = operator.index(value)
        except TypeError:
            raise ArgumentTypeError(
                f"{name} must be an integer, got {value!r} ({type(value).__name__})"
            ) from None
    if value < at_least:
        raise ArgumentValueError(f"{name} must be at least {at_least}, got {value}")
    if value > _LARGEST:
        raise ArgumentValueError(f"{name} must fit 64 bits, got {value}")
    return value


def _sequence(value, name: str):
    """The value as a tuple, or None if it is a single number."""
    if isinstance(value, (str, bytes, dict, set, frozenset)):
        raise ArgumentTypeError(f"{name} must be an integer or a sequence of them, got {value!r}")
    if getattr(value, "ndim", None) == 0:  # a NumPy scalar
        return None
    try:
        return tuple(value)
    except TypeError:
        return None


def per_axis(value, name: str, axes: int, *, at_least: int) -> tuple[int, ...]:
    """An option that is one integer for every spatial axis, or a sequence with one per axis."""
    if type(value) is int:  # the usual case, and the hot path of small calls
        return (integer(value, name, at_least=at_least),) * axes
    items = _sequence(value, name)
    if items is None:
        return (integer(value, name, at_least=at_least),) * axes
    if len(items) != axes:
        raise ArgumentValueError(
            f"{name} must be one integer or one per spatial axis ({axes}), got {value!r}"
        )
    return tuple(integer(item, name, at_least=at_least) for item in items)


def padding_pairs(padding, axes: int) -> tuple[tuple[int, int], ...] | str:
    """``padding`` as one (before, after) per axis, or "same"."""
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * axes
        if padding == "same":
            return "same"
        raise ArgumentValueError(
            f'padding must be an integer, a sequence, "valid" or "same", got {padding!r}'
        )
    items = _sequence(padding, "padding")
    if items is None:
        items = (padding,) * axes
    if len(items) != axes:
        raise ArgumentValueError(
            f"padding must be one integer, one per spatial axis ({axes}) or one (before, after) "
            f"per axis, got {padding!r}"
        )
    pairs = []
    for item in items:
        pair = _sequence(item, "padding")
        if pair is None:
            pair = (item, item)
        if len(pair) != 2:
            raise ArgumentValueError(f"padding must have (before, after) pairs, got {padding!r}")
        pairs.append(tuple(integer(side, "padding", at_least=0) for side in pair))
    return tuple(pairs)


def lift(values: tuple, fill) -> tuple:
    """Puts ``fill`` in front until there are three: (H, W) -> (1, H, W)."""
    return (fill,) * (3 - len(values)) + tuple(values)


# ---- caching by options -------------------------------------------------------------------

_PLAIN = (int, str, bool, type(None))


def _frozen(value):
    """An option as something hashable: lists and arrays become tuples."""
    if type(value) in _PLAIN or isinstance(value, (str, bytes, dict, set, frozenset)):
        return value
    items = _sequence(value, "")
    return value if items is None else tuple(_frozen(item) for item in items)


def _cacheable(value) -> bool:
    """Plain, or tuples of plain integers: `lru_cache(typed=True)` does not look inside tuples,
    where True and 1.0 would find the entry of the 1 that they equal."""
    kind = type(value)
    if kind is tuple:
        return all(type(item) is int or type(item) is tuple and _cacheable(item) for item in value)
    return kind in _PLAIN


class GeometryOf:
    """A geometry builder with a cache, keyed by its arguments."""

    def __init__(self, build):
        self._build = build
        self._cached = lru_cache(maxsize=4096, typed=True)(build)
        self.__doc__ = build.__doc__

    def __call__(self, *shapes, **options):
        for value in options.values():
            if type(value) not in _PLAIN and not _cacheable(value):
                frozen = {name: _frozen(value) for name, value in options.items()}
                return self._build(*shapes, **frozen)
        return self._cached(*shapes, **options)
