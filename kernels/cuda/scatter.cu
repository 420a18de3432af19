// scatter_add without atomics: positions sorted by row, and the first of each run of equal rows
// adds the whole run, in the order of the index.
#include "integers.cuh"

enum Mode { RAISE, WRAP, CLIP };

extern "C" __global__ void check_index(wide* bad, wide* __restrict__ rows, const void* index,
                                       int bytes, int is_signed, wide step, wide size, int mode,
                                       wide total) {
  GR_EACH(i, total) {
    const wide v = load_integer(index, bytes, is_signed, i * (offset)step);
    const bool huge = bytes == 8 && !is_signed && v < 0;  // a uint64 beyond int64
    wide row = v;
    if (mode == WRAP) {
      row = huge ? (wide)((unsigned long long)v % (unsigned long long)size) : v % size;
      if (row < 0) row += size;
    } else if (mode == CLIP) {
      row = huge || v >= size ? size - 1 : v < 0 ? 0 : v;
    } else if (huge || v < -size || v >= size) {
      record_bad(bad, i);
      row = 0;
    } else if (v < 0) {
      row = v + size;
    }
    rows[i] = row;
  }
}

struct Strides3 { wide outer, row, inner; };  // of an (A, R, B) or (A, I, B) array

// order: the positions 0..count-1 sorted by their row, equal rows in order.
extern "C" __global__ void scatter_add_sorted(real* out, Strides3 out_s,
                                              const wide* __restrict__ rows,
                                              const wide* __restrict__ order,
                                              const real* __restrict__ src, Strides3 src_s,
                                              const wide* bad, wide count, wide inner, wide total) {
  if (failed(bad)) return;
  GR_EACH(e, total) {  // (a, position, b)
    const offset b = e % (offset)inner, rest = e / (offset)inner;
    const offset first = rest % (offset)count, a = rest / (offset)count;
    const wide row = rows[order[first]];
    if (first > 0 && rows[order[first - 1]] == row) continue;  // another thread owns this run
    real* target = out + a * (offset)out_s.outer + (offset)row * (offset)out_s.row +
                   b * (offset)out_s.inner;
    accum sum = widen(*target);
    for (offset p = first; p < (offset)count && rows[order[p]] == row; ++p)
      sum += widen(src[a * (offset)src_s.outer + (offset)order[p] * (offset)src_s.row +
                       b * (offset)src_s.inner]);
    *target = rounded<real>(sum);
  }
}
