"""What an array may look like in memory, what out= means, and what is left untouched."""

import numpy as np
import pytest
from calls import CALLS, MEMORY, WITH_OUT, broadcast
from compare import assert_close, assert_same_bits, results
from values import named

import gradroute as gr

every_call = pytest.mark.parametrize("call", CALLS, ids=str)
every_call_with_out = pytest.mark.parametrize("call", WITH_OUT, ids=str)


class Masked(np.ma.MaskedArray):
    """A user's own class."""


def assert_alike(found, expected):
    for one, other in zip(results(found), results(expected), strict=True):
        if other.dtype.kind in "iu":
            np.testing.assert_array_equal(one, other)
        else:
            assert_close(one, other.astype(np.float64), other.dtype)


@every_call
@pytest.mark.parametrize("memory", MEMORY)
def test_how_an_array_lies_in_memory_does_not_matter(backend, call, memory):
    expected = call(call.arrays())
    arrays = {name: MEMORY[memory](array) for name, array in call.arrays().items()}
    if "out" in arrays and memory == "read-only":
        arrays["out"] = arrays["out"].copy()  # scatter_add writes to this one
    assert_alike(call(arrays), expected)


@every_call
def test_broadcast_views_are_read_like_the_copies_they_stand_for(backend, call):
    arrays = {
        name: array if name in ("out", "winner", "index") else broadcast(array)
        for name, array in call.arrays().items()
    }
    expected = call({name: array.copy() for name, array in arrays.items()})
    assert_alike(call(arrays), expected)


@every_call
def test_a_memmap_is_an_array(backend, call, tmp_path):
    expected = call(call.arrays())
    arrays = {}
    for name, array in call.arrays().items():
        arrays[name] = np.memmap(tmp_path / name, array.dtype, "w+", shape=array.shape)
        arrays[name][...] = array
    found = call(arrays)
    assert_alike(found, expected)
    if call.name != "scatter_add":  # which returns the array it was given
        assert all(type(array) is np.ndarray for array in results(found))


@every_call
def test_inputs_are_never_written_to(backend, call):
    arrays = call.arrays("float32")
    before = {name: array.tobytes() for name, array in arrays.items()}
    call(arrays)
    changed = [name for name, array in arrays.items() if array.tobytes() != before[name]]
    assert changed == (["out"] if call.name == "scatter_add" else [])


@every_call
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_results_have_the_dtype_of_the_floats_that_went_in(backend, call, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for array in results(call(call.arrays(dtype))):
        whole = array.dtype.kind in "iu"
        assert array.dtype == ({1: "uint8", 8: "int64"}[array.itemsize] if whole else named(dtype))


@every_call
def test_the_same_call_twice_gives_the_same_bits(backend, call):
    assert_same_bits(call(call.arrays("float32")), call(call.arrays("float32")))


# ---- out= ---------------------------------------------------------------------------------


def outs(expected, place):
    """Arrays to write to, filled with something that must not survive."""
    made = tuple(
        place(np.full(array.shape, 77, array.dtype)) if array is not None else None
        for array in (expected if isinstance(expected, tuple) else (expected,))
    )
    return made if isinstance(expected, tuple) else made[0]


def _second_of_three(array):
    whole = np.full((*array.shape, 3), 77, array.dtype)
    return whole[..., 1]


def _crop(array):
    whole = np.full(tuple(n + 3 for n in array.shape), 77, array.dtype)
    return whole[(..., *(slice(1, 1 + n) for n in array.shape))]


PLACES = {
    "contiguous": lambda array: array,
    "strided": _second_of_three,
    "crop": _crop,
    "unaligned": MEMORY["unaligned"],
    "backwards": lambda array: array[(..., *(slice(None, None, -1),) * array.ndim)],
    "Fortran order": lambda array: np.array(array, order="F"),
}


@every_call_with_out
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_out_receives_every_element_and_is_returned(backend, call, place, dtype):
    expected = call(call.arrays(dtype))
    out = outs(expected, PLACES[place])
    found = call(call.arrays(dtype), out=out)
    assert type(found) is type(expected)
    for one, given, wanted in zip(results(found), results(out), results(expected), strict=True):
        assert one is given
        assert_alike(one, wanted)


@every_call_with_out
def test_nothing_beside_out_is_written(backend, call):
    out = outs(call(call.arrays()), _crop)
    call(call.arrays(), out=out)
    for array in results(out):
        whole = array.base.copy()
        whole[(..., *(slice(1, 1 + n) for n in array.shape))] = 77
        assert (whole == 77).all()


@every_call_with_out
def test_one_result_of_several_can_go_to_out(backend, call):
    expected = call(call.arrays())
    if not isinstance(expected, tuple):
        assert_alike(call(call.arrays(), out=None), expected)
        return
    for i in range(len(expected)):
        out = tuple(
            np.full(array.shape, 77, array.dtype) if i == j else None
            for j, array in enumerate(expected)
        )
        found = call(call.arrays(), out=out)
        assert found[i] is out[i]
        assert_alike(found, expected)


@every_call_with_out
@pytest.mark.parametrize("shift", [0, 1, 5])
def test_out_may_overlap_an_input(backend, call, shift):
    """Each float input in turn shares memory with the first result, exactly or shifted."""
    expected = call(call.arrays())
    first = results(expected)[0]
    for name, array in call.arrays().items():
        if array.dtype != first.dtype:
            continue
        arrays = call.arrays()
        pool = np.empty(max(array.size, first.size) + shift, array.dtype)
        arrays[name] = pool[shift : shift + array.size].reshape(array.shape)
        arrays[name][...] = array
        out = pool[: first.size].reshape(first.shape)
        several = isinstance(expected, tuple)
        given = (out, *(None for _ in expected[1:])) if several else out
        found = call(arrays, out=given)
        assert (found[0] if several else found) is out
        assert_alike(found, expected)


# ---- what is refused ----------------------------------------------------------------------


@every_call
def test_byte_swapped_arrays_are_refused_with_the_cast_that_helps(backend, call):
    for name, array in call.arrays().items():
        if array.itemsize == 1:
            continue
        arrays = call.arrays()
        arrays[name] = array.astype(array.dtype.newbyteorder())
        before = {n: a.tobytes() for n, a in arrays.items()}
        with pytest.raises(gr.GradrouteError, match=rf"{name}.*byte-swapped.*{name}\.astype"):
            call(arrays)
        assert before == {n: a.tobytes() for n, a in arrays.items()}


@every_call
@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: array.tolist(),
        lambda array: np.ma.masked_array(array),
        lambda array: array.reshape(len(array), -1).view(np.matrix),
        lambda array: np.ma.masked_array(array).view(Masked),
        lambda array: array.astype(object),
        lambda array: array.astype(np.complex128),
        lambda array: array.astype(bool),
        lambda array: None,
        lambda array: 3.0,
        lambda array: "array",
    ],
    ids=["list", "masked", "matrix", "own", "object", "complex", "bool", "None", "float", "str"],
)
def test_what_is_no_plain_array_of_numbers_is_refused(backend, call, spoil):
    for name in call.arrays():
        arrays = call.arrays()
        arrays[name] = spoil(arrays[name])
        if arrays[name] is None and name == "b" and call.function is not gr.matmul:
            continue  # no bias is fine
        with pytest.raises(gr.GradrouteError, match=name) as error:
            call(arrays)
        assert isinstance(error.value, (TypeError, ValueError))


