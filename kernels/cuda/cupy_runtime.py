"""CuPy behind launch.py: NVRTC, modules, streams, memory pool.

Kernels are compiled here rather than by cupy.RawModule, for two reasons: RawModule always adds
-ftz=true, under which denormals tie with 0 and a pool's winner would not be the CPU's; and its
disk cache does not look into included headers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
import threading
from pathlib import Path

from ...errors import ArgumentValueError, BackendError, WorkspaceError
from ...folders import private
from . import launch

#: the oldest architecture with cp.async, bfloat16 and TF32
FLOOR = (8, 0)
INSTALL = 'pip install "gradroute[cuda13]" ([cuda12] for a driver of CUDA 12)'
COMPILE = ("-std=c++17", "--fmad=true", "--ftz=false")


def compile_cubin(file: str, opts: tuple, architecture: str, extra: tuple = ()) -> tuple:
    """(cubin, compiler log) of one source file for one architecture such as "sm_90"."""
    from cupy.cuda import nvrtc

    headers = launch.headers()
    texts = [text.encode() for text in headers.values()]
    names = [name.encode() for name in headers]
    program = nvrtc.createProgram(launch.source(file), f"{file}.cu", texts, names)
    flags = (f"--gpu-architecture={architecture}", *COMPILE, *opts, *extra)
    try:
        nvrtc.compileProgram(program, flags)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise BackendError(
            f"{file}.cu does not compile for {architecture} with {' '.join(flags)} "
            f"(NVRTC {'.'.join(map(str, nvrtc.getVersion()))}): {error}\n{log}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def cache_folder() -> Path:
    """Where compiled kernels and tuning results are kept between processes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradroute" / "cuda"


