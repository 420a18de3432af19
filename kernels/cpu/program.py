"""The sizes of one convolution as implicit_gemm.py runs it, worked out when the plan is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import int64, types

from .microkernel import COLUMNS, ROWS
from .regions import pads, source_phases, target_phases
from .vectors import LANES

#: Bytes of the block that a thread keeps in its L2: half of the smallest L2 in use (1 MiB).
BLOCK_BYTES = 512 * 1024

#: Steps of the sum before the next tile: ROWS * CHUNK float32 weights fit half of a 48 KiB L1.
CHUNK_BYTES = 24 * 1024


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

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
    plane: int  # of one channel of the buffer
    panel: int  # rows of a panel of weights
    chunk: int  # steps of the sum between tiles
    columns: int  # of a tile
    lanes: int
    slots: int  # threads with a buffer of their own
    bias_at: int  # the workspace: whether weights are finite, bias, packed weights, slots
    packed_at: int
    slots_at: int
    slot: int  # length of a slot: its buffer, then its temporary
    temp_at: int
    temp: int  # between rows of the temporary


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    table: np.ndarray  # offset of each (phase, channel, tap) in the buffer
    phases: np.ndarray  # first, count, base (3 each), taps, taps of the phases before
    taps: np.ndarray  # window position of each tap of each phase
    used: np.ndarray  # source phases in the buffer
    pads: bool
    size: int  # of the workspace, in elements


def build(axes, source, batch, groups, rows, channels, dtype, threads, budget) -> Program:
    """``source`` is the source's size; ``rows`` and ``channels`` are those of one group.

    ``budget`` is the number of bytes that all threads' buffers may take together.
    """
    columns, lanes = COLUMNS[dtype], LANES[dtype]
    used = source_phases(axes)
    spans, reach = (tuple(getattr(axis, name) for axis in axes) for name in ("span", "reach"))
    depth = channels * max(1, max(len(taps) for _, taps in target_phases(axes)))
    itemsize = np.dtype(dtype).itemsize
    per_position = itemsize * (channels * len(used) + ROWS)
    limit = max(columns, min(BLOCK_BYTES, budget // threads) // per_position)
    images, block = _block(batch, spans, reach, limit, groups, threads)
    extent = tuple(b + r for b, r in zip(block, reach))
    volume = images * math.prod(extent)
    plane = _odd_lines(len(used) * volume, lanes)
    phases, taps, table = _tables(axes, used, images, extent, plane, channels)
    panel = -(-rows // -(-rows // ROWS))
    chunks = -(-depth * panel * itemsize // CHUNK_BYTES)
    temp = _odd_lines(volume + columns * images * block[0], lanes)
    packed_at = lanes + _round(groups * rows, lanes)
    slots_at = packed_at + _round(groups * rows * channels * len(taps), lanes)
    temp_at = channels * plane + 2 * columns
    slot = temp_at + ROWS * temp + columns
    layout = Layout(
        groups=groups, rows=rows, channels=channels,
        **_by_axis("split", (axis.split for axis in axes)),
        **_by_axis("lead", (axis.lead for axis in axes)),
        **_by_axis("span", spans), **_by_axis("reach", reach), **_by_axis("block", block),
        **_by_axis("step", (axis.phases[0].step for axis in axes)),
        images=images, plane=plane, panel=panel, chunk=-(-depth // chunks),
        columns=columns, lanes=lanes, slots=threads, bias_at=lanes, packed_at=packed_at, slots_at=slots_at,
        slot=slot, temp_at=temp_at, temp=temp,
    )  # fmt: skip
    return Program(layout, table, phases, taps, np.array(used, np.int64).reshape(-1, 3),
                   pads(axes, source),
                   slots_at + threads * slot)  # fmt: skip


def _by_axis(name, values):
    return {f"{name}_{axis}": value for axis, value in zip("dhw", values)}


def _block(batch, spans, reach, limit, groups, threads):
    """(images, (d, h, w)) of a block: at most ``limit`` positions, and enough blocks to share."""
    block = list(spans)

    def size():
        return math.prod(b + r for b, r in zip(block, reach))

    for axis in range(3):
        while size() > limit and block[axis] > 1:
            parts = -(-spans[axis] // block[axis]) + 1
            block[axis] = min(-(-spans[axis] // parts), block[axis] - 1)
    images = max(1, min(limit // size(), -(-batch * groups // (4 * threads)), max(batch, 1)))
    while batch * groups * _pieces(spans, block) < threads and math.prod(block) > 256:
        axis = next(axis for axis in range(3) if block[axis] > 1)
        block[axis] = -(-block[axis] // 2)
    return images, tuple(block)


def _pieces(spans, block):
    return math.prod(-(-span // length) for span, length in zip(spans, block))


def _tables(axes, used, images, extent, plane, channels):
    row, area = extent[2], extent[1] * extent[2]
    volume = images * extent[0] * area
    place = {phase: i * volume for i, phase in enumerate(used)}
    phases, taps, table, before = [], [], [], 0
    for trio, all_taps in target_phases(axes):
        phases.append([*(p.first for p in trio), *(p.count for p in trio),
                       *(p.base for p in trio), len(all_taps), before])  # fmt: skip
        offsets = [place[tuple(tap.phase for tap in three)]
                   + three[0].shift * area + three[1].shift * row + three[2].shift
                   for three in all_taps]  # fmt: skip
        table += [c * plane + offset for c in range(channels) for offset in offsets]
        taps += [[tap.index for tap in three] for three in all_taps]
        before += len(all_taps)
    return (np.array(phases, np.int64), np.array(taps, np.int64).reshape(-1, 3),
            np.array(table, np.int64))  # fmt: skip


def _round(count, multiple):
    return -(-count // multiple) * multiple


def _odd_lines(count, lanes):
    """At least ``count``, an odd number of vectors: rows spread over all sets of the cache."""
    return (-(-count // lanes) | 1) * lanes
