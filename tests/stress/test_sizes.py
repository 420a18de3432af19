"""Arrays of more than 2^31 elements: each in a process of its own, where there is memory for it."""

import os

import processes
import pytest

pytestmark = pytest.mark.long


def needs_gib(gib):
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        free = 0
    return pytest.mark.skipif(free < gib + 2, reason=f"{gib} GiB and 2 to spare: {free:.0f} free")


@needs_gib(10)
def test_winners_of_an_image_of_more_than_two_to_the_31_elements():
    """The largest value of each window is put where it is known; float32, one channel, one row."""
    processes.run(
        """
        n = 2**31 + 1000
        x = np.zeros((1, 1, n), "float32")
        x[..., 5::8] = 1
        y, winner = gr.max_pool(x, 8)
        assert winner.dtype == np.uint8 and winner.shape == (1, 1, n // 8)
        assert (winner == 5).all() and (y == 1).all()
        x[..., -1 - n % 8 - 2] = 2  # far beyond what 32 bits reach
        y, winner = gr.max_pool(x, 8)
        last = (n - 1 - n % 8 - 2) % 8
        assert winner[0, 0, -1] == last and y[0, 0, -1] == 2, (winner[0, 0, -3:], last)
        """,
        limit=600,
        NUMBA_NUM_THREADS="1",
    )


@needs_gib(10)
def test_an_out_of_more_than_two_to_the_31_elements_is_added_to_where_the_index_says():
    processes.run(
        """
        n = 2**31 + 1000
        out = np.zeros(n, "float32")
        index = np.array([0, 2**31 - 1, 2**31, 2**31 + 999, -1, 5])
        gr.scatter_add(out, index, np.arange(1, 7, dtype="float32"))
        assert out[[0, 2**31 - 1, 2**31, 2**31 + 999, 5]].tolist() == [1, 2, 3, 9, 6]
        assert np.count_nonzero(out) == 5
        """,
        limit=600,
        NUMBA_NUM_THREADS="1",
    )


@needs_gib(11)
def test_an_index_of_more_than_two_to_the_31_entries():
    """Broadcast: the entries take no memory, their 64-bit rows would not fit; so many are refused
    or right, never wrong."""
    processes.run(
        """
        n = 2**31 + 8
        index = np.lib.stride_tricks.as_strided(np.array([3]), (n,), (0,))
        src = np.lib.stride_tricks.as_strided(np.array([1.0]), (n,), (0,))
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        out = np.zeros(5)
        try:
            gr.scatter_add(out, index, src)
        except gr.GradrouteError as error:
            assert isinstance(error, MemoryError) and not out.any()
        else:
            assert out.tolist() == [0, 0, 0, n, 0]
        """,
        limit=600,
        NUMBA_NUM_THREADS="1",
    )
