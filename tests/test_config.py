"""Settings: what each accepts, how long an override lasts, and where a default comes from."""

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import gradroute as gr
from gradroute.config import available_threads

DEFAULTS = {
    "backend": "auto", "threads": None, "precision": "standard", "workspace_limit": None,
    "tune": False, "value_checks": "now", "kept_memory": 256 << 20,
}  # fmt: skip
OTHER = {
    "backend": "reference", "threads": 1, "precision": "strict", "workspace_limit": 10**6,
    "tune": True, "value_checks": "later", "kept_memory": 10**6,
}  # fmt: skip
BAD = [
    ("backend", "cpu"), ("backend", None), ("backend", ["numba"]), ("backend", "Numba"),
    ("threads", 0), ("threads", -1), ("threads", True), ("threads", 1.0), ("threads", "1"),
    ("threads", 10**6), ("precision", "fast"), ("precision", None), ("workspace_limit", -1),
    ("workspace_limit", 1.5), ("workspace_limit", False), ("tune", 1), ("tune", "yes"),
    ("tune", None), ("value_checks", "never"), ("value_checks", True),
    ("kept_memory", -1), ("kept_memory", None), ("kept_memory", 1.5), ("kept_memory", True),
]  # fmt: skip


@pytest.fixture(autouse=True)
def restored():
    """Every test leaves the process defaults as it found them."""
    before = {name: getattr(gr.config, name) for name in DEFAULTS}
    yield
    for name, value in before.items():
        setattr(gr.config, name, value)


def in_a_new_process(code, **environment):
    """Runs code in a fresh interpreter whose GRADROUTE_* variables are only those given."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRADROUTE_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True
    )


def test_the_defaults_are_the_documented_ones():
    code = "import gradroute as gr; print({n: getattr(gr.config, n) for n in %r})" % list(DEFAULTS)
    assert in_a_new_process(code).stdout.strip() == str(DEFAULTS)


@pytest.mark.parametrize("name", OTHER)
def test_a_with_block_holds_inside_and_is_undone_outside(name):
    before = getattr(gr.config, name)
    with gr.config(**{name: OTHER[name]}):
        assert getattr(gr.config, name) == OTHER[name]
    assert getattr(gr.config, name) == before
    with pytest.raises(ZeroDivisionError), gr.config(**{name: OTHER[name]}):
        raise ZeroDivisionError
    assert getattr(gr.config, name) == before


@pytest.mark.parametrize("name", OTHER)
def test_an_assignment_sets_the_process_default(name):
    setattr(gr.config, name, OTHER[name])
    assert getattr(gr.config, name) == OTHER[name]
    seen = []
    thread = threading.Thread(target=lambda: seen.append(getattr(gr.config, name)))
    thread.start()
    thread.join()
    assert seen == [OTHER[name]]


@pytest.mark.parametrize("name, value", BAD)
def test_a_bad_value_is_refused_and_changes_nothing(name, value):
    before = getattr(gr.config, name)
    with pytest.raises(gr.GradrouteError, match=name) as error:
        setattr(gr.config, name, value)
    assert isinstance(error.value, ValueError)
    with pytest.raises(gr.GradrouteError, match=name), gr.config(**{name: value}):
        pass
    assert getattr(gr.config, name) == before


def test_an_unknown_field_is_an_attribute_error_of_the_package():
    for use in (
        lambda: gr.config.thread,
        lambda: setattr(gr.config, "thread", 1),
        lambda: gr.config(thread=1),
    ):
        with pytest.raises(AttributeError, match="thread") as error:
            use()
        assert isinstance(error.value, gr.GradrouteError)
    assert not hasattr(gr.config, "thread")


def test_blocks_nest_and_each_restores_its_own():
    with gr.config(backend="reference", tune=True):
        with gr.config(backend="numba"):
            assert (gr.config.backend, gr.config.tune) == ("numba", True)
        assert (gr.config.backend, gr.config.tune) == ("reference", True)
    assert gr.config.tune is False


def test_one_block_can_be_entered_again_also_inside_itself():
    block = gr.config(precision="strict")
    with block, block:
        assert gr.config.precision == "strict"
    with block:
        assert gr.config.precision == "strict"
    assert gr.config.precision == "standard"


def test_an_assignment_to_an_overridden_field_is_refused():
    with gr.config(precision="strict"):
        with pytest.raises(gr.GradrouteError, match="precision"):
            gr.config.precision = "tf32"
        gr.config.tune = True  # another field
    assert gr.config.precision == "standard" and gr.config.tune is True


def test_a_block_does_not_reach_into_threads_it_starts():
    seen = []
    with gr.config(backend="reference"):
        thread = threading.Thread(target=lambda: seen.append(gr.config.backend))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def test_a_block_belongs_to_its_own_asyncio_task():
    async def compute(backend, entered, other):
        with gr.config(backend=backend):
            entered.set()
            await other.wait()
            await asyncio.sleep(0)
            return gr.config.backend, gr.which_backend(np.zeros(2))

    async def both():
        one, two = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(
            compute("reference", one, two), compute("numba", two, one)
        )

    assert asyncio.run(both()) == [("reference", "reference"), ("numba", "numba")]
    assert gr.config.backend == "auto"


def test_threads_may_be_set_up_to_what_the_process_may_use():
    with gr.config(threads=available_threads()):
        assert gr.config.threads == available_threads()
    with pytest.raises(gr.GradrouteError, match=str(available_threads())):
        gr.config.threads = available_threads() + 1


def test_numpy_integers_are_integers():
    with gr.config(threads=np.int64(1), workspace_limit=np.int32(5)):
        assert gr.config.threads == 1 and gr.config.workspace_limit == 5


# ---- which backend ------------------------------------------------------------------------


def test_numpy_arrays_run_on_numba_unless_told_otherwise():
    assert gr.which_backend(np.zeros(3)) == "numba"
    assert gr.which_backend() == "numba"
    with gr.config(backend="reference"):
        assert gr.which_backend(np.zeros(3)) == "reference"


def test_the_chosen_backend_is_the_one_that_computes(backend):
    assert gr.which_backend(np.zeros(3)) == backend
    plan = gr.plan("conv", np.zeros((1, 2, 5, 5)), np.zeros((3, 2, 3, 3)), padding=1)
    assert plan.backend == backend
    assert gr.synchronize() is None


def test_a_backend_that_cannot_run_says_why_and_what_to_install():
    code = """
