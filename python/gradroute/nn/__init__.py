"""The few layers that a training loop needs; the work is done by the functions of `gradroute`.

    base.py        Layer: what every layer is
    layers.py      Conv, ConvTranspose, MaxPool, AvgPool, Linear, Activation, Flatten
    sequential.py  Sequential: forward, backward, the parameters and where they live
    weights.py     writing parameters to a .npz file and reading them back
    optim.py       SGD and Adam
"""

from .base import Layer
from .layers import Activation, AvgPool, Conv, ConvTranspose, Flatten, Linear, MaxPool
from .optim import SGD, Adam
from .sequential import Sequential

__all__ = [
    "Activation",
    "Adam",
    "AvgPool",
    "Conv",
    "ConvTranspose",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool",
    "SGD",
    "Sequential",
]
