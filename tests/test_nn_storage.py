"""What a network keeps: its files, and its arrays on their way between devices."""

import copy
import pickle
import types

import ml_dtypes
import numpy as np
import pytest
from networks import filled, images, small

import gradroute as gr
from gradroute.nn import SGD, Adam, Conv, Linear, Sequential, weights


# ---- copies -------------------------------------------------------------------------------


def trained(net, optimiser):
    """The parameters' bytes after one more step, the same for equal networks and states."""
    y = net.forward(images())
    net.backward(y, need_dx=False)
    optimiser.step()
    return {name: array.tobytes() for name, array in net.parameters().items()}


def pickled(what):
    return pickle.loads(pickle.dumps(what))


@pytest.mark.parametrize("twin", [copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_network_and_its_optimiser_can_be_pickled_and_trained_on(kind, twin):
    net = small()
    optimiser = kind(net, 0.1)
    start = trained(net, optimiser)
    other, its = twin((net, optimiser))
    assert its.net is other
    with pytest.raises(gr.GradrouteError, match="forward pass"):
        other.backward(net.forward(images()))
    after = trained(other, its)
    assert {name: array.tobytes() for name, array in net.parameters().items()} == start != after
    assert trained(net, optimiser) == after


def test_a_pickled_network_leaves_what_its_last_call_kept_behind():
    net = small()
    size = len(pickle.dumps(net))
    net.forward(np.concatenate([images()] * 50))
    held = Adam(net, 0.1)
    assert len(pickle.dumps(net)) == size < len(pickle.dumps(held))


# ---- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_what_is_saved_is_loaded_bit_for_bit_into_the_same_arrays(dtype, tmp_path):
    path = tmp_path / "weights"  # no suffix is added
    one, other = small(1, dtype), small(2, dtype)
    one.save(path)
    arrays = other.parameters()
    other.load(path)
    for name, array in arrays.items():
        assert array is other.parameters()[name]
        assert array.tobytes() == one.parameters()[name].tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_file_that_does_not_fit_is_refused_with_the_names_that_differ(tmp_path):
    path = tmp_path / "weights.npz"
    Sequential(conv=Conv(2, 4, 5), head=Linear(36, 5), seed=9).save(path)
    net = small()
    before = {name: array.copy() for name, array in net.parameters().items()}
    with pytest.raises(gr.GradrouteError) as refused:
        net.load(path)
    for part in (
        "conv.w has shape (4, 2, 5, 5), the network (4, 2, 3, 3)",
        "fc.w is missing", "fc.b is missing",
        "head.w is not in the network", "head.b is not in the network",
    ):  # fmt: skip
        assert part in str(refused.value)
    assert "conv.b" not in str(refused.value)
    for name, array in net.parameters().items():
        assert np.array_equal(array, before[name])


def test_arrays_that_are_not_floats_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = {name: array.astype("int32") for name, array in small().parameters().items()}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="fc.b is int32"):
        small().load(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("loading weights ran code from the file",))


def _pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


def _object_array(path):
    np.savez(path, **{name: np.array([Bomb()]) for name in small().parameters()})


def _single(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def _truncated(path):
    small().save(path)
    path.write_bytes(path.read_bytes()[:700])


def _flipped(path):
    small().save(path)
    data = bytearray(path.read_bytes())
    data[300] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    "write", [_pickled, _object_array, _single, _truncated, _flipped, lambda p: p.write_text("")]
)
def test_a_file_that_is_no_npz_of_arrays_is_refused_and_nothing_is_unpickled(write, tmp_path):
    path = tmp_path / "weights.npz"
    write(path)
    with pytest.raises(gr.GradrouteError, match="weights.npz"):
        small().load(path)


def test_a_missing_file_is_an_ordinary_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        small().load(tmp_path / "none.npz")


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    small(1).save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        small(2).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- where the arrays live ----------------------------------------------------------------


class Far(np.ndarray):
    """Stands for an array on another device."""


def test_to_moves_parameters_gradients_and_optimiser_state_once(monkeypatch):
    net = filled()
    optimisers = [SGD(net, 0.1), Adam(net, 0.1)]
    for optimiser in optimisers:
        optimiser.step()
    moved = []
    fake = types.SimpleNamespace(
        to_device=lambda a: moved.append(a) or a.copy().view(Far),
        to_host=lambda a: np.array(a),
    )
    monkeypatch.setattr(Sequential, "_backend", staticmethod(lambda: fake))

    def arrays():
        states = [a for o in optimisers for kind in o.state.values() for a in kind.values()]
        return [*net.parameters().values(), *net.gradients().values(), *states]

    before = [array.copy() for array in arrays()]
    assert net.to("cupy") is net and net.to("cupy") is net
    assert len(moved) == len(before) == 4 * 5
    for array, old in zip(arrays(), before):
        assert type(array) is Far and np.array_equal(array, old)
    with pytest.raises(gr.GradrouteError, match="forward"):
        net.backward(np.zeros((3, 5)))
    net.to("numpy")
    for array, old in zip(arrays(), before):
        assert type(array) is np.ndarray and np.array_equal(array, old)


def test_to_cupy_without_a_gpu_says_why_and_leaves_the_network_as_it_was(monkeypatch):
    def load(name):
        raise gr.errors.BackendError(f"backend {name!r} cannot run here: no device")

    monkeypatch.setattr(gr.dispatch, "load", load)
    net = small()
    with pytest.raises(gr.errors.BackendError, match="'cuda'.*no device"):
        net.to("cupy")
    monkeypatch.undo()
    assert net.forward(images()).shape == (3, 5)
