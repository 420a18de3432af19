"""What tests of an algorithm need of the machine; without it they are skipped."""

import pytest

from gradroute.kernels.cpu.emitted import vectors

needs_vectors = pytest.mark.skipif(
    vectors.TARGET is None, reason="this processor has no vectors that the register tile knows"
)
