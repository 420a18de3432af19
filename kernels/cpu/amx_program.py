"""The sizes of one convolution as amx_conv.py runs it, worked out when the plan is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import int64, types

from .amx import DEPTH, PARTS, SIDE, STEP_BYTES
from .blocks import Blocks, blocks, tap_offsets

#: Bytes of the block that a thread keeps in its L2; every processor with AMX has 2 MiB.
BLOCK_BYTES = 1024 * 1024

#: With fewer channels a step over channels alone would be mostly zeros; then the taps are laid
#: out as further channels, each a shifted copy.
FEW_CHANNELS = 16

LANES = 16
FLAGS = 32  # float32 of a thread's own: a cache line or two, so that no two threads share one


class Product(NamedTuple):
    """What the compiled loops need beside the blocks.  Offsets count float32 (or words)."""

    rows: int  # target channels of a group
    panels: int  # of SIDE rows of weights
    splits: int  # parts of the panels that are tasks of their own
    steps: int  # of all phases
    step_d: int  # between target elements of a phase
    step_h: int
    step_w: int
    lanes: int
    slots: int  # threads with a buffer of their own
    together: int  # channels that are copied, then cut, at a time
    pairs: int  # rows of words that they are cut into
    word_plane: int  # between rows of words
    word_count: int  # positions in use
    part: int  # words of one part of all pairs
    flags_at: int  # the workspace: flags, packed weights, slots
    packed_at: int
    slots_at: int
    slot: int  # length of a slot: its buffer, its words, its temporary
    words_at: int
    temp_at: int
    temp: int  # between rows of the temporary


PRODUCT = types.NamedUniTuple(int64, len(Product._fields), Product)


@dataclass(frozen=True)
class Program:
    blocks: Blocks
    product: Product
    phases: np.ndarray  # first, count, base (3 each), steps, steps of the phases before
    table: np.ndarray  # bytes from the block's first word to each step's
    sources: np.ndarray  # (steps, DEPTH, 4): channel and tap of every weight, channel -1: none
    runs: np.ndarray  # of each step: its first terms that are one tap of successive channels
    pairs: np.ndarray  # (pairs, 2): offsets in the buffer of what is cut into one row of words
    used: np.ndarray  # source phases in the buffer
    size: int  # of the workspace, in bytes


def build(axes, batch, groups, rows, channels, threads, budget) -> Program:
    """``rows`` and ``channels`` are those of one group; ``budget`` as in implicit_gemm.build."""
    few = channels < FEW_CHANNELS
    taps = int(np.prod([sum(len(phase.taps) for phase in axis.phases) for axis in axes]))
    deep = _round(channels * taps if few else channels, DEPTH)
    together = channels if few else DEPTH
    per_position = 4 * together + 2 * PARTS * deep + 4 * SIDE
    limit = max(SIDE, min(BLOCK_BYTES, budget // threads) // per_position)
    # blocks() shares its limit out among the source phases; few channels are cut for one only
    phases = np.prod([axis.split for axis in axes]) if few else 1
    splits = _splits(batch, rows * taps, np.prod([axis.span for axis in axes]), threads)
    s, used = blocks(axes, batch, groups, channels, "float32", limit * phases,
                     2 * threads // splits)  # fmt: skip
    word_count = _round(s.images * s.volume * (1 if few else len(used)), LANES)
    word_plane = _odd_lines(word_count + SIDE)
    phases, steps = _steps(axes, used, s, few)
    pairs, table = _pairs(steps, s, word_plane, few)
    count = len(pairs) if few else deep // 2
    words_at = _round((together + 2) * s.plane + word_count, LANES)
    temp_at = words_at + PARTS * count * word_plane + SIDE
    temp = _odd_lines(s.images * (s.volume + SIDE * s.block_d))
    packed_at = LANES + FLAGS * threads
    panels = -(-rows // SIDE)
    slots_at = packed_at + groups * panels * len(steps) * STEP_BYTES // 4
    slot = _round(temp_at + SIDE * temp, LANES)
    product = Product(
        rows, panels, splits, len(steps), *(axis.phases[0].step for axis in axes), LANES, threads,
        together, len(pairs), word_plane, word_count, count * word_plane,
        LANES, packed_at, slots_at, slot, words_at, temp_at, temp,
    )  # fmt: skip
    sources = np.array([[source for source, _ in step] for step in steps], np.int64)
    sources = sources.reshape(-1, DEPTH, 4)
    size = 4 * (slots_at + threads * slot)
    return Program(s, product, phases, table, sources, _runs(sources), pairs, used, size)


def _splits(batch, weights, positions, threads):
    """Threads share the panels rather than the images where there are more weights than pixels.

    ``weights`` are those of one channel, ``positions`` those of one image.  Every thread then
    cuts the whole source, and reads its own part of the weights only.
    """
    return threads if weights > 2 * batch * positions else 1


def _runs(sources):
    """How many terms of each step, from the first, are the same tap of one channel after another."""
    first = sources[:, :1]
    follows = (sources - first)[:, :, 0] == np.arange(DEPTH)
    same = (sources == first)[:, :, 1:].all(axis=2)
    whole = (sources[:, :, 0] >= 0).sum(axis=1)
    return np.where(((follows & same) | (sources[:, :, 0] < 0)).all(axis=1), whole, 0)


def _steps(axes, used, s, few):
    """The phases, and for every step its DEPTH (source, offset): what is multiplied with what."""
    nothing = ((-1, 0, 0, 0), 0)
    phases, steps = [], []
    for trio, taps, offsets in tap_offsets(axes, used, s):
        before = len(steps)
        terms = [[((c, *(tap.index for tap in three)), offset)
                  for three, offset in zip(taps, offsets)] for c in range(s.channels)]  # fmt: skip
        # columns of terms that steps are cut from: one for each tap, or everything in one
        columns = [sum(terms, [])] if few else [list(column) for column in zip(*terms)]
        for start in range(0, len(columns[0]) if columns else 0, DEPTH):
            for column in columns:
                chunk = column[start : start + DEPTH]
                steps.append(chunk + [nothing] * (DEPTH - len(chunk)))
        phases.append([*(p.first for p in trio), *(p.count for p in trio),
                       *(p.base for p in trio), len(steps) - before, before])  # fmt: skip
    return np.array(phases, np.int64), steps


def _pairs(steps, s, word_plane, few):
    """Which rows of the buffer are cut side by side, and where each step finds its words."""
    if few:
        zero = s.channels * s.plane  # a row of zeros behind the last channel
        offsets = [zero if source[0] < 0 else source[0] * s.plane + offset
                   for step in steps for source, offset in step]  # fmt: skip
        table = [i * DEPTH // 2 * word_plane for i in range(len(steps))]
    else:
        offsets = [c * s.plane for c in range(DEPTH)]
        table = [step[0][0][0] // 2 * word_plane + step[0][1] for step in steps]
    return np.array(offsets, np.int64).reshape(-1, 2), 4 * np.array(table, np.int64)


def _round(count, multiple):
    return -(-count // multiple) * multiple


def _odd_lines(count):
    """At least ``count``, an odd number of vectors: rows spread over all sets of the cache."""
    return (-(-count // LANES) | 1) * LANES
