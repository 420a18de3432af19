"""gr.explain: what the rows are, what the checks recognise, and what is refused.

test_explain_torch.py compares the numbers with torch; here are the rules around them.
"""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import gradroute as gr
from gradroute.explain.examples import pool_to_conv, pool_to_linear

FIELDS = ("consumer", "upstream", "slope", "weight", "product")


@pytest.fixture(autouse=True)
def reference(request):
    """The reference backend, unless a test asks for every backend."""
    if "backend" in request.fixturenames:
        yield
    else:
        with gr.config(backend="reference"):
            yield


def small(dtype="float64", **layers):
    layers = layers or {
        "conv1": gr.nn.Conv(1, 2, 3, padding=1), "relu1": gr.nn.Activation("relu"),
        "pool1": gr.nn.MaxPool(2), "flat": gr.nn.Flatten(), "fc": gr.nn.Linear(18, 3),
    }  # fmt: skip
    return gr.nn.Sequential(**layers, seed=1, dtype=dtype)


def data(seed=0, shape=(2, 1, 6, 6)):
    random = np.random.default_rng(seed)
    return random.standard_normal(shape), random.standard_normal((shape[0], 3))


# ---- the question --------------------------------------------------------------------------


def test_the_questions_first_example(backend):
    net, x, dy = pool_to_linear()
    e = gr.explain(net, "pool", (0, 0, 1), x=x, dy=dy)
    assert e.terms.dtype.names == FIELDS
    assert e.terms.tolist() == [
        ("fc[0]", 2.0, 1.0, 0.5, 1.0), ("fc[1]", 3.0, 1.0, -1.0, -3.0),
        ("fc[2]", 6.0, 1.0, 0.25, 1.5),
    ]  # fmt: skip
    assert (e.total, e.kernel, e.value) == (-0.5, -0.5, 0.83)
    assert e.nudge == pytest.approx(-0.5, rel=1e-9)
    assert e.hand.winner == (0, 1, 3)


def test_the_questions_second_example(backend):
    net, x, dy = pool_to_conv()
    corner, inner = gr.compare(net, "pool", [(0, 0, 0), (0, 1, 1)], x=x, dy=dy).explanations
    assert corner.terms["consumer"].tolist() == ["conv2[0,0,0] tap[0,0]"]
    assert inner.terms["consumer"].tolist() == [
        "conv2[0,0,0] tap[1,1]", "conv2[0,0,1] tap[1,0]", "conv2[0,1,0] tap[0,1]",
        "conv2[0,1,1] tap[0,0]",
    ]  # fmt: skip
    assert inner.terms["product"].tolist() == [0.25, 2.0, -0.75, 2.0]
    assert (corner.total, inner.total) == (0.5, 3.5)


def test_an_input_that_won_several_windows_has_a_row_for_each_and_lost_ones_are_named():
    net = small(pool=gr.nn.MaxPool((2,), stride=1), fc=gr.nn.Linear(3, 1))
    net.parameters()["fc.w"][...] = [[1.0, 10.0, 100.0]]
    x = np.array([[[1.0, 3.0, 2.0, 4.0]]])
    end = {"x": x, "dy": np.ones((1, 1, 1))}
    twice = gr.explain(net, "input", (0, 1), **end)
    assert twice.terms["consumer"].tolist() == ["pool[0,0]", "pool[0,1]"]
    assert twice.terms["weight"].tolist() == [1.0, 1.0]
    assert twice.total == 11.0
    never = gr.explain(net, "input", (0, 2), **end)
    assert len(never.terms) == 0 and never.total == never.kernel == 0.0
    assert never.losers == (("pool[0,1]", "input[0,1]"), ("pool[0,2]", "input[0,3]"))


def test_an_average_divides_by_the_same_number_as_the_pool():
    for inside, divisors in ((True, [4.0, 4.0]), (False, [2.0, 4.0])):
        net = small(
            avg=gr.nn.AvgPool(2, stride=1, padding=((1, 0), (0, 0)), count_include_pad=inside),
            fc=gr.nn.Linear(2, 1),
        )
        e = gr.explain(
            net, "input", (0, 0, 0), x=np.ones((1, 1, 3, 3)), dy=np.ones((1, 1, 3, 1))
        )
        assert (1 / e.terms["weight"]).tolist() == divisors


def test_the_last_layers_gradient_comes_from_the_loss_alone():
    net, (x, dy) = small(), data()
    e = gr.explain(net, "fc", 2, x=x, dy=dy, sample=1)
    assert e.terms.tolist() == [("loss", dy[1, 2], 1.0, 1.0, dy[1, 2])]


