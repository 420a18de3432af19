// What all convolution kernels share.
//
// The forward pass and the gradient of the input are the same sum, over taps and channels, of
// weights times a "source": x for y, dy for dx.  Along one axis a `Line` says which source
// element an output reads.  dx of a strided convolution splits into stride^axes classes of
// positions (parity, for stride 2); inside a class every position has the same taps.
#pragma once
#include "geometry.cuh"

struct Conv {
  wide batch, channels, out_channels, groups;  // source and output channels of one group
  Axis d, h, w;
  wide transposed;  // 0: source x, output y; 1: source dy, output dx
};
struct WeightStrides { wide group, out, channel, t, r, s; };

// Output u of `count` lies at first + u*step; its j-th tap of `taps` is tap_first + j*tap_step
// and reads the source at base + u*move + j*tap_move, if that is in 0..size-1.
struct Line { offset count, first, step, taps, tap_first, tap_step, base, move, tap_move, size; };

__device__ __forceinline__ offset common_divisor(offset a, offset b) {
  while (b) {
    const offset rest = a % b;
    a = b, b = rest;
  }
  return a;
}
__device__ __forceinline__ offset classes_of(const Axis& a, bool transposed) {
  return transposed ? (offset)min(a.stride, a.size) : 1;
}
__device__ Line line_of(const Axis& a, bool transposed, offset residue) {
  const offset stride = (offset)a.stride, dilation = (offset)a.dilation, window = (offset)a.window;
  if (!transposed)
    return {(offset)a.out, 0, 1, window, 0, 1, -(offset)a.before, stride, dilation, (offset)a.size};
  const offset divisor = common_divisor(stride, dilation);
  const offset from = residue + (offset)a.before;  // tap t is ours if stride | from - t*dilation
  Line l = {((offset)a.size - 1 - residue) / stride + 1, residue, stride, 0, 0,
            stride / divisor, 0, 1, -(dilation / divisor), (offset)a.out};
  while (l.tap_first < l.tap_step && l.tap_first < window &&
         (from - l.tap_first * dilation) % stride)
    ++l.tap_first;
  if (l.tap_first < l.tap_step && l.tap_first < window) {
    l.taps = (window - 1 - l.tap_first) / l.tap_step + 1;
    l.base = (from - l.tap_first * dilation) / stride;
  }
  return l;
}

struct Lines { Line d, h, w; };
// The lines of one class of output positions, counted row-major over the axes' residues.
__device__ __forceinline__ Lines lines_of(const Conv& g, offset residue_class) {
  const bool transposed = g.transposed != 0;
  const offset w = classes_of(g.w, transposed), h = classes_of(g.h, transposed);
  return {line_of(g.d, transposed, residue_class / (h * w)),
          line_of(g.h, transposed, residue_class / w % h),
          line_of(g.w, transposed, residue_class % w)};
}

// Output u of a class as a place in the whole result, channel 0.
__device__ __forceinline__ Point place_of(const Lines& l, const Point& u) {
  return {u.n, 0, l.d.first + u.d * l.d.step, l.h.first + u.h * l.h.step,
          l.w.first + u.w * l.w.step};
}

__device__ __forceinline__ bool within(offset i, offset size) { return i >= 0 && i < size; }

// Output (u_d, u_h, u_w) of channel k of group `group`, as the plain sum over what lies inside the
// source.  The tiled kernels read zeros outside, which is the same but for weights that are inf or
// NaN (0 * inf is NaN): they compute outputs that come out as such again with this.
__device__ accum direct_sum(const real* __restrict__ source, const Strides& ss,
                            const real* __restrict__ w, const WeightStrides& ws, const Conv& g,
                            const Lines& l, offset n, offset group, offset k, offset u_d,
                            offset u_h, offset u_w) {
  const real* image = source + n * (offset)ss.n + group * (offset)g.channels * (offset)ss.c;
  const real* filter = w + group * (offset)ws.group + k * (offset)ws.out;
  accum sum = 0;
  for (offset t = 0; t < l.d.taps; ++t) {
    const offset z = l.d.base + u_d * l.d.move + t * l.d.tap_move;
    if (!within(z, l.d.size)) continue;
    for (offset r = 0; r < l.h.taps; ++r) {
      const offset p = l.h.base + u_h * l.h.move + r * l.h.tap_move;
      if (!within(p, l.h.size)) continue;
      for (offset s = 0; s < l.w.taps; ++s) {
        const offset q = l.w.base + u_w * l.w.move + s * l.w.tap_move;
        if (!within(q, l.w.size)) continue;
        const real* a = image + z * (offset)ss.d + p * (offset)ss.h + q * (offset)ss.w;
        const real* b = filter + (l.d.tap_first + t * l.d.tap_step) * (offset)ws.t +
                        (l.h.tap_first + r * l.h.tap_step) * (offset)ws.r +
                        (l.w.tap_first + s * l.w.tap_step) * (offset)ws.s;
        for (offset c = 0; c < (offset)g.channels; ++c)
          sum = multiply_add(widen(a[c * (offset)ss.c]), widen(b[c * (offset)ws.channel]), sum);
      }
    }
  }
  return sum;
}

__device__ __forceinline__ bool is_finite(float v) { return fabsf(v) <= 3.402823466e38f; }
__device__ __forceinline__ bool is_finite(double v) { return fabs(v) <= 1.7976931348623157e308; }
