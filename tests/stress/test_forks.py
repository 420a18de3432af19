"""Fork and spawn after, before and during calls."""

import os

import processes
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

CHILD = """
def in_child(check):
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of fork beside threads
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_child_forked_after_use_computes_the_same_bits(layer, record_property):
    processes.run(
        CHILD
        + """
expected = work()
for _ in range(3):
    in_child(lambda: work() == expected)
assert work() == expected  # and the parent goes on
""",
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )
    record_property("forks", 3)


def test_a_child_forked_before_use_may_use_threads_of_its_own(record_property):
    processes.run(
        CHILD
        + """
in_child(lambda: work() is not None)
assert work() == work()
""",
        NUMBA_NUM_THREADS="2",
    )
    record_property("forks", 1)


def test_forks_while_other_threads_compute_and_compile(record_property):
    processes.run(
        CHILD
        + """
with gr.config(threads=1):
    expected = work()
stop = threading.Event()

def busy():
    while not stop.is_set():
        work()
        time.sleep(0.001)

def compiling():  # builds that nobody has asked for yet
    gr.avg_pool(x.astype("float64"), 2)

threads = [threading.Thread(target=busy), threading.Thread(target=compiling)]
for thread in threads:
    thread.start()
for _ in range(5):
    in_child(lambda: work() == expected)
    time.sleep(0.02)
in_child(lambda: gr.avg_pool(x.astype("float64"), 2).any())  # compiled there, if need be
stop.set()
for thread in threads:
    thread.join()
""",
        NUMBA_NUM_THREADS="2",
    )
    record_property("forks", 6)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes_compute(method):
    processes.run(
        f"""
        import multiprocessing
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = gr.activate(x, "relu").sum(axis=(1, 2, 3))
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            relu = [pool.apply_async(gr.activate, (image, "relu")) for image in x]
            got = np.array([one.get(timeout=100).sum(dtype="float32") for one in relu])
        assert np.allclose(got, expected, rtol=1e-4)
        """,
        NUMBA_NUM_THREADS="2",
    )
