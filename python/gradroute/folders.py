"""Folders for what is kept between processes and trusted when it is read again."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def private(path: Path) -> Path:
    """``path``, made if need be, a folder that only this user can write; else OSError."""
    for one in [*reversed(path.parents), path]:  # mkdir's own mode is not its parents'
        one.mkdir(mode=0o700, exist_ok=True)
    state = path.stat()
    if state.st_mode & stat.S_IWOTH or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
        raise PermissionError(f"{path} can be written by others, or belongs to somebody else")
    return path
