"""gradroute doctor: which backends run here, and for each that does not, why and what to do."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
from importlib.util import find_spec

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Backends that are quick enough to work with; the reference is the one to check them against.
FAST = ("numba", "cuda")
_VERSIONS = ("numpy", "numba", "llvmlite", "cupy-cuda12x", "cupy-cuda13x", "cupy", "scikit-learn",
             "matplotlib")  # fmt: skip


def doctor() -> None:
    """Show which backends run here, why the others do not, and the settings in force.

    The exit status is 1 only where no fast backend (numba or cuda) runs.
    """
    from gradroute import dispatch

    console = Console()
    reasons = {name: _reason(name) for name in dispatch.FOLDERS}
    console.print(_backends(reasons))
    table = Table.grid(padding=(0, 2))
    for name, value in [*_versions(), *_threads(reasons), *_caches(reasons), *_settings()]:
        table.add_row(name, Text(value))
    console.print(table)
    if all(reasons[name] for name in FAST):
        console.print("No fast backend runs here.")
        raise typer.Exit(1)


# ---- backends -----------------------------------------------------------------------------


def _reason(name: str) -> str | None:
    """Why a backend does not run here; None where a first small call gave the right answer."""
    import numpy as np

    import gradroute as gr

    try:
        with gr.config(backend=name):
            y = gr.activate(np.array([-1.0, 2.0], "float32"), "relu")
    except gr.GradrouteError as error:
        return str(error)
    except Exception as error:  # whatever it is, it is what the user came to ask about
        return f"{type(error).__name__}: {error}"
    return None if y.tolist() == [0.0, 2.0] else f"a first call gave {y.tolist()}, not [0, 2]"


def _fix(name: str) -> str:
    """The command that would make a backend run."""
    if name == "cuda" and find_spec("cupy") is None:
        return 'python -m pip install "gradroute[cuda13]"   (or [cuda12] for an older driver)'
    if name == "cuda":
        return "nvidia-smi   (shows the driver; on Debian: sudo apt-get install nvidia-driver)"
    return "python -m pip install --upgrade --force-reinstall gradroute numba"


def _backends(reasons: dict) -> Table:
    table = Table(title="backends")
    table.add_column("backend")
    table.add_column("runs here")
    table.add_column("if not: why, and the command to try", overflow="fold")
    for name, reason in reasons.items():
        why = Text(f"{reason}\n\n{_fix(name)}" if reason else "")  # Text: [cuda13] is no markup
        table.add_row(name, "no" if reason else "yes", why)
    return table


# ---- what is there ------------------------------------------------------------------------


def _versions():
    import gradroute as gr

    yield "gradroute", f"{gr.__version__}, {pathlib.Path(gr.__file__).parent}"
    yield "Python", f"{platform.python_version()}, {platform.platform()}, {_processor()}"
    for name in _VERSIONS:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _processor() -> str:
    """The processor's name as Linux knows it, else the machine's architecture."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _threads(reasons):
    from gradroute.config import available_threads, config

    yield "threads", f"{config.current().threads} of the {available_threads()} this process may use"
    if reasons["numba"] is None:
        import numba

        count = numba.get_num_threads()  # also starts the layer, which has no name before
        yield "threading layer", f"{numba.threading_layer()}, {count} threads"


def _caches(reasons):
    if find_spec("numba") is not None:
        from gradroute.kernels.cpu.cache import folder

        yield "Numba cache", _size(folder())
    if reasons["cuda"] is None:
        from gradroute.kernels.cuda.cupy_runtime import cache_folder

        yield "CUDA cache", _size(cache_folder())


def _size(folder: pathlib.Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    return f"{folder}, {len(files)} files, {size / 2**20:.1f} MiB"


def _settings():
    from gradroute.config import config

    yield "settings", repr(config)
