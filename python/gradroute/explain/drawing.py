"""matplotlib is an extra: it is imported when a picture is asked for, and named if missing."""

from __future__ import annotations

import importlib

from gradroute.errors import BackendError


def drawing(name: str = "picture"):
    """The module of this package that draws."""
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise BackendError(
            'a picture needs matplotlib; install it with: python -m pip install "gradroute[plot]"'
        ) from error
