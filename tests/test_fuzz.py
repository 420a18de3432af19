"""A few thousand of ci/fuzz's random calls, and that it would notice what it looks for."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from compare import results
from fuzz import check, memory

COUNT = 2_000
#: seconds: a cold cache compiles every kernel here
LIMIT = 1500
HERE = pathlib.Path(__file__).parent


def python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=HERE)


def test_random_calls_are_right_or_refused_and_write_nothing_else():
    done = python("-m", "fuzz.loop", "--seed", 1, "--count", COUNT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"seed 1: {COUNT} calls" in done.stdout


def test_a_number_names_the_same_call_every_time():
    for number in range(50):
        assert str(check.drawn(3, number)[0]) == str(check.drawn(3, number)[0])


def _valid_calls(numbers=range(200)):
    for number in numbers:
        d, _ = check.drawn(4, number)
        if not d.mistake and all(a.dtype == np.float64 for a in map(d.arrays.get, d.call.floats)):
            yield d, check.expected_of(d.call, d.arrays)


def test_a_result_that_is_a_little_off_is_noticed():
    noticed = 0
    for d, expected in _valid_calls():
        check.judge(d.call, d.arrays, expected, expected)
        first = results(expected)[0]
        off = [np.array(array) for array in results(expected)]
        if not d.call.floats or not np.isfinite(first).any():
            continue
        off[0] += np.abs(first[np.isfinite(first)]).max() / 1000 + 1
        with pytest.raises(AssertionError):
            check.judge(d.call, d.arrays, tuple(off), expected)
        noticed += 1
    assert noticed > 10


@pytest.mark.parametrize("seed", range(20))
def test_a_write_beside_an_array_is_noticed(seed):
    rng = np.random.default_rng(seed)
    view, region = memory.room_for(rng, (3, 4), "float32")
    view[...] = 1
    assert region.untouched_beside(view)
    beside = np.flatnonzero(region.bytes == memory.CANARY)
    region.bytes[rng.choice(beside)] ^= 1
    assert not region.untouched_beside(view)


@pytest.mark.parametrize("offset", [-1, 4096])
def test_touching_what_lies_behind_an_array_ends_the_process(offset):
    done = python("-c", f"""if True:
        import ctypes
        from fuzz.memory import PAGE, Region
        region = Region(PAGE, True)
        print("made", flush=True)
        past = {offset} if {offset} < 0 else PAGE
        ctypes.c_char.from_address(region.bytes.ctypes.data + past).value
    """)  # fmt: skip
    assert done.stdout == "made\n" and done.returncode != 0
