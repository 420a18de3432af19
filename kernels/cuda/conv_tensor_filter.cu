// Gradient of the filters on tensor cores: 128 filters x 64 columns (t, r, s, c) per block, the
// pixels shared out over `splits` blocks, as conv_filter.cu.  Both tiles lie in shared memory as
// they do in memory, pixels x channels, and are transposed on the way into the registers.
#include "tensor.cuh"

constexpr int TILE_M = 128, TILE_N = 64, THREADS = 128;
constexpr int TILE_K = 2 * STEP;  // pixels per tile: 16 float32, 32 of 16 bits
constexpr int PITCH_M = TILE_M + 8, PITCH_N = TILE_N + 8;  // elements; rows start 8 banks apart
constexpr int VECTORS_M = TILE_M / VECTOR, VECTORS_N = TILE_N / VECTOR;

// Two or one summands, `pitch` elements apart, as one word of a fragment.
__device__ __forceinline__ unsigned column_word(const float* p, int) { return __float_as_uint(*p); }
template <class T> __device__ __forceinline__ unsigned column_word(const T* p, int pitch) {
  return (unsigned)p[0].bits | (unsigned)p[pitch].bits << 16;
}
constexpr int PER_WORD = 4 / (int)sizeof(real);

struct Shift { offset z, p, q, c; bool exists; };  // of a column: its tap's, and its channel

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_tensor_filter(float* __restrict__ partial, const real* __restrict__ packed_dy,
                   const real* __restrict__ packed_x, Conv g, wide padded_k, wide padded_c,
                   wide filter_tiles, wide column_tiles, wide split_length) {
  GR_SHARED(real, gradients, [STAGES][TILE_K][PITCH_M]);
  GR_SHARED(real, inputs, [STAGES][TILE_K][PITCH_N]);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  // blockIdx.x counts (split, group, filter tile, column tile)
  offset block = (offset)blockIdx.x;
  const offset n0 = block % (offset)column_tiles * TILE_N;
  block /= (offset)column_tiles;
  const offset m0 = block % (offset)filter_tiles * TILE_M;
  block /= (offset)filter_tiles;
  const offset group = block % (offset)g.groups, split = block / (offset)g.groups;
  const offset taps = (offset)(g.d.window * g.h.window * g.w.window);
  const offset columns = taps * (offset)padded_c;
  const offset total = (offset)(g.batch * g.d.out * g.h.out * g.w.out);
  const offset begin = split * (offset)split_length;
  const offset end = min(begin + (offset)split_length, total);

  // This thread's column vector of the inputs, the same in every tile.
  const offset my_column = n0 + tid % VECTORS_N * VECTOR;
  Shift shift = {0, 0, 0, 0, my_column < columns};
  if (shift.exists) {
    const offset tap = my_column / (offset)padded_c;
    const Point t = unflatten(tap, 1, g.d.window, g.h.window, g.w.window);
    shift.z = t.d * (offset)g.d.dilation, shift.p = t.h * (offset)g.h.dilation;
    shift.q = t.w * (offset)g.w.dilation, shift.c = my_column % (offset)padded_c;
  }
  const offset my_filter = m0 + tid % VECTORS_M * VECTOR;

  auto load = [&](int stage, offset start) {
#pragma unroll
    for (int k = tid / VECTORS_M; k < TILE_K; k += THREADS / VECTORS_M) {
      const bool read = start + k < end && my_filter < (offset)padded_k;
      const offset from =
          read ? ((start + k) * (offset)g.groups + group) * (offset)padded_k + my_filter : 0;
      copy_async_16(&gradients[stage][k][tid % VECTORS_M * VECTOR], packed_dy + from,
                    read ? 16 : 0);
    }
#pragma unroll
    for (int k = tid / VECTORS_N; k < TILE_K; k += THREADS / VECTORS_N) {
      offset from = 0;
      bool read = start + k < end && shift.exists;
      if (read) {
        const Point o = unflatten(start + k, 1, g.d.out, g.h.out, g.w.out);
        const offset z = input_of(g.d, o.d, 0) + shift.z, p = input_of(g.h, o.h, 0) + shift.p,
                     q = input_of(g.w, o.w, 0) + shift.q;
        read = inside(g.d, z) && inside(g.h, p) && inside(g.w, q);
        if (read)
          from = ((((o.n * (offset)g.d.size + z) * (offset)g.h.size + p) * (offset)g.w.size + q) *
                      (offset)g.groups + group) * (offset)padded_c + shift.c;
      }
      copy_async_16(&inputs[stage][k][tid % VECTORS_N * VECTOR], packed_x + from, read ? 16 : 0);
    }
  };

  const offset tiles = (end - begin + TILE_K - 1) / TILE_K;
  float sum[4][4][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < tiles) load(stage, begin + stage * TILE_K);
    copy_async_commit();
  }
  const int wm = warp / 2 * 64, wn = warp % 2 * 32, in_8 = lane >> 2, in_4 = lane & 3;
  int stage = 0, filled = STAGES - 1;
  for (offset tile = 0; tile < tiles; ++tile) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();  // everybody's copies have arrived, and the oldest tile has been read
    if (tile + STAGES - 1 < tiles) load(filled, begin + (tile + STAGES - 1) * TILE_K);
    copy_async_commit();
#pragma unroll UNROLL
    for (int k = 0; k < TILE_K; k += STEP) {
      const int first = k + in_4 * PER_WORD, second = first + STEP / 2;
      unsigned a[4][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int m = wm + i * 16 + in_8;
        a[i][0] = column_word(&gradients[stage][first][m], PITCH_M);
        a[i][1] = column_word(&gradients[stage][first][m + 8], PITCH_M);
        a[i][2] = column_word(&gradients[stage][second][m], PITCH_M);
        a[i][3] = column_word(&gradients[stage][second][m + 8], PITCH_M);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int n = wn + j * 8 + in_8;
        b[j][0] = column_word(&inputs[stage][first][n], PITCH_N);
        b[j][1] = column_word(&inputs[stage][second][n], PITCH_N);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_fragments(sum[i][j], a[i], b[j]);
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }

  // partial (splits, G * K/G, C/G * taps), each row in dw's order (c, t, r, s)
  const offset width = (offset)g.channels * taps;
  float* mine = partial + (split * (offset)g.groups + group) * (offset)g.out_channels * width;
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const offset n = n0 + wn + j * 8 + in_4 * 2 + f;
      const offset tap = n / (offset)padded_c, c = n % (offset)padded_c;
      if (n >= columns || c >= (offset)g.channels) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const offset m = m0 + wm + i * 16 + in_8 + e * 8;
          if (m < (offset)g.out_channels) mine[m * width + c * taps + tap] = sum[i][j][e * 2 + f];
        }
    }
}
