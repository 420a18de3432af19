// What the tensor-core kernels share: one warp's products, whatever the number type.
//
// GR_PRODUCT chooses it:
//   TF32    float32 already rounded to TF32 (conv_pack.cu)
//   SPLIT   float32 as the sum of two TF32 numbers, three products: float32's accuracy.
//           Markidis et al. 2018, arXiv:1803.04014.  The tensor cores cut their sums off instead
//           of rounding them, which adds up over a long sum: so they sum 8 products, and the float
//           units the rest.  Ootomo & Yokota 2022, arXiv:2203.03341, section 3
//   HALF    float16 or bfloat16, by GR_REAL
#pragma once
#include "conv.cuh"

#define TF32 1
#define SPLIT 2
#define HALF 3

constexpr int STAGES = 3;                         // tiles in flight: one used, two on their way
constexpr int VECTOR = 16 / (int)sizeof(real);    // elements that cp.async moves
constexpr int STEP = 8 * 4 / (int)sizeof(real);   // summands of one mma: 8 words of them
constexpr int UNROLL = GR_PRODUCT == SPLIT ? 1 : 2;  // steps at once: split numbers take registers

#if GR_PRODUCT == HALF
__device__ __forceinline__ void mma_16(const f16*, float (&d)[4], const unsigned (&a)[4],
                                       const unsigned (&b)[2]) {
  mma_f16(d, a, b);
}
__device__ __forceinline__ void mma_16(const b16*, float (&d)[4], const unsigned (&a)[4],
                                       const unsigned (&b)[2]) {
  mma_b16(d, a, b);
}
#endif

#if GR_PRODUCT == SPLIT
constexpr float LOW_SCALE = 2048;  // low parts of tiny numbers would lose their bits as denormals
__device__ __forceinline__ void split_tf32(unsigned v, unsigned& high, unsigned& low) {
  high = to_tf32(__uint_as_float(v));
  low = to_tf32((__uint_as_float(v) - __uint_as_float(high)) * LOW_SCALE);
}
#endif

// sum += a * b, the fragments as they came from shared memory.
__device__ __forceinline__ void multiply_fragments(float (&sum)[4], const unsigned (&a)[4],
                                                   const unsigned (&b)[2]) {
#if GR_PRODUCT == TF32
  mma_tf32(sum, a, b);
#elif GR_PRODUCT == HALF
  mma_16(static_cast<const real*>(nullptr), sum, a, b);
#else
  unsigned a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) split_tf32(a[i], a_high[i], a_low[i]);
#pragma unroll
  for (int i = 0; i < 2; ++i) split_tf32(b[i], b_high[i], b_low[i]);
  float large[4] = {}, small[4] = {};
  mma_tf32(small, a_low, b_high);
  mma_tf32(small, a_high, b_low);
  mma_tf32(large, a_high, b_high);
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] += multiply_add(small[i], 1 / LOW_SCALE, large[i]);
#endif
}
