// Implicit GEMM on the float units, for y and for dx: a tile of pixels times a tile of channels,
// summed over taps and channels in the order (t, r, s, c).  No column matrix exists anywhere.
//
// Compiled with GR_TILE_M pixels x GR_TILE_N channels x GR_TILE_K summands per block, and a
// GR_THREAD_M x GR_THREAD_N corner of it per thread.
#include "conv.cuh"

constexpr int TILE_M = GR_TILE_M, TILE_N = GR_TILE_N, TILE_K = GR_TILE_K;
constexpr int THREAD_M = GR_THREAD_M, THREAD_N = GR_THREAD_N;
constexpr int COLUMNS = TILE_M / THREAD_M;  // threads along the pixels
constexpr int THREADS = COLUMNS * (TILE_N / THREAD_N);
constexpr int PAD = 4;  // elements: rows stay 16-byte aligned and start in different banks

// Where one summand lies, relative to a pixel's first tap.
struct Summand { offset source, weight, z, p, q; };
struct Pixel { offset source, z, p, q; };  // of its first tap

__device__ __forceinline__ Summand summand_of(const Conv& g, const Lines& l, const Strides& ss,
                                              const WeightStrides& ws, offset k, offset total) {
  if (k >= total) return {0, 0, -1, 0, 0};
  const offset c = k % (offset)g.channels, tap = k / (offset)g.channels;
  const offset s = tap % l.w.taps, rest = tap / l.w.taps, r = rest % l.h.taps, t = rest / l.h.taps;
  Summand e;
  e.z = t * l.d.tap_move, e.p = r * l.h.tap_move, e.q = s * l.w.tap_move;
  e.source = c * (offset)ss.c + e.z * (offset)ss.d + e.p * (offset)ss.h + e.q * (offset)ss.w;
  e.weight = c * (offset)ws.channel + (l.d.tap_first + t * l.d.tap_step) * (offset)ws.t +
             (l.h.tap_first + r * l.h.tap_step) * (offset)ws.r +
             (l.w.tap_first + s * l.w.tap_step) * (offset)ws.s;
  return e;
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_gather(real* __restrict__ out, Strides os, const real* __restrict__ source, Strides ss,
            const real* __restrict__ w, WeightStrides ws, const real* __restrict__ bias, Conv g,
            wide pixel_tiles, wide channel_tiles) {
  GR_SHARED(accum, pixels, [TILE_K][TILE_M + PAD]);
  GR_SHARED(accum, filters, [TILE_K][TILE_N + PAD]);
  GR_SHARED(Summand, summands, [2][TILE_K]);
  const int tid = threadIdx.x;
  // blockIdx.x counts (class, group, pixel tile, channel tile): neighbours share their pixels.
  offset block = (offset)blockIdx.x;
  const offset k0 = block % (offset)channel_tiles * TILE_N;
  block /= (offset)channel_tiles;
  const offset m0 = block % (offset)pixel_tiles * TILE_M;
  block /= (offset)pixel_tiles;
  const offset group = block % (offset)g.groups;
  const Lines l = lines_of(g, block / (offset)g.groups);
  const offset plane = l.d.count * l.h.count * l.w.count, m_end = plane * (offset)g.batch;
  if (m0 >= m_end) return;  // classes differ in size
  const offset total = l.d.taps * l.h.taps * l.w.taps * (offset)g.channels;

  // Each thread loads one pixel's summands, and one channel's, TILE_K / rows of them per step.
  constexpr int PIXEL_ROWS = THREADS / TILE_M, FILTER_ROWS = THREADS / TILE_N;
  static_assert(THREADS % TILE_M == 0 && THREADS % TILE_N == 0, "every thread loads alike");
  const int my_m = tid % TILE_M, my_n = tid % TILE_N;
  Pixel mine = {0, 0, 0, 0};
  const bool has_pixel = m0 + my_m < m_end, has_channel = k0 + my_n < (offset)g.out_channels;
  if (has_pixel) {
    const Point u = unflatten(m0 + my_m, 1, l.d.count, l.h.count, l.w.count);
    mine.z = l.d.base + u.d * l.d.move;
    mine.p = l.h.base + u.h * l.h.move;
    mine.q = l.w.base + u.w * l.w.move;
    mine.source = u.n * (offset)ss.n + mine.z * (offset)ss.d + mine.p * (offset)ss.h +
                  mine.q * (offset)ss.w;
  }
  const real* image = source + group * (offset)g.channels * (offset)ss.c;
  const real* filter = w + group * (offset)ws.group;
  const offset my_filter = has_channel ? (k0 + my_n) * (offset)ws.out : 0;

  accum sum[THREAD_M][THREAD_N] = {};
  if (tid < TILE_K) summands[0][tid] = summand_of(g, l, ss, ws, tid, total);
  __syncthreads();
  int stage = 0;
  for (offset start = 0; start < total; start += TILE_K, stage ^= 1) {
#pragma unroll
    for (int k = tid / TILE_M; k < TILE_K; k += PIXEL_ROWS) {
      const Summand& e = summands[stage][k];
      const bool read = has_pixel && start + k < total && within(mine.z + e.z, l.d.size) &&
                        within(mine.p + e.p, l.h.size) && within(mine.q + e.q, l.w.size);
      pixels[k][my_m] = read ? widen(image[mine.source + e.source]) : (accum)0;
    }
#pragma unroll
    for (int k = tid / TILE_N; k < TILE_K; k += FILTER_ROWS) {
      const bool read = has_channel && start + k < total;
      filters[k][my_n] = read ? widen(filter[my_filter + summands[stage][k].weight]) : (accum)0;
    }
    if (tid < TILE_K)
      summands[stage ^ 1][tid] = summand_of(g, l, ss, ws, start + TILE_K + tid, total);
    __syncthreads();
    const int m = tid % COLUMNS * THREAD_M, n = tid / COLUMNS * THREAD_N;
#pragma unroll
    for (int k = 0; k < TILE_K; ++k) {
      accum a[THREAD_M], b[THREAD_N];
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i) a[i] = pixels[k][m + i];
#pragma unroll
      for (int j = 0; j < THREAD_N; ++j) b[j] = filters[k][n + j];
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) sum[i][j] = multiply_add(a[i], b[j], sum[i][j]);
    }
    __syncthreads();
  }

  // Where sums came out as inf or NaN the zeros outside the source may be to blame: a second,
  // rolled loop computes those again, so that its code exists once.
  unsigned long long again = 0;
