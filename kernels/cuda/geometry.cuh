// The sizes and strides that the host passes by value.  kernels/cuda/structures.py mirrors these
// structures field by field.
#pragma once
#include "device.cuh"

// One spatial axis: x has `size` elements, y has `out`, and output o reads through tap t from
// o*stride - before + t*dilation.
struct Axis { wide size, window, out, stride, dilation, before; };
struct Window {
  wide batch, channels;
  Axis d, h, w;
};
struct Strides { wide n, c, d, h, w; };  // of an (N, C, D, H, W) array, in elements

struct Point { offset n, c, d, h, w; };

// Row-major position -> (n, c, d, h, w)
__device__ __forceinline__ Point unflatten(offset i, wide channels, wide d, wide h, wide w) {
  Point p;
  p.w = i % (offset)w, i /= (offset)w;
  p.h = i % (offset)h, i /= (offset)h;
  p.d = i % (offset)d, i /= (offset)d;
  p.c = i % (offset)channels, p.n = i / (offset)channels;
  return p;
}
__device__ __forceinline__ offset at(const Strides& s, const Point& p) {
  return p.n * (offset)s.n + p.c * (offset)s.c + p.d * (offset)s.d + p.h * (offset)s.h +
         p.w * (offset)s.w;
}

// The outputs along one axis whose window covers input i: first..last, and the tap each sees it
// through, or -1 where dilation steps over it.
struct Cover { offset first, last; };
__device__ __forceinline__ Cover covering(const Axis& a, offset i) {
  const offset reach = i + (offset)a.before - ((offset)a.window - 1) * (offset)a.dilation;
  Cover c;
  c.first = reach > 0 ? (reach - 1) / (offset)a.stride + 1 : 0;  // rounded up
  c.last = min((i + (offset)a.before) / (offset)a.stride, (offset)a.out - 1);
  return c;
}
__device__ __forceinline__ offset tap_of(const Axis& a, offset i, offset o) {
  const offset distance = i + (offset)a.before - o * (offset)a.stride;
  return distance % (offset)a.dilation ? -1 : distance / (offset)a.dilation;
}
__device__ __forceinline__ offset input_of(const Axis& a, offset o, offset tap) {
  return o * (offset)a.stride - (offset)a.before + tap * (offset)a.dilation;
}
__device__ __forceinline__ bool inside(const Axis& a, offset i) {
  return i >= 0 && i < (offset)a.size;
}
