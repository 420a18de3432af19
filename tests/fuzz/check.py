"""One random call made on the numba backend, and judged against the reference in float64."""

import traceback
from dataclasses import dataclass

import numpy as np
from compare import assert_close, results
from values import exact, make

import gradroute as gr

from . import memory
from .draw import chance, draw, pick
from .spoil import spoil

#: results that are sums of products of their inputs: their error is measured against the sum of
#: the absolute values, which no cancellation makes small
SUMS = {gr.conv, gr.conv_backward, gr.conv_transpose, gr.conv_transpose_backward, gr.matmul,
        gr.matmul_backward, gr.im2col, gr.col2im, gr.avg_pool, gr.avg_pool_backward,
        gr.max_pool_backward, gr.scatter_add}  # fmt: skip
KINDS = ("normal",) * 6 + ("ties", "nan", "inf", "one_inf", "zeros", "minus_inf", "all_nan")
#: what a call may end in when it asks for more memory than there is
TOO_LARGE = (MemoryError,)
#: elements of a result beyond which a spoiled call's result is not computed a second time
COMPARED = 2_000_000


@dataclass
class Drawn:
    call: object
    arrays: dict
    settings: dict
    mistake: str | None
    seed: tuple

    def __str__(self):
        shapes = {
            name: f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else repr(a)[:50]
            for name, a in self.arrays.items()
        }
        wrong = f"; mistake: {self.mistake}" if self.mistake else ""
        given = f"{shapes}, {self.call.rest}, {dict(self.call.options)}"
        where = f"call {self.seed[1]} of seed {self.seed[0]}"
        return f"{where}: {self.call.name}({given}) under {self.settings}{wrong}"


def drawn(seed, number):
    """Call ``number`` of a seed, and the generator for what is still to be chosen."""
    rng = np.random.default_rng([seed, number])
    call, large = draw(rng)
    dtype = pick(rng, *["float32"] * 5, *["float64"] * 4, "float16", "bfloat16")
    kind = "normal" if large else pick(rng, *KINDS)
    arrays = {
        name: make(kind, array.shape, dtype, seed=number) if name in call.floats else array
        for name, array in call.arrays("float64").items()
    }
    if kind == "normal" and dtype in ("float32", "float64") and chance(rng, 0.2):
        power = np.ldexp(1.0, int(rng.integers(-50, 30)))
        scaled = {name: np.asarray(arrays[name] * power, dtype) for name in call.floats}
        arrays = arrays | scaled
    if call.function in (gr.linear_backward, gr.activate_backward) and "y" in arrays:
        arrays["y"] = np.abs(arrays["y"], out=np.empty_like(arrays["y"]))  # softplus is positive
    settings = {"backend": "numba", "threads": pick(rng, 1, None),
                "precision": pick(rng, "standard", "standard", "strict"),
                "workspace_limit": pick(rng, *[None] * 9, 100_000)}  # fmt: skip
    mistake = None
    if chance(rng, 0.3):
        call, arrays, mistake = spoil(rng, call, arrays)
    return Drawn(call, arrays, settings, mistake, (seed, number)), rng


def run(seed, number):
    """Makes the call; an AssertionError says what was wrong.  Returns what became of it."""
    d, rng = drawn(seed, number)
    try:
        return _spoiled(d) if d.mistake else _valid(d, rng)
    except TOO_LARGE:
        assert d.mistake, f"no memory for {d}"
        return "no memory"
    except AssertionError as error:
        raise AssertionError(f"{error}\n{d}") from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise AssertionError(
            f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})\n{d}"
        ) from error


def _spoiled(d):
    before = {name: _bytes(array) for name, array in d.arrays.items()}
    try:
        with gr.config(**d.settings):
            found = d.call(d.arrays)
    except gr.GradrouteError as error:
        assert str(error)
        for name, array in d.arrays.items():
            assert _bytes(array) == before[name], f"{name} was written to, and the call refused"
        return "no memory" if isinstance(error, MemoryError) else "refused"
    for name, array in d.arrays.items():
        if name != "out":
            assert _bytes(array) == before[name], f"the input {name} was written to"
    if sum(array.size for array in results(found)) > COMPARED:
        return "allowed"
    original = dict(d.arrays)
    if "out" in original:
        taken = original["out"]
        original["out"] = np.frombuffer(before["out"], taken.dtype).reshape(taken.shape)
    try:
        expected = expected_of(d.call, original)
    except (MemoryError, ValueError, OverflowError):  # the reference writes all padding out
        return "allowed"
    judge(d.call, original, found, expected)
    return "allowed"


