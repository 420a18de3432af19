"""The comparison machinery: cases, checks, peers, ratios, records.  No test looks at a time."""

import csv
import itertools
import json
import math
import pathlib
import subprocess

import numpy as np
import pytest

import gradroute as gr
from gradroute.bench import causes, lines, machine, measure, peers, record, report
from gradroute.bench.cases import FAMILIES, Case, load_cases, operations
from gradroute.bench.peers import Peer, Run
from gradroute.bench.peers.ours import Ours
from gradroute.bench.record import Row, Timing

SMALL = [
    Case(op, "small", tuple(sizes.items()))
    for family, sizes in {
        "conv": dict(N=2, C=4, H=7, W=6, K=6, R=3, S=3, stride=2, padding=1, dilation=1, groups=2),
        "pool": dict(N=2, C=3, H=8, W=7, window=3, stride=2, padding=1),
        "linear": {"N": 3, "in": 5, "out": 4},
        "matmul": dict(B=2, I=3, L=4, J=5),
        "scatter": dict(count=20, inner=3, rows=6),
    }.items()
    for op in FAMILIES[family]
]


def by_op(case):
    return case.op


# ---- cases --------------------------------------------------------------------------------


def test_every_row_of_every_shapes_file_is_a_case_of_every_operation_of_its_family():
    folder = pathlib.Path(__file__).parent.parent / "asv_bench" / "shapes"
    rows = {f: sum(1 for _ in csv.DictReader((folder / f"{f}.csv").open())) for f in FAMILIES}
    cases = load_cases()
    assert len(cases) == sum(rows[family] * len(ops) for family, ops in FAMILIES.items())
    assert rows["conv"] >= 50 and rows["pool"] >= 8


@pytest.mark.parametrize("case", SMALL, ids=by_op)
def test_inputs_have_the_declared_shapes_and_are_the_same_at_every_call(case):
    first, second = case.inputs("float32"), case.inputs("float32")
    for name, shape in case.shapes.items():
        assert first[name].shape == shape and first[name].flags.c_contiguous
        assert first[name].tobytes() == second[name].tobytes()
        assert name == "index" or first[name].dtype == np.float32


def test_declared_output_shapes_are_those_of_the_functions():
    for case in load_cases("conv_forward", rows="lenet:|alexnet:conv1|dilated"):
        x, w = (np.zeros(case.shapes[name], np.float32) for name in "xw")
        plan_y = gr.conv(x[:1], w, **case.options)
        assert plan_y.shape[1:] == case.shapes["dy"][1:]


def test_flops_of_a_convolution_count_two_for_each_product():
    case = next(c for c in SMALL if c.op == "conv_forward")
    n, k, p, q = case.shapes["dy"]
    assert case.flops == 2 * n * k * p * q * 2 * 3 * 3  # C/G = 2


