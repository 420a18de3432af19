"""The register tile, compiled for AArch64 and run on an emulated processor.

test_cpu_kernels.py runs whole kernels of the same widths.
"""

import pytest

import processes

pytest.importorskip("unicorn")

PROGRAM = """
sys.path.insert(0, {tests!r})
import neon_machine
neon_machine.emit_for_neon()
from numba import types
from gradroute.kernels.cpu import microkernel
from gradroute.kernels.cpu.emitted import strided_tile, vectors

ROWS, COLUMNS = microkernel.ROWS, microkernel.COLUMNS[{dtype!r}]
dtype = getattr(types, {dtype!r})
depth = 13


def pointers(builder, emitter, words, places):
    kind = emitter.element.as_pointer()
    return [builder.inttoptr(word, kind) if i in places else word for i, word in enumerate(words)]


def operands(rows):
    a = rng.standard_normal((depth, rows)).astype({dtype!r})
    b = rng.standard_normal((depth, COLUMNS)).astype({dtype!r})
    c = rng.standard_normal((rows, COLUMNS)).astype({dtype!r})
    return a, b, c


def near(actual, expected):
    assert np.abs(actual - expected).max() <= 30 * np.finfo({dtype!r}).eps, actual - expected


def counts(function, rows):
    # all sums and factors stay in registers: nothing is stored, and nothing read from the stack
    loop = function.loop()
    fused = [line for line in loop if line.startswith("fmla")]
    assert len(fused) == rows * microkernel.VECTORS, loop
    assert not [line for line in loop if "sp" in line or line.startswith("st")], loop
"""

CASES = {
    "packed": """
for rows in (1, 5, ROWS):
    def emit(builder, words):
        emitter = microkernel.Tile(builder, dtype, rows, table_of_a=False)
        a, a_step, b, table, depth, c, ldc, start, resume = pointers(
            builder, emitter, words, (0, 2, 5, 7))
        table = builder.inttoptr(table, vectors.const(0).type.as_pointer())
        resume = builder.icmp_signed("!=", resume, vectors.const(0))
        emitter.emit(a, a_step, b, table, depth, c, ldc, start, resume)
    function = neon_machine.Function(9, emit)
    a, b, c = operands(rows)
    table = (rng.permutation(depth) * COLUMNS).astype("int64")
    product = a.T @ b[table // COLUMNS]
    start = c[:, 0].copy()
    for resume, expected in ((1, c + product), (0, start[:, None] + product)):
        found = function(a, rows, b, table, depth, c, COLUMNS, start, resume)
        near(found[3], expected)
        assert (found[0] == a).all() and (found[1] == b).all()
counts(function, ROWS)
""",
    "as they lie": """
for rows in (1, 5, ROWS):
    def emit(builder, words):
        emitter = strided_tile._StridedTile(builder, dtype, rows)
        a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead, stride = pointers(
            builder, emitter, words, (0, 3, 6, 9))
        resume = builder.icmp_signed("!=", resume, vectors.const(0))
        emitter.emit_strided(a, a_step, a_row, b, b_step, depth, c, ldc, resume, ahead, (stride,))
    function = neon_machine.Function(11, emit)
    a, b, c = operands(rows)
    a = np.ascontiguousarray(a.T)
    for resume, expected in ((1, c + a @ b), (0, a @ b)):
        found = function(a, 1, depth, b, COLUMNS, depth, c, COLUMNS, resume, b, COLUMNS)
        near(found[2], expected)
counts(function, ROWS)
""",
}


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("case", CASES)
def test_the_tile_sums_in_aarch64s_registers(case, dtype):
    program = PROGRAM.format(tests=processes.TESTS, dtype=dtype) + CASES[case]
    processes.run(program)
