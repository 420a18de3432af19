"""Interrupts, and memory that is not there."""

import contextlib

import numpy as np
import processes
import pytest
from calls import WITH_OUT
from compare import results

import gradroute as gr
from gradroute.kernels import cpu
from gradroute.ops.call import Call


def test_ctrl_c_leaves_the_inputs_and_the_library_usable(record_property):
    """Signals arrive while kernels compile, while they run, and between two of them."""
    processes.run(
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
        gr.activate(x, "relu")  # Numba is imported: Python's own imports do not survive interrupts

        def long_call():
            y = gr.avg_pool(gr.activate(x, "relu"), 2)
            dx = gr.avg_pool_backward(y, x.shape, 2)
            return y, dx, gr.activate_backward(dx, "relu", x=x)

        before, interrupted = x.tobytes(), 0
        for i in range(20):
            timer = threading.Timer(0.001 + 0.02 * i, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while timer.is_alive():
                    long_call()
                time.sleep(1)  # where the signal is still on its way
            except KeyboardInterrupt:
                interrupted += 1
            timer.join()
            assert before == x.tobytes()
        assert interrupted >= 18, interrupted  # one in the middle of a __del__ is swallowed
        first = [one.tobytes() for one in long_call()]
        with gr.config(threads=1):
            assert first == [one.tobytes() for one in long_call()]
        with gr.config(backend="reference"):
            y = np.frombuffer(first[0], "float32").reshape(8, 16, 16, 16)
            assert np.allclose(long_call()[0], y, atol=1e-5)
        """,
        limit=300,
        NUMBA_NUM_THREADS="2",
    )
    record_property("interrupts sent", 20)


def test_memory_that_the_system_refuses_is_an_error_before_anything_is_written(record_property):
    out, _ = processes.run(
        """
        import resource
        gr.config.precision = "strict"
        # 16 bits: inputs are converted and results rounded, all of which takes memory
        x, w = np.full((4, 64, 64, 64), 0.01, "float16"), np.full((96, 64, 3, 5), 0.01, "float16")
        y = gr.conv(x, w)
        outs = [np.full(one.shape, 77, "float16") for one in (x, w, w[:, 0, 0, 0])]
        gr.conv_backward(y[:1], x[:1], w)  # compiles all that is needed
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        refused = 0
        for room in range(0, 200, 4):
            for one in outs:
                one[...] = 77
            resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), hard))
            try:
                gr.conv_backward(y, x, w, out=tuple(outs))
                break
            except MemoryError:
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            assert all((one == 77).all() for one in outs), "half written"
        else:
            raise AssertionError("no amount of memory sufficed")
        assert refused
        expected = gr.conv_backward(y, x, w)
        assert all((one == other).all() for one, other in zip(outs, expected))
        print("refused", refused)
        """,
        limit=300,
        NUMBA_NUM_THREADS="1",
    )
    record_property("allocations that the system refused", int(out.split()[-1]))


def test_too_little_memory_to_compile_in_is_an_error_not_the_end_of_the_process(tmp_path):
    processes.run(
        """
        import resource
        gr.matmul(x[0, 0], x[0, 0])
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        out = np.full_like(x, 77)
        for room in (0, 40, 80, 120, 160):
            resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), hard))
            try:
                gr.activate(x, "tanh", out=out)
                raise AssertionError("compiled without memory")
            except gr.errors.WorkspaceError as error:
                assert "compiling" in str(error)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert (out == 77).all()
        assert np.allclose(gr.activate(x, "tanh", out=out), np.tanh(x))
        """,
        XDG_CACHE_HOME=str(tmp_path),
        NUMBA_NUM_THREADS="1",
    )


@contextlib.contextmanager
def failing(number):
    """The allocation with this number, of those that one call makes, finds no memory."""
    asked, originals = [0], (Call.empty, Call.input, cpu.workspace)

    def counted(function):
        def allocate(*arguments):
            asked[0] += 1
            if asked[0] == number:
                raise gr.errors.WorkspaceError("injected: no memory")
            return function(*arguments)

        return allocate

    Call.empty, Call.input, cpu.workspace = map(counted, originals)
    try:
        yield asked
    finally:
        Call.empty, Call.input, cpu.workspace = originals


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("call", WITH_OUT, ids=str)
def test_whichever_allocation_fails_out_is_as_it_was(call, dtype, record_property):
    expected = call(call.arrays(dtype))
    several, faults = isinstance(expected, tuple), 0
    whole = [np.full((*one.shape, 2), 77, one.dtype) for one in results(expected)]
    for number in range(1, 40):
        out = tuple(one[..., 0] for one in whole)  # strided: what cannot be written to directly
        arrays = call.arrays(dtype)
        before = {name: array.tobytes() for name, array in arrays.items()}
        with failing(number) as asked:
            try:
                call(arrays, out=out if several else out[0])
            except MemoryError:
                faults += 1
                assert all((one == 77).all() for one in whole)
                assert before == {name: array.tobytes() for name, array in arrays.items()}
                continue
        assert asked[0] < number  # no allocation was left to fail
        break
    else:
        raise AssertionError("the call never succeeded")
    record_property("allocations made to fail", faults)
    assert faults or not call.floats  # integers alone go down as they are
    for one, other in zip(out, results(expected), strict=True):
        np.testing.assert_array_equal(one, other)
