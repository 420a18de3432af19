"""A kernel with its dtypes and threads settled, for calls that are made again and again."""

from __future__ import annotations

from functools import partial


def bound(kernel, threads, variant):
    """The kernel as a function of its arguments; of one thread it is the compiled one itself."""
    if threads > 1:
        return partial(kernel, variant, threads)
    return kernel.entry(variant, False)