def test_flatten_only_renames_a_neuron():
    net, (x, dy) = small(), data()
    pool = gr.explain(net, "pool1", (1, 2, 0), x=x, dy=dy)
    flat = gr.explain(net, "flat", 9 + 6, x=x, dy=dy)
    assert pool.terms.tolist() == flat.terms.tolist()
    assert "pool1[1,2,0]" in flat.hand.text


# ---- the network is left as it was ---------------------------------------------------------


def test_explaining_between_forward_and_backward_changes_neither(backend):
    net, (x, dy) = small(), data()
    net.forward(x)
    expected = net.backward(dy).copy()
    gradients = {name: array.copy() for name, array in net.gradients().items()}
    net.forward(x)
    gr.explain(net, "pool1", (0, 1, 1), x=x[::-1] * 2, dy=dy)
    for name, array in net.gradients().items():
        np.testing.assert_array_equal(array, gradients[name])
    np.testing.assert_array_equal(net.backward(dy), expected)


def test_without_x_the_last_forward_pass_is_explained():
    net, (x, dy) = small(), data()
    net.forward(x)
    assert gr.explain(net, "pool1", (0, 1, 1), dy=dy).total == (
        gr.explain(net, "pool1", (0, 1, 1), x=x, dy=dy).total
    )
    with pytest.raises(gr.errors.ArgumentValueError, match="give x="):
        gr.explain(small(), "pool1", (0, 1, 1), dy=dy)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_dtype_agrees_with_its_own_kernel_and_the_nudge(backend, dtype):
    net, (x, dy) = small(dtype), data()
    for unit in np.ndindex(2, 3, 3):
        e = gr.explain(net, "pool1", unit, x=x, dy=dy)
        assert e.ok and e.checks[0].status == "ok", e.text(width=100)


# ---- the checks ----------------------------------------------------------------------------


def test_a_tie_is_said_with_both_answers():
    net = small(pool=gr.nn.MaxPool((2,)), fc=gr.nn.Linear(1, 1))
    net.parameters()["fc.w"][...] = 2.0
    end = {"x": np.array([[[0.5, 0.5]]]), "dy": np.ones((1, 1, 1))}
    first, second = (gr.explain(net, "input", (0, i), **end) for i in (0, 1))
    assert (first.total, second.total) == (2.0, 0.0)
    for e in (first, second):
        assert e.checks[0].status == "ok" and e.checks[1].status == "tie" and e.ok
        assert "moved down the gradient is 0, moved up it is 2" in e.checks[1].note
        assert "a tie" in str(e) and "a tie" in e._repr_html_()


@pytest.mark.parametrize("name, below, above", [("relu", 0, 3), ("leaky_relu", 0.03, 3)])
def test_a_kink_is_said_with_both_answers(name, below, above):
    net = small(act=gr.nn.Activation(name), fc=gr.nn.Linear(1, 1))
    net.parameters()["fc.w"][...] = 3.0
    e = gr.explain(net, "input", 0, x=np.zeros((1, 1)), dy=np.ones((1, 1)))
    assert e.checks[1].status == "kink" and e.ok
    assert f"moved down the gradient is {below}, moved up it is {above}" in e.checks[1].note


def test_smooth_activations_and_inputs_near_a_corner_have_no_kink():
    for name in ("elu", "sigmoid", "tanh", "softplus", "gelu", "silu"):
        net = small(act=gr.nn.Activation(name), fc=gr.nn.Linear(1, 1))
        e = gr.explain(net, "input", 0, x=np.zeros((1, 1)), dy=np.ones((1, 1)))
        assert e.checks[1].status == "ok"
    net = small(act=gr.nn.Activation("relu"), fc=gr.nn.Linear(1, 1))
    e = gr.explain(net, "input", 0, x=np.full((1, 1), 1e-3), dy=np.ones((1, 1)))
    assert e.checks[1].status == "ok"


def test_a_winner_decided_by_rounding_is_said():
    net = small(
        "float32", fc=gr.nn.Linear(3, 2, bias=False), pool=gr.nn.MaxPool((2,)),
        out=gr.nn.Linear(1, 1),
    )  # fmt: skip
    # in float32 both sums are 1 (1e-9 is lost beside 1); in float64 the second is larger
    net.parameters()["fc.w"][...] = [[1.0, 0.0, 0.0], [1.0, 1e-9, 0.0]]
    net.parameters()["out.w"][...] = 1.0
    x = np.ones((1, 1, 3))
    e = gr.explain(net, "input", (0, 1), x=x, dy=np.ones((1, 1, 1)))
    assert e.checks[1].status in ("tie", "ok")
    e = gr.explain(net, "fc", (0, 1), x=x, dy=np.ones((1, 1, 1)))
    assert e.checks[1].status == "tie"


