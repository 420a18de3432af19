"""Several neurons of one layer side by side: what each consumer sends to which of them, and why."""

from __future__ import annotations

from dataclasses import dataclass

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

    def consumers(self) -> list[tuple[str, float, list]]:
        """(consumer, upstream, row numbers) for every neuron that reads one of those compared.

        The row numbers say where each explanation lists that consumer; None: it does not read it.
        """
        found = {}
        for column, e in enumerate(self.explanations):
            names = [text.partition(" ")[0] for text in e.terms["consumer"].tolist()]
            for row, (unit, name) in enumerate(zip(map(tuple, e.units.tolist()), names)):
                empty = [None] * len(self.explanations)
                entry = found.setdefault(unit, (name, float(e.terms["upstream"][row]), empty))
                entry[2][column] = row
        return [found[unit] for unit in sorted(found)]

    def largest(self, rows: int):
        """(consumers to show, how many are left, the left ones' sum for each explanation)."""
        every = self.consumers()
        if len(every) <= rows:
            return every, 0, [0.0] * len(self.explanations)
        products = np.array(
            [
                [0.0 if row is None else e.terms["product"][row]
                 for e, row in zip(self.explanations, found)]
                for _, _, found in every
            ]
        )  # fmt: skip
        size = np.where(np.isnan(products), np.inf, np.abs(products)).max(axis=1)
        order = np.argsort(-size, kind="stable")
        kept, left = order[: rows - 1], order[rows - 1 :]
        return [every[i] for i in kept], len(left), products[left].sum(axis=0).tolist()

    def verdict(self) -> str:
        """Why the gradients differ, in a sentence or two."""
        counts = [len(e.terms) for e in self.explanations]
        every = self.consumers()
        reader = self.explanations[0].reader
        if reader is None:
            return "Only the loss itself reads them."
        if all(None not in rows for _, _, rows in every):
            slopes = any(e.slopes for e in self.explanations)
            return (
                f"They are read by the same {len(every)} neurons of {reader}, with the same upstream "
                f"gradients; only the weights{' and slopes' * slopes} differ."
            )
        read = "; ".join(
            f"{e.name} is read {count} time{'s' * (count != 1)}"
            for e, count in zip(self.explanations, counts)
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
