"""Counts what the newest quick pass left: `N benchmarks, F failed, S skipped`, one a parameter set.

    python asv_bench/summary.py RESULTS.json

A benchmark that raised NotImplementedError in setup (a backend or a library that is missing) is
skipped; one without a result has failed.  Ends with exit status 1 if any failed or none was run.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path


def outcomes(record: dict):
    """(benchmark with its parameters, its value: a number, NaN or None)"""
    columns = record["result_columns"]
    for name, fields in record["results"].items():
        fields = dict(zip(columns, fields))
        values, params = fields["result"], list(itertools.product(*(fields.get("params") or [])))
        if values is None:  # the whole benchmark failed
            values = [None] * len(params)
        for value, chosen in zip(values, params, strict=True):
            yield f"{name}({', '.join(chosen)})" if chosen else name, value


def main(path: str) -> int:
    found = list(outcomes(json.loads(Path(path).read_text(encoding="utf-8"))))
    failed = [name for name, value in found if value is None]
    skipped = [name for name, value in found if value is not None and math.isnan(value)]
    for name in failed:
        print(f"failed: {name}")
    print(f"{len(found)} benchmarks, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
