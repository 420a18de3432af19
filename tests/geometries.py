"""Random geometries for hypothesis: shapes and options that fit together."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from values import LAYOUTS

from gradroute.errors import ArgumentValueError
from gradroute.geometry import pool_geometry


@dataclass(frozen=True)
class Drawn:
    """Shapes are channels first; the arrays are small integers of the given seed."""

    x: tuple
    window: tuple
    options: dict
    dtype: str
    layout: str
    seed: int

    def integers(self, shape, salt=0):
        """Whole numbers: sums of products are exact, so that only real mistakes differ."""
        rng = np.random.default_rng([self.seed, salt])
        return rng.integers(-4, 5, shape).astype(self.dtype)


_DTYPES = st.sampled_from(["float32", "float64"])
_SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def _axis(draw, largest):
    """size, window, stride, dilation and (before, after) of one axis; the window fits."""
    window, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pad = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = max(1, (window - 1) * dilation + 1 - sum(pad))
    size = draw(st.integers(least, max(least, largest)))
    return size, window, draw(st.integers(1, 4)), dilation, pad


@st.composite
def _axes(draw):
    rank = draw(st.integers(1, 3))
    largest = {1: 20, 2: 9, 3: 5}[rank]
    size, window, stride, dilation, padding = zip(*[draw(_axis(largest)) for _ in range(rank)])
    if draw(st.integers(0, 5)) == 0 and all(
        n >= (r - 1) * d + 1 or s <= n for n, r, s, d in zip(size, window, stride, dilation)
    ):
        padding = "same"
    return size, window, {"stride": stride, "dilation": dilation, "padding": padding}


@st.composite
def convolutions(draw):
    """x (N, C, ...) and the shape (K, C/G, ...) of w."""
    size, window, options = draw(_axes())
    groups = draw(st.integers(1, 3))
    per_group, out_per_group = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    batch = draw(st.integers(0, 3))
    options["groups"] = groups
    return Drawn(
        (batch, groups * per_group, *size), (groups * out_per_group, per_group, *window), options,
        draw(_DTYPES), draw(st.sampled_from(LAYOUTS)), draw(_SEEDS),
    )  # fmt: skip


@st.composite
def transposed(draw):
    """x (N, C, ...) and the shape (C, K/G, ...) of w; padding leaves something of the result."""
    size, window, options = draw(_axes())
    groups = draw(st.integers(1, 3))
    per_group, out_per_group = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    extra, pads = [], []
    for n, r, s, d in zip(size, window, options["stride"], options["dilation"]):
        extra.append(draw(st.integers(0, max(s, d) - 1)))
        left = (n - 1) * s + (r - 1) * d + extra[-1]  # that may be cropped
        before = draw(st.integers(0, min(left, 4)))
        pads.append((before, draw(st.integers(0, min(left - before, 4)))))
    options |= {"groups": groups, "output_padding": tuple(extra), "padding": tuple(pads)}
    return Drawn(
        (draw(st.integers(0, 2)), groups * per_group, *size),
        (groups * per_group, out_per_group, *window), options,
        draw(_DTYPES), draw(st.sampled_from(LAYOUTS)), draw(_SEEDS),
    )  # fmt: skip


def _every_window_sees_something(drawn):
    try:
        pool_geometry(drawn.x, window=drawn.window, **drawn.options)
    except ArgumentValueError:
        return False
    return True


@st.composite
def _pools(draw):
    size, window, options = draw(_axes())
    options["ceil_mode"] = draw(st.booleans())
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size)
    return Drawn(
        shape, window, options, draw(_DTYPES), draw(st.sampled_from(LAYOUTS)), draw(_SEEDS)
    )


def pools():
    return _pools().filter(_every_window_sees_something)


@st.composite
def products(draw):
    """Shapes of a and b under np.matmul's rules, batch axes broadcast against each other."""
    inner = draw(st.integers(0, 40))
    batch = draw(st.lists(st.integers(0, 3), max_size=2))

    def side(ends):
        axes = [n if draw(st.booleans()) else 1 for n in batch]
        return (*axes[draw(st.integers(0, len(axes))):], *ends)

    a = side((draw(st.integers(0, 20)), inner))
    b = side((inner, draw(st.integers(0, 20))))
    a = (inner,) if draw(st.integers(0, 7)) == 0 else a
    b = (inner,) if draw(st.integers(0, 7)) == 0 else b
    return Drawn(a, b, {}, draw(_DTYPES), LAYOUTS[0], draw(_SEEDS))


@st.composite
def scatters(draw):
    """out's shape, the index's shape, and the axis and mode."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    index = tuple(draw(st.lists(st.integers(0, 7), max_size=2)))
    options = {
        "axis": draw(st.integers(-len(shape), len(shape) - 1)),
        "mode": draw(st.sampled_from(["raise", "wrap", "clip"])),
    }
    return Drawn(shape, index, options, draw(_DTYPES), LAYOUTS[0], draw(_SEEDS))


@st.composite
def vectors(draw):
    """Any shape, with an activation's name in the options."""
    from gradroute.kernels.contract import ACTIVATIONS

    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    options = {"name": draw(st.sampled_from(ACTIVATIONS))}
    return Drawn(shape, (), options, draw(_DTYPES), LAYOUTS[0], draw(_SEEDS))
