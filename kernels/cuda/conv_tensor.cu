// Implicit GEMM on tensor cores (mma.sync) for y and dx: 128 pixels x 64 channels per block, four
// warps of 64 x 32, three tiles of cp.async in flight.  Summed in the order (t, r, s, c).
#include "tensor.cuh"

constexpr int TILE_M = 128, TILE_N = 64, THREADS = 128;
constexpr int VECTORS = 4;                    // of 16 bytes per row of a tile
constexpr int TILE_K = VECTORS * VECTOR;      // summands per tile: 16 float32, 32 of 16 bits
constexpr int PITCH = 20;                     // words per row: 16 and 4 that keep banks apart
constexpr int LOADS_M = TILE_M * VECTORS / THREADS, LOADS_N = TILE_N * VECTORS / THREADS;

// A position in the order (t, r, s, c), advanced without divisions.
struct Cursor {
  offset c, s, r, t;
  __device__ __forceinline__ void advance(offset by, offset padded, const Lines& l) {
    c += by;
    while (c >= padded && t < l.d.taps) {
      c -= padded;
      if (++s < l.w.taps) continue;
      s = 0;
      if (++r < l.h.taps) continue;
      r = 0, ++t;
    }
  }
};
struct Pixel { offset source, z, p, q; };  // of its first tap

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_tensor(real* __restrict__ out, Strides os, const real* __restrict__ source, Strides ss,
            const real* __restrict__ w, WeightStrides ws, const real* __restrict__ bias, Conv g,
            const real* __restrict__ packed_source, const real* __restrict__ packed_w, wide padded,
            wide pixel_tiles, wide channel_tiles) {
  GR_SHARED(unsigned, pixels, [STAGES][TILE_M][PITCH]);
  GR_SHARED(unsigned, filters, [STAGES][TILE_N][PITCH]);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  // blockIdx.x counts (class, group, pixel tile, channel tile): neighbours share their pixels.
  offset block = (offset)blockIdx.x;
  const offset k0 = block % (offset)channel_tiles * TILE_N;
  block /= (offset)channel_tiles;
  const offset m0 = block % (offset)pixel_tiles * TILE_M;
  block /= (offset)pixel_tiles;
  const offset group = block % (offset)g.groups;
  GR_SHARED(Lines, lines, [1]);  // not in registers, which the sums need
  if (tid == 0) lines[0] = lines_of(g, block / (offset)g.groups);
  __syncthreads();
  const Lines& l = lines[0];
  const offset m_end = l.d.count * l.h.count * l.w.count * (offset)g.batch;
  if (m0 >= m_end) return;  // classes differ in size
  const offset row = (offset)padded * (offset)g.groups;  // packed elements of one pixel
  const offset taps_all = (offset)(g.d.window * g.h.window * g.w.window);

  // This thread's part of every tile: vector `mine` of some pixels and some channels.
  const int mine = tid % VECTORS;
  Pixel pixel[LOADS_M];
#pragma unroll
  for (int i = 0; i < LOADS_M; ++i) {
    const offset m = m0 + tid / VECTORS + i * (THREADS / VECTORS);
    pixel[i] = {0, -1, -1, -1};
    if (m < m_end) {
      const Point u = unflatten(m, 1, l.d.count, l.h.count, l.w.count);
      pixel[i].z = l.d.base + u.d * l.d.move;
      pixel[i].p = l.h.base + u.h * l.h.move;
      pixel[i].q = l.w.base + u.w * l.w.move;
      pixel[i].source = u.n * l.d.size;  // completed per tap
    }
  }
  Cursor next = {0, 0, 0, 0};
  next.advance(mine * VECTOR, (offset)padded, l);

  auto load = [&](int stage) {
    const bool any = next.t < l.d.taps && l.h.taps > 0 && l.w.taps > 0;
    const offset dz = next.t * l.d.tap_move, dp = next.r * l.h.tap_move;
    const offset dq = next.s * l.w.tap_move;
#pragma unroll
    for (int i = 0; i < LOADS_M; ++i) {
      const int m = tid / VECTORS + i * (THREADS / VECTORS);
      const offset z = pixel[i].z + dz, p = pixel[i].p + dp, q = pixel[i].q + dq;
      const bool read = any && m0 + m < m_end && within(z, l.d.size) && within(p, l.h.size) &&
                        within(q, l.w.size);
      const offset from =
          read ? (((pixel[i].source + z) * l.h.size + p) * l.w.size + q) * row +
                     group * (offset)padded + next.c
               : 0;
      copy_async_16(&pixels[stage][m][mine * 4], packed_source + from, read ? 16 : 0);
    }
    const offset t = l.d.tap_first + next.t * l.d.tap_step;
    const offset r = l.h.tap_first + next.r * l.h.tap_step;
    const offset s = l.w.tap_first + next.s * l.w.tap_step;
    const offset tap = (t * (offset)g.h.window + r) * (offset)g.w.window + s;
#pragma unroll
    for (int i = 0; i < LOADS_N; ++i) {
      const int n = tid / VECTORS + i * (THREADS / VECTORS);
      const bool read = any && k0 + n < (offset)g.out_channels;
      const offset filter = group * (offset)g.out_channels + k0 + n;
      const offset from = read ? (filter * taps_all + tap) * (offset)padded + next.c : 0;
      copy_async_16(&filters[stage][n][mine * 4], packed_w + from, read ? 16 : 0);
    }
    next.advance(TILE_K, (offset)padded, l);
  };

  const offset total = l.d.taps * l.h.taps * l.w.taps * (offset)padded;
  const offset tiles = (total + TILE_K - 1) / TILE_K;
  float sum[4][4][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < tiles) load(stage);
    copy_async_commit();
  }
  const int wm = warp / 2 * 64, wn = warp % 2 * 32, in_8 = lane >> 2, in_4 = lane & 3;
  int stage = 0, filled = STAGES - 1;
  for (offset tile = 0; tile < tiles; ++tile) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();  // everybody's copies have arrived, and the oldest tile has been read
    if (tile + STAGES - 1 < tiles) load(filled);
    copy_async_commit();
