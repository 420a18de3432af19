"""Writes docs/reliability.md from what a run of ci/stress left.

    stress_report.py TESTS.xml FUZZ.json PAGE.md
"""

from __future__ import annotations

import collections
import json
import pathlib
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

#: title, promise, and the test files that hold it
PROMISES = (
    ("Threads",
     "Any number of Python threads may call at once, on each of Numba's layers (omp, tbb, "
     "workqueue) and inside another library's pool. Under workqueue only the main thread "
     "shares its work. `gr.config.threads` holds for its call and `with` block; Numba's, "
     "OpenMP's and BLAS's own settings stay as they were, and calls start no further "
     "threads.",
     "test_threads.py test_pools.py"),
    ("Processes",
     "After a fork, also in the middle of a call, parent and child compute the same bits; a "
     "child forked after Numba's threads were started runs the serial build. Spawn, "
     "multiprocessing, concurrent.futures, joblib and asyncio work. In a sub-interpreter the "
     "reference backend works where NumPy does, and the others raise BackendError. On a "
     "free-threaded Python importing the package warns: nothing here was tested on one.",
     "test_forks.py test_pools.py"),
    ("Compiled kernels on disk",
     "Two processes may fill one folder at once. A read-only, full or shared folder is said "
     "once and done without; a truncated or foreign file is compiled again.",
     "test_kernel_cache.py"),
    ("Interrupts",
     "KeyboardInterrupt comes when the kernel that is running ends; inputs are as they were "
     "and later calls right. `out` holds whatever had been written. (Python's own import of "
     "Numba, in the first call, is not safe to interrupt.)",
     "test_faults.py"),
    ("Memory",
     "All the memory of a call is asked for before anything is written: after a MemoryError "
     "(WorkspaceError, which is one) `out` and the inputs are as they were. What a kernel takes to "
     "be compiled, for which LLVM would end the process, is asked for when the call comes to it; "
     "`gradroute warmup` compiles all beforehand. Ten thousand calls leave the memory in use flat.",
     "test_faults.py test_memory.py"),
    ("Sizes",
     "Arrays of more than 2^31 elements give right results. Positions and results that 64 "
     "bits cannot count are refused; strides, dilations and padding far beyond the image are "
     "served.",
     "test_sizes.py test_extremes.py"),
    ("Arguments",
     "What does not fit is refused by the package's own error, before anything is written. "
     "Inputs are never written to; an `out` that overlaps an input gives the right result.",
     "test_errors.py test_arrays.py test_fuzz.py"),
    ("Determinism",
     "The same bits over 20 runs, with one thread and several, after a fork, from the cache "
     "or freshly compiled, and wherever the numbers lie in memory. (Where memory is so short "
     "that a fallback's workspace cannot be had, direct loops serve the call, with last bits "
     "of their own.)",
     "test_determinism.py test_forks.py test_kernel_cache.py"),
    ("Security",
     "Loading weights unpickles nothing. The caches of compiled kernels, the CPU's and "
     "the GPU's, are made with the user's rights only, whatever the umask, and are not used where "
     "others could write them. There is no configuration file; values of GRADROUTE_* variables are "
     "compared or read as integers, never evaluated.",
     "test_security.py test_folders.py"),
)  # fmt: skip

HEAD = """# Reliability

What this package promises to somebody whose server, notebook or training job it runs in, and how
each promise is tested. `ci/test` runs the short tests, `ci/stress` all of them and 100,000 random
calls; `ci/stress --report` writes this page.
"""

OUTCOMES = """Random calls end as *right* (agree with the reference in float64), *refused* (by the
package's own error), *allowed* (an odd argument that is one all the same; the result is compared
where the reference can compute it), *no memory*, or *wrong*, of which there must be none."""

DENORMALS = """## Denormal numbers

They are computed with, not flushed. Measured with float32 inputs of the order of 1e-39, on one
thread of a Sapphire Rapids processor, against normal inputs of the same shapes:

| operation | times the normal time |
|---|---|
| convolution, forward and backward; matrix product | 86 to 173 |
| depthwise convolution | 51 |
| avg_pool | 6.2 |
| tanh | 2.2 |
| relu, max_pool and its backward, scatter_add, softmax_cross_entropy, gelu | at most 1.3 |

Sums of products of denormals are slow on the processor itself. Where data may hold many of them
(signals that fade out, very small weights), set them to zero before the call:

    x[np.abs(x) < np.finfo(x.dtype).tiny] = 0
"""


def tests_of(path):
    """Outcomes, and the sums of the properties that tests recorded: name -> number."""
    outcomes, counts, skipped = collections.Counter(), collections.Counter(), []
    files = collections.Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        bad = ("failure", "error", "skipped")
        outcome = next((kind for kind in bad if kind in kinds), "passed")
        outcomes[outcome] += 1
        files[case.get("classname", "").rpartition(".")[2]] += 1
        if outcome == "skipped":
            skipped.append((case.get("name"), case.find("skipped").get("message")))
        for entry in case.iter("property"):
            counts[entry.get("name")] += int(entry.get("value"))
    return outcomes, counts, skipped, files


def page(tests, fuzz):
    outcomes, counts, skipped, files = tests_of(tests)
    fuzzed = json.loads(pathlib.Path(fuzz).read_text())
    lines = [HEAD]
    for title, text, where in PROMISES:
        files_named = ", ".join(f"`{one}`" for one in where.split())
        lines += [f"## {title}", "", *textwrap.wrap(text, 100), "", f"Tests: {files_named}", ""]
    lines += [DENORMALS, "## Counts of the last run", "", "| what | count |", "|---|---|"]
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(outcomes.items()))
    lines.append(f"| tests of this page | {said} |")
    lines += [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
    lines.append(f"| tests of bad inputs | {files['test_errors']:,} tests |")
    total = sum(fuzzed["counts"].values())
    lines.append(f"| random calls | {total:,} |")
    lines += [f"| of these: {kind} | {n:,} |" for kind, n in sorted(fuzzed["counts"].items())]
    if fuzzed["memory"]:
        first, last = fuzzed["memory"][0] >> 20, fuzzed["memory"][-1] >> 20
        lines.append(f"| MiB in use after the first and the last 1,000 of them | {first}, {last} |")
    lines += ["", *textwrap.wrap(OUTCOMES, 100), ""]
    for name, why in skipped:
        lines.append(f"- skipped: {name}: {why}")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    tests, fuzz, to = sys.argv[1:]
    pathlib.Path(to).write_text(page(tests, fuzz))
