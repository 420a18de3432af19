"""The example that `gradroute train` runs: scikit-learn's digits, and a small network for them.

1,797 real handwritten digits, 8x8 pixels: Alpaydin & Kaynak, Optical Recognition of Handwritten
Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import gradroute as gr
from gradroute import dispatch

#: Of the split, not of the training: the held-out images are the same for every --seed.
SPLIT_SEED = 0
#: The learning rate at the start; it falls to 0 along half a cosine.
LEARNING_RATE = 0.05


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) float32 in 0..1 and labels (N,) int64; a stratified fifth is held out."""

    x: np.ndarray
    labels: np.ndarray
    held_out_x: np.ndarray
    held_out_labels: np.ndarray


def load() -> Digits:
    """The images and their fixed split.  Needs scikit-learn, which ships them."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x = (data.images[:, None] / 16.0).astype("float32")
    x, held_out_x, labels, held_out_labels = train_test_split(
        x, data.target.astype("int64"), test_size=0.2, stratify=data.target, random_state=SPLIT_SEED
    )
    return Digits(x, labels, held_out_x, held_out_labels)


def network(seed: int = 0) -> gr.nn.Sequential:
    """conv-relu-pool-conv-relu-pool-linear, for images (N, 1, 8, 8)."""
    return gr.nn.Sequential(
        conv1=gr.nn.Conv(1, 16, 3, padding=1),  # (N, 16, 8, 8)
        relu1=gr.nn.Activation("relu"),
        pool1=gr.nn.MaxPool(2),  # (N, 16, 4, 4)
        conv2=gr.nn.Conv(16, 32, 3, padding=1),
        relu2=gr.nn.Activation("relu"),
        pool2=gr.nn.MaxPool(2),  # (N, 32, 2, 2)
        flat=gr.nn.Flatten(),
        fc=gr.nn.Linear(128, 10),
        seed=seed,
    )


def shifted(x, random: np.random.Generator):
    """Each image moved by -1, 0 or 1 pixel along both axes; what moves in is 0."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axis=(2, 3))
    # (N, 1, 3, 3, 8, 8): one of nine views for each image
    down, right = random.integers(0, 3, (2, len(x)))
    return np.ascontiguousarray(views[np.arange(len(x)), :, down, right])


@dataclass
class Training:
    """A network, its optimiser, and the order and shifts of the images, all drawn from one seed."""

    digits: Digits
    batch: int
    epochs: int
    seed: int
    library: str = "numpy"

    def __post_init__(self):
        self.net = network(self.seed).to(self.library)
        self.optimiser = gr.nn.SGD(self.net, LEARNING_RATE, momentum=0.9)
        self._random = np.random.default_rng([self.seed, 1])
        self._done = 0

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.digits.x) // self.batch)

    def epoch(self):
        """Trains for one epoch; yields (loss, correct, count) after each batch."""
        order = self._random.permutation(len(self.digits.x))
        x, labels = shifted(self.digits.x[order], self._random), self.digits.labels[order]
        for start in range(0, len(x), self.batch):
            done = self._done / (self.steps * self.epochs)
            self.optimiser.lr = LEARNING_RATE * 0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0))))
            part = slice(start, start + self.batch)
            yield self._step(x[part], labels[part])
            self._done += 1

    def _step(self, x, labels):
        if self.library == "cupy":
            labels = dispatch.load("cuda").to_device(labels)
        loss, correct = gradients(self.net, x, labels)
        self.optimiser.step()
        return loss, correct, len(labels)


def gradients(net, x, labels):
    """Fills the network's gradients for one batch; returns (loss, how many are right)."""
    logits = net.forward(x)
    loss, dlogits = gr.softmax_cross_entropy(logits, labels)
    net.backward(dlogits, need_dx=False)
    return float(loss), int((logits.argmax(axis=1) == labels).sum())


def predictions(net, x):
    """The most likely digit for each image."""
    return net.forward(x, keep=False).argmax(axis=1)
