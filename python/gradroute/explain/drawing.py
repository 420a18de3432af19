"""matplotlib is an extra: it is imported when a picture is asked for, and named if missing."""

from __future__ import annotations

from gradroute.errors import BackendError


def drawing():
    """The module that draws."""
    try:
        from . import picture
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise BackendError(
            'a picture needs matplotlib; install it with: python -m pip install "gradroute[plot]"'
        ) from error
    return picture
