"""Which backend serves this call: the arrays decide first, the configuration second.

A backend is a folder of gradroute.kernels that keeps kernels/contract.py.  One whose arrays are
not NumPy's also exports available(), to_device(), to_host(), synchronize(), array_module() and
flag_value(bad, wait): the int behind a value check, or None while it is not there yet.
"""

from __future__ import annotations

import functools
import importlib
import sys

import numpy as np

from .config import config
from .errors import ArgumentTypeError, BackendError

#: configuration name -> folder of gradroute.kernels; a new backend is one line here
FOLDERS = {"reference": "reference", "numba": "cpu", "cuda": "cuda"}
_REFUSED = {
    "MaskedArray": "its mask would be ignored; pass x.filled(value)",
    "matrix": "it is always two-dimensional; pass np.asarray(x)",
}


@functools.cache
def _loaded(name: str):
    if name != "reference" and _in_sub_interpreter():
        raise BackendError(
            f"backend {name!r} cannot run in a sub-interpreter, where its compiler would wait for "
            'ever: use a process or the main interpreter, or backend="reference"'
        )
    return importlib.import_module(f"gradroute.kernels.{FOLDERS[name]}")


def _in_sub_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, before it
        try:
            found = importlib.import_module(name)
        except ImportError:
            continue
        return found.get_current() != found.get_main()
    return False


def load(name: str):
    """The backend's module; BackendError says why it cannot run here and what to install."""
    try:
        backend = _loaded(name)
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot be imported: {error}") from error
    reason = backend.available() if hasattr(backend, "available") else None
    if reason:
        raise BackendError(f"backend {name!r} cannot run here: {reason}")
    return backend


def library_of(array, name: str) -> str:
    """ "numpy" or "cupy"; anything else is refused."""
    if type(array) is np.ndarray:
        return "numpy"
    kind = type(array).__name__
    if isinstance(array, np.ndarray):
        for base in type(array).__mro__:  # also a class of the user's own, derived from these
            if base.__name__ in _REFUSED:
                raise ArgumentTypeError(
                    f"{name} must be a plain array, got {kind}: {_REFUSED[base.__name__]}"
                )
        return "numpy"  # np.memmap and other subclasses that only add attributes
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return "cupy"
    raise ArgumentTypeError(
        f"{name} must be a NumPy or CuPy array, got {kind}"
        + (f"; pass np.asarray({name})" if isinstance(array, (list, tuple, int, float)) else "")
    )


def common_library(arrays: dict) -> str:
    """The one library of all these arrays (None entries aside)."""
    found = {name: library_of(array, name) for name, array in arrays.items() if array is not None}
    libraries = set(found.values())
    if len(libraries) > 1:
        raise ArgumentTypeError(
            f"arrays of one call must come from one library, got {found}; "
            "move them with cupy.asarray or cupy.asnumpy"
        )
    return libraries.pop() if libraries else "numpy"


def name_for(library: str) -> str:
    """The name of the backend that serves arrays of this library under the configuration."""
    chosen = config.current().backend
    if chosen == "auto":
        return "cuda" if library == "cupy" else "numba"
    if library == "cupy" and chosen != "cuda":
        raise ArgumentTypeError(
            f'backend {chosen!r} takes NumPy arrays and got CuPy arrays: set backend="cuda" or '
            '"auto", or copy them to the host yourself with cupy.asnumpy'
        )
    return chosen


def which_backend(*arrays) -> str:
    """The backend that would serve these arrays: "reference", "numba" or "cuda".

    Raises BackendError if that backend cannot run here, and ArgumentTypeError for mixed libraries.

    >>> import numpy as np, gradroute as gr
    >>> gr.which_backend(np.zeros(3))
    'numba'
    """
    name = name_for(common_library({f"array {i}": a for i, a in enumerate(arrays)}))
    load(name)
    return name


def synchronize() -> None:
    """Waits until every call has finished, and raises what a deferred value check found.

    A call on the CPU is finished when it returns; on a GPU it may still be running.

    >>> import gradroute as gr
    >>> gr.synchronize()
    """
    from .ops.checks import raise_pending

    if "gradroute.kernels.cuda" in sys.modules:
        backend = _loaded("cuda")
        if backend.available() is None:
            backend.synchronize()
    raise_pending(wait=True)
