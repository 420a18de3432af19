"""The CUDA backend: CUDA C++ kernels, compiled at first use, on the current CuPy device.

docs/cuda.md says how it is written and how it is verified on machines without a GPU.
"""

from __future__ import annotations

from . import launch, pool

__all__ = [
    "array_module", "available", "flag_value", "pool", "synchronize", "to_device", "to_host",
]  # fmt: skip


def available() -> str | None:
    """None where the backend can run, else the reason and what to do about it."""
    return launch.runtime().available()


def array_module():
    """The library of the arrays that the kernels read and write: CuPy."""
    return launch.runtime().array_module()


def to_device(array):
    """A NumPy array's copy on the current device."""
    return launch.runtime().to_device(array)


def to_host(array):
    """A device array's copy as a NumPy array; waits for the current stream."""
    return launch.runtime().to_host(array)


def synchronize() -> None:
    """Waits until everything on the current stream is done."""
    launch.runtime().synchronize()


def flag_value(bad, wait: bool):
    """The int behind a value check; None if it is not there yet and ``wait`` is False.

    Reading it is the one synchronisation that a call makes, under value_checks="now".
    """
    if not wait and not launch.runtime().finished():
        return None
    return int(bad)