def cache_key(file: str, opts: tuple, architecture: str, compiler: str) -> str:
    """Everything that decides what a compilation gives: source, headers, options, architecture."""
    parts = [compiler, architecture, *COMPILE, *opts, launch.source(file)]
    for name, text in sorted(launch.headers().items()):
        parts += [name, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def cached_cubin(file: str, opts: tuple, architecture: str, folder: Path | None = None) -> bytes:
    """The compiled file, from disk if an earlier process left it there."""
    from cupy.cuda import nvrtc

    key = cache_key(file, opts, architecture, str(nvrtc.getVersion()))
    path = (folder or cache_folder()) / f"{file}-{key}.cubin"
    try:
        private(path.parent)  # what others could have written is not run
        return path.read_bytes()
    except OSError:
        cubin, _ = compile_cubin(file, opts, architecture)
        write_atomically(path, cubin)
        return cubin


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the whole file or none; a cache that cannot be written is done without."""
    try:
        private(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError:
        pass


class CupyRuntime:
    """What launch.py needs of a device, on the current CuPy device and stream."""

    def __init__(self):
        self._lock = threading.Lock()
        self._functions = {}  # (device, file, options, kernel) -> (module, function)
        self._modules = {}
        self._flags = {}  # address of an unread value check -> the event behind it

    # ---- can it run here? -----------------------------------------------------------------

    @functools.cached_property
    def _reason(self) -> str | None:
        try:
            import cupy
        except ImportError as error:
            return f"CuPy is missing or broken ({error}); {INSTALL}"
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except Exception as error:  # CuPy has one error class for every CUDA status
            if "InsufficientDriver" in str(error):
                return (
                    f"the NVIDIA driver is missing or too old for CUDA "
                    f"{runtime.runtimeGetVersion() // 1000} ({error}); install a newer driver, "
                    f"or {INSTALL}"
                )
            return f"no CUDA device can be used ({error})"
        if not count:
            return "no CUDA device is visible; see CUDA_VISIBLE_DEVICES"
        try:
            cupy.cuda.nvrtc.getVersion()
        except Exception as error:
            return f"NVRTC cannot be loaded ({error}); pip install nvidia-cuda-nvrtc"
        return None

    def available(self) -> str | None:
        """None where this runtime can run, else the reason and what to do."""
        if self._reason:
            return self._reason
        have = self.capability
        if have < FLOOR:
            return f"the GPU has compute capability {have[0]}.{have[1]}, 8.0 or newer is needed"
        return None

    # ---- device ---------------------------------------------------------------------------

    def _device(self) -> int:
        import cupy

        return cupy.cuda.runtime.getDevice()

    @functools.cache
    def _properties(self, device: int) -> dict:
        import cupy

        found = cupy.cuda.runtime.getDeviceProperties(device)
        return {
            "name": found["name"].decode(),
            "capability": (found["major"], found["minor"]),
            "multiprocessors": found["multiProcessorCount"],
        }

    @property
    def multiprocessors(self) -> int:
        return self._properties(self._device())["multiprocessors"]

    @property
    def capability(self) -> tuple:
        return self._properties(self._device())["capability"]

    @property
    def device_name(self) -> str:
        return self._properties(self._device())["name"]

    # ---- arrays ---------------------------------------------------------------------------

    def array_module(self):
        return _library()

    def to_device(self, array):
        return self.array_module().asarray(array)

    def to_host(self, array):
        return array.get()

    def scratch(self, size: int):
        return self.array_module().empty(size, "uint8")

    def synchronize(self) -> None:
        self.array_module().cuda.Device().synchronize()

    # ---- value checks ---------------------------------------------------------------------

    def record_flag(self, flag) -> None:
        """Remembers the point of the current stream at which the flag is final."""
        event = self.array_module().cuda.Event(disable_timing=True)
        event.record()
        self._flags[flag.data.ptr] = event

    def flag_value(self, flag, wait: bool):
        """The flag as an int; None if it is not final yet and ``wait`` is False."""
        event = self._flags[flag.data.ptr]
        if not wait and not event.done:
            return None
        event.synchronize()
        del self._flags[flag.data.ptr]
        return int(flag)

    def timed(self, run) -> float:
        """Milliseconds that ``run()`` takes on the device, by events."""
        cuda = self.array_module().cuda
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return cuda.get_elapsed_time(start, stop)

    # ---- kernels --------------------------------------------------------------------------

    def function(self, file: str, opts: tuple, kernel: str):
        """``call(blocks, threads, args)`` for one kernel on the current device, compiled once."""
        key = (self._device(), file, opts, kernel)
        found = self._functions.get(key)
        if found is None:
            with self._lock:
                found = self._functions.get(key) or self._load(*key)
                self._functions[key] = found
        return found

    def _load(self, device, file, opts, kernel):
        from cupy.cuda import function

        module = self._modules.get((device, file, opts))
        if module is None:
            major, minor = self.capability
            module = function.Module()
            module.load(cached_cubin(file, opts, f"sm_{major}{minor}"))
            self._modules[device, file, opts] = module
        started = module.get_function(kernel)

        def call(blocks, threads, args):
            # alive until the launch has copied them
            values = [_parameter(arg, device) for arg in args]
            pointers = [function.CPointer(ctypes.addressof(value)) for value in values]
            started(blocks, threads, pointers)

        return call


def _parameter(arg, device):
    """One kernel argument as a ctypes value."""
    if arg is None:
        return ctypes.c_void_p(0)
    if isinstance(arg, (ctypes.Structure, ctypes._SimpleCData)):
        return arg
    if arg.data.device_id != device:
        raise ArgumentValueError(
            f"an array lies on GPU {arg.data.device_id} and GPU {device} is the current one: call "
            f"inside `with cupy.cuda.Device({arg.data.device_id}):`, with all arrays there"
        )
    return ctypes.c_void_p(arg.data.ptr)


class _Library:
    """The cupy module, whose out-of-memory is the package's error."""

    _ALLOCATING = ("argsort", "asarray", "empty", "full", "matmul", "zeros")

    def __init__(self):
        import cupy

        self._cupy = cupy
        for name in self._ALLOCATING:
            setattr(self, name, self._guarded(getattr(cupy, name)))

    def __getattr__(self, name):
        return getattr(self._cupy, name)

    @staticmethod
    def _guarded(function):
        @functools.wraps(function)
        def call(*args, **options):
            with _memory_errors():
                return function(*args, **options)

        return call


_library = functools.cache(_Library)


class _memory_errors:
    """CuPy's out-of-memory becomes the package's; the pool's free blocks go back first."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        cupy = sys.modules["cupy"]
        if kind is not None and issubclass(kind, cupy.cuda.memory.OutOfMemoryError):
            cupy.get_default_memory_pool().free_all_blocks()
            raise WorkspaceError(
                f"the GPU is out of memory ({error}); free arrays, use a smaller batch, or set "
                "gr.config.workspace_limit"
            ) from error
