"""The `backend` fixture: every test that asks for it runs once on each backend present.

Without a GPU "cuda" is the same backend with its kernels run on the CPU: see cuda_on_cpu.

reference and numba need nothing that the package itself does not need, so they are never skipped;
GRADROUTE_REQUIRE="cuda" turns the skip of a named backend into a failure too.
"""

import contextlib
import os

import cuda_on_cpu
import pytest

import gradroute as gr
from gradroute import dispatch

try:
    import hypothesis
except ImportError:  # a machine with a GPU and little else: ci/gpu leaves out what needs it
    hypothesis = None

BACKENDS = tuple(dispatch.FOLDERS)
NAMED = {name.strip() for name in os.environ.get("GRADROUTE_REQUIRE", "").split(",")} - {""}
REQUIRED = NAMED | {"reference", "numba"}

if hypothesis is not None:
    hypothesis.settings.register_profile(
        "gradroute",
        derandomize=True,  # the same examples on every machine
        deadline=None,  # the first call of a kernel compiles it
        database=None,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,  # the backend stays set
            hypothesis.HealthCheck.too_slow,
        ],
    )
    hypothesis.settings.load_profile("gradroute")


def pytest_configure(config):
    unknown = NAMED - set(BACKENDS)
    if unknown:
        raise pytest.UsageError(f"GRADROUTE_REQUIRE names no backend: {sorted(unknown)}")


def pytest_collection_finish(session):
    alone = not hasattr(session.config, "workerinput")  # pytest-xdist keeps every core busy
    many = sum("cuda" in item.nodeid for item in session.items) > 100
    if alone and many and reason_missing("cuda"):  # without a GPU
        cuda_on_cpu.build_ahead()


def reason_missing(name):
    """Why a backend cannot run here, or None."""
    try:
        dispatch.load(name)
    except gr.errors.BackendError as error:
        return str(error)
    return None


@pytest.fixture
def cpu_runner():
    """Sees to it that CUDA kernels can be run on the CPU."""
    reason = cuda_on_cpu.reason_missing()
    if reason is not None:
        pytest.fail(reason) if "cuda" in REQUIRED else pytest.skip(reason)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of a backend, in force for the length of the test."""
    name = request.param
    reason, stand_in = reason_missing(name), contextlib.nullcontext()
    if name == "cuda" and reason is not None:
        reason, stand_in = cuda_on_cpu.reason_missing(), cuda_on_cpu.stand_in()
    if reason is not None and name in REQUIRED:
        pytest.fail(f"{name} is required, and {reason}")
    if reason is not None:
        pytest.skip(reason)
    with stand_in, gr.config(backend=name):
        yield name


@pytest.fixture
def fresh_plans():
    """Plans made in a test that changes how they are made are made for it, and kept for nobody."""
    from gradroute.kernels.cpu import plans

    def forget():
        for made in (plans._plan, plans._limited):
            made.cache_clear()
        gr.config.current().settled.clear()

    forget()
    yield
    forget()


@pytest.fixture
def without_columns(monkeypatch, fresh_plans):
    """For tests of algorithms that read blocks of images, where columns may be ahead of them."""
    from gradroute.kernels.cpu.convolution import column_plans

    monkeypatch.setattr(column_plans, "MOST_GROUPS", 0)


@pytest.fixture
def without_inside_taps(monkeypatch, fresh_plans):
    """The same where each pixel's own taps may be."""
    from gradroute.kernels.cpu.convolution import inside_plans

    monkeypatch.setattr(inside_plans, "AHEAD", {})


@pytest.fixture
def without_amx(monkeypatch, fresh_plans):
    """The same where its products, in float32, may be."""
    from gradroute.kernels.cpu.amx import amx_tiles

    monkeypatch.setattr(amx_tiles, "available", lambda: False)