#pragma unroll UNROLL
    for (int word = 0; word < VECTORS * 4; word += 8) {
      unsigned b[4][2];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned* top = &filters[stage][wn + j * 8 + in_8][word + in_4];
        b[j][0] = top[0], b[j][1] = top[4];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const unsigned* top = &pixels[stage][wm + i * 16 + in_8][word + in_4];
        const unsigned a[4] = {top[0], top[8 * PITCH], top[4], top[8 * PITCH + 4]};
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_fragments(sum[i][j], a, b[j]);
      }
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }

  // As in conv_gather.cu: inf and NaN are computed again, from the arrays themselves.
  unsigned long long again = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const offset m = m0 + wm + i * 16 + in_8 + e / 2 * 8;
      if (m >= m_end) continue;
      const Point u = unflatten(m, 1, l.d.count, l.h.count, l.w.count);
      real* target = out + at(os, place_of(l, u));
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          const offset k = k0 + wn + j * 8 + in_4 * 2 + f;
          if (k >= (offset)g.out_channels) continue;
          if (!is_finite(sum[i][j][e + f])) again |= 1ull << ((i * 4 + j) * 4 + e + f);
          const offset channel = group * (offset)g.out_channels + k;
          const float b = bias ? widen(bias[channel]) : 0.0f;
          target[channel * (offset)os.c] = rounded<real>(sum[i][j][e + f] + b);
        }
    }
  for (int bit = 0; again; ++bit, again >>= 1) {
    if (!(again & 1)) continue;
    const int e = bit % 4, j = bit / 4 % 4, i = bit / 16;
    const offset m = m0 + wm + i * 16 + in_8 + e / 2 * 8;
    const Point u = unflatten(m, 1, l.d.count, l.h.count, l.w.count);
    const offset k = k0 + wn + j * 8 + in_4 * 2 + e % 2;
    const offset channel = group * (offset)g.out_channels + k;
    const float b = bias ? widen(bias[channel]) : 0.0f;
    out[at(os, place_of(l, u)) + channel * (offset)os.c] = rounded<real>(
        direct_sum(source, ss, w, ws, g, l, u.n, group, k, u.d, u.h, u.w) + b);
  }
}
