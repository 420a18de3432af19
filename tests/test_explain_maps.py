"""gr.shared and gr.route beside windows that are walked one by one."""

import itertools

import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, POOL
from values import make

import gradroute as gr

SOME = [case for case in POOL if case.x[0] and case.kind in ("normal", "ties")]


@pytest.fixture(autouse=True)
def reference():
    with gr.config(backend="reference"):
        yield


def first_to_last(array, last):
    return np.moveaxis(array, 1, -1) if last else array


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", [c for c in SOME if "ceil_mode" not in c.options], ids=str)
def test_pool_windows_are_counted(case, last):
    layout = "channels_last" if last else "channels_first"
    net = gr.nn.Sequential(pool=gr.nn.AvgPool(case.window, layout=layout, **case.options))
    found = gr.shared(net, "input", x=first_to_last(np.zeros(case.x), last))
    # every window hands 1 to each input it covers
    options = {"stride": case.window, **case.options}
    cols = np.ones_like(gr.im2col(np.zeros(case.x), case.window, **options))
    expected = gr.col2im(cols, case.x, case.window, **options)
    np.testing.assert_array_equal(found.counts, first_to_last(expected, last)[0])
    assert found.counts.shape == found.shape == np.asarray(found).shape


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", SOME, ids=str)
def test_winners_and_ties_are_those_of_each_window(case, last):
    layout = "channels_last" if last else "channels_first"
    x = first_to_last(make(case.kind, case.x, "float64"), last)
    net = gr.nn.Sequential(
        pool=gr.nn.MaxPool(case.window, layout=layout, **case.options), dtype="float64"
    )
    found = gr.route(net, "pool", x=x, sample=len(x) - 1)
    read = gr.shared(net, "input", x=x).counts
    image = x[-1]
    counts, covered = np.zeros(image.shape, int), np.zeros(image.shape, int)
    options = {"layout": layout, **case.options}
    y, _ = gr.max_pool(x, case.window, **options)
    for unit in itertools.product(*map(range, y.shape[1:])):
        # which inputs does this window cover: those whose infinity it would see
        dy = np.zeros(y.shape)
        dy[(-1, *unit)] = 1.0
        options_avg = {**options, "count_include_pad": False}
        inside = gr.avg_pool_backward(dy, x.shape, case.window, **options_avg)[-1] > 0
        covered += inside
        best = image[inside].max()
        assert y[(-1, *unit)] == best
        cells = [tuple(cell) for cell in np.argwhere(inside & (image == best))]
        assert tuple(found.chosen[unit]) in cells
        assert found.ties[unit] == (len(cells) > 1)
        counts[tuple(found.chosen[unit])] += 1
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.several, counts > 1)
    np.testing.assert_array_equal(found.none, counts == 0)
    np.testing.assert_array_equal(read, covered)


def _convolutions():
    for case in CONV:
        if case.x[0] and case.kind == "normal":
            groups = case.options.get("groups", 1)
            sizes = (case.window[1] * groups, case.window[0], case.window[2:])
            yield pytest.param(gr.nn.Conv, case.x, sizes, case.options, id=f"conv {case}")
    for case in CONV_TRANSPOSE:
        if case.x[0] and case.kind == "normal":
            groups = case.options.get("groups", 1)
            sizes = (case.window[0], case.window[1] * groups, case.window[2:])
            yield pytest.param(
                gr.nn.ConvTranspose, case.x, sizes, case.options, id=f"transposed {case}"
            )


@pytest.mark.parametrize("kind, x_shape, sizes, options", list(_convolutions()))
def test_convolutions_reads_are_counted(kind, x_shape, sizes, options):
    net = gr.nn.Sequential(conv=kind(*sizes, bias=False, **options), dtype="float64")
    net.parameters()["conv.w"][...] = 1.0
    found = gr.shared(net, "input", x=np.zeros(x_shape))
    y = net.forward(np.zeros(x_shape))
    # with weights and upstream of 1 each read brings 1
    expected = net.backward(np.ones(y.shape))[0]
    np.testing.assert_array_equal(found.consumers, expected)
    per_read = sizes[1] // options.get("groups", 1)
    np.testing.assert_array_equal(found.counts * per_read, expected)


def test_explain_lists_as_many_rows_as_shared_counts():
    net = gr.nn.Sequential(
        conv=gr.nn.Conv(2, 4, 3, stride=2, groups=2), relu=gr.nn.Activation("relu"),
        flat=gr.nn.Flatten(), fc=gr.nn.Linear(36, 3),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 8))
    found = gr.shared(net, "input", x=x)
    for unit in np.ndindex(2, 7, 8):
        e = gr.explain(net, "input", unit, x=x, dy=np.ones((1, 3)))
        assert len(e.terms) == found.consumers[unit]
        assert found[unit] == found.counts[unit]
    linear = gr.shared(net, "relu", x=x)
    assert (linear.counts == 1).all() and (linear.consumers == 3).all()
    assert linear.counts.shape == (4, 3, 3)


def test_maps_are_shown_as_they_are():
    net = gr.nn.Sequential(pool=gr.nn.MaxPool(3, stride=1, padding=1), dtype="float64")
    x = np.random.default_rng(0).integers(0, 4, (2, 3, 5, 6)).astype("float64")
    found = gr.route(net, "pool", x=x, sample=1)
    for channel in range(3):
        lines = found.text(width=80, channel=channel).splitlines()[1:6]
        shown = [[0 if cell == "." else int(cell) for cell in line.split()] for line in lines]
        np.testing.assert_array_equal(shown, found.counts[channel])
    with pytest.raises(gr.errors.IndexRangeError, match="choose 0 to 2"):
        found.text(channel=3)
    text = found.text(width=50)
    assert max(map(len, text.splitlines())) <= 50
    assert f"{int(found.none.sum())} won no window" in " ".join(text.split())


def test_maps_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    net = gr.nn.Sequential(pool=gr.nn.MaxPool(2), conv=gr.nn.Conv(1, 1, 3), dtype="float64")
    x = np.arange(144.0).reshape(1, 1, 12, 12)
    for found in (gr.route(net, "pool", x=x), gr.shared(net, "pool", x=x)):
        figure = found.plot(tmp_path / "map.png")
        assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert [int(t) for t in texts if t.isdigit()] == found.counts.reshape(-1).tolist()


def test_a_layer_that_is_no_max_pool_is_refused_with_those_that_are():
    net = gr.nn.Sequential(
        a=gr.nn.MaxPool(2), b=gr.nn.AvgPool(1), c=gr.nn.MaxPool(1), d=gr.nn.Conv(1, 1, 1)
    )
    x = np.zeros((1, 1, 2, 2))
    for layer in ("b", "d", "input"):
        with pytest.raises(gr.errors.ArgumentValueError, match="no max-pool; .* a, c"):
            gr.route(net, layer, x=x)
    with pytest.raises(gr.errors.ArgumentValueError, match="there is no layer 'e'.*input.*a"):
        gr.route(net, "e", x=x)
    with pytest.raises(gr.errors.ArgumentValueError, match="nothing but the loss reads"):
        gr.shared(net, "d", x=x)