def test_a_network_whose_output_is_not_finite_says_nothing_by_a_nudge():
    net = small(act=gr.nn.Activation("relu"), pool=gr.nn.MaxPool((2,)), fc=gr.nn.Linear(1, 1))
    e = gr.explain(
        net, "input", (0, 0), x=np.array([[[np.nan, 1.0]]]), dy=np.ones((1, 1, 1))
    )
    assert e.checks[1].status == "undefined" and "not finite" in str(e)


def test_neurons_that_only_the_loss_reads_are_compared_by_their_own_gradients():
    net, (x, dy) = small(), data()
    both = gr.compare(net, "fc", [0, 2], x=x, dy=dy)
    assert [row[1] for row in both.consumers()] == [dy[0, 0], dy[0, 2]]
    assert [row[2] for row in both.consumers()] == [[0, None], [None, 0]]


def test_a_saturated_loss_in_float32_is_no_error():
    net = small("float32", fc=gr.nn.Linear(2, 2, bias=False))
    net.parameters()["fc.w"][...] = [[16.0, 0.0], [0.0, 1.0]]
    e = gr.explain(net, "input", 0, x=np.ones((1, 2)), labels=np.array([0]))
    assert e.ok and e.checks[1].status in ("ok", "rounding")


def test_a_wrong_kernel_beside_the_neuron_is_said(monkeypatch):
    net, (x, dy) = small(), data()
    right = gr.linear_backward

    def wrong(*arrays, **options):
        dx, dw, db = right(*arrays, **options)
        return 1.5 * dx, dw, db

    monkeypatch.setattr(gr, "linear_backward", wrong)
    e = gr.explain(net, "flat", 0, x=x, dy=dy)
    assert [check.status for check in e.checks] == ["differs", "ok"] and not e.ok
    assert "differs" in e.text(width=100) and "differs" in e._repr_html_()


def test_a_wrong_kernel_further_on_is_said(monkeypatch):
    from gradroute.kernels.reference import matmul

    net, (x, dy) = small(), data()
    right = matmul.linear_backward

    def wrong(dx, *arguments):
        right(dx, *arguments)
        dx *= 1.5

    net.forward(x)
    found = gr.route(net, "pool1", x=x)
    winner = found.chosen[~found.ties][0]
    monkeypatch.setattr(matmul, "linear_backward", wrong)
    e = gr.explain(net, "relu1", tuple(winner), x=x, dy=dy)
    assert e.checks[0].status == "ok", "the rows are made of what the wrong kernel handed on"
    assert e.checks[1].status == "differs" and not e.ok


# ---- data ----------------------------------------------------------------------------------


def test_to_dict_and_csv_hold_every_row():
    net, x, dy = pool_to_conv()
    e = gr.explain(net, "pool", (0, 1, 1), x=x, dy=dy)
    found = json.loads(json.dumps(e.to_dict()))
    assert found["total"] == e.total and found["unit"] == [0, 1, 1]
    assert [tuple(row[name] for name in FIELDS) for row in found["terms"]] == e.terms.tolist()
    rows = list(csv.reader(io.StringIO(e.to_csv())))
    assert tuple(rows[0]) == FIELDS
    read = [(row[0], *map(float, row[1:])) for row in rows[1:]]
    assert read == e.terms.tolist()


def test_to_csv_writes_the_file(tmp_path):
    net, x, dy = pool_to_conv()
    e = gr.explain(net, "pool", (0, 1, 1), x=x, dy=dy)
    text = e.to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == text


def test_a_hundred_thousand_consumers_are_all_there_and_the_shown_rows_add_up():
    net = small(fc=gr.nn.Linear(4, 100_000))
    dy = np.random.default_rng(0).standard_normal((1, 100_000))
    e = gr.explain(net, "input", 3, x=np.ones((1, 4)), dy=dy)
    assert len(e.terms) == 100_000 and e.ok
    assert e.total == pytest.approx(float(dy[0] @ net.parameters()["fc.w"][:, 3]), rel=1e-12)
    chosen, left, rest = e.largest(12)
    assert (len(chosen), left) == (11, 99_989)
    assert e.terms["product"][chosen].sum() + rest == pytest.approx(e.total)
    assert np.abs(e.terms["product"]).max() == abs(e.terms["product"][chosen[0]])
    assert "99,989 smaller terms together" in e.text(width=100)


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, unit, error, words",
    [
        ("pool2", (0, 0, 0), gr.errors.ArgumentValueError, "there is no layer 'pool2'.*pool1"),
        (3, (0, 0, 0), gr.errors.ArgumentTypeError, "must be a name.*pool1"),
        ("pool1", (0, 3, 0), gr.errors.IndexRangeError, r"from 0 to 2.*\(2, 3, 3\)"),
        ("pool1", (0, -1, 0), gr.errors.ArgumentValueError, "at least 0"),
        ("pool1", (0, 1), gr.errors.ArgumentValueError, r"has 3 indices.*\(2, 3, 3\)"),
        ("pool1", (0, 1, 1.5), gr.errors.ArgumentTypeError, "integer"),
        ("pool1", (0, 1, True), gr.errors.ArgumentTypeError, "bool"),
        ("pool1", "0,1,1", gr.errors.ArgumentTypeError, "tuple of integers"),
    ],
)
def test_a_layer_or_unit_that_is_not_there_is_refused_with_the_choices(layer, unit, error, words):
    net, (x, dy) = small(), data()
    with pytest.raises(error, match=words):
        gr.explain(net, layer, unit, x=x, dy=dy)
    with pytest.raises(error, match=words):
        gr.compare(net, layer, [unit, unit], x=x, dy=dy)


