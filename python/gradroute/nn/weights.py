"""Parameters in a .npz file: written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib

import numpy as np

from gradroute.errors import ArgumentTypeError, ArgumentValueError


def _path(path) -> pathlib.Path:
    try:
        return pathlib.Path(path)
    except TypeError:
        raise ArgumentTypeError(f"path must be a file name, got {path!r}") from None


def write(path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a .npz file beside ``path`` and renames it: a reader sees the old file or the new."""
    path = _path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "xb") as file:
            # NumPy has no bfloat16 of its own: it is kept as float32, which holds it exactly
            np.savez(
                file, **{n: a.astype("float32") if a.dtype.name == "bfloat16" else a
                         for n, a in arrays.items()}
            )  # fmt: skip
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read(path) -> dict[str, np.ndarray]:
    """{name: array} of a .npz file; ArgumentValueError for a file that is none."""
    path = _path(path)
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArgumentValueError(f"{path} is no .npz file of arrays: {error}") from error


def check_fit(path, found: dict[str, np.ndarray], wanted: dict[str, tuple]) -> None:
    """Refuses arrays whose names, shapes or kinds are not those wanted; names each that differs."""
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is not in the network" for name in found if name not in wanted]
    for name in wanted:
        if name not in found:
            continue
        if found[name].shape != wanted[name]:
            wrong.append(f"{name} has shape {found[name].shape}, the network {wanted[name]}")
        elif found[name].dtype.kind != "f":
            wrong.append(f"{name} is {found[name].dtype}, not a float array")
    if wrong:
        raise ArgumentValueError(f"{path} does not fit this network: {'; '.join(wrong)}")