def _bytes(array):
    if not isinstance(array, np.ndarray) or array.nbytes > 1 << 24 or 0 in array.strides:
        return None
    return array.tobytes()


# ---- valid calls --------------------------------------------------------------------------


def _valid(d, rng):
    expected = expected_of(d.call, d.arrays)
    arrays, regions, out, out_regions = _laid_out(rng, d, expected)
    before = {name: region.bytes.copy() for name, region in regions.items()}
    options = {} if out is None else {"out": out}
    try:
        with gr.config(**d.settings):
            found = d.call(arrays, **options)
    except gr.errors.WorkspaceError:
        assert d.settings["workspace_limit"] is not None
        return "no memory"
    for name, region in regions.items():
        if name != "out":
            assert (region.bytes == before[name]).all(), f"the input {name} was written to"
    for view, region in out_regions:
        assert region.untouched_beside(view), "something beside out was written to"
    for one, given in zip(_tuple(found), _tuple(out) if out is not None else ()):
        assert given is None or one is given, "out was not returned"
    judge(d.call, d.arrays, found, expected)
    return "right"


def _laid_out(rng, d, expected):
    """The arrays, and most of the results, in watched memory."""
    arrays, regions, out, out_regions = {}, {}, None, []
    wanted = _tuple(expected)
    shared = None
    if d.call.function is not gr.scatter_add and chance(rng, 0.7):
        out = [None] * len(wanted)
        for i, array in enumerate(wanted):
            if array is not None and chance(rng, 0.8):
                dtype = _result_dtype(d, array)
                out[i], region = memory.room_for(rng, array.shape, dtype)
                out_regions.append((out[i], region))
        alike = [n for n, a in d.arrays.items() if out[0] is not None and a.dtype == out[0].dtype]
        if alike and chance(rng, 0.1):
            shared = pick(rng, *alike)
            del out_regions[0]
            arrays[shared], out[0], _ = memory.overlapping(rng, d.arrays[shared], wanted[0].shape)
    for name, array in d.arrays.items():
        if name != shared:
            arrays[name], regions[name] = memory.placed(rng, array)
    if "out" in arrays:
        out_regions.append((arrays["out"], regions["out"]))
    arrays = {name: arrays[name] for name in d.arrays}  # in the order of the signature
    if out is not None:
        out = tuple(out) if isinstance(expected, tuple) else out[0]
    return arrays, regions, out, out_regions


def _tuple(returned):
    return returned if isinstance(returned, tuple) else (returned,)


def _result_dtype(d, array):
    if array.dtype.kind in "iu":
        return array.dtype
    return next(d.arrays[name].dtype for name in d.call.floats)


def expected_of(call, arrays):
    """What the reference makes of the same numbers in float64."""
    wide = {
        n: a if a is None else np.asarray(exact(a)) if n in call.floats else np.array(a)
        for n, a in arrays.items()
    }
    with gr.config(backend="reference"), np.errstate(all="ignore"):
        return call(wide)


def judge(call, arrays, found, expected):
    floors = [0.0] * len(results(expected))
    floats = [name for name in call.floats if arrays[name] is not None]  # a bias may be None
    wide = [np.asarray(exact(arrays[name])) for name in floats]
    if call.function in SUMS and all(np.isfinite(a).all() for a in wide):
        sums = expected_of(call, arrays | {name: np.abs(a) for name, a in zip(floats, wide)})
        floors = [np.sqrt(np.mean(one**2)) if one.size else 0.0 for one in results(sums)]
    elif call.function not in SUMS:
        largest = max([1.0, *(abs(a[np.isfinite(a)]).max(initial=0.0) for a in wide)])
        floors = [largest] * len(floors)
    for one, other, floor in zip(results(found), results(expected), floors, strict=True):
        if other.dtype.kind in "iu":
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            dtype = next(arrays[name].dtype for name in call.floats)
            assert one.dtype == dtype
            assert_close(one, other, dtype, floor=floor)
