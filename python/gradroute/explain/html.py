"""Explanations for a notebook: self-contained HTML, without scripts or anything to load.

Bars grow from a middle line, left for negative and right for positive, so the sign can be seen
without colour; the number stands beside each.
"""

from __future__ import annotations

from html import escape

from .columns import cells
from .numbers import show
from .planes import key, plane_of
from .text import notes, shown_rows, wrong_sum

_ROWS = 16
_STYLE = """<style>
.gradroute {font-family: system-ui, sans-serif; font-size: 13px; line-height: 1.5}
.gradroute table {border-collapse: collapse; margin: 4px 0; font-size: inherit}
.gradroute td, .gradroute th {padding: 2px 8px; text-align: right; white-space: nowrap}
.gradroute td, .gradroute th {border: 0; background: none; font-variant-numeric: tabular-nums}
.gradroute th {font-weight: normal; opacity: .65; border-bottom: 1px solid currentColor}
.gradroute td:first-child, .gradroute th:first-child {text-align: left}
.gradroute tr.sum td {border-top: 1px solid currentColor; font-weight: bold}
.gradroute .bar {display: inline-block; height: 10px; vertical-align: middle}
.gradroute .half {display: inline-block; width: 90px; height: 10px; line-height: 10px}
.gradroute .half {vertical-align: middle}
.gradroute .left {text-align: right; border-right: 1px solid currentColor}
.gradroute .right {text-align: left}
.gradroute .plus {background: #2166ac}
.gradroute .minus {background: repeating-linear-gradient(45deg, #d6604d 0 3px, #fddbc7 3px 6px)}
.gradroute .quiet {opacity: .65}
.gradroute .bad {font-weight: bold; border-left: 3px solid #d6604d; padding-left: 6px}
.gradroute td.cell {text-align: center; min-width: 1.4em; border: 1px solid #8884; padding: 1px 4px}
</style>"""


def _page(*parts) -> str:
    return "\n".join(['<div class="gradroute">', _STYLE, *parts, "</div>"])


def _line(text, role="") -> str:
    return f'<div class="{role}">{escape(text)}</div>' if role else f"<div>{escape(text)}</div>"


def _bar(value, largest) -> str:
    """One bar from the middle line to the side of its sign."""
    share = 0.0 if not largest or value != value else min(abs(value) / largest, 1.0)
    width = max(round(90 * share), 1) if share else 0
    side = "plus" if value > 0 else "minus"
    bar = f'<span class="bar {side}" style="width: {width}px"></span>' if width else ""
    left, right = (bar, "") if value < 0 else ("", bar)
    return f'<span class="half left">{left}</span><span class="half right">{right}</span>'


def _row(values, tag="td", role="") -> str:
    made = "".join(f"<{tag}>{value}</{tag}>" for value in values)
    return f'<tr class="{role}">{made}</tr>' if role else f"<tr>{made}</tr>"


# ---- one explanation ----------------------------------------------------------------------


def page(e) -> str:
    """One explanation: header, table with bars, notes."""
    return _page(*_explanation(e))


def _explanation(e):
    checks = ", ".join(
        f"{label} {show(check.value, sign=True)} {check.status}"
        for check, label in zip(e.checks, ("kernel", "nudge test"))
    )
    yield (
        f"<div><b>{escape(e.name)}</b> &nbsp;value {show(e.value)} &nbsp;gradient "
        f"<b>{show(e.total, sign=True)}</b> &nbsp;"
        f'<span class="quiet">({escape(checks)})</span></div>'
    )
    found = shown_rows(e, _ROWS)
    largest = max((abs(row[4]) for row in found), default=0.0)
    yield "<table>"
    yield _row(["consumer", "upstream", "x slope", "x weight", "= product", ""], "th")
    for consumer, upstream, slope, weight, product in found:
        texts = (escape(consumer), upstream, slope, weight, show(product, sign=True))
        yield _row([*texts, _bar(product, largest)])
    if not found:
        yield _row(["nobody sends it a gradient", "", "", "", "", ""])
    yield _row(["sum", "", "", "", show(e.total, sign=True), ""], role="sum")
    yield "</table>"
    if wrong_sum(e):
        yield _line(wrong_sum(e), "quiet")
    for text, role in notes(e):
        yield _line(text, role)


# ---- several ------------------------------------------------------------------------------


def comparison(c) -> str:
    """Several explanations: one row for each consumer, a group of columns for each neuron."""
    found = cells(c, _ROWS)
    products = [abs(cell[2]) for row in found for cell in row[2] if cell]
    largest = max(products, default=0.0)
    parts = ["<table>"]
    head = ["consumer", "upstream"]
    for e in c.explanations:
        head += [f"<b>{escape(e.name)}</b>", "= product", ""]
    parts.append(_row(head, "th"))
    for name, upstream, row in found:
        values = [escape(name), upstream]
        for cell in row:
            if cell is None:
                values += ['<span class="quiet">does not read it</span>', "", ""]
            else:
                values += [escape(cell[0]), cell[1], _bar(cell[2], largest)]
        parts.append(_row(values))
    sums = ["sum", ""]
    for e in c.explanations:
        sums += ["", show(e.total, sign=True), ""]
    parts += [_row(sums, role="sum"), "</table>", _line(c.verdict())]
    for e in c.explanations:
        parts += [
            _line(f"{e.name} {check.name}: {check.note}", "bad") for check in e.checks if check.note
        ]
        parts.append(_line(f"{e.name} {e.hand.text}", "quiet"))
    return _page(*parts)


def plane(found) -> str:
    """A map: one channel as a grid, darker where the count is larger."""
    counts = plane_of(found, found.counts, 0)
    shown, largest = counts[:40, :60], max(int(counts.max(initial=1)), 1)
    more = ", channel 0" if found.counts.ndim > 1 else ""
    parts = [_line(found.title + more), "<table>"]
    for row in shown.tolist():
        cell = "".join(
            f'<td class="cell" style="background: rgba(33, 102, 172, {0.5 * n / largest:.2f})">'
            f"{n}</td>"
            for n in row
        )
        parts.append(f"<tr>{cell}</tr>")
    parts.append("</table>")
    if shown.size < counts.size:
        parts.append(_line(f"(showing {shown.shape} of {counts.shape})", "quiet"))
    parts += [_line(sentence) for sentence in key(found) if sentence]
    return _page(*parts)
