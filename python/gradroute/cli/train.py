"""gradroute train: a small CNN on scikit-learn's digits, from start to held-out accuracy."""

from __future__ import annotations

import csv
import pathlib
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

INSTALL = 'python -m pip install "gradroute[demo]"'
#: The shell's status for a process that Ctrl-C ended.
INTERRUPTED = 130


@dataclass(frozen=True)
class Epoch:
    """One line of the history; loss and accuracy are those of the training batches."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float


def train(
    backend: Annotated[str, typer.Option(help="auto, reference, numba or cuda.")] = "auto",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and shifts.")] = 0,
    out: Annotated[
        pathlib.Path, typer.Option(help="Folder for weights, history and picture.")
    ] = pathlib.Path("runs/digits"),
) -> None:
    """Train a small CNN on 1,437 real digits, and test it on 360 that it never saw.

    Ctrl-C keeps the last finished epoch: the weights and results of that one are written.
    """
    _check_installed()
    import gradroute as gr

    from . import digits

    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with gr.config(backend=backend):
        data = digits.load()
        library = "cupy" if backend == "cuda" else "numpy"
        training = digits.Training(data, batch=batch, epochs=epochs, seed=seed, library=library)
        history, interrupted = _run(training, console)
        if not history:
            console.print("Stopped before the first epoch was finished: nothing is written.")
            raise typer.Exit(INTERRUPTED)
        net = training.net.to("numpy")
        found = digits.predictions(net, data.held_out_x)
        right = int((found == data.held_out_labels).sum())
        console.print(
            f"held-out accuracy {100 * right / len(found):.2f}% ({right}/{len(found)})",
            highlight=False,
        )
    for path in _write(out, net, history, data, found):
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    console.print(_comparison(data, batch, seed))


def _check_installed() -> None:
    """All that this command needs beyond the extra `cli`, before anything is computed."""
    from importlib.util import find_spec

    missing = [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        typer.echo(f"gradroute train needs {' and '.join(missing)}. Install: {INSTALL}", err=True)
        raise typer.Exit(1)


# ---- the training -------------------------------------------------------------------------


def _run(training, console) -> tuple[list[Epoch], bool]:
    """Trains until done or Ctrl-C; the network then holds its last finished epoch."""
    history, interrupted = [], False
    finished = _parameters(training.net)
    progress = Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            bar = progress.add_task("epoch", total=training.epochs, state="")
            for number in range(1, training.epochs + 1):
                line = _epoch(training, number, progress, bar)
                finished, history = _parameters(training.net), [*history, line]
                if not console.is_terminal:
                    print(f"epoch {number}/{training.epochs}  {_state(line)}", flush=True)
    except KeyboardInterrupt:
        interrupted = True
        if history:
            console.print(f"Ctrl-C: keeping epoch {len(history)}, the last one finished.")
    for name, array in training.net.parameters().items():
        array[...] = finished[name]
    return history, interrupted


def _parameters(net) -> dict:
    return {name: array.copy() for name, array in net.parameters().items()}


def _state(line: Epoch) -> str:
    return f"loss {line.loss:.3f}  accuracy {100 * line.accuracy:5.1f}%"


def _epoch(training, number, progress, bar) -> Epoch:
    """Trains one epoch and moves the bar with every batch."""
    start, loss, right, seen = time.perf_counter(), 0.0, 0, 0
    for batch_loss, batch_right, count in training.epoch():
        loss, right, seen = loss + batch_loss * count, right + batch_right, seen + count
        line = Epoch(number, loss / seen, right / seen, time.perf_counter() - start)
        done = number - 1 + seen / len(training.digits.x)
        progress.update(bar, completed=round(done, 2), state=_state(line))
    return line


# ---- what it leaves -----------------------------------------------------------------------


def _write(out, net, history, data, found) -> list[pathlib.Path]:
    """Weights, history and picture; returns their paths."""
    from .picture import draw

    paths = [out / "weights.npz", out / "history.csv", out / "training.png"]
    net.save(paths[0])
    with open(paths[1], "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.__dataclass_fields__))
        writer.writeheader()
        for line in history:
            writer.writerow({k: f"{v:.6g}" if k != "epoch" else v for k, v in asdict(line).items()})
    draw(paths[2], net, history, data, found)
    return paths


def _comparison(data, batch, seed) -> Table:
    """Seconds per epoch on each CPU backend, and how far their gradients lie apart."""
    import gradroute as gr
    from gradroute import dispatch

    from . import digits

    table = Table(title="one epoch on each CPU backend")
    table.add_column("backend")
    table.add_column("seconds per epoch", justify="right")
    table.add_column("largest relative difference of a gradient", justify="right")
    expected = None
    for name in dispatch.FOLDERS:
        if name == "cuda":
            continue
        try:
            dispatch.load(name)
        except gr.errors.BackendError as error:
            table.add_row(name, "-", Text(str(error)))
            continue
        with gr.config(backend=name):
            training = digits.Training(data, batch=batch, epochs=1, seed=seed)
            digits.gradients(training.net, data.x[:batch], data.labels[:batch])  # also warms up
            found = {k: array.astype("float64") for k, array in training.net.gradients().items()}
            start = time.perf_counter()
            for _ in training.epoch():
                pass
            seconds = time.perf_counter() - start
        if expected is None:
            expected, shown = found, "(compared with this one)"
        else:
            shown = f"{_largest_difference(found, expected):.1e}"
        table.add_row(name, f"{seconds:.2f}", shown)
    return table


def _largest_difference(found, expected) -> float:
    """Over all parameters: the largest |difference| beside the largest |gradient|."""
    return max(
        float(abs(found[name] - array).max() / abs(array).max()) for name, array in expected.items()
    )
