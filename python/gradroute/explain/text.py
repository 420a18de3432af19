"""Explanations for a terminal.

Every form is made of the same lines; a line is a list of (text, role).  Without rich, or where
nothing can be coloured, the texts are joined; with rich each role has a style.  Nothing is said by
colour alone: a bar of a positive term is written with +, of a negative one with -.
"""

from __future__ import annotations

import shutil
import textwrap

from .numbers import show

#: role -> style of rich
STYLES = {
    "": "",
    "name": "bold",
    "quiet": "dim",
    "plus": "blue",
    "minus": "dark_orange3",
    "good": "green",
    "bad": "bold red",
}
_BAR = 24
#: Below this many rows the wrong way of adding up is written out.
_FEW = 6


def plain(explanation, *, width=None, rows=12) -> str:
    """The lines of one explanation as text without colour."""
    return joined(lines(explanation, terminal_width(width), rows))


def styled(explanation, *, width=None, rows=12):
    """The lines of one explanation as a rich Text."""
    return coloured(lines(explanation, terminal_width(width), rows))


def joined(made) -> str:
    return "\n".join("".join(text for text, _ in line).rstrip() for line in made)


def coloured(made):
    from rich.text import Text

    text = Text(no_wrap=False, overflow="fold")
    for number, line in enumerate(made):
        text.append("\n" if number else "")
        for part, role in line:
            text.append(part, style=STYLES[role])
    return text


def terminal_width(width) -> int:
    return max(int(width or shutil.get_terminal_size((100, 24)).columns), 20)


def wrapped(text, width, role="", indent="  "):
    """A sentence as lines of at most this width."""
    made = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )
    return [[(line, role)] for line in made]


# ---- one explanation ----------------------------------------------------------------------


def lines(e, width, rows):
    """Header, one line per row, the sum, and the notes."""
    return [*_header(e, width), *_table(e, width, rows), *_notes(e, width)]


def _header(e, width):
    head = [(e.name, "name"), (f"  value {show(e.value)}", ""), ("   gradient ", "")]
    head.append((show(e.total, sign=True), "name"))
    checked = [("(", "quiet")]
    for check, label in zip(e.checks, ("kernel", "nudge test")):
        checked.append((f"{', ' if len(checked) > 1 else ''}{label} ", "quiet"))
        checked.append((f"{show(check.value, sign=True)} ", "quiet"))
        checked.append((check.status, "good" if check.status == "ok" else "bad"))
    checked.append((")", "quiet"))
    length = sum(len(text) for text, _ in [*head, *checked])
    if length + 4 <= width:
        return [[*head, ("    ", ""), *checked]]
    return [head, [("  ", ""), *checked]] if width >= 50 else [
        *wrapped("".join(t for t, _ in head), width, "name", ""),
        *wrapped("".join(t for t, _ in checked), width, "quiet"),
    ]  # fmt: skip


def shown_rows(e, rows):
    """[(consumer, upstream, slope, weight, product)], texts but for product; the rest is last."""
    chosen, left, rest = e.largest(rows)
    found = []
    for consumer, upstream, slope, weight, product in e.terms[chosen].tolist():
        texts = (show(upstream, sign=True), show(slope), show(weight, sign=True))
        found.append((consumer, *texts, product))
    if left:
        found.append((f"{left:,} smaller terms together", "", "", "", rest))
    return found


def _table(e, width, rows):
    found = shown_rows(e, rows)
    if not found:
        why = "no window chose it" if e.losers else "nothing reads it"
        return wrapped(f"{why}: nobody sends it a gradient, so it gets 0", width)
    largest = max((abs(row[4]) for row in found), default=0.0)
    widths = [max(len(row[i]) for row in found if row[1] or not i) for i in range(4)]
    product = max(len(show(row[4], sign=True)) for row in found)
    needed = 2 + widths[0] + len("  upstream  x slope  x weight  = ") + sum(widths[1:]) + product
    if needed + 8 > width:
        return _narrow_table(e, found, width, largest)
    bar = min(_BAR, width - needed - 3)
    made = []
    for consumer, upstream, slope, weight, value in found:
        line = [("  ", ""), (consumer.ljust(widths[0]), "")]
        if upstream:
            line += [
                (f"  upstream {upstream:>{widths[1]}}", ""), (" x slope ", "quiet"),
                (f"{slope:>{widths[2]}}", ""), (" x weight ", "quiet"),
                (f"{weight:>{widths[3]}}", ""),
            ]  # fmt: skip
        used = sum(len(text) for text, _ in line)
        line.append((" " * max(needed - product - 3 - used, 0) + " = ", "quiet"))
        line.append((f"{show(value, sign=True):>{product}}", _role(value)))
        line.append((f"  {_bar(value, largest, bar)}", _role(value)))
        made.append(line)
    pad = needed - product - len("sum = ")
    total = [(" " * pad + "sum = ", ""), (f"{show(e.total, sign=True):>{product}}", "name")]
    return [*made, total, *wrapped(wrong_sum(e), width, "quiet")]


def _narrow_table(e, found, width, largest):
    """Two lines a row: who reads, and below it the sum in short."""
    made = wrapped("each row: upstream x slope x weight = product", width, "quiet")
    for consumer, upstream, slope, weight, value in found:
        made += wrapped(consumer, width)
        sum_ = f"{upstream} x {slope} x {weight} " if upstream else ""
        sum_ += f"= {show(value, sign=True)}"
        room = width - len(sum_) - 6
        if room < 0:
            made += wrapped(sum_, width, _role(value), "    ")
            continue
        bar = _bar(value, largest, min(room, 12)) if room > 2 else ""
        made.append([("    ", ""), (sum_, ""), (f"  {bar}", _role(value))])
    made.append([("  sum = ", ""), (show(e.total, sign=True), "name")])
    return [*made, *wrapped(wrong_sum(e), width, "quiet")]


def _bar(value, largest, width) -> str:
    """Length for size, + or - for sign."""
    if not value or not largest or value != value:
        return ""
    length = max(round(width * abs(value) / largest), 1) if largest != float("inf") else width
    return ("+" if value > 0 else "-") * length


def _role(value) -> str:
    return "plus" if value > 0 else "minus" if value < 0 else ""


def wrong_sum(e) -> str:
    """What the question almost did: add up the upstream gradients and forget the weights."""
    upstream = e.terms["upstream"]
    if not 1 < len(upstream) <= _FEW or e.reader is None:
        return ""
    if abs(upstream.sum() - e.total) <= 1e-3 * abs(upstream).sum():
        return ""
    parts = "".join(
        show(u) if not i else f" - {show(-u)}" if u < 0 else f" + {show(u)}"
        for i, u in enumerate(upstream.tolist())
    )
    return (
        f"(adding up {parts} = {show(upstream.sum())} is not the gradient: each is weighed first)"
    )


def notes(e) -> list[tuple[str, str]]:
    """(sentence, role): all that is to be said below the sum."""
    found = []
    if e.slopes:
        found.append((f"slope: of {' and '.join(e.slopes)}", "quiet"))
    if e.losers:
        some = "; ".join(f"{window} chose {winner}" for window, winner in e.losers[:3])
        more = f"; and {len(e.losers) - 3} more" if len(e.losers) > 3 else ""
        found.append((f"read in vain, so nothing comes back: {some}{more}", ""))
    found += [(f"{check.name}: {check.note}", "bad") for check in e.checks if check.note]
    return [*found, (e.hand.text, "")]


def _notes(e, width):
    return [line for text, role in notes(e) for line in wrapped(text, width, role)]
