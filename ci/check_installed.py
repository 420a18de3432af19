"""Is an installed gradroute whole?  Run by ci/wheel: python -P ci/check_installed.py CHECKOUT

Compares the installed files with the checkout's, then takes a training step with what is installed.
"""

import importlib.metadata
import pathlib
import subprocess
import sys

import numpy as np

import gradroute as gr

checkout = pathlib.Path(sys.argv[1])
installed = pathlib.Path(gr.__file__).parent
if checkout in installed.parents:
    sys.exit(f"gradroute was imported from the checkout: {installed}")

SUFFIXES = {".py", ".cu", ".cuh", ".typed"}
wanted = {
    target / path.relative_to(source)
    for source, target in (
        (checkout / "python/gradroute", pathlib.Path()),
        (checkout / "kernels", pathlib.Path("kernels")),
    )
    for path in source.rglob("*")
    if path.suffix in SUFFIXES
}
missing = sorted(str(path) for path in wanted if not (installed / path).is_file())
if missing:
    sys.exit(f"missing from the wheel: {', '.join(missing)}")
strangers = {"tests", "asv_bench", "kernels"} & {path.name for path in installed.parent.iterdir()}
if strangers:
    sys.exit(f"the wheel installs more than gradroute: {strangers}")

net = gr.nn.Sequential(
    conv=gr.nn.Conv(1, 4, 3, padding=1), relu=gr.nn.Activation("relu"), pool=gr.nn.MaxPool(2),
    flat=gr.nn.Flatten(), fc=gr.nn.Linear(64, 10), seed=0,
)  # fmt: skip
x = np.random.default_rng(0).random((8, 1, 8, 8), dtype="float32")
optimiser, losses = gr.nn.SGD(net, 0.1), []
for _ in range(5):
    loss, dlogits = gr.softmax_cross_entropy(net.forward(x), np.arange(8))
    net.backward(dlogits, need_dx=False)
    optimiser.step()
    losses.append(float(loss))
if not losses[-1] < losses[0]:
    sys.exit(f"five training steps did not lower the loss: {losses}")

# the command is installed without the extra that it needs, and has to say so
command = pathlib.Path(sys.executable).with_name("gradroute")
said = subprocess.run([command, "doctor"], capture_output=True, text=True)
if said.returncode == 0 or 'pip install "gradroute[cli]"' not in said.stderr:
    sys.exit(f"`gradroute` without typer says: {said.stdout}{said.stderr}")

version = importlib.metadata.version("gradroute")
print(f"gradroute {version}: {len(wanted)} files, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
