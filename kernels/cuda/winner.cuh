// A winner: the position of a window's largest element inside the window, row-major, in the
// smallest unsigned integer that can hold it (1, 2 or 4 bytes).
#pragma once
#include "geometry.cuh"
#include "integers.cuh"

__device__ __forceinline__ offset load_winner(const void* winner, int bytes, offset i) {
  if (bytes == 1) return static_cast<const unsigned char*>(winner)[i];
  if (bytes == 2) return static_cast<const unsigned short*>(winner)[i];
  return (offset)static_cast<const unsigned*>(winner)[i];
}
__device__ __forceinline__ void store_winner(void* winner, int bytes, offset i, offset tap) {
  if (bytes == 1) static_cast<unsigned char*>(winner)[i] = (unsigned char)tap;
  else if (bytes == 2) static_cast<unsigned short*>(winner)[i] = (unsigned short)tap;
  else static_cast<unsigned*>(winner)[i] = (unsigned)tap;
}

// The input that window (d, h, w) of `o` reads through its tap.
__device__ __forceinline__ Point input_at(const Window& g, const Point& o, offset tap) {
  const offset s = tap % (offset)g.w.window, rest = tap / (offset)g.w.window;
  const offset r = rest % (offset)g.h.window, t = rest / (offset)g.h.window;
  return {o.n, o.c, input_of(g.d, o.d, t), input_of(g.h, o.h, r), input_of(g.w, o.w, s)};
}
__device__ __forceinline__ bool inside(const Window& g, const Point& i) {
  return inside(g.d, i.d) && inside(g.h, i.h) && inside(g.w, i.w);
}
// The tap through which window `o` sees input `i`, or -1.
__device__ __forceinline__ offset tap_between(const Window& g, const Point& i, offset z, offset p,
                                              offset q) {
  const offset t = tap_of(g.d, i.d, z), r = tap_of(g.h, i.h, p), s = tap_of(g.w, i.w, q);
  if (t < 0 || r < 0 || s < 0) return -1;
  return (t * (offset)g.h.window + r) * (offset)g.w.window + s;
}
