"""gradroute explain, as a person runs it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import gradroute as gr

for needed in ("typer", "rich", "matplotlib"):
    pytest.importorskip(needed, reason='pip install "gradroute[demo]"')


def run(*arguments, fails=False, columns=100):
    done = subprocess.run(
        [sys.executable, "-m", "gradroute.cli", "explain", "--backend", "reference", *arguments],
        capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"},
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_without_options_it_replays_the_question_and_draws_it(tmp_path):
    text = run("--out", str(tmp_path))
    assert re.search(r"fc\[1\] +upstream \+3 x slope 1 x weight +-1 = +-3", text)
    assert "sum = -0.5" in text and "adding up 2 + 3 + 6 = 11 is not the gradient" in text
    assert "pool[0,0,0] is read 1 time; pool[0,1,1] is read 4 times" in " ".join(text.split())
    for name in ("pool-to-linear", "pool-to-conv"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (tmp_path / f"{name}.svg").read_bytes()[:2000]


def test_a_trained_network_is_explained(tmp_path):
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    from gradroute.cli import digits

    net, data = digits.network(seed=4), digits.load()
    net.save(tmp_path / "weights.npz")
    text = run(
        "--weights", str(tmp_path / "weights.npz"), "--sample", "3", "--layer", "pool1",
        "--unit", "0,1,2", "--out", str(tmp_path),
    )  # fmt: skip
    with gr.config(backend="reference"):
        e = gr.explain(
            net, "pool1", (0, 1, 2), x=data.held_out_x[3:4], labels=data.held_out_labels[3:4]
        )
    assert f"held-out image 3 is a {data.held_out_labels[3]}" in text
    wanted = [line for line in e.text(width=100).splitlines() if " x slope " in line]
    found = [line.rstrip() for line in text.splitlines() if " x slope " in line]
    assert len(wanted) == 11 and found == wanted
    assert len(list(tmp_path.glob("pool1-*.png"))) == 1
    two = run(
        "--weights", str(tmp_path / "weights.npz"), "--layer", "input", "--unit", "0,0,0",
        "--unit", "0,4,4", "--out", str(tmp_path),
    )  # fmt: skip
    assert "input[0,0,0]" in two and "input[0,4,4]" in two


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--layer", "pool1"), "need --weights"),
        (("--weights", "{w}"), r"pool1 \(16, 4, 4\)"),
        (("--weights", "{w}", "--layer", "pool9", "--unit", "0"), "there is no layer 'pool9'"),
        (("--weights", "{w}", "--layer", "pool1", "--unit", "0,9,9"), "from 0 to 3"),
        (("--weights", "{w}", "--layer", "pool1", "--unit", "a"), "integers such as 0,3,2"),
        (("--weights", "{w}", "--sample", "360", "--layer", "fc", "--unit", "0"), "0 to 359"),
        (("--weights", "{w}.not",), "does not exist"),
        (("--weights", "{o}", "--layer", "fc", "--unit", "0"), "does not fit"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused_in_a_sentence(arguments, words, tmp_path):
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    from gradroute.cli import digits

    digits.network().save(tmp_path / "w.npz")
    np.savez(tmp_path / "o.npz", other=np.zeros(3, "float32"))
    names = {"w": tmp_path / "w.npz", "o": tmp_path / "o.npz"}
    text = run(*(part.format(**names) for part in arguments), fails=True, columns=200)
    assert "Traceback" not in text
    assert re.search(words, " ".join(text.replace("│", " ").split()))
