"""What every suite shares: shapes, seeded arrays, backends, and the check of each result.

Benchmarks use only the public names of gradroute, so that they also run on older commits.
"""

from __future__ import annotations

import csv
import functools
import pathlib

import numpy as np

import gradroute as gr

BACKENDS = ["numba", "cuda", "reference"]
DTYPES = ["float32", "float64"]
LAYOUTS = ["channels_first", "channels_last"]

#: largest relative L2 difference to the reference backend in float64 (api.md's "standard")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


@functools.cache
def rows(file: str) -> dict[str, dict[str, int]]:
    """The rows of shapes/<file>.csv by name."""
    path = pathlib.Path(__file__).parent.parent / "shapes" / f"{file}.csv"
    with path.open(encoding="utf-8") as lines:
        return {
            row.pop("name"): {field: int(value) for field, value in row.items()}
            for row in csv.DictReader(lines)
        }


def values(seed: int, shape, dtype) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def as_layout(image, layout):
    """(N, C, H, W) as an array of that layout, C-contiguous."""
    if layout == "channels_last":
        image = np.moveaxis(image, 1, -1)
    return np.ascontiguousarray(image)


@functools.cache
def _why_not(backend: str) -> str | None:
    if backend == "cuda":
        try:
            import cupy  # noqa: F401
        except ImportError:
            return "cupy is not installed"
    try:
        with gr.config(backend=backend):
            gr.which_backend(np.zeros(1, np.float32))
    except gr.GradrouteError as error:
        return str(error)
    return None


# asv imports this once and forks a process for each benchmark, which then finds Numba loaded
_why_not("numba")


class Benchmark:
    """Base of the suites.  A suite's ``prepare`` returns {name: a call without arguments}.

    setup() checks each call once against the same call on the reference backend in float64,
    which also compiles and warms up.  A backend that cannot run here skips the benchmark.
    """

    params = (BACKENDS, DTYPES)
    param_names = ("backend", "dtype")
    warmup_time = 0.1
    _checked: set = set()

    def setup(self, backend, dtype, *rest):
        reason = _why_not(backend)
        if reason:
            raise NotImplementedError(reason)
        self.backend, self.dtype = backend, dtype
        self._block = gr.config(backend="auto" if backend == "cuda" else backend)
        self._block.__enter__()
        self.calls = self.prepare(dtype, *rest)
        key = (type(self).__name__, backend, dtype, *rest)
        if key not in self._checked:
            self.check(rest)
            self._checked.add(key)

    def teardown(self, *_):
        if hasattr(self, "_block"):
            self._block.__exit__(None, None, None)
            del self._block

    def check(self, rest):
        """Each call's result against the reference's in float64."""
        for name, error in self.errors(rest).items():
            assert error <= TOLERANCE[self.dtype], f"{name}: relative error {error:.1e}"

    def errors(self, rest) -> dict[str, float]:
        got = {name: self._results(call) for name, call in self.calls.items()}
        backend, dtype, calls = self.backend, self.dtype, self.calls
        self.backend, self.dtype = "reference", "float64"
        with gr.config(backend="reference"):
            exact = {
                name: self._results(call) for name, call in self.prepare("float64", *rest).items()
            }
        self.backend, self.dtype, self.calls = backend, dtype, calls
        return {name: relative_error(got[name], exact[name]) for name in got}

    def _results(self, call) -> list[np.ndarray]:
        result = call()
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [self.fetch(array) for array in results if array is not None]

    def send(self, array):
        """A NumPy array to where the backend computes."""
        if self.backend != "cuda":
            return array
        import cupy

        return cupy.asarray(array)

    def fetch(self, array) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else array.get()

    def run(self, name):
        """What the timed functions call: the work is over when it returns."""
        self.calls[name]()
        if self.backend == "cuda":
            gr.synchronize()


def relative_error(got, exact) -> float:
    """Largest relative L2 difference of the arrays; infinite where integers differ."""
    worst = 0.0
    for one, wanted in zip(got, exact, strict=True):
        if wanted.dtype.kind in "iu":
            worst = max(worst, 0.0 if np.array_equal(one, wanted) else np.inf)
        else:
            norm = np.linalg.norm(wanted) or 1.0
            worst = max(worst, float(np.linalg.norm(one.astype(np.float64) - wanted) / norm))
    return worst
