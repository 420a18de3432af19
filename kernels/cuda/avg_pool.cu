// Average pooling: one thread per output forward, one per input backward.
#include "winner.cuh"

// How many of a window's taps along one axis count: those inside the input, or inside the padded
// input where padding counts.  Cells that ceil_mode adds behind the padding never do.
__device__ __forceinline__ offset counted(const Axis& a, offset o, offset end, bool with_padding) {
  const offset start = o * (offset)a.stride - (offset)a.before;
  const offset low = with_padding ? -(offset)a.before : 0;
  offset count = 0;
  for (offset t = 0; t < (offset)a.window; ++t) {
    const offset i = start + t * (offset)a.dilation;
    count += i >= low && i < end;
  }
  return count;
}
struct Ends { wide d, h, w; };  // where counting stops: size, or size + padding behind
__device__ __forceinline__ accum divisor(const Window& g, const Ends& e, offset z, offset p,
                                         offset q, bool with_padding) {
  return (accum)counted(g.d, z, (offset)e.d, with_padding) *
         (accum)counted(g.h, p, (offset)e.h, with_padding) *
         (accum)counted(g.w, q, (offset)e.w, with_padding);
}

extern "C" __global__ void avg_pool_forward(real* __restrict__ y, Strides ys,
                                            const real* __restrict__ x, Strides xs, Window g,
                                            Ends ends, int with_padding, wide total) {
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    Point in = o;
    accum sum = 0;
    for (offset t = 0; t < (offset)g.d.window; ++t) {
      in.d = input_of(g.d, o.d, t);
      for (offset r = 0; r < (offset)g.h.window; ++r) {
        in.h = input_of(g.h, o.h, r);
        for (offset s = 0; s < (offset)g.w.window; ++s) {
          in.w = input_of(g.w, o.w, s);
          if (inside(g, in)) sum += widen(x[at(xs, in)]);
        }
      }
    }
    y[at(ys, o)] = rounded<real>(sum / divisor(g, ends, o.d, o.h, o.w, with_padding));
  }
}

extern "C" __global__ void avg_pool_backward(real* __restrict__ dx, Strides dxs,
                                             const real* __restrict__ dy, Strides dys, Window g,
                                             Ends ends, int with_padding, wide total) {
  GR_EACH(i, total) {
    const Point in = unflatten(i, g.channels, g.d.size, g.h.size, g.w.size);
    const Cover zs = covering(g.d, in.d), ps = covering(g.h, in.h), qs = covering(g.w, in.w);
    accum sum = 0;
    Point o = in;
    for (o.d = zs.first; o.d <= zs.last; ++o.d)
      for (o.h = ps.first; o.h <= ps.last; ++o.h)
        for (o.w = qs.first; o.w <= qs.last; ++o.w)
          if (tap_between(g, in, o.d, o.h, o.w) >= 0)
            sum += widen(dy[at(dys, o)]) / divisor(g, ends, o.d, o.h, o.w, with_padding);
    dx[at(dxs, in)] = rounded<real>(sum);
  }
}
