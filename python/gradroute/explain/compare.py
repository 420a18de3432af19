"""Several neurons of one layer side by side: what each consumer sends to which of them, and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradroute.errors import ArgumentTypeError, ArgumentValueError

from .drawing import drawing
from .explanation import Explanation
from .trace import Trace, check_network, check_weights


def compare(net, layer, units, *, x=None, dy=None, labels=None, sample=0):
    """Two or more neurons of one layer side by side; the other arguments are those of `explain`.

    Neurons that feed a linear layer have the same consumers with other weights; those that feed a
    convolution are read by different windows, fewer of them at an edge.

    Returns a `Comparison`.  Raises what `explain` raises, and ArgumentValueError for fewer than
    two units.

    >>> import gradroute as gr
    >>> from gradroute.explain.examples import pool_to_conv
    >>> net, x, dy = pool_to_conv()
    >>> both = gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy)
    >>> [(e.name, len(e.terms), e.total) for e in both.explanations]
    [('pool[0,0,0]', 1, 0.5), ('pool[0,1,1]', 4, 3.5)]
    """
    check_weights(check_network(net))
    if isinstance(units, (str, bytes)) or not hasattr(units, "__len__"):
        raise ArgumentTypeError(f"units must be a list of units, got {units!r}")
    if len(units) < 2:
        raise ArgumentValueError(f"compare needs two units or more, got {list(units)!r}")
    trace = Trace(net, x, dy=dy, labels=labels, sample=sample)
    return Comparison(tuple(Explanation.of(trace, layer, unit) for unit in units))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `gr.compare` found: ``explanations``, one for each unit, in the order asked for."""

    explanations: tuple[Explanation, ...]

    @cached_property
    def _rows(self) -> np.ndarray:
        """(consumers, explanations): where each explanation lists a consumer; -1: it does not.

        Every consumer is there once, in row-major order.
        """
        es = self.explanations
        units = np.concatenate([e.units for e in es])
        shape = units.max(axis=0, initial=0) + 1
        found, which = np.unique(np.ravel_multi_index(tuple(units.T), shape), return_inverse=True)
        rows = np.full((len(found), len(es)), -1)
        parts = np.split(which, np.cumsum([len(e.units) for e in es])[:-1])
        for column, part in enumerate(parts):
            rows[part, column] = np.arange(len(part))
        return rows

    def consumers(self, chosen=slice(None)) -> list[tuple[str, float, list]]:
        """(consumer, upstream, row numbers) for every neuron that reads one of those compared.

        The row numbers say where each explanation lists that consumer; None: it does not read it.
        """
        found = []
        for rows in self._rows[chosen].tolist():
            e, row = next((e, row) for e, row in zip(self.explanations, rows) if row >= 0)
            name = str(e.terms["consumer"][row]).partition(" ")[0]
            numbers = [row if row >= 0 else None for row in rows]
            found.append((name, float(e.terms["upstream"][row]), numbers))
        return found

    def largest(self, rows: int):
        """(consumers to show, how many are left, the left ones' sum for each explanation)."""
        count = len(self._rows)
        if count <= rows:
            return self.consumers(), 0, [0.0] * len(self.explanations)
        products = np.zeros(self._rows.shape)
        for column, e in enumerate(self.explanations):
            there = self._rows[:, column] >= 0
            products[there, column] = e.terms["product"][self._rows[there, column]]
        size = np.where(np.isnan(products), np.inf, np.abs(products)).max(axis=1)
        order = np.argsort(-size, kind="stable")
        kept, left = order[: rows - 1], order[rows - 1 :]
        return self.consumers(kept), len(left), products[left].sum(axis=0).tolist()

    def verdict(self) -> str:
        """Why the gradients differ, in a sentence or two."""
        reader = self.explanations[0].reader
        if reader is None:
            return "Only the loss itself reads them."
        if (self._rows >= 0).all():
            slopes = any(e.slopes for e in self.explanations)
            return (
                f"They are read by the same {len(self._rows):,} neurons of {reader}, with the same "
                f"upstream gradients; only the weights{' and slopes' * slopes} differ."
            )
        read = "; ".join(
            f"{e.name} is read {len(e.terms):,} time{'s' * (len(e.terms) != 1)}"
            for e in self.explanations
        )
        return f"By {reader}, {read}: what they are sent is added up, each read with its weight."

    @property
    def ok(self) -> bool:
        return all(e.ok for e in self.explanations)

    def to_dict(self) -> dict:
        """Everything as plain Python values that json.dumps takes."""
        return {
            "verdict": self.verdict(),
            "explanations": [e.to_dict() for e in self.explanations],
        }

    def text(self, *, width=None, rows=12) -> str:
        """The comparison as plain text for a terminal of this width (None: the one at hand)."""
        from .columns import plain

        return plain(self, width=width, rows=rows)

    def __str__(self):
        return self.text()

    def __repr__(self):
        return f"<comparison of {', '.join(e.name for e in self.explanations)}>"

    def __rich_console__(self, console, options):
        from .columns import styled

        yield styled(self, width=options.max_width)

    def _repr_html_(self):
        from .html import comparison

        return comparison(self)

    def plot(self, path=None, *, rows=8):
        """The picture as a matplotlib figure; saved to ``path`` (.png, .svg, .pdf) if given.

        Raises BackendError where matplotlib is missing.
        """
        return drawing().draw(list(self.explanations), path, rows=rows)
