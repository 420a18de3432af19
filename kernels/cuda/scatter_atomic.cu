// scatter_add with atomics: no sort, and an order of additions that changes from run to run.
// float32 and float64.
#include "integers.cuh"

struct Strides3 { wide outer, row, inner; };

extern "C" __global__ void scatter_add_atomic(real* out, Strides3 out_s,
                                              const wide* __restrict__ rows,
                                              const real* __restrict__ src, Strides3 src_s,
                                              const wide* bad, wide count, wide inner, wide total) {
  if (failed(bad)) return;
  GR_EACH(e, total) {  // (a, position, b)
    const offset b = e % (offset)inner, rest = e / (offset)inner;
    const offset i = rest % (offset)count, a = rest / (offset)count;
    real* target = out + a * (offset)out_s.outer + (offset)rows[i] * (offset)out_s.row +
                   b * (offset)out_s.inner;
    const real value =
        src[a * (offset)src_s.outer + i * (offset)src_s.row + b * (offset)src_s.inner];
    atomicAdd(target, value);
  }
}
