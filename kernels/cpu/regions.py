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
    """Target elements first, first + step, ... : ``count`` of them, from buffer position ``base``."""

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


def cell_axes(geometry, forward) -> tuple[Axis, Axis, Axis] | None:
    """With every dilated axis in cells; None where there is none, or a stride, or many cells."""
    g = geometry
    axes = list(forward_axes(g) if forward else dx_axes(g))
    for i, (window, dilation, before) in enumerate(zip(g.window, g.dilation, g.before)):
        if window == 1 or dilation == 1:
            continue
        if g.stride[i] != 1 or g.out[i] > CELLS * dilation or g.size[i] > CELLS * dilation:
            return None
        if forward:
            axes[i] = cell_axis(window, g.out[i], g.size[i], dilation, -before)
        else:
            axes[i] = cell_axis(window, g.size[i], g.out[i], dilation, before, -1)
    return tuple(axes) if max(g.dilation) > 1 else None


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
