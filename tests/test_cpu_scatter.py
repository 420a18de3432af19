"""The Numba scatter-add: each element adds up in the order of the index, whoever owns it."""

import tracemalloc

import numpy as np
import pytest

import gradroute as gr
from gradroute.geometry import ScatterGeometry
from gradroute.kernels.contract import Plan
from gradroute.kernels.cpu import plans, scatter, scatter_plans

SHAPES = [  # A, R, B, I: outer slices, rows, columns, additions
    (1, 50, 1, 1000),  # rows are owned
    (1, 50, 24, 333),
    (1, 3, 64, 100),  # few rows: columns are owned
    (2, 9, 1030, 40),
    (16, 7, 5, 30),  # outer slices are owned
    (3, 4, 2, 0),
    (1, 1, 1, 100),
]


def plan(threads):
    return Plan("numba", "scatter_add", "direct", threads=threads)


def shared_by(threads, geometry, dtype):
    """The plan of a call, however small, for so many threads."""
    made = plans.CpuPlan("numba", "scatter_add", "direct", threads=threads)
    return scatter_plans.plan(made, geometry, dtype, gr.config.current())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_those_of_adding_one_after_the_other(shape, dtype):
    A, R, B, count = shape
    rng = np.random.default_rng(0)
    rows = rng.integers(0, R, count)
    src = rng.standard_normal((A, count, B)) * 10.0 ** rng.integers(-6, 6, (A, count, B))
    src = src.astype(dtype)
    start = rng.standard_normal((A, R, B)).astype(dtype)
    expected = start.copy()
    for i, row in enumerate(rows):
        expected[:, row] += src[:, i]
    for threads in (1, 2, 3):
        for view in (lambda a: a, lambda a: np.repeat(a, 2, axis=2)[:, :, ::2]):
            out = view(start.copy())
            given = view(src) if B > 1 else src  # single elements lie side by side
            geometry = ScatterGeometry(A, R, B, count)
            shared = shared_by(threads, geometry, dtype)
            scatter.scatter_add(out, rows, given, -1, geometry, shared, plans.workspace(shared))
            assert out.tobytes() == expected.tobytes()


def test_nothing_is_added_when_an_index_was_refused():
    out = np.zeros((1, 4, 1), "float32")
    rows, src = np.array([0, 1]), np.ones((1, 2, 1), "float32")
    scatter.scatter_add(out, rows, src, 1, ScatterGeometry(1, 4, 1, 2), plan(1), None)
    assert not out.any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", ["wrap", "clip"])
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64"])
def test_wrap_and_clip_follow_exact_integer_arithmetic(dtype, mode, threads):
    info, size = np.iinfo(dtype), 7
    index = np.array([info.min, info.min + 1, 0, 3, 6, 7, 8, info.max - 1, info.max], dtype)
    rows = np.empty(len(index), np.int64)
    assert scatter.check_index(rows, index, size, mode, plan(threads), None) == -1
    exact = [int(i) % size if mode == "wrap" else min(max(int(i), 0), size - 1) for i in index]
    assert rows.tolist() == exact


@pytest.mark.parametrize("threads", [1, 2])
def test_raise_counts_from_the_end_and_reports_the_first_index_outside(threads):
    rows = np.empty(40, np.int64)
    index = np.arange(-20, 20)
    assert scatter.check_index(rows, index, 20, "raise", plan(threads), None) == -1
    assert rows.tolist() == [*range(20), *range(20)]
    for bad in (20, -21):
        index[[11, 33]] = bad
        assert scatter.check_index(rows, index, 20, "raise", plan(threads), None) == 11


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, inner", [(10, 64), (1, 130), (7, 5), (200, 20)])
def test_many_entries_of_few_short_rows_give_the_same_bits_on_one_thread(rows, inner, dtype):
    rng = np.random.default_rng(rows)
    index = rng.integers(-rows, rows, 30_000)
    src = rng.standard_normal((index.size, inner)).astype(dtype)
    start = rng.standard_normal((rows, inner)).astype(dtype)
    wanted = start.astype("float64")
    np.add.at(wanted, index, src)
    found = []
    for threads, values in ((1, src), (None, src), (None, np.repeat(src, 2, axis=1)[:, ::2])):
        for out in (start.copy(), np.repeat(start, 3, axis=1)[:, ::3]):
            with gr.config(backend="numba", threads=threads):
                found.append(gr.scatter_add(out, index, values))
    bound = (1e-5 if dtype == "float32" else 1e-13) * np.linalg.norm(wanted)
    assert np.linalg.norm(found[0] - wanted) < bound
    for other in found:
        np.testing.assert_array_equal(other, found[0])


LIMITED = [  # axis 0 of out's shape and of src's: many entries of few sums, single elements, rows
    ((500,), 200_000, "pieces"), ((8, 8), 100_000, "pieces"), ((400_000,), 300_000, "rows"),
    ((20_000, 40), 30_000, "rows"), ((4, 2048), 300, "columns"),
]  # fmt: skip


@pytest.mark.parametrize("shape, count, algorithm", LIMITED)
def test_a_workspace_limit_is_kept(shape, count, algorithm):
    rng = np.random.default_rng(count)
    index, src = rng.integers(0, shape[0], count), rng.standard_normal((count, *shape[1:]))
    expected = np.zeros(shape)
    np.add.at(expected, index, src)
    with gr.config(backend="numba"):
        found = gr.plan("scatter_add", expected, index, src)
        if gr.config.current().threads > 1 or algorithm == "pieces":
            assert found.algorithm == algorithm
        for limit in (None, found.workspace_bytes, max(0, found.workspace_bytes - 1), 0):
            with gr.config(workspace_limit=limit):
                asked = gr.plan("scatter_add", expected, index, src)
                assert limit is None or asked.workspace_bytes <= limit
                gr.scatter_add(np.zeros(shape), index, src)  # compiles
                out, peak = np.zeros(shape), 0
                tracemalloc.start()
                try:
                    gr.scatter_add(out, index, src)
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
            assert peak < asked.workspace_bytes + 64 * 1024
            np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
