"""docs/explain.md runs as it stands, and the notebook beside it runs from top to bottom."""

import contextlib
import io
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explain.md"
NOTEBOOK = ROOT / "examples" / "explain.ipynb"
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def test_every_block_of_the_page_prints_what_the_page_shows():
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    names, shown = {}, 0
    for (language, code), (following, expected) in zip(blocks, [*blocks[1:], ("", "")]):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        if printed.getvalue():
            assert following == "text", f"the page does not show what this prints:\n{code}"
            assert printed.getvalue().strip("\n") == expected.strip("\n")
            shown += 1
    assert shown >= 6


def test_the_pages_pictures_are_there():
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", PAGE.read_text(encoding="utf-8"))
    assert len(pictures) >= 2
    for described, name in pictures:
        assert len(described) > 40, "a picture is described for those who cannot see it"
        assert (PAGE.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_notebook_runs():
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
