"""What is shown is what was computed: the numbers in each rendered form beside the data."""

import html.parser
import io
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import gradroute as gr
from gradroute.explain.examples import pool_to_conv, pool_to_linear

NUMBER = r"[+-]?\d[\d.]*(?:e[+-]?\d+)?"
ROW = re.compile(
    rf"^  (\S.*?)  +upstream +({NUMBER}) x slope +({NUMBER}) x weight +({NUMBER}) = +({NUMBER})"
)


@pytest.fixture(autouse=True)
def reference():
    with gr.config(backend="reference"):
        yield


def explanations():
    """One of each kind: few rows, taps, slopes, many rows, none, a tie."""
    net, x, dy = pool_to_linear()
    yield gr.explain(net, "pool", (0, 0, 1), x=x, dy=dy)
    net, x, dy = pool_to_conv()
    yield gr.explain(net, "pool", (0, 1, 1), x=x, dy=dy)
    yield gr.explain(net, "conv", (0, 0, 0), x=x, dy=dy)
    random = np.random.default_rng(0)
    net = gr.nn.Sequential(
        conv1=gr.nn.Conv(1, 8, 3, padding=1), relu1=gr.nn.Activation("relu"),
        pool1=gr.nn.MaxPool(2), conv2=gr.nn.Conv(8, 8, 3, padding=1),
        silu2=gr.nn.Activation("silu"), flat=gr.nn.Flatten(), fc=gr.nn.Linear(128, 4), seed=2,
    )  # fmt: skip
    x, labels = random.standard_normal((3, 1, 8, 8)), np.array([1, 2, 3])
    units = {"input": (0, 3, 4), "pool1": (2, 1, 1), "silu2": (0, 0, 0), "fc": 1}
    for layer, unit in units.items():
        yield gr.explain(net, layer, unit, x=x, labels=labels, sample=2)
    net = gr.nn.Sequential(pool=gr.nn.MaxPool((2,)), fc=gr.nn.Linear(1, 1))
    yield gr.explain(net, "input", (0, 1), x=np.zeros((1, 1, 2)), dy=np.ones((1, 1, 1)))


CASES = [pytest.param(index, id=name) for index, name in enumerate(
    ["linear", "conv", "loser", "input", "pool", "activation", "last", "tie"]
)]  # fmt: skip


@pytest.fixture(scope="module")
def every():
    with gr.config(backend="reference"):
        return list(explanations())


def written(value):
    """A number as four digits."""
    return float(f"{value:.4g}")


# ---- the terminal --------------------------------------------------------------------------


@pytest.mark.parametrize("index", CASES)
def test_the_printed_rows_are_the_data_and_add_up(every, index):
    e = every[index]
    lines = e.text(width=120).splitlines()
    data = {row[0]: row[1:] for row in e.terms.tolist()}
    rows = [match.groups() for match in map(ROW.match, lines) if match]
    rest = [line for line in lines if "smaller terms together" in line]
    assert len(rows) + bool(rest) == min(len(e.terms), 12)
    for consumer, *numbers in rows:
        assert [float(number) for number in numbers] == [written(v) for v in data[consumer]]
    shown = sum(float(numbers[-1]) for numbers in rows)
    if rest:
        shown += float(re.search(rf"= +({NUMBER})", rest[0])[1])
    assert shown == pytest.approx(e.total, abs=5e-4 * np.abs(e.terms["product"]).sum() + 1e-12)
    head = re.search(rf"value ({NUMBER})   gradient ({NUMBER})", lines[0])
    assert [float(number) for number in head.groups()] == [written(e.value), written(e.total)]


@pytest.mark.parametrize("width", [30, 50, 80, 120])
@pytest.mark.parametrize("index", CASES)
def test_no_line_is_wider_than_the_terminal(every, index, width):
    text = every[index].text(width=width)
    assert max(map(len, text.splitlines())) <= width
    assert f"{every[index].total:+.4g}".replace("+0", "0") in text


def test_the_narrow_form_holds_every_number_of_the_wide_one(every):
    e = every[1]
    narrow = e.text(width=40)
    for consumer, upstream, slope, weight, product in e.terms.tolist():
        assert consumer in narrow
        assert f"{upstream:+.4g} x {slope:.4g} x {weight:+.4g} = {product:+.4g}" in narrow


