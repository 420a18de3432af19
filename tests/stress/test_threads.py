"""Any number of Python threads, on every threading layer that Numba has."""

import importlib.util

import processes
import pytest

LAYERS = [
    "omp",
    "workqueue",
    pytest.param(
        "tbb",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("tbb") is None, reason="tbb is not installed"
        ),
    ),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_at_once_get_the_bits_of_one(layer, record_property):
    processes.run(
        """
        expected = work()
        results = []

        def many():
            results.extend(work() for _ in range(20))

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        many()  # the main thread is one of them
        for thread in threads:
            thread.join()
        assert len(results) == 180 and set(results) == {expected}
        """,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )
    record_property(f"calls from eight threads at once on {layer}", 180 * 3)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_first_calls_ever_may_come_from_several_threads(layer):
    processes.run(
        """
        results, barrier = [], threading.Barrier(4)

        def first():
            barrier.wait()
            results.append(work())

        threads = [threading.Thread(target=first) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4 and set(results) == {work()}
        """,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )


def test_calls_leave_numbas_own_thread_count_alone():
    processes.run(
        """
        import numba
        numba.set_num_threads(2)
        with gr.config(threads=1):
            one = work()
            assert numba.get_num_threads() == 2
        numba.set_num_threads(1)
        with gr.config(threads=2):
            assert work() == one
        assert numba.get_num_threads() == 1
        """,
        NUMBA_NUM_THREADS="2",
    )


def test_a_layer_that_is_not_installed_is_said_once_and_one_thread_computes():
    if importlib.util.find_spec("tbb") is not None:
        pytest.skip("tbb is installed here")
    processes.run(
        """
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            first = work()
            assert work() == first
        assert sum("one thread" in str(one.message) for one in said) == 1, said
        """,
        NUMBA_THREADING_LAYER="tbb",
    )