@every_call
def test_floats_of_two_dtypes_are_refused_with_the_cast_that_helps(backend, call):
    names = list(call.floats)
    for name in names[1:]:
        arrays = call.arrays("float64")
        arrays[name] = arrays[name].astype(np.float32)
        with pytest.raises(gr.GradrouteError, match=r"\.astype\(") as error:
            call(arrays)
        assert isinstance(error.value, TypeError) and name in str(error.value)


@every_call_with_out
@pytest.mark.parametrize("wrong", ["dtype", "shape", "read-only", "broadcast", "list"])
def test_an_out_that_does_not_fit_is_refused_and_left_alone(backend, call, wrong):
    expected = call(call.arrays())
    several = isinstance(expected, tuple)
    first = results(expected)[0]
    out = np.full(first.shape, 7, first.dtype)
    if wrong == "dtype":
        out = out.astype("float32" if first.dtype != "float32" else "float64")
    elif wrong == "shape":
        out = np.full((*first.shape, 1), 7, first.dtype)
    elif wrong == "read-only":
        out.flags.writeable = False
    elif wrong == "broadcast":
        if first.ndim == 0:
            return  # nothing to share
        out = np.lib.stride_tricks.as_strided(out, first.shape, (0,) * first.ndim)
    else:
        out = out.tolist()
    with pytest.raises(gr.GradrouteError, match="out") as error:
        call(call.arrays(), out=(out, *(None for _ in expected[1:])) if several else out)
    assert isinstance(error.value, (TypeError, ValueError))
    assert np.all(np.asarray(out) == 7)


@every_call_with_out
def test_several_results_need_a_tuple_of_outs_that_do_not_share_memory(backend, call):
    expected = call(call.arrays())
    if not isinstance(expected, tuple):
        with pytest.raises(gr.GradrouteError, match="out"):
            call(call.arrays(), out=(np.empty(expected.shape, expected.dtype),))
        return
    for out in (np.empty(expected[0].shape), (None,), [None] * len(expected)):
        with pytest.raises(gr.GradrouteError, match="out"):
            call(call.arrays(), out=out)
    one, other, *rest = expected
    memory = np.empty(max(one.nbytes, other.nbytes) + 8, np.uint8)
    shared = tuple(
        memory[: array.nbytes].view(array.dtype).reshape(array.shape) for array in (one, other)
    )
    with pytest.raises(gr.GradrouteError, match="out"):
        call(call.arrays(), out=(*shared, *(None for _ in rest)))
