"""Inside other people's pools: joblib, executors, asyncio, torch's threads, sub-interpreters."""

import importlib.util

import processes
import pytest

import gradroute as gr
from gradroute import dispatch


def needs(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@needs("joblib")
@pytest.mark.parametrize(
    "pool", ["threading", pytest.param("loky", marks=pytest.mark.long), "multiprocessing"]
)
def test_joblib_gets_the_bits_of_one_caller(pool):
    processes.run(
        f"""
        import joblib
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = gr.activate(x, "relu").tobytes()
        results = joblib.Parallel(n_jobs=2, backend={pool!r})(
            joblib.delayed(gr.activate)(x, "relu") for _ in range(8)
        )
        assert [one.tobytes() for one in results] == [expected] * 8
        """,
        NUMBA_NUM_THREADS="2",
    )


@pytest.mark.long
def test_executors_of_processes_and_threads_compute():
    processes.run(
        """
        import concurrent.futures, multiprocessing
        expected = work()
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: work(), range(12))) == {expected}
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
            done = [pool.submit(gr.activate, x, "relu") for _ in range(4)]
            relu = gr.activate(x, "relu").tobytes()
            assert [one.result(timeout=100).tobytes() for one in done] == [relu] * 4
        """,
        NUMBA_NUM_THREADS="2",
    )


def test_asyncio_tasks_keep_their_own_settings_in_executors():
    processes.run(
        """
        import asyncio
        expected = work()

        async def task(threads):
            with gr.config(threads=threads):
                both = lambda: (work(), gr.config.threads)
                found = [await asyncio.to_thread(both) for _ in range(3)]
                await asyncio.sleep(0)
                assert gr.config.threads == threads
            return found

        async def main():
            return await asyncio.gather(*(task(1 + i % 2) for i in range(6)))

        for i, found in enumerate(asyncio.run(main())):
            assert found == [(expected, 1 + i % 2)] * 3
        assert gr.config.threads is None
        """,
        NUMBA_NUM_THREADS="2",
    )


@needs("torch")
def test_called_from_torchs_own_threads():
    """A hook of autograd runs in a thread that torch started, which has an OpenMP of its own."""
    processes.run(
        """
        import torch
        expected = work()
        seen = []

        class Passing(torch.autograd.Function):
            @staticmethod
            def forward(context, value):
                return value.clone()

            @staticmethod
            def backward(context, gradient):
                seen.append(work())
                return gradient

        for _ in range(5):
            value = torch.ones(64, 64, requires_grad=True)
            (Passing.apply(value) @ value).sum().backward()
            assert work() == expected
        assert seen == [expected] * 5
        """,
        NUMBA_NUM_THREADS="2",
    )


@needs("threadpoolctl")
def test_calls_change_no_setting_of_blas_or_openmp():
    processes.run(
        """
        import threadpoolctl
        np.ones((64, 64)) @ np.ones((64, 64))
        work()  # loads Numba's layer

        def settings():
            pools = threadpoolctl.threadpool_info()
            return sorted((pool["filepath"], pool["num_threads"]) for pool in pools)

        with threadpoolctl.threadpool_limits(1):
            inside = settings()
            with gr.config(threads=2):
                work()
            assert settings() == inside
        before = settings()
        with gr.config(threads=1):
            work()
        assert settings() == before
        """,
        NUMBA_NUM_THREADS="2",
    )


def test_no_more_threads_run_than_were_allowed():
    """Numba's threads are started once; calls of any number of Python threads add none."""
    processes.run(
        """
        def alive():
            return len(os.listdir("/proc/self/task"))

        work()
        before = alive()
        for _ in range(10):
            work()
        assert alive() == before
        def many():
            for _ in range(5):
                work()
        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        most = before + 4 * 1  # omp: one helper for each caller
        end = time.monotonic() + 30  # a thread that was joined may still be on its way out
        while alive() > most and time.monotonic() < end:
            time.sleep(0.1)
        assert alive() <= most, (before, alive())
        """,
        NUMBA_NUM_THREADS="2",
    )


def test_a_sub_interpreter_computes_with_the_reference_and_says_why_not_otherwise():
    out, _ = processes.run(
        '''
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        import textwrap
        failed = interpreters.run_string(interpreters.create(), textwrap.dedent("""
        import warnings
        warnings.simplefilter("ignore")
        try:
            import numpy as np
        except ImportError as error:  # NumPy's answer where the main interpreter has it too
            assert str(error)
            print("said")
        else:
            import gradroute as gr
            with gr.config(backend="reference"):
                assert gr.activate(np.ones(3), "relu").sum() == 3
            try:
                gr.activate(np.ones(3), "relu")
            except gr.errors.BackendError as error:
                assert "sub-interpreter" in str(error)
                print("said")
        """))
        assert failed is None, failed
        '''
    )
    assert out == "said\n"


def test_backends_that_compile_refuse_a_sub_interpreter(monkeypatch):
    monkeypatch.setattr(dispatch, "_in_sub_interpreter", lambda: True)
    for name in ("numba", "cuda"):
        with pytest.raises(gr.errors.BackendError, match="sub-interpreter"):
            dispatch._loaded.__wrapped__(name)


def test_a_fork_in_the_middle_of_a_call_leaves_both_processes_computing(record_property):
    processes.run(
        """
        warnings.simplefilter("ignore", DeprecationWarning)
        with gr.config(threads=1):
            expected = work()
        big, stop = np.ones((64, 16, 64, 64), "float32"), threading.Event()

        def busy():
            while not stop.is_set():
                gr.avg_pool(big, 2)

        thread = threading.Thread(target=busy)
        thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if work() == expected else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        assert work() == expected
        """,
        NUMBA_NUM_THREADS="2",
    )
    record_property("forks", 20)