def test_a_shapes_file_of_the_user_tells_its_family_by_its_header(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("name,N,in,out\nfirst,2,3,4\nsecond,5,6,7\n")
    cases = load_cases(shapes=str(file))
    assert [(c.op, c.name, c["out"]) for c in cases] == [
        ("linear_backward", "first", 4), ("linear_backward", "second", 7)]  # fmt: skip


@pytest.mark.parametrize("text", ["", "name,a,b\nx,1,2\n", "name,N,in,out\nx,1,2,three\n"])
def test_an_unusable_shapes_file_is_refused(tmp_path, text):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(gr.GradrouteError, match="bad.csv"):
        load_cases(shapes=str(file))


def test_operations_are_chosen_by_family_or_by_name():
    assert operations("pool,conv_dw") == ["conv_dw", "pool_forward", "pool_backward"]
    with pytest.raises(gr.GradrouteError, match="unknown operation 'convolve'"):
        operations("convolve")
    with pytest.raises(gr.GradrouteError, match="no case is left"):
        load_cases("pool", rows="no such row")


# ---- sides --------------------------------------------------------------------------------


def reference(case, inputs):
    """The case in float64 on gradroute's reference backend."""
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    oracle = Ours(1, backend="reference")
    with oracle.settings():
        run = oracle.prepare(case, wide)
        return run.read(run.call())


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", SMALL, ids=by_op)
def test_gradroute_in_either_layout_agrees_with_the_reference(case, layout):
    ours = Ours(1, "numba", layout)
    inputs = case.inputs("float32")
    with ours.settings():
        run = ours.prepare(case, inputs)
        got = run.read(run.call())
    assert measure.error_to(reference(case, inputs), got) <= measure.TOLERANCE["float32"]


@pytest.mark.parametrize("name, case", list(itertools.product(peers.known(), SMALL)),
                         ids=lambda value: getattr(value, "op", value))  # fmt: skip
def test_each_peer_computes_what_gradroute_does(name, case):
    peer = peers.peer_class(name)
    if peer.missing():
        pytest.skip(f"{name} is not installed: {peer.missing()}")
    inputs = case.inputs("float32")
    before = {key: array.copy() for key, array in inputs.items()}
    run = peer(1).prepare(case, inputs)
    if run is None:
        pytest.skip(f"{name} has no {case.op} for these sizes")
    got, wanted = run.read(run.call()), reference(case, inputs)
    assert len(got) == len(wanted) or run.note
    assert measure.error_to(wanted[: len(got)], got) <= 1e-6
    for key, array in inputs.items():
        assert array.tobytes() == before[key].tobytes()


def test_the_expected_values_are_those_of_the_reference():
    for case in SMALL:
        inputs = case.inputs("float32")
        wanted = measure.expected(case, inputs, 1)
        assert measure.error_to(reference(case, inputs), wanted) <= 1e-14


class Off(Peer):
    """A library whose result is off by a given factor, or that raises."""

    name, module, install = "off", "numpy", "nothing to install"

    def __init__(self, factor):
        super().__init__(1)
        self.factor = factor

    def linear_backward(self, case, inputs):
        if self.factor is None:
            raise MemoryError("out of it\nsecond line")
        results = [inputs["dy"] @ inputs["w"], inputs["dy"].T @ inputs["x"]]
        return Run(lambda: [self.factor * array for array in results], list)


def test_a_wrong_or_failing_side_is_named_and_not_timed():
    case = next(c for c in SMALL if c.family == "linear")
    ours = Ours(1)
    sides = [Off(1.0), Off(1.001), Off(None)]
    row = measure.measure(case, ours, sides, seconds=0, dtype="float32")
    mine, right, wrong, failing = row.timings
    assert mine.seconds > 0 and right.seconds > 0 and right.calls == 5
    assert wrong.seconds is None and wrong.note.startswith("wrong: error 1.0e-03")
    assert failing.seconds is None and failing.note == "MemoryError: out of it"
    assert row.failure is None


def test_a_side_without_the_operation_does_not_take_part():
    case = next(c for c in SMALL if c.family == "matmul")
    row = measure.measure(case, Ours(1), [Off(1.0)], seconds=0, dtype="float32")
    assert row.timings[1].note == record.ABSENT and row.over("off") is None


def test_errors_are_infinite_for_other_shapes_integers_and_nan():
    ones = np.ones((2, 2))
    assert measure.error_to([ones], [ones * (1 + 1e-3)]) == pytest.approx(1e-3)
    assert measure.error_to([ones], [ones[0]]) == math.inf
    assert measure.error_to([np.arange(3)], [np.array([0, 1, 3])]) == math.inf
    assert measure.error_to([ones], [ones * np.nan]) == math.inf
    assert measure.error_to([ones, ones], [ones]) == math.inf


def test_timed_calls_come_right_after_an_untimed_one_and_every_second_round_goes_backwards(
    monkeypatch,
):
    events = []
    monkeypatch.setattr(measure, "WAKE", 0)
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: events.append(seconds))
    calls = [lambda: events.append("a"), lambda: events.append("b")]
    times = measure.alternate(calls, seconds=0, turns=2)
    pause = measure.PAUSE
    assert events == [pause, *"aa", pause, *"bb", pause, *"bb", pause, *"aa"]
    assert [len(t) for t in times] == [2, 2]


def test_a_side_that_takes_far_longer_than_its_share_is_not_waited_for_again(monkeypatch):
    now, ran = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: None)

    def slow():
        now[0] += 9
        ran.append("slow")

    def quick():
        now[0] += 0.01

    times = measure.alternate([slow, quick], seconds=1)
    assert times[0] == [9] and len(ran) == 2
    assert len(times[1]) == 30  # 0.5 s in five turns: 6 timed calls each, between 5 untimed ones


# ---- ratios and records -------------------------------------------------------------------


def row(name, op="conv_dx", **seconds):
    timings = [Timing(side.replace("_", " ", 1), value) for side, value in seconds.items()]
    return Row(op, name, {}, "float32", "channels_first", "numba", 2, 10, 10, timings)


def test_ratios_means_and_worst_cases():
    rows = [
        row("fast", gradroute=1.0, pytorch=8.0, pytorch_channels_last=2.0),
        row("slow", gradroute=2.0, pytorch=4.0, pytorch_channels_last=1.0),
        row("alone", gradroute=2.0),
    ]
    assert rows[0].over("pytorch") == 8 and rows[0].over(*record.PYTORCH) == 2
    default = record.summarize(rows, "", "pytorch")
    assert (default.cases, default.mean, default.worst) == (2, pytest.approx(4), 2)
    best = record.summarize(rows, "", *record.PYTORCH)
    assert best.mean == pytest.approx(1) and best.worst_case == "conv_dx slow" and best.lost == 1
    assert any("conv_dx slow" in text and "0.50x" in text for text in lines.closing(rows))


def conv_row(seconds, theirs, **sizes):
    sizes = {"C": 128, "H": 56, "W": 56, "R": 3, "S": 3, "stride": 1, "groups": 1, **sizes}
    timings = [Timing("gradroute", seconds), Timing("pytorch", theirs)]
    return Row("conv_dx", "row", sizes, "float32", "channels_first", "numba", 2, 100, 1, timings)


