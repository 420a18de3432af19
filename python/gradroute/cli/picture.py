"""The picture that `gradroute train` leaves: four panels on one page."""

from __future__ import annotations

import pathlib

import numpy as np


def draw(path: pathlib.Path, net, history, data, found) -> None:
    """Loss, accuracy, the first filters and a few misread digits, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(2, 2)
    _curves(parts[0, 0], parts[0, 1], history, data, found)
    _filters(parts[1, 0], net.parameters()["conv1.w"])
    _misread(parts[1, 1], data, found)
    figure.savefig(path, dpi=110)


def _curves(left, right, history, data, found):
    """Loss and accuracy of the training batches; held-out accuracy is one number, at the end."""
    epochs = [line.epoch for line in history]
    held_out = 100 * float((found == data.held_out_labels).mean())

    axes = left.subplots()
    axes.plot(epochs, [line.loss for line in history], marker="o", markersize=3)
    axes.set(title="training loss", xlabel="epoch", ylabel="mean cross-entropy", ylim=(0, None))
    axes.grid(alpha=0.3)

    axes = right.subplots()
    axes.plot(epochs, [100 * line.accuracy for line in history], marker="o", markersize=3,
              label="training batches, shifted")  # fmt: skip
    axes.plot(epochs[-1:], [held_out], marker="*", markersize=14, linestyle="none", color="C1",
              label=f"held out, after training: {held_out:.2f}%")  # fmt: skip
    low = min([held_out, *(100 * line.accuracy for line in history[len(history) // 10 :])])
    axes.set(title="accuracy", xlabel="epoch", ylabel="%", ylim=(max(0.0, low - 3), 100.7))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _filters(part, w):
    """The windows of the first convolution; w is (K, 1, R, S)."""
    part.suptitle("first filters (blue negative, red positive)")
    columns = 4
    grid = part.subplots(-(-len(w) // columns), columns, squeeze=False)
    largest = float(np.abs(w).max())
    for axes, weights in zip(grid.flat, w):
        axes.imshow(weights[0], cmap="RdBu_r", vmin=-largest, vmax=largest)
    for axes in grid.flat:
        axes.set_axis_off()


def _misread(part, data, found):
    """Up to ten held-out digits that were read as another."""
    wrong = np.flatnonzero(found != data.held_out_labels)
    shown = wrong[:10]
    part.suptitle(f"misread: {len(wrong)} of {len(found)} held-out digits")
    grid = part.subplots(2, 5)
    for axes, index in zip(grid.flat, shown):
        axes.imshow(data.held_out_x[index, 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{data.held_out_labels[index]} read as {found[index]}", fontsize=9)
    for axes in grid.flat:
        axes.set_axis_off()
