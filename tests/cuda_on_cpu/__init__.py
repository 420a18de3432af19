"""The CUDA kernels run on the CPU, thread by thread, every access checked: see README.md."""

from __future__ import annotations

import sys
from contextlib import contextmanager

from .build import CompilerMissing, compiler
from .module import ORDERS, KernelError
from .runtime import HostRuntime, build_ahead

__all__ = ["ORDERS", "HostRuntime", "KernelError", "build_ahead", "reason_missing", "stand_in"]


def reason_missing():
    """Why the runner cannot be used here, or None."""
    try:
        compiler()
    except CompilerMissing as error:
        return str(error)
    return None


@contextmanager
def stand_in(order="ascending", seed=1):
    """Inside the block the whole "cuda" backend runs on the CPU, and ``cupy`` is its look-alike."""
    from gradroute.kernels.cuda import launch

    runtime = HostRuntime(order, seed)
    missing = object()
    before = sys.modules.get("cupy", missing)
    sys.modules["cupy"] = runtime.array_module()
    try:
        with launch.use_runtime(runtime):
            yield runtime
    finally:
        if before is missing:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