def test_the_sign_can_be_told_without_colour(every):
    for line in every[0].text(width=100).splitlines():
        match = ROW.match(line)
        if match:
            bar = line[match.end() :].strip()
            assert bar and set(bar) == {"+" if float(match[5]) > 0 else "-"}


def test_rich_colours_the_same_text(every):
    console = pytest.importorskip("rich.console", reason="pip install rich")
    for e in every:
        coloured, plain = io.StringIO(), io.StringIO()
        console.Console(file=coloured, force_terminal=True, width=90, color_system="256").print(e)
        console.Console(file=plain, width=90, no_color=True).print(e)
        assert "\x1b[" in coloured.getvalue()
        without = re.sub(r"\x1b\[[\d;]*m", "", coloured.getvalue())
        wanted = [line.rstrip() for line in e.text(width=90).splitlines()]
        for shown in (without, plain.getvalue()):
            assert [line.rstrip() for line in shown.splitlines()] == wanted


def test_printing_needs_neither_rich_nor_matplotlib():
    code = """
import sys
sys.modules["rich"] = sys.modules["matplotlib"] = None
import gradroute as gr
from gradroute.explain.examples import pool_to_linear
net, x, dy = pool_to_linear()
with gr.config(backend="reference"):
    e = gr.explain(net, "pool", (0, 0, 1), x=x, dy=dy)
assert "sum = -0.5" in str(e) and "<table>" in e._repr_html_()
try:
    e.plot()
except gr.errors.BackendError as error:
    assert "gradroute[plot]" in str(error)
else:
    raise AssertionError("no error without matplotlib")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the notebook --------------------------------------------------------------------------


class _Cells(html.parser.HTMLParser):
    """Table rows as lists of texts; complains about tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.attributes = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


@pytest.mark.parametrize("index", CASES)
def test_the_html_table_holds_the_data(every, index):
    e = every[index]
    rows = _Cells(e._repr_html_()).rows
    data = {row[0]: row[1:] for row in e.terms.tolist()}
    found = [row for row in rows if row[0] in data]
    assert len(found) == min(len(e.terms), 15 if len(e.terms) > 16 else 16)
    for consumer, *cells in found:
        assert [float(cell) for cell in cells[:4]] == [written(v) for v in data[consumer]]
    assert float(rows[-1][4]) == written(e.total)


def test_the_html_loads_nothing_and_runs_nothing(every):
    net, x, dy = pool_to_conv()
    shown = [*every, gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy)]
    shown += [gr.shared(net, "pool", x=x), gr.route(net, "pool", x=x)]
    for one in shown:
        text = one._repr_html_()
        names = {name for name, _ in _Cells(text).attributes}
        assert names <= {"class", "style"}
        assert not re.search(r"<script|<link|<img|url\(|https?:|@import", text)


def test_a_browser_shows_the_html(every, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no headless Chromium here")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{every[0]._repr_html_()}")
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}",
         f"--user-data-dir={tmp_path}/profile", "--window-size=700,300", page.as_uri()],
        capture_output=True, timeout=120,
    )  # fmt: skip
    if not picture.exists():
        pytest.skip(f"Chromium cannot run here: {done.stderr[-200:]!r}")
    image = pytest.importorskip("matplotlib.image").imread(picture)[..., :3]
    blue = np.array([0x21, 0x66, 0xAC]) / 255
    orange = np.array([0xD6, 0x60, 0x4D]) / 255
    found = [(np.abs(image - colour).max(axis=-1) < 0.03).nonzero() for colour in (blue, orange)]
    assert all(len(columns) > 100 for _, columns in found), "both bars are drawn"
    assert found[1][1].max() <= found[0][1].min() + 1, "negative is left of the middle"


# ---- the picture ---------------------------------------------------------------------------


