"""Scatter-add: every row of src goes to the row of out that its index names, and adds up there."""

import numpy as np


def check_index(rows, index, size, mode, plan, workspace):
    given = index
    if index.dtype != np.uint64:  # the one dtype whose values may not fit int64
        index = index.astype(np.int64)
    if mode == "raise":
        bad = (index < -size) | (index >= size)
        if bad.any():
            return int(np.argmax(bad))
        if rows is not given:
            rows[...] = np.where(index < 0, index.astype(np.int64) + size, index)
    elif mode == "wrap":
        rows[...] = index % index.dtype.type(size)
    else:
        rows[...] = np.clip(index, 0, index.dtype.type(size - 1))
    return -1


@np.errstate(all="ignore")
def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    if bad != -1:
        return
    total = out.astype(np.float64)
    for i, row in enumerate(rows):
        total[:, row] += src[:, i]
    named = np.unique(rows)
    out[:, named] = total[:, named]
