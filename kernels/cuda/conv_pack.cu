// Arrays brought into the form that the tensor-core kernels copy 16 bytes at a time: channels
// last, each group's channels padded with zeros to whole 16-byte vectors.
// GR_ROUND: float32 is rounded to TF32 on the way, once instead of at every use.
#include "conv.cuh"

constexpr int TILE = 32, ROWS = 8;

__device__ __forceinline__ real packed_value(real v) { return v; }
#ifdef GR_ROUND
__device__ __forceinline__ float rounded_to_tf32(float v) { return __uint_as_float(to_tf32(v)); }
#define GR_PACKED(v) rounded_to_tf32(v)
#else
#define GR_PACKED(v) packed_value(v)
#endif

// source (N, G*C, D, H, W), any strides -> packed (N, D, H, W, G, padded).  A tile of 32 pixels x
// 32 channels turns in shared memory, so that both sides are read and written in rows.
extern "C" __global__ void __launch_bounds__(TILE * ROWS)
pack_image(real* __restrict__ packed, const real* __restrict__ source, Strides ss, wide channels,
           wide padded, wide d, wide h, wide w, wide channel_tiles, int pixels_first, wide columns,
           wide pixels) {
  GR_SHARED(real, tile, [TILE][TILE + 2]);
  const int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
  const offset p0 = (offset)blockIdx.x / (offset)channel_tiles * TILE;
  const offset c0 = (offset)blockIdx.x % (offset)channel_tiles * TILE;
#pragma unroll
  for (int i = y; i < TILE; i += ROWS) {  // neighbouring threads: whichever axis is dense
    const int dp = pixels_first ? x : i, dc = pixels_first ? i : x;
    const offset pixel = p0 + dp, column = c0 + dc;
    const offset group = column / (offset)padded, c = column % (offset)padded;
    real v = rounded<real>(0);
    if (pixel < (offset)pixels && column < (offset)columns && c < (offset)channels) {
      Point at_source = unflatten(pixel, 1, d, h, w);
      at_source.c = group * (offset)channels + c;
      v = source[at(ss, at_source)];
    }
    tile[dp][dc] = v;
  }
  __syncthreads();
#pragma unroll
  for (int i = y; i < TILE; i += ROWS) {
    const offset pixel = p0 + i, column = c0 + x;
    if (pixel < (offset)pixels && column < (offset)columns)
      packed[pixel * (offset)columns + column] = GR_PACKED(tile[i][x]);
  }
}

// w -> packed (G, out, T, R, S, padded)
extern "C" __global__ void pack_filters(real* __restrict__ packed, const real* __restrict__ w,
                                        WeightStrides ws, Conv g, wide padded, wide total) {
  GR_EACH(i, total) {
    const offset c = i % (offset)padded;
    const Point f =
        unflatten(i / (offset)padded, g.out_channels, g.d.window, g.h.window, g.w.window);
    real v = rounded<real>(0);
    if (c < (offset)g.channels)
      v = w[f.n * (offset)ws.group + f.c * (offset)ws.out + c * (offset)ws.channel +
            f.d * (offset)ws.t + f.h * (offset)ws.r + f.w * (offset)ws.s];
    packed[i] = GR_PACKED(v);
  }
}
