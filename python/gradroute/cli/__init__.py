"""The `gradroute` command.  Each command is a module of its own, registered in app.py."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `gradroute`; also there without the extra that it needs, which it names."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "click", "rich"):
            raise
        sys.exit(
            f"The gradroute command needs typer and rich ({error.name} is missing here).\n"
            'Install them with:  python -m pip install "gradroute[cli]"'
        )
    from gradroute.errors import GradrouteError

    try:
        app()
    except GradrouteError as error:
        sys.exit(f"gradroute: {error}")
