"""gradroute beside PyTorch on every row of shapes/: one process, alternating, equal threads.

    python asv_bench/compare.py --ops conv,pool --rows resnet --seconds 0.5

Each side's result is checked against float64 before it is timed, and each timed call comes right
after an untimed one of its own side, in a turn that begins with an idle pause.  A row per case,
no case left out; then the geometric means and the worst cases over PyTorch's default layout and
over the better of its two.  Ends with exit status 1 if gradroute failed or was wrong anywhere.
The machinery is gradroute.bench, which `gradroute bench` shows with more libraries, tables and
pictures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

# Set on some machines for the sake of old OpenBLAS builds; it slows NumPy's own products.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

from gradroute.bench import lines  # noqa: E402
from gradroute.bench.cases import FAMILIES, load_cases  # noqa: E402
from gradroute.bench.measure import measure_all, sides  # noqa: E402
from gradroute.bench.record import PYTORCH, load, merge, save  # noqa: E402
from gradroute.config import available_threads  # noqa: E402
from gradroute.errors import GradrouteError  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    operations = ", ".join(f"{family} ({', '.join(ops)})" for family, ops in FAMILIES.items())
    parser.add_argument("--ops", help=f"comma-separated families or operations: {operations}")
    parser.add_argument("--rows", help="regular expression that a row's name must contain")
    parser.add_argument("--shapes", help="a CSV of shapes instead of those beside this file")
    parser.add_argument("--seconds", type=float, default=0.3, help="timing per case (default 0.3)")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument(
        "--layout", default="channels_first", choices=("channels_first", "channels_last"),
        help="of gradroute's images; PyTorch is measured in both either way",
    )  # fmt: skip
    parser.add_argument("--backend", default="numba", choices=("numba", "reference", "cuda"))
    parser.add_argument("--json", help="write the rows here, over those that it holds already")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    start = time.perf_counter()
    try:
        cases = load_cases(options.ops, options.rows, options.shapes)
        ours, peers, missing = sides(
            PYTORCH, threads=options.threads, backend=options.backend, layout=options.layout
        )
        for name, install in missing.items():
            print(f"{name} is not installed: {install}")
        shown = [ours.name, *(peer.name for peer in peers)]
        print(lines.head(shown), flush=True)
        rows = []
        for row in measure_all(cases, ours, peers, seconds=options.seconds, dtype=options.dtype):
            rows.append(row)
            print(lines.line(row, shown), flush=True)
    except GradrouteError as error:
        sys.exit(f"compare.py: {error}")
    print()
    print("\n".join(lines.closing(rows)))
    print(
        f"{len(rows)} cases, {options.dtype}, {options.threads} threads each, ours {options.layout}"
        f" on {options.backend}, median of 5 calls or more, {time.perf_counter() - start:.0f} s"
    )
    if options.json:
        save(options.json, merge(load(options.json), {"rows": rows}))
    return 1 if any(row.failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
