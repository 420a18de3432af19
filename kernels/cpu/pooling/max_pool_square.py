"""The largest of a square window whose taps all lie inside the image, unrolled: 2 x 2 and 3 x 3."""

from __future__ import annotations

from ..emitted.lanes import beats, choose, splat_like
from ..jit import inlined


def best_of_square(side, load):
    """(largest, winner) of windows of ``side`` rows of as many taps, a vector of them at a time.

    ``load(x, at, extra, worst)`` reads one tap of each.  Row by row, and then the rows among each
    other: the same order, in shorter chains.
    """

    @inlined
    def best_of(x, at, jump, extra, winner, worst):
        best, won = worst, splat_like(winner.dtype.type(0), worst)
        for r in range(side):
            source = at + r * jump[1]
            top = load(x, source, extra, worst)
            number = splat_like(winner.dtype.type(r * side), worst)
            for s in range(1, side):
                value = load(x, source + s * jump[2], extra, worst)
                wins = beats(value, top, False, False)
                top = choose(wins, value, top)
                number = choose(wins, splat_like(winner.dtype.type(r * side + s), worst), number)
            if r == 0:
                best, won = top, number
            else:
                wins = beats(top, best, False, False)
                best, won = choose(wins, top, best), choose(wins, number, won)
        return best, won

    return best_of
