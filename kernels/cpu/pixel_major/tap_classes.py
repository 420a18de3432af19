"""Pixels of a convolution's target by the taps that reach them: tables for inside_taps.py.

Along each axis a target position sees a run of the window's taps, in their order or, for dx with a
stride, sorted by the remainder that a position must have to be seen by them.  The source position
is the target's base plus the tap's shift.  A class is all pixels with the same three runs.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

#: Source channels whose pixels L1 keeps from tap to tap.
CHUNK = 32


@dataclass(frozen=True)
class Tables:
    taps: np.ndarray  # position in the window of each tap in order
    places: np.ndarray  # by class, image and pixel: where its base lies in the copied images
    steps: np.ndarray  # by chunk of channels, tap and channel: where from there
    classes: np.ndarray  # first place, pixels of an image, first run, end of its runs
    runs: np.ndarray  # first step, and how many
    order: np.ndarray  # of each pixel: its place, and that from image to image
    chunk: int

    def counts(self):
        """(pixels of an image, steps, runs) of each class."""
        return [(pixels, self.runs[first:end, 1].sum(), end - first)
                for _, pixels, first, end in self.classes.tolist()]  # fmt: skip


def _axis(window, targets, sources, stride, dilation, before, forward):
    """Taps in order, their shifts, {(first tap, end): [(target, base)]}."""
    apart = [tap * dilation for tap in range(window)]
    order = list(range(window))
    if not forward:
        order.sort(key=lambda tap: (apart[tap] % stride, tap))
    shifts = apart if forward else [-(apart[tap] // stride) for tap in order]
    by_rest = {}  # the first of the taps of a remainder, and how far back they reach
    for i, tap in enumerate(order):
        by_rest.setdefault(apart[tap] % stride, (i, []))[1].append(-shifts[i])
    groups = {}
    for target in range(targets):
        if forward:
            base = target * stride - before
            run = bisect_left(shifts, -base), bisect_left(shifts, sources - base)
        else:
            base, rest = divmod(target + before, stride)
            first, back = by_rest.get(rest, (0, ()))
            run = first + bisect_right(back, base - sources), first + bisect_right(back, base)
        groups.setdefault(run if run[0] < run[1] else (0, 0), []).append((target, base))
    return order, shifts, groups


def tables(g, forward, channels, images, apart) -> Tables:
    """For ``images`` whose ``channels`` are ``apart`` elements from one another, without padding.

    ``g`` is a ConvGeometry; of its dx where not ``forward``.
    """
    target, source = (g.out, g.size) if forward else (g.size, g.out)
    axes = [_axis(*numbers, forward) for numbers in zip(g.window, target, source, g.stride,
                                                        g.dilation, g.before)]  # fmt: skip
    rises = source[1] * source[2], source[2], 1
    T, R, S = g.window
    (d, h, w), shifts = (np.ix_(*(axis[0] for axis in axes)),
                         np.ix_(*(np.array(axis[1]) for axis in axes)))  # fmt: skip
    taps = ((d * R + h) * S + w).ravel()
    shifts = sum(shift * rise for shift, rise in zip(shifts, rises)).ravel()
    steps = np.concatenate([
        (shifts[:, None] + np.arange(first, min(first + CHUNK, channels)) * apart).ravel()
        for first in range(0, channels, CHUNK)
    ])  # fmt: skip
    pixels, volume = target[0] * target[1] * target[2], rises[0] * source[0]
    volume = np.arange(images)[:, None] * volume
    places, order = np.zeros(pixels * images, np.int64), np.zeros((pixels, 2), np.int64)
    classes, runs, first = [], [], 0
    for three in itertools.product(*(axis[2].items() for axis in axes)):
        spans = [run for run, _ in three]
        where, base = (sum(np.ix_(*([pair[i] * rise for pair in pairs]
                                    for (_, pairs), rise in zip(three, steps_of))))
                       for i, steps_of in ((0, (target[1] * target[2], target[2], 1)),
                                           (1, rises)))  # fmt: skip
        where, base = where.ravel(), base.ravel()
        count, at = where.size, first * images
        places[at : at + count * images] = (volume + base).ravel()
        order[where, 0], order[where, 1] = at + np.arange(count), count
        made = _runs(spans, g.window, channels)
        classes.append((at, count, len(runs), len(runs) + len(made)))
        runs += made
        first += count
    return Tables(taps, places, steps, np.array(classes, np.int64),
                  np.array(runs, np.int64).reshape(-1, 2), order, CHUNK)  # fmt: skip


def _runs(spans, window, channels):
    """(first step, steps) of what a class sees: chunk by chunk, as few as there can be."""
    (t0, t1), (r0, r1), (s0, s1) = spans
    T, R, S = window
    found = []
    if t0 == t1 or r0 == r1 or s0 == s1:
        return found
    pieces = [((t * R + r) * S + s0, s1 - s0) for t in range(t0, t1) for r in range(r0, r1)]
    for chunk in range(0, channels, CHUNK):
        together = min(CHUNK, channels - chunk)
        for first, taps in pieces:
            start, length = chunk * T * R * S + first * together, taps * together
            if found and sum(found[-1]) == start:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((start, length))
    return found
