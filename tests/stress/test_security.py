"""What is read from disk or from the environment runs nothing, and nobody else can write it."""

import os
import pickle
import stat

import numpy as np
import processes
import pytest

import gradroute as gr


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _network():
    return gr.nn.Sequential(fc=gr.nn.Linear(2, 2))


@pytest.mark.parametrize("form", ["pickle", "npy of objects", "npz of objects"])
def test_loading_weights_unpickles_nothing(tmp_path, form):
    trap, file = tmp_path / "trap", tmp_path / "weights.npz"
    evil = np.array([Evil(trap)], object)
    with open(file, "wb") as target:
        if form == "pickle":
            pickle.dump(Evil(trap), target)
        elif form == "npy of objects":
            np.save(target, evil, allow_pickle=True)
        else:
            np.savez(target, **{"fc.w": evil, "fc.b": np.zeros(2)}, allow_pickle=True)
    network = _network()
    before = {name: array.copy() for name, array in network.parameters().items()}
    with pytest.raises(gr.GradrouteError):
        network.load(file)
    assert not trap.exists()
    for name, array in network.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_cache_is_the_users_alone_whatever_the_umask(tmp_path):
    home = tmp_path / "home"
    processes.run(
        """
        os.umask(0)
        gr.activate(np.ones(8, "float32"), "relu")
        """,
        XDG_CACHE_HOME=str(home), NUMBA_CACHE_DIR="",
    )  # fmt: skip
    made = [home, *home.rglob("*")]
    assert any(path.suffix == ".kernel" for path in made)
    for path in made:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize("name", ["BACKEND", "THREADS", "PRECISION", "WORKSPACE_LIMIT", "TUNE"])
def test_a_value_of_the_environment_is_never_evaluated(tmp_path, name):
    trap = tmp_path / "trap"
    for text in (f"__import__('os').mkdir('{trap}')", f"$(mkdir {trap})", f"`mkdir {trap}`",
                 f"!!python/object/apply:os.mkdir ['{trap}']", "../../kernels/cpu"):  # fmt: skip
        with pytest.raises(gr.errors.ConfigError):
            type(gr.config)({f"GRADROUTE_{name}": text})
        assert not trap.exists()
