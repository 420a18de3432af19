"""What is installed, what an import costs, and what the README and the scripts say."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import gradroute as gr
from gradroute.config import _FIELDS

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def python(code, *flags):
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True
    ).stdout


# ---- the package --------------------------------------------------------------------------


def test_importing_the_package_imports_no_backend_and_no_plotting():
    heavy = ("numba", "llvmlite", "cupy", "torch", "jax", "dask", "matplotlib", "typer", "rich",
             "scipy", "sklearn", "ml_dtypes", "gradroute.nn")  # fmt: skip
    code = f"import sys, gradroute; print([n for n in {heavy!r} if n in sys.modules])"
    assert python(code).strip() == "[]"


def test_the_version_is_in_one_place():
    assert importlib.metadata.version("gradroute") == gr.__version__
    assert PROJECT["project"]["dynamic"] == ["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(gr.__version__)}\b", changes, re.M)


def test_every_folder_with_code_is_a_package_that_is_installed():
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    expected = set()
    for source, name in ((ROOT / "python" / "gradroute", "gradroute"),
                         (ROOT / "kernels", "gradroute.kernels")):  # fmt: skip
        for path in source.rglob("*.py"):
            expected.add(".".join([name, *path.parent.relative_to(source).parts]))
    installed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert expected <= installed
    for package in installed:
        folder = ROOT / (mapping.get(package) or "python/" + package.replace(".", "/"))
        assert (folder / "__init__.py").is_file(), package


def test_every_file_that_is_no_code_is_declared_as_package_data():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    folders = {"gradroute": ROOT / "python/gradroute", "gradroute.kernels": ROOT / "kernels"}
    for package, folder in folders.items():
        for path in folder.rglob("*"):
            if path.suffix in ("", ".py", ".pyc") or path.name.endswith(".txt"):
                continue
            owner = ".".join([package, *path.parent.relative_to(folder).parts])
            assert any(path.match(pattern) for pattern in data.get(owner, [])), path


def test_the_core_needs_numpy_and_numba_only_and_the_extras_are_complete():
    project = PROJECT["project"]
    names = [re.match(r"[\w-]+", item).group() for item in project["dependencies"]]
    assert names == ["numpy", "numba"] and project["requires-python"] == ">=3.11"
    extras = project["optional-dependencies"]
    assert {"cuda12", "cuda13", "cli", "plot", "demo", "test", "bench"} <= set(extras)
    torch = {item for items in extras.values() for item in items if item.startswith("torch")}
    assert torch == {"torch==2.13.0"}
    assert (pathlib.Path(gr.__file__).parent / "py.typed").is_file()
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text()


# ---- the README ---------------------------------------------------------------------------


def test_the_readmes_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 4
    gr_threads = gr.config.threads
    try:
        scope = {}
        for block in blocks:
            exec(compile(block, "README.md", "exec"), scope)
    finally:
        gr.config.threads = gr_threads
    assert scope["dx"].shape == scope["x"].shape and scope["dw"].shape == scope["w"].shape
    assert scope["dx"].any() and float(scope["loss"]) > 0
    import numpy as np

    points = np.linspace(-3.0, 3.0, 601)
    assert scope["mean_gelu"](points) == pytest.approx(gr.activate(points, "gelu").mean())
    assert "# 0.668..." in blocks[3] and 0.668 <= scope["mean_gelu"](points) < 0.669


def test_the_readmes_table_has_every_setting_with_its_values():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.M))
    assert list(rows) == list(_FIELDS)
    for name, text in rows.items():
        for value in re.findall(r"`(.*?)`", text):
            with gr.config(**{name: eval(value, {})}):
                pass


def test_every_path_that_the_readme_names_is_there():
    layout = README.partition("## Layout")[2].partition("To read one call")[0]
    folder, seen = ROOT, 0
    for indent, name in re.findall(r"^( {4,6})([\w/.]+?)(?:  |\n)", layout, re.M):
        path = (folder if len(indent) == 6 else ROOT) / name
        assert path.exists(), name
        folder, seen = (path if len(indent) == 4 else folder), seen + 1
    assert seen >= 15


def anchors(text):
    """The names under which a page's headings can be linked to."""
    heads = re.findall(r"^#+ (.*)", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


PAGES = [path.relative_to(ROOT) for folder in (".", "docs", "docs/tried", "asv_bench")
         for path in (ROOT / folder).glob("*.md")]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_every_page_can_be_reached_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        links = re.findall(r"\]\(([\w./]+\.md)", page.read_text())
        left += {(page.parent / link).resolve() for link in links} - seen
    assert seen >= {path.resolve() for path in ROOT.glob("docs/**/*.md")}


# ---- the scripts --------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["ci/demo", "ci/test", "ci/wheel", ".ci/run"])
def test_a_script_can_be_run_and_parsed(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def in_environment(command, path, **variables):
    return subprocess.run(
        [shutil.which("bash"), "-c", f". ci/environment.sh; {command}"],
        cwd=ROOT, env={"PATH": str(path), **variables}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_missing_compiler_or_header_is_named_with_its_install_command(tmp_path):
    said = in_environment("need_compiler", tmp_path)
    assert said.returncode == 2 and "g++" in said.stderr and "apt-get install g++" in said.stderr
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    said = in_environment("need_compiler", f"{tmp_path}:{os.environ['PATH']}")
    assert said.returncode == 2 and "headers" in said.stderr and "apt-get" in said.stderr
    compiler.write_text("#!/bin/sh\nexit 0\n")
    assert in_environment("need_compiler", f"{tmp_path}:{os.environ['PATH']}").returncode == 0


def test_a_missing_or_old_python_is_named(tmp_path):
    said = in_environment("python_of_checkout", tmp_path)
    assert said.returncode == 2 and "apt-get install python3" in said.stderr
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    said = in_environment("python_of_checkout", tmp_path)
    assert said.returncode == 2 and "Python 3.9.2 is too old" in said.stderr
