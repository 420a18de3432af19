"""The sizes of one convolution as amx_conv.py runs it, worked out when the plan is made."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numba import int64, types

from ..convolution.blocks import tap_offsets
from .amx_blocks import Beside, beside
from .amx_tiles import DEPTH, PARTS, SIDE, STEP_BYTES

#: Bytes of the block that a thread keeps in its L2; every processor with AMX has 2 MiB.
BLOCK_BYTES = 1024 * 1024

#: The same of a dilated image in cells, whose taps read positions that share nothing.
CELL_BYTES = (1024 * 1024, 2048 * 1024)

LANES = 16
HALF = SIDE // 2  # rows of weights that are packed together
TAPS = 16  # and their taps: one vector
TURNED = TAPS * HALF + LANES  # between channels of taps on their way
FLAGS = 32  # float32 of a thread's own: a cache line or two, so that no two threads share one


class Product(NamedTuple):
    """What the compiled loops need beside the blocks.  Offsets count float32 (or words)."""

    rows: int  # target channels of a group
    panels: int  # of SIDE rows of weights
    splits: int  # parts of the panels that are tasks of their own
    steps: int  # packed: phases share what the same tap multiplies
    entries: int  # steps of all phases, as the table has them
    step_d: int  # between target elements of a phase
    step_h: int
    step_w: int
    lanes: int
    slots: int  # threads with a buffer of their own
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
    beside: Beside
    product: Product
    phases: np.ndarray  # first, count, base (3 each), steps of the phases before
    table: np.ndarray  # bytes from the block's first word to each step's, then to its weights
    places: np.ndarray  # which weights those of DEPTH channels and a tap are, or -1: of no step
    inside: np.ndarray  # of a phase's rows: the first and the end of steps that read the source
    size: int  # of the workspace, in bytes


def build(axes, source, batch, groups, rows, channels, threads, budget,
          held=BLOCK_BYTES) -> Program:  # fmt: skip
    """``rows`` and ``channels`` are those of one group, ``source`` the size of what is read.

    ``budget`` as in implicit_gemm.build; a block takes ``held`` bytes.
    """
    taps = int(np.prod([sum(len(phase.taps) for phase in axis.phases) for axis in axes]))
    deep = round_up(channels, DEPTH)
    per_position = 4 * DEPTH + 2 * PARTS * deep + 4 * SIDE
    limit = max(SIDE, min(held, budget // threads) // per_position)
    splits = _splits(batch, rows * taps, np.prod([axis.span for axis in axes]), threads)
    made = beside(axes, source, batch, groups, channels, limit, 2 * threads // splits)
    s = made.blocks
    word_count = s.plane
    word_plane = odd_lines(word_count + SIDE)
    part = deep // 2 * word_plane
    phases, table, places, inside = _steps(made, source[made.order[1] - 2], word_plane)
    words_at = DEPTH * s.plane + LANES
    temp_at = words_at + PARTS * part + SIDE
    temp = odd_lines(s.images * (s.volume + SIDE * s.block_d))
    packed_at = LANES + FLAGS * threads
    panels, steps = -(-rows // SIDE), int(places.max(initial=-1)) + 1
    slots_at = packed_at + groups * panels * steps * STEP_BYTES // 4
    slot = round_up(max(temp_at + SIDE * temp, TAPS * HALF * DEPTH + DEPTH * TURNED), LANES)
    product = Product(
        rows, panels, splits, steps, len(table) // 2,
        *(axis.phases[0].step for axis in made.axes), LANES, threads,
        word_plane, word_count, part, LANES, packed_at, slots_at, slot, words_at, temp_at, temp,
    )  # fmt: skip
    return Program(made, product, phases, table, places, inside, 4 * (slots_at + threads * slot))


def _splits(batch, weights, positions, threads):
    """Threads share the panels rather than the images where there are more weights than pixels.

    ``weights`` are those of one channel, ``positions`` those of one image.  Every thread then
    cuts the whole source, and reads its own part of the weights only.
    """
    return threads if weights > 2 * batch * positions else 1


def _steps(made, size, word_plane):
    """The phases, the steps' tables, and which steps a row needs; fields of Program.

    Steps go tap by tap of the first axis, so that those which find a row's source are in a row,
    then by channels, then by offset: neighbours read the same lines.
    """
    s, axis = made.blocks, made.axes[0]
    chunks = range(0, s.channels, DEPTH)
    window = [1 + max((tap.index for phase in axis.phases for tap in phase.taps), default=0)
              for axis in made.axes]  # fmt: skip
    packed, phases, table, weights, inside = {}, [], [], [], []
    for trio, taps, offsets in tap_offsets(made.axes, made.used, s):
        before = len(table)
        for outer in trio[0].taps:
            others = sorted((pair for pair in zip(offsets, taps) if pair[1][0] is outer),
                            key=itemgetter(0))  # fmt: skip
            for i, c in enumerate(chunks):
                for offset, three in others:
                    source = i, *(tap.index for tap in three)
                    weights.append(STEP_BYTES * packed.setdefault(source, len(packed)))
                    table.append(4 * (c // 2 * word_plane + offset))
        phases.append([*(p.first for p in trio), *(p.count for p in trio),
                       *(p.base for p in trio), before])  # fmt: skip
        per_tap = len(chunks) * len(trio[1].taps) * len(trio[2].taps)
        inside.append([_needed(axis, trio[0].taps, row, size, per_tap) for row in range(axis.span)])
    places = np.full((len(chunks), *window), -1, np.int64)
    for source, place in packed.items():
        places[source] = place
    return (np.array(phases, np.int64), np.array(table + weights, np.int64), places,
            np.array(inside, np.int64))  # fmt: skip


def _needed(axis, taps, row, size, per_tap):
    """The first and the end of the steps that find a row's source, of ``per_tap`` for a tap."""
    found = [i for i, tap in enumerate(taps)
             if 0 <= (row + tap.shift) * axis.split + tap.phase - axis.lead < size]  # fmt: skip
    if not found:
        return len(taps) * per_tap, 0
    return found[0] * per_tap, (found[-1] + 1) * per_tap


def round_up(count, multiple):
    return -(-count // multiple) * multiple


def odd_lines(count):
    """At least ``count``, an odd number of vectors: rows spread over all sets of the cache."""
    return (-(-count // LANES) | 1) * LANES
