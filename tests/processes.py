"""Python programs run in a process of their own, with a time limit: what they break stays there."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

#: Seconds: a cold cache compiles the few kernels that a program uses, on a busy machine.
LIMIT = 120

#: Where the tables beside the tests are, for a program that imports them.
TESTS = str(pathlib.Path(__file__).parent)

PRELUDE = """
import os, sys, threading, time, warnings
import numpy as np
import gradroute as gr
rng = np.random.default_rng(0)
x = rng.standard_normal((8, 16, 32, 32), dtype="float32")  # large enough for the parallel build

def work():
    y = gr.avg_pool(gr.activate(x, "relu"), 2)
    return gr.avg_pool_backward(y, x.shape, 2).tobytes()
"""


def run(program, limit=LIMIT, **environment):
    """Runs PRELUDE and the program; fails, with what it wrote, unless it ends with status 0."""
    done = start(program, **environment)
    try:
        out, err = done.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)  # its children too: they hold the pipes
        out, err = done.communicate()
        raise AssertionError(f"no end after {limit} s\n{out}\n{err}") from None
    assert done.returncode == 0, f"status {done.returncode}\n{out}\n{err}"
    return out, err


def start(program, **environment):
    """The same without waiting for the end."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )
