"""Compiled kernels are kept, and trusted, only where nobody else can write."""

import os
import stat

import pytest

from gradroute.folders import private

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


@posix
def test_every_new_folder_is_the_users_own(tmp_path):
    path = private(tmp_path / "one" / "two")
    for folder in (path, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    assert private(path) == path


@posix
def test_a_folder_that_others_can_write_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="written by others"):
        private(tmp_path)


@posix
def test_a_compiled_file_that_others_could_have_written_is_not_run(tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    from gradroute.kernels.cuda import cupy_runtime

    monkeypatch.setattr(cupy_runtime, "compile_cubin", lambda *rest: (b"made here", ""))
    arguments = ("activation", (), "sm_90", tmp_path)
    assert cupy_runtime.cached_cubin(*arguments) == b"made here"
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"kept")
    assert cupy_runtime.cached_cubin(*arguments) == b"kept"
    tmp_path.chmod(0o777)
    assert cupy_runtime.cached_cubin(*arguments) == b"made here"
