"""The table of cases keeps its own rules."""

import math

import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, LINEAR, MATMUL, POOL, multiply_adds

LIMIT = 100_000


@pytest.mark.parametrize(
    "family, table", [("conv", CONV), ("conv_transpose", CONV_TRANSPOSE), ("pool", POOL)]
)
def test_every_case_is_small_enough_for_the_kernels_that_run_thread_by_thread(family, table):
    assert {case.name: n for case in table if (n := multiply_adds(case, family)) > LIMIT} == {}


def test_every_matrix_product_is_small_enough():
    for a, b in [*MATMUL, *((x, (x[-1], out)) for x, out, _ in LINEAR)]:
        batch = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
        rows, columns = math.prod(a[-2:-1]), math.prod(b[1:][-1:])
        assert batch * rows * columns * a[-1] <= LIMIT