def test_pictures_are_files_of_the_kind_asked_for(tmp_path, every):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    for number, e in enumerate(every):
        e.plot(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    e.plot(str(tmp_path / "e.svg"))
    root = ElementTree.parse(tmp_path / "e.svg").getroot()
    assert root.tag.endswith("svg")
    first = (tmp_path / "e.svg").read_bytes()
    e.plot(tmp_path / "e.svg")
    assert (tmp_path / "e.svg").read_bytes() == first, "the same picture is the same file"
    with pytest.raises(gr.errors.ArgumentValueError, match="must end in one of .*png.*svg"):
        e.plot(tmp_path / "e.xyz")


@pytest.mark.parametrize("index", CASES)
def test_the_numbers_in_the_picture_are_the_data(every, index):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    e = every[index]
    figure = e.plot(rows=8)
    texts = [text.get_text() for text in figure.axes[0].texts]
    data = {row[0]: row[1:] for row in e.terms.tolist()}
    found = [text for text in texts if text in data]
    assert len(found) == min(len(data), 7 if len(data) > 8 else 8)
    for consumer in found:
        figures = texts[texts.index(consumer) + 1]
        numbers = [float(number) for number in re.findall(NUMBER, figures)]
        assert numbers == [written(value) for value in data[consumer]]
    assert texts[0] == f"{e.name}: value {e.value:.4g}, gradient " + (
        f"{e.total:+.4g}" if e.total else "0"
    )


def test_sign_is_shown_by_the_line_as_well_as_by_colour_and_size_by_width(every):
    patches = pytest.importorskip("matplotlib.patches")
    e = every[0]
    arrows = [
        patch for patch in e.plot().axes[0].patches if isinstance(patch, patches.FancyArrowPatch)
    ]
    to_winner, *lines = arrows
    assert len(lines) == len(e.terms)
    for line, product in zip(lines, e.terms["product"]):
        assert (line.get_linestyle() == "-") == (product > 0)
    widths = [line.get_linewidth() for line in lines]
    assert np.argsort(widths).tolist() == np.argsort(np.abs(e.terms["product"])).tolist()
    assert to_winner.get_linestyle() != "-"
    assert any("★" in text.get_text() for text in e.plot().axes[0].texts)


def test_the_two_colours_differ_in_grey_and_for_the_colour_blind():
    colors = pytest.importorskip("matplotlib.colors")
    from gradroute.explain.picture import MINUS, PLUS

    plus, minus = (np.array(colors.to_rgb(colour)) for colour in (PLUS, MINUS))
    # blue against orange: far apart in the blue channel, which red-green blindness leaves alone
    assert plus[2] - minus[2] > 0.5


# ---- comparisons ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_comparison_fits_and_names_every_sum(width):
    net, x, dy = pool_to_conv()
    both = gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy)
    text = both.text(width=width)
    assert max(map(len, text.splitlines())) <= width
    for e in both.explanations:
        assert e.name in text and f"{e.total:+.4g}" in text


def test_a_comparison_lists_each_consumer_once_and_says_who_does_not_read():
    net, x, dy = pool_to_conv()
    both = gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy)
    assert [(name, upstream) for name, upstream, _ in both.consumers()] == [
        ("conv2[0,0,0]", 1.0), ("conv2[0,0,1]", 2.0), ("conv2[0,1,0]", 3.0), ("conv2[0,1,1]", 4.0),
    ]  # fmt: skip
    lines = both.text(width=120).splitlines()
    assert sum("does not read it" in line for line in lines) == 3
    assert "pool[0,0,0] is read 1 time; pool[0,1,1] is read 4 times" in both.verdict()
    assert [row[0] for row in _Cells(both._repr_html_()).rows[1:5]] == [
        name for name, _, _ in both.consumers()
    ]


def test_a_comparisons_rest_row_makes_the_columns_add_up():
    random = np.random.default_rng(0)
    net = gr.nn.Sequential(fc=gr.nn.Linear(2, 500), dtype="float64")
    both = gr.compare(
        net, "input", [0, 1], x=np.ones((1, 2)), dy=random.standard_normal((1, 500))
    )
    kept, left, rests = both.largest(12)
    assert (len(kept), left) == (11, 489)
    for column, e in enumerate(both.explanations):
        shown = sum(e.terms["product"][rows[column]] for _, _, rows in kept)
        assert shown + rests[column] == pytest.approx(e.total)
    assert "489 smaller" in both.text(width=100)


def test_compare_wants_two_units():
    net, x, dy = pool_to_conv()
    with pytest.raises(gr.errors.ArgumentValueError, match="two units or more"):
        gr.compare(net, "pool", [(0, 0, 0)], x=x, dy=dy)
    with pytest.raises(gr.errors.ArgumentTypeError, match="list of units"):
        gr.compare(net, "pool", 3, x=x, dy=dy)
