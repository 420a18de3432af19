// Softmax cross-entropy: one warp per row of logits, then one block that sums the rows' losses in
// a fixed order.
#include "integers.cuh"

#define GR_ALL 0xffffffffu

__device__ __forceinline__ float exponential(float v) { return expf(v); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }
__device__ __forceinline__ float logarithm(float v) { return logf(v); }
__device__ __forceinline__ double logarithm(double v) { return log(v); }

__device__ __forceinline__ accum warp_sum(accum v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(GR_ALL, v, o);
  return v;
}
__device__ __forceinline__ accum warp_largest(accum v) {  // NaN if any is
  for (int o = 16; o; o >>= 1) {
    const accum other = __shfl_xor_sync(GR_ALL, v, o);
    v = other > v || other != other ? other : v;
  }
  return v;
}

extern "C" __global__ void check_labels(wide* bad, const void* labels, int bytes, int is_signed,
                                        wide step, wide classes, wide total) {
  GR_EACH(i, total) {
    const wide label = load_integer(labels, bytes, is_signed, i * (offset)step);
    if (label < 0 || label >= classes) record_bad(bad, i);
  }
}

extern "C" __global__ void __launch_bounds__(256) softmax_rows(
    accum* row_loss, real* dlogits, wide dlogits_n, wide dlogits_c, const real* __restrict__ logits,
    wide logits_n, wide logits_c, const void* labels, int bytes, int is_signed, wide step,
    const wide* bad, wide rows, wide classes) {
  if (failed(bad)) return;
  const int lane = threadIdx.x & 31;
  const offset warps = (offset)gridDim.x * (blockDim.x / 32);
  for (offset n = (offset)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; n < (offset)rows;
       n += warps) {
    const real* row = logits + n * (offset)logits_n;
    accum largest = widen(row[0]);
    for (offset c = lane; c < (offset)classes; c += 32) {
      const accum v = widen(row[c * (offset)logits_c]);
      largest = v > largest || v != v ? v : largest;
    }
    largest = warp_largest(largest);
    accum sum = 0;
    for (offset c = lane; c < (offset)classes; c += 32)
      sum += exponential(widen(row[c * (offset)logits_c]) - largest);
    sum = warp_sum(sum);
    const wide label = load_integer(labels, bytes, is_signed, n * (offset)step);
    for (offset c = lane; c < (offset)classes; c += 32) {
      const accum share = exponential(widen(row[c * (offset)logits_c]) - largest) / sum;
      dlogits[n * (offset)dlogits_n + c * (offset)dlogits_c] =
          rounded<real>((share - (c == label ? 1 : 0)) / (accum)rows);
    }
    // log(sum) is not added to `largest`, beside which it could vanish
    if (lane == 0)
      row_loss[n] = logarithm(sum) - (widen(row[(offset)label * (offset)logits_c]) - largest);
  }
}

// loss = mean of the rows' losses; 0/0, NaN, for an empty batch.
extern "C" __global__ void __launch_bounds__(256) mean_loss(real* loss,
                                                            const accum* __restrict__ row_loss,
                                                            const wide* bad, wide rows) {
  GR_SHARED(accum, part, [256]);
  if (failed(bad)) return;
  accum sum = 0;
  for (offset n = threadIdx.x; n < (offset)rows; n += 256) sum += row_loss[n];
  part[threadIdx.x] = sum;
  for (int half = 128; half; half >>= 1) {
    __syncthreads();
    if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) loss[0] = rounded<real>(part[0] / (accum)rows);
}
