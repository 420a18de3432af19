"""The table of measured errors has every algorithm that gr.plan can name.  No kernel is run."""

import ast
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

import gradroute as gr
from gradroute.bench import accuracy
from gradroute.bench.cases import FAMILIES, load_cases
from gradroute.kernels import cpu
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.emitted.vectors import TARGET

SHAPES = pathlib.Path(__file__).parent.parent / "asv_bench" / "shapes"

#: how the two products of a layer's gradients share one call, of which gr.plan has no operation
OF_LINEAR_BACKWARD = {"together", "apart"}

#: how maximum pools are computed, which gives the numbers of x themselves
OF_MAX_POOL = {"by_axes"}


def forms(case):
    dtypes = {"index": np.dtype("int64")}
    return {name: _Form(shape, dtypes.get(name, np.dtype("float32")))
            for name, shape in case.shapes.items()}  # fmt: skip


class _Form(SimpleNamespace):
    """The shape and dtype of an array that is not there."""

    def __init__(self, shape, dtype):
        super().__init__(shape=shape, dtype=dtype)

    def swapaxes(self, *last_two):
        return _Form((*self.shape[:-2], self.shape[-1], self.shape[-2]), self.dtype)


def served(cases):
    """{(operation, name of its algorithm)} under each of the table's settings."""
    found = set()
    for settings in accuracy.SETTINGS:
        with gr.config(backend="numba", threads=2, **settings):
            for case in cases:
                found |= {(case.op, name) for name in accuracy.algorithms(case, forms(case))}
    return found


def named_in_the_sources():
    """Every string that the CPU backend gives a plan as its algorithm."""
    found = {"direct"}  # of which every plan is made
    for file in pathlib.Path(cpu.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "algorithm":
                found |= {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
    return {one for one in found if isinstance(one, str)}


@pytest.mark.skipif(not TARGET, reason="this machine's only algorithm is direct: no vectors")
def test_every_algorithm_that_a_plan_can_name_is_in_the_table():
    listed = {part for _, name in served(accuracy.cases()) for part in name.split(": ")}
    named = named_in_the_sources() - OF_LINEAR_BACKWARD - OF_MAX_POOL
    assert {"direct", "winograd", "pointwise", "strips", "matrix_vector"} <= named
    if not amx_tiles.available():
        named.discard("amx")
    assert named <= listed


@pytest.mark.parametrize("family", ["conv", "matmul", "scatter"])
def test_whatever_serves_a_benchmark_s_row_is_in_the_table(family):
    """By operation: winograd's dw errs in another way than its forward pass."""
    operations = ",".join(FAMILIES[family])
    rows = load_cases(operations) + load_cases(
        operations, shapes=str(SHAPES / "others" / f"{family}.csv")
    )
    assert served(rows) <= served(accuracy.cases())
