"""The sizes of one convolution as amx_conv.py runs it, worked out when the plan is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import int64, types

from .amx import DEPTH, PARTS, SIDE, STEP_BYTES
from .program import _block, _by_axis, _odd_lines, _round
from .regions import source_phases, target_phases

#: Bytes of the block that a thread keeps in its L2; every processor with AMX has 2 MiB.
BLOCK_BYTES = 1024 * 1024

#: With fewer channels a step over channels alone would be mostly zeros; then the taps are laid
#: out as further channels, each a shifted copy.
FEW_CHANNELS = 16

_LANES = 16


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count float32 or words."""

    groups: int
    rows: int  # target channels of a group
    channels: int  # source channels of a group
    split_d: int
    split_h: int
    split_w: int
    lead_d: int
    lead_h: int
    lead_w: int
    span_d: int
    span_h: int
    span_w: int
    reach_d: int
    reach_h: int
    reach_w: int
    step_d: int  # between target elements of a phase
    step_h: int
    step_w: int
    images: int  # in a block
    block_d: int  # buffer positions of a block, without reach
    block_h: int
    block_w: int
    plane: int  # of one channel of the float32 buffer
    lanes: int
    slots: int  # threads with a buffer of their own
    panels: int  # of SIDE rows of weights
    steps: int  # of all phases
    word_plane: int  # of one pair of channels
    word_count: int  # of its positions in use
    part: int  # words of one part of all pairs
    flags_at: int  # the workspace: flags, packed weights, slots
    packed_at: int
    slots_at: int
    slot: int  # length of a slot: its buffer, its words, its temporary
    words_at: int
    temp_at: int
    temp: int  # between rows of the temporary


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    phases: np.ndarray  # first, count, base (3 each), steps, steps of the phases before
    table: np.ndarray  # bytes from the block's first word to each step's
    sources: np.ndarray  # (steps, DEPTH, 4): channel and tap of every weight, channel -1: none
    pairs: np.ndarray  # (pairs, 2): offsets in the buffer of what is cut into one row of words
    used: np.ndarray  # source phases in the buffer
    size: int  # of the workspace, in bytes


def build(axes, batch, groups, rows, channels, threads, budget) -> Program:
    """``rows`` and ``channels`` are those of one group; ``budget`` as in program.build."""
    used = source_phases(axes)
    spans, reach = (tuple(getattr(axis, name) for axis in axes) for name in ("span", "reach"))
    taps = sum(len(taps) for _, taps in target_phases(axes))
    few = channels < FEW_CHANNELS
    deep = _round(channels * taps, DEPTH) if few else _round(channels, DEPTH) * len(used)
    per_position = 4 * channels * len(used) + 2 * PARTS * deep + 4 * SIDE
    limit = max(SIDE, min(BLOCK_BYTES, budget // threads) // per_position)
    images, block = _block(batch, spans, reach, limit, groups, threads)
    extent = tuple(b + r for b, r in zip(block, reach))
    volume = images * math.prod(extent)
    plane = _round(len(used) * volume, _LANES) + _LANES
    word_count = _round(volume if few else len(used) * volume, _LANES)
    word_plane = _odd_lines(word_count + SIDE, _LANES)
    phases, steps = _steps(axes, used, images, extent, channels, few)
    pairs, table = _pairs(steps, plane, channels, word_plane, few)
    panels, part = -(-rows // SIDE), len(pairs) * word_plane
    words_at = _round((channels + 2) * plane + SIDE, _LANES)
    temp_at = words_at + PARTS * part + SIDE
    temp = _odd_lines(volume + SIDE * images * block[0], _LANES)
    packed = groups * panels * len(steps) * STEP_BYTES // 4
    slots_at = _LANES + DEPTH * threads + packed
    slot = _round(temp_at + SIDE * temp, _LANES)
    layout = Layout(
        groups=groups, rows=rows, channels=channels,
        **_by_axis("split", (axis.split for axis in axes)),
        **_by_axis("lead", (axis.lead for axis in axes)),
        **_by_axis("span", spans), **_by_axis("reach", reach), **_by_axis("block", block),
        **_by_axis("step", (axis.phases[0].step for axis in axes)),
        images=images, plane=plane, lanes=_LANES, slots=threads, panels=panels, steps=len(steps),
        word_plane=word_plane, word_count=word_count, part=part, flags_at=0,
        packed_at=_LANES + DEPTH * threads, slots_at=slots_at, slot=slot,
        words_at=words_at, temp_at=temp_at, temp=temp,
    )  # fmt: skip
    sources = np.array([[source for source, _ in step] for step in steps], np.int64)
    return Program(layout, phases, table, sources.reshape(-1, DEPTH, 4), pairs,
                   np.array(used, np.int64).reshape(-1, 3), 4 * (slots_at + threads * slot))


def _steps(axes, used, images, extent, channels, few):
    """The phases, and for every step its DEPTH (source, offset): what is multiplied with what."""
    row, area = extent[2], extent[1] * extent[2]
    volume = images * extent[0] * area
    place = {phase: i * volume for i, phase in enumerate(used)}
    nothing = ((-1, 0, 0, 0), 0)
    phases, steps = [], []
    for trio, taps in target_phases(axes):
        at = {three: place[tuple(tap.phase for tap in three)] + three[0].shift * area
              + three[1].shift * row + three[2].shift for three in taps}  # fmt: skip
        terms = [[((c, *(tap.index for tap in three)), at[three]) for three in taps]
                 for c in range(channels)]  # fmt: skip
        before = len(steps)
        if few:
            flat = [term for channel in terms for term in channel]
            columns = [flat]
        else:
            columns = [[channel[i] for channel in terms] for i in range(len(taps))]
        for start in range(0, len(columns[0]) if columns else 0, DEPTH):
            for column in columns:
                chunk = column[start : start + DEPTH]
                steps.append(chunk + [nothing] * (DEPTH - len(chunk)))
        phases.append([*(p.first for p in trio), *(p.count for p in trio),
                       *(p.base for p in trio), len(steps) - before, before])  # fmt: skip
    return np.array(phases, np.int64), steps


def _pairs(steps, plane, channels, word_plane, few):
    """Which rows of the buffer are cut side by side, and where each step finds its words."""
    zero = channels * plane  # a row of zeros behind the last channel
    if few:
        offsets = [zero if source[0] < 0 else source[0] * plane + offset
                   for step in steps for source, offset in step]  # fmt: skip
        table = [i * DEPTH // 2 * word_plane for i in range(len(steps))]
    else:
        offsets = [c * plane if c < channels else zero for c in range(_round(channels, DEPTH))]
        table = [step[0][0][0] // 2 * word_plane + step[0][1] for step in steps]
    return np.array(offsets, np.int64).reshape(-1, 2), 4 * np.array(table, np.int64)