#pragma unroll
  for (int i = 0; i < THREAD_M; ++i) {
    const offset m = m0 + tid % COLUMNS * THREAD_M + i;
    if (m >= m_end) continue;
    const Point place = place_of(l, unflatten(m, 1, l.d.count, l.h.count, l.w.count));
    real* row = out + at(os, place);
#pragma unroll
    for (int j = 0; j < THREAD_N; ++j) {
      const offset k = k0 + tid / COLUMNS * THREAD_N + j;
      if (k >= (offset)g.out_channels) continue;
      if (!is_finite(sum[i][j])) again |= 1ull << (i * THREAD_N + j);
      const offset channel = group * (offset)g.out_channels + k;
      const accum b = bias ? widen(bias[channel]) : (accum)0;
      row[channel * (offset)os.c] = rounded<real>(sum[i][j] + b);
    }
  }
  for (int e = 0; again; ++e, again >>= 1) {
    if (!(again & 1)) continue;
    const offset m = m0 + tid % COLUMNS * THREAD_M + e / THREAD_N;
    const offset k = k0 + tid / COLUMNS * THREAD_N + e % THREAD_N;
    const Point u = unflatten(m, 1, l.d.count, l.h.count, l.w.count);
    const offset channel = group * (offset)g.out_channels + k;
    const accum b = bias ? widen(bias[channel]) : (accum)0;
    out[at(os, place_of(l, u)) + channel * (offset)os.c] = rounded<real>(
        direct_sum(source, ss, w, ws, g, l, u.n, group, k, u.d, u.h, u.w) + b);
  }
}
