"""Convolution at any stride and dilation as stride-1 sums over a padded buffer.

The forward pass splits its input by position modulo the stride (phases of the *source*): in phase
``tap*dilation % stride`` the inputs of neighbouring outputs are neighbours.  The gradient dx is the
same sum with dy as source, in which each position modulo the stride (phases of the *target*)
has taps of its own.  Either way, target element j of a phase is

    sum over channels and taps of weight[tap] * buffer[source phase][j + shift[tap]]

per axis, which is one fixed offset into the buffer per (channel, tap): the table of the register
tile.  This file works the axes out; implicit_gemm.py runs them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

#: Cells of an axis, at most: blocks hold all of them.
CELLS = 8


@dataclass(frozen=True)
class Tap:
    index: int  # position in the window
    phase: int  # of the source
    shift: int  # buffer position relative to that of the target element


@dataclass(frozen=True)
class Phase:
    """``count`` target elements first, first + step, ..., from buffer position ``base``."""

    first: int
    step: int
    count: int
    base: int
    taps: tuple[Tap, ...]


@dataclass(frozen=True)
class Axis:
    """Buffer position i of source phase f holds source element i*split + f - lead, or zero."""

    split: int
    lead: int
    span: int  # buffer positions at which a target element starts
    reach: int  # positions needed behind the last of them
    phases: tuple[Phase, ...]


def forward_axis(window, out, stride, dilation, before) -> Axis:
    taps = tuple(Tap(i, i * dilation % stride, i * dilation // stride) for i in range(window))
    return Axis(stride, before, out, taps[-1].shift, (Phase(0, 1, out, 0, taps),))


def dx_axis(window, size, stride, dilation, before) -> Axis:
    """Input h is read by output o through tap r where o*stride + r*dilation = h + before."""
    reach = (window - 1) * dilation // stride
    starts = []  # (first h of the phase, its padded position // stride, phase)
    for first in range(min(stride, size)):
        starts.append((first, (first + before) // stride, (first + before) % stride))
    starts.sort(key=lambda start: start[2])
    least = min(start for _, start, _ in starts)
    phases = tuple(
        Phase(first, stride, (size - 1 - first) // stride + 1, start - least,
              tuple(Tap(i, 0, reach - i * dilation // stride)
                    for i in range(window) if i * dilation % stride == phase))
        for first, start, phase in starts
    )  # fmt: skip
    span = max(phase.base + phase.count for phase in phases)
    return Axis(1, reach - least, span, reach, phases)


def cell_axis(window, count, size, dilation, first, turn=1) -> Axis:
    """At stride 1: target o reads source o + turn*dilation*tap + first, of 0..size-1.

    Targets fall into cells of ``dilation``, source phases here are what a tap reads of one: no
    position lies between those that are read, and taps that a cell sees only padding through
    are left out.
    """
    phases = []
    for start in range(0, count, dilation):
        length = min(dilation, count - start)
        reads = [start + turn * dilation * tap + first for tap in range(window)]
        taps = tuple(Tap(tap, read, 0) for tap, read in enumerate(reads)
                     if -length < read < size)  # fmt: skip
        phases.append(Phase(start, 1, length, 0, taps))
    return Axis(1, 0, min(dilation, count), 0, tuple(phases))


def forward_axes(geometry) -> tuple[Axis, Axis, Axis]:
    g = geometry
    return tuple(map(forward_axis, g.window, g.out, g.stride, g.dilation, g.before))


def dx_axes(geometry) -> tuple[Axis, Axis, Axis]:
    g = geometry
    return tuple(map(dx_axis, g.window, g.size, g.stride, g.dilation, g.before))


def cell_axes(geometry, forward) -> list[tuple[Axis, Axis, Axis]]:
    """With dilated axes in cells: all of them but W, then all, where there are some, but not many.

    Along W cells are short rows, without them positions are multiplied that are padding.
    """
    g = geometry
    dilated = [i for i in range(3) if g.window[i] > 1 and g.dilation[i] > 1]
    if any(g.stride[i] > 1 or max(g.out[i], g.size[i]) > CELLS * g.dilation[i] for i in dilated):
        return []
    usual = forward_axes(g) if forward else dx_axes(g)
    choices = [chosen for chosen in (dilated[:-1] if 2 in dilated else [], dilated) if chosen]
    return [tuple(_cells(g, i, forward) if i in chosen else usual[i] for i in range(3))
            for chosen in choices]  # fmt: skip


def _cells(g, i, forward):
    if forward:
        return cell_axis(g.window[i], g.out[i], g.size[i], g.dilation[i], -g.before[i])
    return cell_axis(g.window[i], g.size[i], g.out[i], g.dilation[i], g.before[i], -1)


def target_phases(axes):
    """Every combination of the three axes' phases, each with its taps in row-major order."""
    for phases in itertools.product(*(axis.phases for axis in axes)):
        yield phases, list(itertools.product(*(phase.taps for phase in phases)))


def source_phases(axes):
    """The (d, h, w) source phases that some tap reads: only those are copied."""
    used = {tuple(tap.phase for tap in taps) for _, all_taps in target_phases(axes)
            for taps in all_taps}  # fmt: skip
    return sorted(used)


def pads(axes, size) -> bool:
    """Does some buffer position that a tap reads lie outside the source of this size?"""
    for axis, length in zip(axes, size):
        for phase in axis.phases:
            for tap in phase.taps:
                low = phase.base + tap.shift
                high = low + phase.count - 1
                offset = tap.phase - axis.lead
                if low * axis.split + offset < 0 or high * axis.split + offset >= length:
                    return True
    return False
