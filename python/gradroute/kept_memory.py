"""Memory of large results that is used again.

The allocator of the C library gives memory of more than 32 MiB back to the system as soon as it is
freed.  The next result of that size then is new memory, whose pages the system fills with zeros,
one fault each, when they are first written: as long as a max-pool's whole gradient takes.  Here
such memory is kept when the last array that sees it is gone, config.kept_memory bytes of it at
most, and lent to the next result that fits.
"""

from __future__ import annotations

import numpy as np

from .config import config

#: From here on glibc never keeps freed memory (its DEFAULT_MMAP_THRESHOLD_MAX).
KEPT_FROM = 32 << 20

#: A result may be lent memory that is larger than it by one part in so many.
SPARE = 8

#: Memory that nobody sees, by its address, the longest unused first.  One step of a dict is one
#: step for every thread, and for a lease that ends amid another's step: no lock is needed.
_kept: dict[int, np.ndarray] = {}


class _Lease:
    """What arrays on lent memory have as their base: the memory is kept when it goes."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, memory):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self):
        if _keep is not None:  # while the interpreter ends, names go before the last arrays
            _keep(self._memory)


def lent(size: int) -> np.ndarray:
    """``size`` bytes or some more, as an array of uint8.

    Raises MemoryError where there is no such memory, and none that is kept can make room for it.
    """
    memory = _fitting(size)
    if memory is None:
        try:
            memory = np.empty(size, np.uint8)
        except MemoryError:
            if not _kept:
                raise
            _kept.clear()
            memory = np.empty(size, np.uint8)
    return np.asarray(_Lease(memory))


def _fitting(size):
    """The smallest kept memory that ``size`` bytes may have, no longer kept; or None."""
    most = size + size // SPARE
    fit = sorted((len(one), at) for at, one in _kept.copy().items() if size <= len(one) <= most)
    for _, at in fit:
        memory = _kept.pop(at, None)
        if memory is not None:  # another thread may have been faster
            return memory
    return None


def _keep(memory):
    """Keeps ``memory``, and forgets what is too much then."""
    _kept[memory.__array_interface__["data"][0]] = memory
    most = config.kept_memory
    kept = _kept.copy()
    held = sum(map(len, kept.values()))
    for at, one in kept.items():
        if held <= most:
            break
        _kept.pop(at, None)
        held -= len(one)
