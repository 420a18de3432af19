"""The folder of compiled kernels: shared, read-only, full, damaged."""

import os

import processes
import pytest

SMALL = 'gr.activate(np.ones(8, "float32"), "relu")'


def test_two_processes_that_compile_at_once_leave_a_cache_that_both_can_use(tmp_path):
    both = [processes.start(SMALL, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=processes.LIMIT)
        assert process.returncode == 0, out + err
    files = sorted(tmp_path.rglob("*"))
    assert all(file.suffix == ".kernel" for file in files if file.is_file()), files
    processes.run(SMALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == files  # found, not compiled again


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_entry_is_compiled_again_and_replaced(tmp_path, damage):
    processes.run(SMALL, NUMBA_CACHE_DIR=str(tmp_path))
    entries = list(tmp_path.rglob("*.kernel"))
    assert entries
    whole = {entry: entry.read_bytes() for entry in entries}
    for entry, data in whole.items():
        damaged = {"truncated": data[:-100], "empty": b"", "foreign": b"hello" * 99}
        entry.write_bytes(damaged[damage])
    processes.run(SMALL, NUMBA_CACHE_DIR=str(tmp_path))
    for entry, data in whole.items():
        assert entry.read_bytes()[:17] == data[:17] and entry.stat().st_size > len(data) // 2


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    processes.run(
        """
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            gr.activate(np.ones(8, "float32"), "relu")
            gr.activate(np.ones(8, "float64"), "relu")
        said = [str(one.message) for one in said if "not kept" in str(one.message)]
        assert len(said) == 1 and "NUMBA_CACHE_DIR" in said[0], said
        """,
        NUMBA_CACHE_DIR=str(tmp_path / "file"),
    )


def test_a_full_disk_is_said_once_and_leaves_no_file(tmp_path):
    processes.run(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file can grow beyond that
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            gr.activate(np.ones(8, "float32"), "relu")
            gr.activate(np.ones(8, "float64"), "relu")
        said = [str(one.message) for one in said if "not kept" in str(one.message)]
        assert len(said) == 1, said
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    shared = tmp_path / "gradroute"
    shared.mkdir()
    os.chmod(shared, 0o777)
    out, err = processes.run(SMALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert "can be written by others" in err
    assert not list(shared.iterdir())
