"""What importing the package brings in, and what it can do without."""

import subprocess
import sys

import pytest
from test_config import in_a_new_process

HEAVY = ["numba", "cupy", "cuda", "matplotlib", "scipy", "torch", "typer", "rich", "sklearn",
         "llvmlite", "ml_dtypes", "jax", "dask"]  # fmt: skip


def new_modules(code):
    """The top-level modules that code imports into a fresh process."""
    found = in_a_new_process(
        f"import sys, numpy; before = set(sys.modules)\n{code}\n"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


def test_import_brings_in_the_package_and_nothing_heavy():
    found = new_modules("import gradroute")
    assert "gradroute" in found
    assert not found & set(HEAVY)
    others = {m for m in found if m not in sys.stdlib_module_names}
    assert others <= {"gradroute", "_distutils_hack"} | {m for m in others if "editable" in m}


def test_the_reference_runs_without_numba():
    found = new_modules(
        "import gradroute as gr; gr.config.backend = 'reference'\n"
        "gr.conv(numpy.ones((1, 2, 4, 4)), numpy.ones((3, 2, 3, 3)), padding=1)"
    )
    assert not found & {"numba", "cupy", "scipy"}


def test_the_numba_backend_brings_in_no_other_array_library():
    found = new_modules(
        "import gradroute as gr\ngr.matmul(numpy.ones((3, 4)), numpy.ones((4, 5)))"
    )
    assert "numba" in found and not found & {"cupy", "torch", "jax"}


def test_the_public_names_are_listed_and_there():
    import gradroute as gr

    assert set(gr.__all__) <= set(dir(gr))
    assert all(getattr(gr, name) is not None for name in gr.__all__)
    with pytest.raises(AttributeError):
        gr.convolve  # noqa: B018


#: blocks SciPy before anything else can import it
WITHOUT_SCIPY = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scipy":
            raise ImportError("SciPy is blocked in this process")
sys.meta_path.insert(0, Blocked())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_numba_backend_needs_no_scipy_and_no_blas_threads(request):
    """A share of the suite once more, with SciPy gone and NumPy's BLAS held to one thread."""
    import os

    root = request.config.rootpath
    chosen = ["test_matmul.py", "test_golden.py", "test_conv.py"]
    only = "numba and not float64 and not 16 and not channels_last and not weight"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_SCIPY, "-q", "-p", "no:cacheprovider", "-k", only,
         *(str(root / "tests" / name) for name in chosen)],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert " passed" in found.stdout and "skipped" not in found.stdout


def test_a_free_threaded_python_is_told_that_it_is_untested():
    found = in_a_new_process(
        "import sys; sys._is_gil_enabled = lambda: False\nimport gradroute"
    )
    assert found.returncode == 0 and "free-threaded" in found.stderr
