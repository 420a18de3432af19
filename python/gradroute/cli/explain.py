"""gradroute explain: the question's two examples, or a neuron of a trained digits network."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer
from rich.console import Console

_ENDINGS = (".png", ".svg")


def explain(
    weights: Annotated[
        pathlib.Path | None,
        typer.Option(exists=True, dir_okay=False, help="weights.npz of `gradroute train`."),
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Which held-out image; with --weights.")] = 0,
    layer: Annotated[str | None, typer.Option(help="A layer's name, or input.")] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="A neuron: 0,3,2.  Twice or more: side by side.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, reference, numba or cuda.")] = "auto",
    out: Annotated[pathlib.Path, typer.Option(help="Folder for the pictures.")] = pathlib.Path(
        "runs/explain"
    ),
) -> None:
    """Show where a neuron's gradient comes from, consumer by consumer, and draw it.

    Without options: the two examples of the question that gradroute grew out of.  With --weights,
    --layer and --unit: a neuron of a digits network that `gradroute train` has trained.
    """
    import gradroute as gr

    console = Console()
    with gr.config(backend=backend):
        if weights is None:
            if layer is not None or unit:
                raise typer.BadParameter("--layer and --unit need --weights")
            found = _question(console)
        else:
            found = _digits(console, weights, sample, layer, unit)
    out.mkdir(parents=True, exist_ok=True)
    for name, explained in found.items():
        for ending in _ENDINGS:
            path = out / f"{name}{ending}"
            explained.plot(path)
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _question(console) -> dict:
    """The two examples: printed, and returned by the name of their picture."""
    import gradroute as gr
    from gradroute.explain.examples import pool_to_conv, pool_to_linear

    def say(text):
        console.print(text, highlight=False)

    net, x, dy = pool_to_linear()
    say("[bold]1. A pool feeds fully connected neurons, whose gradients are 2, 3 and 6.[/bold]\n")
    linear = gr.compare(net, "pool", [(0, 0, 0), (0, 0, 1)], x=x, dy=dy)
    console.print(linear.explanations[1])
    say("\nIts neighbour has the same consumers, and other weights to them:\n")
    console.print(linear)
    net, x, dy = pool_to_conv()
    say("\n[bold]2. A pool feeds a 3x3 convolution: a corner and an inner neuron.[/bold]\n")
    conv = gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy)
    console.print(conv)
    say("")
    console.print(gr.shared(net, "pool", x=x))
    say("")
    return {"pool-to-linear": linear, "pool-to-conv": conv}


def _digits(console, weights, sample, layer, unit) -> dict:
    """One neuron, or several, of a trained network, for one of the held-out images."""
    import numpy as np

    import gradroute as gr

    from . import digits

    data, net = digits.load(), digits.network()
    net.load(weights)
    if sample >= len(data.held_out_x):
        raise typer.BadParameter(f"--sample goes from 0 to {len(data.held_out_x) - 1}")
    x = data.held_out_x[sample : sample + 1]
    labels = data.held_out_labels[sample : sample + 1]
    if layer is None or not unit:
        shapes = {"input": x.shape[1:], **_shapes(net, x)}
        there = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise typer.BadParameter(f"--weights needs --layer and --unit; there are {there}")
    units = [_unit(text) for text in unit]
    logits = net.forward(x, keep=False)[0].astype(np.float64)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    console.print(
        f"held-out image {sample} is a {labels[0]}; the network says {share.argmax()} "
        f"({100 * share.max():.1f}%).  Gradients are those of this image's cross-entropy.\n",
        highlight=False,
    )
    if len(units) > 1:
        found = gr.compare(net, layer, units, x=x, labels=labels)
    else:
        found = gr.explain(net, layer, units[0], x=x, labels=labels)
    console.print(found)
    console.print()
    name = "-".join([layer, *("_".join(map(str, one)) for one in units), f"sample{sample}"])
    return {name: found}


def _shapes(net, x) -> dict:
    shapes, y = {}, x
    for name, layer in net.layers.items():
        y, _ = layer.forward(y, keep=False)
        shapes[name] = y.shape[1:]
    return shapes


def _unit(text) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(" ", "").strip("()[]").split(",") if part)
    except ValueError:
        raise typer.BadParameter(f"--unit must be integers such as 0,3,2, got {text!r}") from None
