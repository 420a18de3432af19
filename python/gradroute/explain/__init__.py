"""One neuron's gradient, listed and drawn: why it is what it is, with the reader's own numbers.

    trace.py        one sample's values and gradients, layer by layer
    readers.py      who reads a neuron, and with which weight
    explanation.py  explain: the rows, their sum
    checks.py       the sum beside the kernel's gradient and beside a nudge of the neuron
    hands.py        where the gradient goes next
    compare.py      compare: several neurons side by side
    maps.py         shared, route: maps of a whole layer
    text.py columns.py planes.py html.py picture.py   how these are shown
    examples.py     the two examples of the question that this grew out of
"""

from .compare import Comparison, compare
from .explanation import Explanation, explain
from .maps import Route, Shared, route, shared

__all__ = ["Comparison", "Explanation", "Route", "Shared", "compare", "explain", "route", "shared"]