import sys
sys.modules["numba"] = None  # as if it were not installed
import numpy as np, gradroute as gr
try:
    gr.activate(np.zeros(3), "relu")
except gr.GradrouteError as error:
    print(type(error).__name__, error)
"""
    found = in_a_new_process(code)
    assert "BackendError" in found.stdout and "numba" in found.stdout, found.stderr


# ---- environment variables ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("backend", "reference", "reference"), ("threads", "1", 1), ("threads", "none", None),
        ("precision", "strict", "strict"), ("workspace_limit", "1000", 1000),
        ("tune", "true", True), ("tune", "0", False), ("value_checks", "later", "later"),
        ("kept_memory", "0", 0),
    ],
)  # fmt: skip
def test_a_variable_sets_the_default(name, text, value):
    code = f"import gradroute as gr; print(repr(gr.config.{name}))"
    found = in_a_new_process(code, **{f"GRADROUTE_{name.upper()}": text})
    assert found.stdout.strip() == repr(value), found.stderr


@pytest.mark.parametrize(
    "variable, text",
    [
        ("GRADROUTE_BACKEND", "gpu"), ("GRADROUTE_THREADS", "0"), ("GRADROUTE_THREADS", "two"),
        ("GRADROUTE_PRECISION", ""), ("GRADROUTE_TUNE", "maybe"), ("GRADROUTE_THREAD", "1"),
        ("GRADROUTE_backend", "numba"),
    ],
)  # fmt: skip
def test_a_bad_variable_stops_the_import_and_is_named(variable, text):
    found = in_a_new_process("import gradroute", **{variable: text})
    assert found.returncode != 0
    assert variable in found.stderr and "ConfigError" in found.stderr


def test_the_variable_of_the_tests_is_left_to_the_tests():
    assert in_a_new_process("import gradroute", GRADROUTE_REQUIRE="cuda").returncode == 0
