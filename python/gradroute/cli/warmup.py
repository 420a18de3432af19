"""gradroute warmup: compile every kernel of the Numba backend now, not at a first call."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def warmup(
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that compile; one a thread if not given.")
    ] = None,
) -> None:
    """Compile the kernels for the common dtypes, serial and parallel, and keep them on disk.

    What is in the cache already is only looked up, so a second run is quick.
    """
    from gradroute.config import available_threads
    from gradroute.kernels.cpu.cache import folder, usable_folder

    console = Console()
    if usable_folder() is None:  # the warning has said why
        raise typer.Exit(1)
    builds, start = _builds(), time.perf_counter()
    before = _entries(folder())
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip
    # processes, as Numba compiles under one lock; spawned, as GNU OpenMP does not survive a fork
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs or available_threads(), mp_context=multiprocessing.get_context("spawn")
    )
    with pool, progress:
        bar = progress.add_task("compiling", total=len(builds))
        try:
            for done in concurrent.futures.as_completed([pool.submit(_build, *b) for b in builds]):
                progress.update(bar, advance=1, description=done.result())
            progress.update(bar, description="done")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    console.print(
        f"{len(builds)} variants of {len({position for position, *_ in builds})} kernels in "
        f"{time.perf_counter() - start:.0f} s, {_entries(folder()) - before} of them new in "
        f"{folder()}",
        highlight=False,
        soft_wrap=True,
    )


def _builds() -> list[tuple]:
    """(position in KERNELS, variant, parallel) of everything that there is to compile."""
    return [
        (position, variant, parallel)
        for position, kernel in enumerate(_kernels())
        for variant in kernel.variants
        for parallel in (False, True)
    ]


def _kernels() -> list:
    """Every kernel of the backend; in the same order in every process."""
    from gradroute import dispatch
    from gradroute.kernels.cpu.jit import KERNELS

    dispatch.load("numba")  # importing the backend fills the list
    return KERNELS


def _build(position: int, variant, parallel: bool) -> str:
    """Compiles one build, or finds it in the cache; runs in a process of the pool."""
    kernel = _kernels()[position]
    kernel.build(variant, parallel)
    return kernel.name


def _entries(folder) -> int:
    return sum(1 for _ in folder.glob("*.kernel"))
