"""One module per library, each with a `Peer`: how that library computes each operation.

A peer's method for an operation is named like it, takes the case and its inputs (NumPy, channels
first), moves them to where and how the library wants them, and returns a `Run`; a peer without
that method, or whose method returns None, does not take part in the case.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple


class Run(NamedTuple):
    """``call()`` computes and waits for the result; ``read(result)`` lists it as NumPy arrays.

    ``note`` says what the call does more or less than gradroute's; with one, read may list fewer
    arrays than gradroute gives.
    """

    call: Callable[[], Any]
    read: Callable[[Any], list]
    note: str = ""


class Peer:
    """A library: ``name`` as tables show it, ``module`` that must be importable."""

    name: str
    module: str
    install: str

    @classmethod
    def missing(cls) -> str | None:
        """What to install, or None where the library is there."""
        if importlib.util.find_spec(cls.module) is not None:
            return None
        return cls.install

    def __init__(self, threads: int):
        self.threads = threads

    def prepare(self, case, inputs) -> Run | None:
        method = getattr(self, case.op, None)
        return method(case, inputs) if method else None


#: name -> (module of this package, class): looked up when the peer is asked for
_KNOWN = {
    "pytorch": ("pytorch", "Default"),
    "pytorch channels_last": ("pytorch", "ChannelsLast"),
    "jax": ("jax_xla", "Jax"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "mygrad": ("mygrad_peer", "MyGrad"),
    "numpy im2col": ("numpy_im2col", "Im2col"),
}


def known() -> list[str]:
    return list(_KNOWN)


def peer_class(name: str) -> type[Peer]:
    """The class of a known peer.  Importing it does not import the library."""
    module, attribute = _KNOWN[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
