"""Maps for a terminal: one channel of one layer as a grid of numbers."""

from __future__ import annotations

import numpy as np

from gradroute.errors import IndexRangeError
from gradroute.options import integer

from .text import coloured, joined, terminal_width, wrapped


def plain(found, *, width=None, channel=0) -> str:
    return joined(lines(found, terminal_width(width), channel))


def styled(found, *, width=None, channel=0):
    """The lines of a map as a rich Text."""
    return coloured(lines(found, terminal_width(width), channel))


def plane_of(found, array, channel) -> np.ndarray:
    """One channel of an array of a map's layout as rows and columns; 3-D: the slices in a row."""
    array = np.moveaxis(array, -1, 0) if found.channels_last else array
    if integer(channel, "channel", at_least=0) >= len(array):
        raise IndexRangeError(f"channel {channel} is not there: choose 0 to {len(array) - 1}")
    if array.ndim == 1:  # no image: the neurons in one row
        return array[None]
    one = array[channel]
    return one.reshape(-1, one.shape[-1]) if one.ndim > 1 else one[None]


def key(found) -> list[str]:
    """What the numbers mean, in sentences."""
    if not hasattr(found, "ties"):
        low, high = int(found.counts.min()), int(found.counts.max())
        span = f"between {low} and {high}" if low != high else f"all {low}"
        return [
            f"{span}; each read brings a gradient of its own, and they are added",
            "neurons at an edge are read by fewer windows" if low != high else "",
        ]
    ties = int(found.ties.sum())
    return [
        f"of {found.counts.size:,} neurons {int(found.none.sum()):,} won no window and get "
        f"gradient 0, {int(found.several.sum()):,} won several and get the sum",
        f"{ties:,} of {found.ties.size:,} windows {'is' if ties == 1 else 'are'} tied (two or more "
        "largest inputs)",
    ]


def lines(found, width, channel):
    """The title, the grid of one channel, and what it means."""
    plane = plane_of(found, found.counts, channel)
    more = f", channel {channel}" if found.counts.ndim > 1 else ""
    made = wrapped(found.title + more, width, "name", "")
    digits = max(len(str(int(plane.max(initial=0)))), 1)
    columns = max((width - 2) // (digits + 1), 1)
    rows = 40
    for row in plane[:rows]:
        line = [("  ", "")]
        for count in row[:columns].tolist():
            text = "." if count == 0 else str(count)
            line.append((f"{text:>{digits}} ", "quiet" if count == 0 else "name" * (count > 1)))
        made.append(line)
    if plane.shape[0] > rows or plane.shape[1] > columns:
        shown = f"{min(plane.shape[0], rows)} x {min(plane.shape[1], columns)}"
        made += wrapped(f"(showing {shown} of {plane.shape[0]} x {plane.shape[1]})", width, "quiet")
    for sentence in filter(None, key(found)):
        made += wrapped(sentence, width)
    return made
