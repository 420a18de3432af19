// Gradient of the filters as an implicit GEMM: dy (K x pixels) times x's columns (pixels x taps*C),
// the pixels shared out over `splits` blocks whose partial sums are added in a fixed order.
// And the gradient of the bias, in the same two steps.
//
// Compiled with GR_TILE_M filters x GR_TILE_N columns x GR_TILE_K pixels, as conv_gather.cu.
#include "conv.cuh"

constexpr int TILE_M = GR_TILE_M, TILE_N = GR_TILE_N, TILE_K = GR_TILE_K;
constexpr int THREAD_M = GR_THREAD_M, THREAD_N = GR_THREAD_N;
constexpr int COLUMNS = TILE_N / THREAD_N;  // threads along the columns
constexpr int THREADS = COLUMNS * (TILE_M / THREAD_M);
constexpr int PAD = 4;

struct Pixel { offset dy, x, d, h, w; };  // its place in dy; its first tap in x
struct Column { offset x, d, h, w; };  // relative to the first tap

__device__ __forceinline__ Pixel pixel_of(const Conv& g, const Strides& dys, const Strides& xs,
                                          offset i, offset end) {
  if (i >= end) return {-1, 0, 0, 0, 0};
  const Point o = unflatten(i, 1, g.d.out, g.h.out, g.w.out);
  Pixel e;
  e.dy = at(dys, o);
  e.d = input_of(g.d, o.d, 0), e.h = input_of(g.h, o.h, 0), e.w = input_of(g.w, o.w, 0);
  e.x = o.n * (offset)xs.n + e.d * (offset)xs.d + e.h * (offset)xs.h + e.w * (offset)xs.w;
  return e;
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_filter(accum* __restrict__ partial, const real* __restrict__ dy, Strides dys,
            const real* __restrict__ x, Strides xs, Conv g, wide filter_tiles, wide column_tiles,
            wide split_length) {
  GR_SHARED(accum, gradients, [TILE_K][TILE_M + PAD]);
  GR_SHARED(accum, inputs, [TILE_K][TILE_N + PAD]);
  GR_SHARED(Pixel, places, [2][TILE_K]);
  GR_SHARED(Column, columns, [TILE_N]);
  const int tid = threadIdx.x;
  // blockIdx.x counts (split, group, filter tile, column tile)
  offset block = (offset)blockIdx.x;
  const offset n0 = block % (offset)column_tiles * TILE_N;
  block /= (offset)column_tiles;
  const offset m0 = block % (offset)filter_tiles * TILE_M;
  block /= (offset)filter_tiles;
  const offset group = block % (offset)g.groups, split = block / (offset)g.groups;
  const offset taps = (offset)(g.d.window * g.h.window * g.w.window);
  const offset width = (offset)g.channels * taps;
  const offset total = (offset)(g.batch * g.d.out * g.h.out * g.w.out);
  const offset begin = split * (offset)split_length;
  const offset end = min(begin + (offset)split_length, total);
  const real* gradient = dy + group * (offset)g.out_channels * (offset)dys.c;
  const real* image = x + group * (offset)g.channels * (offset)xs.c;

  for (int n = tid; n < TILE_N; n += THREADS) {  // column (c, t, r, s), as dw lies in memory
    const Point f =
        unflatten(n0 + n < width ? n0 + n : 0, g.channels, g.d.window, g.h.window, g.w.window);
    Column e;
    e.d = f.d * (offset)g.d.dilation, e.h = f.h * (offset)g.h.dilation;
    e.w = f.w * (offset)g.w.dilation;
    e.x = f.c * (offset)xs.c + e.d * (offset)xs.d + e.h * (offset)xs.h + e.w * (offset)xs.w;
    columns[n] = e;
  }
  if (tid < TILE_K) places[0][tid] = pixel_of(g, dys, xs, begin + tid, end);
  __syncthreads();

  // Consecutive threads read consecutive pixels.
  static_assert(THREADS % TILE_K == 0, "every thread loads one pixel's values");
  const int my_k = tid % TILE_K;
  accum sum[THREAD_M][THREAD_N] = {};
  int stage = 0;
  for (offset start = begin; start < end; start += TILE_K, stage ^= 1) {
    const Pixel& e = places[stage][my_k];
    const bool has_pixel = start + my_k < end;
#pragma unroll
    for (int m = tid / TILE_K; m < TILE_M; m += THREADS / TILE_K) {
      const bool read = has_pixel && m0 + m < (offset)g.out_channels;
      gradients[my_k][m] = read ? widen(gradient[e.dy + (m0 + m) * (offset)dys.c]) : (accum)0;
    }
#pragma unroll
    for (int n = tid / TILE_K; n < TILE_N; n += THREADS / TILE_K) {
      const Column& f = columns[n];
      const bool read = has_pixel && n0 + n < width && inside(g.d, e.d + f.d) &&
                        inside(g.h, e.h + f.h) && inside(g.w, e.w + f.w);
      inputs[my_k][n] = read ? widen(image[e.x + f.x]) : (accum)0;
    }
    if (tid < TILE_K) places[stage ^ 1][tid] = pixel_of(g, dys, xs, start + TILE_K + tid, end);
    __syncthreads();
    const int m = tid / COLUMNS * THREAD_M, n = tid % COLUMNS * THREAD_N;
#pragma unroll
    for (int k = 0; k < TILE_K; ++k) {
      accum a[THREAD_M], b[THREAD_N];
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i) a[i] = gradients[k][m + i];
#pragma unroll
      for (int j = 0; j < THREAD_N; ++j) b[j] = inputs[k][n + j];
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) sum[i][j] = multiply_add(a[i], b[j], sum[i][j]);
    }
    __syncthreads();
  }

  // partial (splits, G * K/G, C/G * taps)
  accum* mine = partial + (split * (offset)g.groups + group) * (offset)g.out_channels * width;
#pragma unroll
  for (int i = 0; i < THREAD_M; ++i) {
    const offset m = m0 + tid / COLUMNS * THREAD_M + i;
#pragma unroll
    for (int j = 0; j < THREAD_N; ++j) {
      const offset n = n0 + tid % COLUMNS * THREAD_N + j;
      if (m < (offset)g.out_channels && n < width) mine[m * width + n] = sum[i][j];
    }
  }
}
