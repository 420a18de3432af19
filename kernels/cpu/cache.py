"""Where compiled kernels are kept between processes.

Numba's own cache notices an edit of the file that holds a function, but not of the helpers that
were compiled into it.  Here the key of an entry holds a digest of every source file in this
folder, so any edit starts afresh.  One build is one file, written beside its final name and
renamed, with a checksum in front: a reader sees a whole entry or none, and a truncated or
foreign file counts as none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import pickle
import sys
import tempfile
import warnings

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, _Cache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from gradroute.folders import private

_MAGIC = b"gradroute kernel\n"


@functools.cache
def source_digest() -> str:
    """Of every source file that can end up inside a compiled kernel."""
    digest = hashlib.sha256()
    here = pathlib.Path(__file__).parent
    for path in [here.parent / "contract.py", *sorted(here.rglob("*.py"))]:
        name = path.relative_to(here.parent).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def folder() -> pathlib.Path:
    """NUMBA_CACHE_DIR if it is set, else the user's own cache folder."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen) / "gradroute"
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "gradroute" / "numba"


@functools.cache
def usable_folder() -> pathlib.Path | None:
    """The folder, made with the user's rights only; None, said once, where that cannot be."""
    try:
        path = private(folder())
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"gradroute: compiled kernels are not kept between processes: {error}. "
            "Set NUMBA_CACHE_DIR to a folder of your own.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return path


class KernelCache(_Cache):
    """Numba's cache interface over one file per build."""

    def __init__(self, name: str, body):
        self._name = name
        self._impl = CompileResultCacheImpl(body)

    @property
    def cache_path(self):
        return str(folder())

    def enable(self):
        pass

    def disable(self):
        pass

    def flush(self):
        pass

    def _path(self, signature, codegen) -> pathlib.Path | None:
        base = usable_folder()
        if base is None:
            return None
        made_by = (numba.__version__, llvmlite.__version__, sys.implementation.cache_tag)
        key = repr((source_digest(), made_by, str(signature), codegen.magic_tuple()))
        return base / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.kernel"

    def load_overload(self, sig, target_context):
        # machine code asks for no more of Numba than its memory functions; what can be compiled is
        # registered, which takes 0.2 s, only where something is
        rtsys.initialize(target_context)
        path = self._path(sig, target_context.codegen())
        try:
            data = path.read_bytes() if path else b""
        except OSError:
            return None
        head = len(_MAGIC) + 32
        if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : head] != _checksum(data[head:]):
            return None
        # only bytes that this package wrote, in a folder that only this user can write
        return self._impl.rebuild(target_context, pickle.loads(data[head:]))

    def save_overload(self, sig, data):
        path = self._path(sig, data.codegen)
        if path is None or not self._impl.check_cachable(data):
            return
        payload = dumps(self._impl.reduce(data))
        written = None
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                written = pathlib.Path(file.name)
                file.write(_MAGIC + _checksum(payload) + payload)
            os.replace(written, path)
        except OSError as error:  # a full disk: the kernel itself is fine
            _say_once(f"gradroute: compiled kernels are not kept: {error.strerror or error}")
            if written is not None:
                with contextlib.suppress(OSError):
                    written.unlink(missing_ok=True)


@functools.cache
def _say_once(message: str):
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()
