"""The `gradroute` command: what it prints, what it writes, and how it ends."""

import csv
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import gradroute as gr
from gradroute import cli
from gradroute.cli import digits, doctor, warmup
from gradroute.cli.app import app

# as a terminal would start it, also where this process was told to ignore Ctrl-C
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from gradroute.cli import main; main()"
)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One short training: its folder and what the command printed."""
    folder = tmp_path_factory.mktemp("train")
    result = run("train", "--epochs", 3, "--seed", 1, "--out", folder / "new" / "digits")
    assert result.exit_code == 0, result.output
    return folder / "new" / "digits", result.output


# ---- train --------------------------------------------------------------------------------


def test_train_says_the_accuracy_that_its_weights_have(trained):
    folder, printed = trained
    percent, right, count = re.search(
        r"^held-out accuracy (\d+\.\d\d)% \((\d+)/(\d+)\)$", printed, re.M
    ).groups()
    assert int(count) == 360 and percent == f"{100 * int(right) / 360:.2f}"
    net, data = digits.network(seed=99), digits.load()
    net.load(folder / "weights.npz")
    found = digits.predictions(net, data.held_out_x)
    assert int((found == data.held_out_labels).sum()) == int(right) > 250


def test_train_writes_weights_history_and_one_picture(trained):
    folder, printed = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.csv", "training.png", "weights.npz",
    ]  # fmt: skip
    with open(folder / "history.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    losses = [float(line["loss"]) for line in lines]
    assert losses[2] < losses[0] and all(0 <= float(line["accuracy"]) <= 1 for line in lines)
    assert (folder / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(f"wrote {path}" in printed for path in folder.iterdir())


def test_train_compares_the_gradients_of_the_cpu_backends(trained):
    _, printed = trained
    rows = [line.split() for line in printed.splitlines() if line.startswith("│")]
    rows = {row[1]: row for row in rows}
    assert set(rows) == {"reference", "numba"}
    assert all(float(row[3]) >= 0 for row in rows.values())  # seconds per epoch
    assert 0 < float(rows["numba"][5]) < 1e-5


def test_the_same_seed_trains_the_same_network():
    nets = []
    for seed in (3, 3, 4):
        training = digits.Training(digits.load(), batch=256, epochs=1, seed=seed)
        assert sum(count for _, _, count in training.epoch()) == 1437
        nets.append(training.net.parameters())
    assert all(np.array_equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not np.array_equal(nets[0]["fc.w"], nets[2]["fc.w"])


def test_the_held_out_fifth_is_stratified_and_shares_no_image_with_the_rest():
    from sklearn.datasets import load_digits

    data, every = digits.load(), load_digits()
    assert (data.x.shape, data.held_out_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    whole = np.concatenate([data.x, data.held_out_x]).reshape(1797, 64) * 16
    assert np.array_equal(
        whole[np.lexsort(whole.T)], every.data[np.lexsort(every.data.T)].astype("float32")
    )
    fifth = np.bincount(every.target) / 5
    assert (abs(np.bincount(data.held_out_labels) - fifth) < 1).all()


def test_a_shift_moves_a_whole_image_by_at_most_one_pixel():
    x = np.zeros((400, 1, 8, 8), "float32")
    x[:, 0, 3, 4] = 1
    moved = digits.shifted(x, np.random.default_rng(0))
    places = {tuple(np.argwhere(image[0])[0]) for image in moved}
    assert moved.sum() == 400 and places == {(r, c) for r in (2, 3, 4) for c in (3, 4, 5)}


def test_ctrl_c_keeps_the_last_finished_epoch(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "train", "--epochs", "100000", "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        printed = ""
        while "epoch 2/" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        process.send_signal(signal.SIGINT)
        printed += process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 130, printed
    kept = int(re.search(r"keeping epoch (\d+)", printed).group(1))
    assert kept >= 2 and "held-out accuracy" in printed and "Traceback" not in printed
    with open(tmp_path / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == kept
    digits.network().load(tmp_path / "weights.npz")


def test_ctrl_c_inside_an_epoch_takes_that_epoch_back(tmp_path, monkeypatch):
    whole, after = digits.Training.epoch, {}

    def epoch(self):
        if after:
            next(whole(self))  # one batch of the second epoch has changed the weights
            raise KeyboardInterrupt
        yield from whole(self)
        after.update({name: array.copy() for name, array in self.net.parameters().items()})

    monkeypatch.setattr(digits.Training, "epoch", epoch)
    result = run("train", "--epochs", 5, "--batch", 64, "--out", tmp_path)
    assert result.exit_code == 130 and "keeping epoch 1," in result.output
    net = digits.network()
    net.load(tmp_path / "weights.npz")
    assert all(np.array_equal(array, after[name]) for name, array in net.parameters().items())


def test_ctrl_c_before_the_first_epoch_is_finished_writes_nothing(tmp_path, monkeypatch):
    def epoch(self):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(digits.Training, "epoch", epoch)
    result = run("train", "--out", tmp_path)
    assert result.exit_code == 130 and "nothing is written" in result.output
    assert not list(tmp_path.iterdir())


# ---- doctor and warmup --------------------------------------------------------------------


def test_doctor_names_every_backend_and_says_what_each_that_fails_needs(monkeypatch):
    reasons = {"reference": None, "numba": None, "cuda": "no [cuda13] device"}
    monkeypatch.setattr(doctor, "_reason", reasons.get)
    result = run("doctor")
    assert result.exit_code == 0
    assert re.search(r"reference +│ yes", result.output)
    assert re.search(r"cuda +│ no +│ no \[cuda13\] device", result.output)
    assert "nvidia-smi" in result.output or "pip install" in result.output
    for word in (gr.__version__, "numpy", "threading layer", "Numba cache", "MiB", "precision="):
        assert word in result.output


def test_doctor_fails_only_where_no_fast_backend_runs(monkeypatch):
    reasons = {"reference": None, "numba": "broken", "cuda": "no device"}
    monkeypatch.setattr(doctor, "_reason", reasons.get)
    result = run("doctor")
    assert result.exit_code == 1 and "No fast backend" in result.output
    monkeypatch.setattr(doctor, "_reason", {**reasons, "cuda": None}.get)
    monkeypatch.setattr(doctor, "_caches", lambda reasons: [])
    assert run("doctor").exit_code == 0


def test_doctor_tries_each_backend_with_a_call(backend, monkeypatch):
    assert doctor._reason(backend) is None
    monkeypatch.setattr(gr, "activate", lambda x, name: x)
    assert "not [0, 2]" in doctor._reason(backend)


def test_warmup_counts_every_build_of_every_kernel():
    from gradroute.kernels.cpu.jit import KERNELS

    builds = warmup._builds()
    assert len(builds) == len(set(builds)) == 2 * sum(len(k.variants) for k in KERNELS)
    named = {k.name for k in KERNELS if k.variants}  # those of AMX have none where it is missing
    assert {KERNELS[position].name for position, *_ in builds} == named


def test_warmup_builds_variants_that_fit_their_kernels():
    from gradroute.kernels.cpu.jit import KERNELS

    for kernel in KERNELS:
        for variant in kernel.variants:
            dtypes = variant if isinstance(variant, tuple) else (variant,)
            wanted = kernel._signature.__code__.co_argcount
            assert len(dtypes) == wanted, f"{kernel.name}: {variant} for {wanted} dtypes"


def test_warmup_fills_a_cache_that_the_first_call_of_another_process_reads(tmp_path, monkeypatch):
    position = [kernel.name for kernel in warmup._kernels()].index("apply")
    monkeypatch.setattr(warmup, "_builds", lambda: [(position, "float32", False)])
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    from gradroute.kernels.cpu import cache

    cache.usable_folder.cache_clear()
    try:
        first, second = run("warmup", "--jobs", 1), run("warmup")
    finally:
        cache.usable_folder.cache_clear()
    assert first.exit_code == 0 and "1 variants of 1 kernels" in first.output
    assert "1 of them new" in first.output and "0 of them new" in second.output
    (file,) = (tmp_path / "gradroute").glob("*.kernel")
    written = file.stat().st_mtime_ns
    code = (
        "import gradroute as gr, numpy as np\n"
        "gr.config.threads = 1\n"
        "print(gr.activate(np.array([-1, 2], 'float32'), 'relu'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert said.stdout.strip() == "[0. 2.]"
    assert [file] == list((tmp_path / "gradroute").glob("*.kernel"))
    assert file.stat().st_mtime_ns == written


# ---- the command itself -------------------------------------------------------------------


def test_the_command_without_its_extra_names_the_install_command(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No typer', name='typer')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {MAIN}"
    said = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert 'pip install "gradroute[cli]"' in said.stderr


def test_an_error_of_the_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["gradroute", "train", "--backend", "abacus", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert re.fullmatch(r"gradroute: .*backend.*'numba'.*'abacus'", ended.value.code)


def test_help_lists_the_commands_and_version_prints_it():
    listed = run("--help").output
    assert all(command in listed for command in ("train", "doctor", "warmup"))
    assert run("--version").output.strip() == f"gradroute {gr.__version__}"
    assert run("train", "--epochs", 0).exit_code == 2
