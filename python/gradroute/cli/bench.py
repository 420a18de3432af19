"""gradroute bench: gradroute beside the other libraries that are installed, on equal terms."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer


def bench(
    ops: str = typer.Option(None, help="Families or operations, comma-separated; default all."),
    rows: str = typer.Option(None, help="Regular expression that a case's name must contain."),
    shapes: Path = typer.Option(None, help="CSV of shapes instead of those that come along."),
    backend: str = typer.Option("numba", help="numba, reference or cuda."),
    threads: int = typer.Option(None, help="On every side; default: all that may be used."),
    seconds: float = typer.Option(0.3, help="Timing per case, for all sides together."),
    dtype: str = typer.Option("float32", help="float32 or float64."),
    layout: str = typer.Option("channels_first", help="Of gradroute's images, or channels_last."),
    peers: str = typer.Option(None, help="Comma-separated; default: every peer installed."),
    scaling: bool = typer.Option(False, help="Also how the cost grows with each size."),
    run: bool = typer.Option(True, help="--no-run: only show or report what --json holds."),
    json: Path = typer.Option(None, help="Write the rows here, over those it holds already."),
    resume: bool = typer.Option(False, "--continue", help="Leave out the cases in --json."),
    pictures: Path = typer.Option(None, help="Folder for speedup.png and roofline.png."),
    report: Path = typer.Option(None, help="Write a Markdown report, its pictures beside it."),
    itself: Path = typer.Option(
        None, help="Only write errors, first calls and small calls of gradroute, as Markdown."
    ),
) -> None:
    """Measure gradroute beside PyTorch, JAX, ONNX Runtime, MyGrad and plain NumPy.

    The same inputs and threads on every side, results checked against float64, then timed in
    turns.  A long run can be made in pieces: --json adds to what the file holds, case by case, and
    --continue goes on where an earlier run was stopped.
    """
    from rich.console import Console

    from gradroute.bench import measure, record, tables
    from gradroute.bench.cases import load_cases

    console = Console()
    _refuse(backend=(backend, ("numba", "reference", "cuda")),
            dtype=(dtype, ("float32", "float64")),
            layout=(layout, ("channels_first", "channels_last")))  # fmt: skip
    if itself is not None:
        _write_itself(console, itself, _checked_threads(threads))
        return
    held = record.load(json) if json else {"rows": []}
    if run:
        threads = _checked_threads(threads)
        cases = load_cases(ops, rows, shapes)
        ours, others, missing = measure.sides(
            _peer_names(peers), threads=threads, backend=backend, layout=layout
        )
        for name, install in missing.items():
            console.print(f"{name} is not installed:  {install}", markup=False, highlight=False)
        if resume:
            done = {row.key for row in held["rows"]}
            cases = [c for c in cases if measure.key(c, ours, dtype) not in done]
        for found in _measure(console, cases, ours, others, seconds, dtype, scaling):
            held = record.merge(held, found)
            if json:
                record.save(json, held)
    elif not held["rows"]:
        raise typer.BadParameter("--no-run needs a --json that holds rows")
    for table in (*tables.comparison(held["rows"]), tables.summary(held["rows"])):
        console.print(table)
    for note in tables.notes(held["rows"]):
        console.print(note, markup=False, highlight=False)
    _write(console, held, pictures, report)
    if any(row.failure for row in held["rows"]):
        raise typer.Exit(1)


def _refuse(**options) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise typer.BadParameter(f"--{name} must be one of {', '.join(known)}, got {value!r}")


def _checked_threads(threads):
    import gradroute as gr
    from gradroute.config import available_threads

    with gr.config(threads=threads):  # refuses what cannot be used
        return threads or available_threads()


def _peer_names(chosen):
    from gradroute.bench.peers import known

    if chosen is None:
        return known()
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    _refuse(**{"peers": (name, known()) for name in names if name not in known()})
    return names


# ---- measuring ----------------------------------------------------------------------------


def _measure(console, cases, ours, peers, seconds, dtype, scaling):
    """Yields the record of this run so far, after each case; a bar shows how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gradroute.bench import ceilings, machine, measure
    from gradroute.bench import scaling as growth

    found = {
        "machine": machine.describe(),
        "settings": {"threads": ours.threads, "seconds": seconds},
        "rows": [],
    }
    if ours.backend != "cuda":
        measured = ceilings.ceilings(dtype, ours.threads)
        found["ceilings"] = {"dtype": dtype, "threads": ours.threads, **measured}
    columns = (TextColumn("{task.description:42}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.op} {case.name}"[:42])
            row = measure.measure(case, ours, peers, seconds=seconds, dtype=dtype)
            found["rows"].append(row)
            progress.advance(task)
            yield found
        if scaling:
            task = progress.add_task("how the cost grows", total=growth.steps(ours.threads))
            results = []
            for result in growth.grow(ours.threads, ours.backend, seconds):
                results.append(result)
                progress.advance(task)
            found["scaling"] = growth.collect(results)
            yield found


def _write_itself(console, path, threads) -> None:
    from gradroute.bench import itself

    with console.status("") as status:
        itself.write(path, threads, _command(), status.update)
    console.print(f"wrote {path}", markup=False, highlight=False)


def _command() -> str:
    return shlex.join(["gradroute", *sys.argv[1:]])


# ---- writing ------------------------------------------------------------------------------


def _write(console, held, folder, report) -> None:
    if folder is None and report is None:
        return
    try:
        from gradroute.bench import pictures
    except ModuleNotFoundError as error:
        sys.exit(
            f"Pictures need matplotlib ({error.name} is missing here).\n"
            'Install it with:  python -m pip install "gradroute[plot]"'
        )
    files = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        pictures.speedup(held["rows"], folder / "speedup.png")
        files.append(folder / "speedup.png")
        if held.get("ceilings"):
            pictures.roofline(held["rows"], held["ceilings"], folder / "roofline.png")
            files.append(folder / "roofline.png")
    if report is not None:
        from gradroute.bench.report import write

        files += write(held, report, _command())
    for file in files:
        console.print(f"wrote {file}", markup=False, highlight=False)