@pytest.mark.parametrize(
    "changed, error, words",
    [
        ({"dy": None}, gr.errors.ArgumentValueError, "either dy= .* or labels="),
        ({"labels": np.array([0, 1])}, gr.errors.ArgumentValueError, "either dy= .* or labels="),
        ({"dy": np.ones((1, 3))}, gr.errors.ArgumentValueError, r"\(2, 3\), got \(1, 3\)"),
        ({"dy": [[1.0, 2, 3]] * 2}, gr.errors.ArgumentTypeError, "array"),
        ({"sample": 2}, gr.errors.IndexRangeError, "choose 0 to 1"),
        ({"dy": None, "labels": np.array([0, 9])}, gr.errors.GradrouteError, "label"),
        ({"dy": None, "labels": np.array([9, 0])}, gr.errors.IndexRangeError, r"labels\[0\]"),
        ({"dy": None, "labels": np.array([0])}, gr.errors.ArgumentValueError, "per sample"),
        ({"x": np.ones((2, 1, 5))}, gr.errors.GradrouteError, "conv1"),
        ({"net": "net"}, gr.errors.ArgumentTypeError, "Sequential"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(changed, error, words):
    x, dy = data()
    arguments = {"net": small(), "layer": "pool1", "unit": (0, 0, 0), "x": x, "dy": dy, "sample": 1}
    with pytest.raises(error, match=words):
        gr.explain(**{**arguments, **changed})


def test_without_x_and_dy_the_last_pass_of_the_network_is_explained():
    net, (x, dy), units = small(), data(), [(0, 0, 0), (0, 1, 1)]
    net.forward(x)
    for function, which in ((gr.explain, units[0]), (gr.compare, units)):
        with pytest.raises(gr.errors.ArgumentValueError, match="last backward pass"):
            function(net, "pool1", which)
    net.backward(dy)
    for sample in (0, 1):
        given, kept = {"x": x, "dy": dy, "sample": sample}, {"sample": sample}
        one, other = (gr.explain(net, "pool1", units[0], **how) for how in (given, kept))
        assert one.total == other.total and (one.terms == other.terms).all()
        one, other = (gr.compare(net, "pool1", units, **how) for how in (given, kept))
        assert str(one) == str(other)
    with pytest.raises(gr.errors.ArgumentValueError, match="either dy="):
        gr.explain(net, "pool1", units[0], x=x)  # another x than the last one, as far as is known
    net.forward(x)
    with pytest.raises(gr.errors.ArgumentValueError, match="either dy="):
        gr.explain(net, "pool1", units[0])


def test_a_network_without_weights_is_refused_and_says_what_it_has():
    net = gr.nn.Sequential(relu=gr.nn.Activation("relu"), pool=gr.nn.MaxPool(2))
    for function, unit in ((gr.explain, (0, 0, 0)), (gr.compare, [(0, 0, 0)] * 2)):
        with pytest.raises(gr.errors.ArgumentValueError, match="no layer with weights.*pool"):
            function(net, "pool", unit, x=np.ones((1, 1, 2, 2)), dy=np.ones((1, 1, 1, 1)))


# ---- the names -----------------------------------------------------------------------------


def test_gr_explain_stays_the_function_and_importing_stays_light():
    code = """
import sys, gradroute as gr
heavy = [name for name in ("numba", "cupy", "matplotlib", "rich") if name in sys.modules]
assert not heavy, heavy
import gradroute.explain.text
from gradroute.explain import explain
import gradroute.explain
assert gr.explain is explain and callable(gr.explain)
import gradroute.nn
assert gr.nn.Sequential
"""
    subprocess.run([sys.executable, "-c", code], check=True)
