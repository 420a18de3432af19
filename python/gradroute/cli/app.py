"""The command line's one register: a command is a module here and a line below.

A command's module imports what it computes with inside its function, so that `gradroute --help`
stays quick.
"""

from __future__ import annotations

import typer

from gradroute._version import __version__

from .bench import bench
from .doctor import doctor
from .explain import explain
from .train import train
from .warmup import warmup

app = typer.Typer(
    name="gradroute",
    help="Accelerated forward and backward passes; what runs here, and a training to see it run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def options(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(f"gradroute {__version__}")
        raise typer.Exit


for command in (train, doctor, explain, bench, warmup):
    app.command()(command)
