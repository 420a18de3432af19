"""Memory of large results is used again, and never while anybody sees it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradroute as gr
from gradroute import kept_memory
from gradroute.alignment import aligned_array
from gradroute.kept_memory import KEPT_FROM

FLOAT = np.dtype("float32")
LARGE = (KEPT_FROM // 4,)


@pytest.fixture(autouse=True)
def nothing_kept():
    kept_memory._kept.clear()
    yield
    kept_memory._kept.clear()


def place(array):
    return array.__array_interface__["data"][0]


def held():
    return sum(map(len, kept_memory._kept.values()))


def test_freed_memory_serves_the_next_result():
    x = np.full((2, 64, 256, 257), 0.5, np.float32)
    with gr.config(backend="numba"):
        y = gr.activate(x, "relu")
        assert y.nbytes > KEPT_FROM
        first = place(y)
        del y
        assert held() > KEPT_FROM
        y = gr.activate(x, "relu")
    assert place(y) == first and held() == 0
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("seen", [
    lambda y: y[1:], lambda y: y.reshape(-1, 2).T, memoryview, lambda y: y.view(np.int32),
    lambda y: y[::-1], lambda y: [y],
], ids=["slice", "transposed", "memoryview", "view", "reversed", "itself"])  # fmt: skip
def test_memory_that_is_seen_is_not_lent(seen):
    first = aligned_array(LARGE, FLOAT)
    start = place(first)
    kept = seen(first)
    del first
    assert held() == 0
    second = aligned_array(LARGE, FLOAT)
    assert place(second) != start
    del kept
    assert held() > KEPT_FROM
    assert place(aligned_array(LARGE, FLOAT)) == start


def test_only_what_fits_is_lent():
    for size in (1.0, 2.0):
        aligned_array((int(size * KEPT_FROM),), np.dtype("uint8"))
    assert len(kept_memory._kept) == 2
    for size, fits in [(1.2, False), (0.8, False), (1.9, True), (2.1, False), (1.0, True)]:
        before = len(kept_memory._kept)
        made = aligned_array((int(size * KEPT_FROM),), np.dtype("uint8"))
        assert (len(kept_memory._kept) < before) == fits
        del made


def test_as_much_is_kept_as_the_setting_says():
    arrays = [aligned_array(LARGE, FLOAT) for _ in range(4)]
    places = [place(array) for array in arrays]
    with gr.config(kept_memory=3 * KEPT_FROM):  # and each has 64 bytes more, to be aligned
        while arrays:
            del arrays[0]
    assert held() == 2 * (KEPT_FROM + 64)
    again = [aligned_array(LARGE, FLOAT) for _ in range(2)]
    assert {place(array) for array in again} == set(places[2:])  # the last ones freed
    del again
    array = aligned_array(LARGE, FLOAT)
    with gr.config(kept_memory=0):
        del array
    assert held() == 0


def test_small_results_are_not_kept():
    aligned_array((KEPT_FROM // 8,), FLOAT)
    assert held() == 0


def test_kept_memory_makes_room_where_there_is_none(monkeypatch):
    aligned_array(LARGE, FLOAT)
    asked = []

    def empty(size, dtype, empty=np.empty):
        asked.append(held())
        if held():
            raise MemoryError
        return empty(size, dtype)

    monkeypatch.setattr(kept_memory.np, "empty", empty)
    assert len(aligned_array((2 * LARGE[0],), FLOAT)) == 2 * LARGE[0]
    assert asked[0] > 0 and asked[1] == 0


def test_threads_never_share_it():
    def work(mine):
        for _ in range(30):
            array = aligned_array((KEPT_FROM,), np.dtype("uint8"))
            array[:: KEPT_FROM // 64] = mine
            again = aligned_array((KEPT_FROM,), np.dtype("uint8"))
            again[:: KEPT_FROM // 64] = 255
            del again
            if (array[:: KEPT_FROM // 64] != mine).any():
                return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert held() <= gr.config.kept_memory


def test_a_process_ends_quietly_while_results_live():
    code = (
        "import numpy as np\n"
        "from gradroute.alignment import aligned_array\n"
        f"held = [aligned_array({LARGE}, np.dtype('float32')) for _ in range(3)]\n"
        "del held[0]\n"
        "class Ring: pass\n"
        "ring = Ring(); ring.ring, ring.array = ring, held.pop()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
