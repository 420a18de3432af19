"""The CUDA backend: CUDA C++ kernels, compiled at first use, on the current CuPy device.

docs/cuda.md says how it is written and how it is verified on machines without a GPU.
"""

from __future__ import annotations

from . import activation, conv, launch, matmul, plans, pool, scatter, tuning

__all__ = [
    "activation", "array_module", "available", "conv", "flag_value", "matmul", "plan", "pool",
    "scatter", "synchronize", "to_device", "to_host", "workspace",
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
    """Waits until everything on the current device is done."""
    launch.runtime().synchronize()


def flag_value(bad, wait: bool):
    """The int behind a value check; None if it is not there yet and ``wait`` is False.

    Reading it is the one synchronisation that a call makes, under value_checks="now".
    """
    return launch.runtime().flag_value(bad, wait)


def plan(operation, geometry, dtype, settings):
    """How one operation will be computed; under config.tune the fastest way, measured once."""
    make = tuning.plan if settings.tune else plans.plan
    return make(operation, geometry, dtype, settings)


def workspace(plan):
    """Scratch memory for one call, from the pool; None where the plan needs none."""
    return launch.runtime().scratch(plan.workspace_bytes) if plan.workspace_bytes else None