@pytest.mark.parametrize(
    "cause, row",
    [
        ("small", conv_row(2e-4, 1e-4, C=3)),
        ("first layer", conv_row(2.0, 1.0, C=3)),
        ("depthwise", conv_row(2.0, 1.0, groups=128)),
        ("strided 1x1", conv_row(2.0, 1.0, R=1, S=1, stride=2)),
        ("few pixels", conv_row(2.0, 1.0, H=7, W=7)),
        ("none known", conv_row(2.0, 1.0)),
        ("near the ceiling", conv_row(1.25, 1.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lost_row_has_the_cause_that_its_sizes_and_times_tell(cause, row):
    ceilings = {"flops": 100.0, "bytes": 100.0}  # the row's roofline is one second
    assert causes.cause(row, ceilings) == cause
    text = "\n".join(report.losses([row], ceilings))
    assert f"row ({row.over('pytorch'):.2f}x, {cause})" in text and f"| {cause} |" in text


def test_the_share_of_the_roofline_is_the_time_allowed_by_the_lower_ceiling():
    row = conv_row(4.0, 2.0)
    assert causes.share(row, {"flops": 100.0, "bytes": 100.0}) == 0.25
    assert causes.share(row, {"flops": 100.0, "bytes": 0.5}) == 0.5
    assert causes.share(row, {"flops": 100.0, "bytes": 0.5}, "pytorch") == 1
    assert causes.share(row, {"flops": 100.0, "bytes": 0.5}, "jax") is None


def test_the_machine_s_description_names_the_commit_that_was_measured():
    head = subprocess.run(["git", "-C", pathlib.Path(__file__).parent, "rev-parse", "HEAD"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if head.returncode:
        pytest.skip("not in a git checkout")
    root = pathlib.Path(__file__).parents[1]
    editable = pathlib.Path(gr.__file__).is_relative_to(root)
    assert (machine.commit() or "").startswith(head.stdout[:12] if editable else "")


def test_a_record_comes_back_as_it_was_and_new_rows_replace_old_ones(tmp_path):
    path = tmp_path / "record.json"
    first = {"rows": [row("a", gradroute=1.0), row("b", gradroute=2.0)], "machine": {"cpu": "x"}}
    first["rows"][0].timings[0].error = math.inf
    record.save(path, first)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    merged = record.merge(record.load(path), {"rows": [row("b", gradroute=3.0)]})
    assert [(r.name, r.seconds("gradroute")) for r in merged["rows"]] == [("a", 1.0), ("b", 3.0)]
    assert merged["machine"] == {"cpu": "x"}
    assert record.load(tmp_path / "absent.json") == {"rows": []}


def test_the_fitted_exponent_is_that_of_a_power():
    from gradroute.bench import scaling

    sizes = np.array([2, 4, 8, 16])
    assert scaling.exponent(sizes, 3e-6 * sizes**1.5) == pytest.approx(1.5)


# ---- the command --------------------------------------------------------------------------


def test_the_command_writes_a_record_and_a_report_from_it(tmp_path):
    pytest.importorskip("matplotlib")
    runner = pytest.importorskip("typer.testing").CliRunner()
    from gradroute.cli.app import app

    kept, report = tmp_path / "run.json", tmp_path / "benchmarks.md"
    chosen = ["--rows", "digits", "--peers", "numpy im2col", "--seconds", "0", "--threads", "1"]
    done = runner.invoke(app, ["bench", "--ops", "pool,linear", *chosen, "--json", str(kept)])
    assert done.exit_code == 0, done.output
    assert {r.op for r in record.load(kept)["rows"]} == {
        "pool_forward", "pool_backward", "linear_backward"}  # fmt: skip
    first = record.load(kept)["rows"][0].timings[0].seconds
    more = ["bench", *chosen, "--json", str(kept), "--ops", "pool", "--continue"]
    done = runner.invoke(app, more)
    assert done.exit_code == 0 and record.load(kept)["rows"][0].timings[0].seconds == first
    again = ["bench", "--no-run", "--json", str(kept), "--report", str(report)]
    done = runner.invoke(app, again)
    assert done.exit_code == 0, done.output
    text = report.read_text()
    assert "digits:max_pool1" in text and "Where gradroute loses" in text
    for picture in ("speedup", "roofline"):
        image = tmp_path / "benchmarks" / f"{picture}.png"
        assert image.read_bytes().startswith(b"\x89PNG") and f"benchmarks/{picture}.png" in text


def test_the_command_refuses_what_it_does_not_know():
    runner = pytest.importorskip("typer.testing").CliRunner()
    from gradroute.cli.app import app

    for wrong in (["--backend", "opencl"], ["--peers", "tensorflow"], ["--layout", "NHWC"]):
        done = runner.invoke(app, ["bench", *wrong])
        assert done.exit_code == 2 and wrong[1] in done.output
