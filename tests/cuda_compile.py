"""Compiles every CUDA kernel for every architecture, without a GPU: `python tests/cuda_compile.py`.

Prints registers and shared memory of each kernel and fails on any warning and any spill.  Results
are kept by content, so only what changed is compiled again.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from gradroute.kernels.cuda import cupy_runtime, launch
from gradroute.kernels.cuda.plans import COMPILATIONS

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
#: where 64-bit offsets are compiled in every test run
WIDE_ON = ("sm_90",)
PTXAS = ("-v", "-warn-spills", "-warn-lmem-usage")
EXTRA = tuple(f"--ptxas-options={flag}" for flag in PTXAS)
_KERNEL = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes "
    r"spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


def jobs(everything=False):
    """(file, options, architecture) of every compilation to check.

    64-bit offsets take 60% of the time and differ in nothing but the width of integers, so they are
    compiled for one architecture unless ``everything`` is wanted.
    """
    found = []
    for file, dtypes, variants in COMPILATIONS:
        for dtype, defines in itertools.product(dtypes, variants):
            narrow, wide = (launch.options(dtype, w, **defines) for w in (False, True))
            found += [(file, narrow, architecture) for architecture in ARCHITECTURES]
            found += [(file, wide, one) for one in (ARCHITECTURES if everything else WIDE_ON)]
    return found


def check(job):
    """{"kernels": [...], "problems": [...]} of one compilation."""
    file, options, architecture = job
    from cupy.cuda import nvrtc

    version = f"{nvrtc.getVersion()} {EXTRA}"
    key = cupy_runtime.cache_key(file, options, architecture, version)
    kept = cupy_runtime.cache_folder() / "checked" / f"{hashlib.sha256(key.encode()).hexdigest()}"
    try:
        return json.loads(kept.read_text())
    except OSError:
        pass
    _, log = cupy_runtime.compile_cubin(file, options, architecture, EXTRA)
    result = read_log(log)
    cupy_runtime.write_atomically(kept, json.dumps(result).encode())
    return result


def read_log(log):
    """The compiler's log as kernels and problems."""
    kernels = [match.groupdict() for match in _KERNEL.finditer(log)]
    problems = [line for line in log.splitlines() if "warning" in line.lower()]
    for kernel in kernels:
        if int(kernel["stores"]) or int(kernel["loads"]):
            problems.append(f"{kernel['kernel']} spills {kernel['stores']} bytes")
    if not kernels:
        problems.append(f"no kernel found in the log: {log!r}")
    return {"kernels": kernels, "problems": problems}


def run(everything=False, threads=2):
    """(job, result) of every compilation."""
    listed = list(jobs(everything))
    with ThreadPoolExecutor(threads) as pool:
        return list(zip(listed, pool.map(check, listed)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--all", action="store_true", help="64-bit offsets on every architecture too"
    )
    results = run(parser.parse_args().all)
    for (file, options, architecture), result in results:
        for kernel in result["kernels"]:
            shared = re.search(r"(\d+) bytes smem", kernel["rest"])
            print(
                f"{architecture:7}{kernel['kernel']:28}{kernel['registers']:>4} registers "
                f"{shared.group(1) if shared else 0:>6} bytes shared  {' '.join(options)}"
            )
        for problem in result["problems"]:
            print(f"{architecture} {file}.cu {' '.join(options)}: {problem}")
    failed = sum(bool(result["problems"]) for _, result in results)
    print(f"{len(results)} compilations, {failed} with warnings or spills")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
