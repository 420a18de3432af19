"""Comparisons for a terminal: one line for each consumer, one column for each neuron.

Where the columns do not fit side by side, the explanations are printed one below the other.
"""

from __future__ import annotations

from .numbers import show
from .text import coloured, joined, lines, terminal_width, wrapped


def plain(comparison, *, width=None, rows=12) -> str:
    return joined(compared(comparison, terminal_width(width), rows))


def styled(comparison, *, width=None, rows=12):
    """The lines of a comparison as a rich Text."""
    return coloured(compared(comparison, terminal_width(width), rows))


def cells(comparison, rows):
    """[(consumer, upstream, [cell per neuron])]: texts, as every rendered form shows them."""
    kept, left, rests = comparison.largest(rows)
    found = []
    for name, upstream, numbers in kept:
        made = [_cell(e, row) for e, row in zip(comparison.explanations, numbers)]
        found.append((name, show(upstream, sign=True), made))
    if left:
        rest = [("", show(value, sign=True), value) for value in rests]
        found.append((f"{left:,} smaller", "", rest))
    return found


def _cell(e, row):
    """(how it comes about, the product as text, the product); None: this consumer does not read."""
    if row is None:
        return None
    consumer, _, slope, weight, product = e.terms[row].tolist()
    tap = consumer.partition(" ")[2]
    how = f"x {show(slope)} x {show(weight, sign=True)}"
    return (f"{tap} {how}" if tap else how), show(product, sign=True), product


def compared(comparison, width, rows):
    """Every line of a comparison: the columns, or one explanation below the other."""
    es = comparison.explanations
    found = cells(comparison, rows)
    head = [("  consumer", "upstream", [e.name for e in es])]
    sums = [show(e.total, sign=True) for e in es]
    names = max(len(head[0][0]), *(len(row[0]) + 2 for row in found), 5) if found else 10
    ups = max([len("upstream"), *(len(row[1]) for row in found)])
    columns = []
    for i, e in enumerate(es):
        there = [row[2][i] for row in found if row[2][i]]
        how = max((len(cell[0]) for cell in there), default=0)
        product = max([len(cell[1]) for cell in there] + [len(sums[i])])
        how = max(how, len(e.name) - product - 3)
        columns.append((how, product))
    needed = names + 2 + ups + sum(4 + how + 3 + product for how, product in columns)
    if needed > width:
        below = [[*lines(e, width, rows), []] for e in es]
        return [line for one in below for line in one] + wrapped(comparison.verdict(), width)
    made = [[(head[0][0].ljust(names) + "  " + "upstream".rjust(ups), "quiet")]]
    made[0] += [("    " + e.name.ljust(sum(c) + 3), "name") for e, c in zip(es, columns)]
    for name, upstream, row in found:
        line = [("  " + name.ljust(names - 2), ""), ("  " + upstream.rjust(ups), "")]
        for cell, (how, product) in zip(row, columns):
            line += _padded(cell, how, product)
        made.append(line)
    total = [("  sum".ljust(names + 2 + ups), "")]
    for text, (how, product) in zip(sums, columns):
        total += [("    " + " " * how + " = ", ""), (text.rjust(product), "name")]
    made.append(total)
    for e in es:
        for check in e.checks:
            if not check.note:
                continue
            made += wrapped(f"{e.name} {check.name}: {check.note}", width, "bad")
    made += wrapped(comparison.verdict(), width)
    return made + [line for e in es for line in wrapped(f"{e.name} {e.hand.text}", width, "quiet")]


def _padded(cell, how, product):
    if cell is None:
        room = how + 3 + product
        return [("    " + "does not read it"[:room].ljust(room), "quiet")]
    text, written, value = cell
    role = "plus" if value > 0 else "minus" if value < 0 else ""
    equals = " = " if text else "   "
    return [("    " + text.rjust(how) + equals, ""), (written.rjust(product), role)]
