"""What a new process compiles: nothing with a filled cache, and never more than warmup lists."""

import json

import processes

from gradroute.bench import itself

#: calls that need no build beyond those of the program before, though every size differs
PROGRAM = """
import json
from gradroute import dispatch
from gradroute.kernels.cpu.cache import KernelCache

written = []
save = KernelCache.save_overload
def remembered(self, signature, data):
    written.append(self._name)
    save(self, signature, data)
KernelCache.save_overload = remembered

def every_operation(n, channels, size):
    x = rng.standard_normal((n, channels, size, size)).astype("float32")
    for view in (x, x[:, :, ::-1], np.asfortranarray(x)):
        w = rng.standard_normal((channels + 3, channels, 3, 3)).astype("float32")
        for options in ({}, {"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2}):
            y = gr.conv(view, w, **options)
            gr.conv_backward(y, view, w, **options)
        for window, options in ((2, {}), (3, {"stride": 1}), (3, {"stride": 2, "padding": 1})):
            y, winner = gr.max_pool(view, window, **options)
            gr.max_pool_backward(y, winner, view.shape, window, **options)
        flat = view.reshape(n, -1)
        gr.linear_backward(np.ones((n, 7), "float32"), flat, np.ones((7, flat.shape[1]), "float32"))
        index = np.arange(view.size) % 11
        gr.scatter_add(np.zeros(11, "float32"), index, view.reshape(-1))
        gr.activate(view, "relu")

def builds():
    return {(kernel.name, tuple(map(str, dtypes)), parallel) for kernel in kernels
            for dtypes, parallel in kernel._builds if isinstance(dtypes, tuple)}

with gr.config(backend="numba", threads=2):
    for sizes in ((1, 2, 8), (1, 2, 20), (4, 24, 20), (4, 70, 14), (4, 66, 14), (4, 68, 16)):
        every_operation(*sizes)
    from gradroute.kernels.cpu.jit import KERNELS as kernels
    before = builds()
    for sizes in ((1, 3, 9), (3, 17, 23), (5, 66, 15)):
        every_operation(*sizes)
listed = {(kernel.name, variant if isinstance(variant, tuple) else (variant,), parallel)
          for kernel in kernels for variant in kernel.variants for parallel in (False, True)}
print(json.dumps({"written": written, "before": len(before), "new": sorted(builds() - before),
                  "unlisted": sorted(builds() - listed)}))
"""


def test_builds_do_not_depend_on_sizes_and_a_second_process_compiles_none():
    first, second = (json.loads(processes.run(PROGRAM, limit=600)[0]) for _ in range(2))
    assert first["before"] > 20
    assert not first["new"], "other sizes, strides and options compiled more"
    assert not first["unlisted"], "gradroute warmup does not know of these"
    assert second["written"] == []


def test_a_second_first_call_finds_every_build_and_adds_no_file():
    cold, cached, written, added = itself.first_calls("scatter_add")
    assert float(cold) > 0 and float(cached) > 0
    assert int(written) >= 1 and added == "0"


#: tells LLVM's appetite to be more than there is
HUNGRY = """
from gradroute.kernels.cpu import jit, libraries
libraries.COMPILING_BYTES = 1 << 60
try:
    work()
except MemoryError as error:
    print("refused", "gradroute warmup" in str(error))
"""


def test_memory_for_compiling_is_asked_for_only_where_something_is_compiled(tmp_path):
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert processes.run(HUNGRY, **folder)[0].split() == ["refused", "True"]
    processes.run("work()", **folder)
    assert processes.run(HUNGRY, **folder)[0] == ""


#: helpers keep no machine code of their own: what calls them takes them in
OUTSIDE = """
import numba
from gradroute.kernels.cpu.emitted import memory, vectors

@numba.njit
def sums(array):
    return vectors.sum_row(array, 3, 7), memory.step(array, 0)

@numba.njit(parallel=True)
def windows(array, made):
    for i in numba.prange(made.size):
        made[i] = vectors.sum_row(array, i, 5)

row = np.arange(20, dtype=np.float32)
assert sums(row) == (42, 1)
work()
made = np.zeros(4, np.float32)
windows(row, made)
assert made.tolist() == [10, 15, 20, 25]
"""


def test_functions_of_others_may_call_a_helper_before_and_after_a_kernel_is_compiled(tmp_path):
    processes.run(OUTSIDE, NUMBA_CACHE_DIR=str(tmp_path))


def test_a_kernel_found_on_disk_is_loaded_without_what_numba_registers_to_compile(tmp_path):
    program = """
        assert work() == work()
        print("numba.np.arraymath" in sys.modules)
    """
    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [processes.run(program, **folder)[0].strip() for _ in range(2)]
    assert found == ["True", "False"]
