// im2col: one thread per column entry.  col2im: one thread per input element, a gather.
#include "geometry.cuh"

struct ColumnStrides { wide n, c, t, r, s, z, p, q; };  // of the (N, C, T, R, S, Z, P, Q) columns

extern "C" __global__ void im2col(real* __restrict__ cols, ColumnStrides cs,
                                  const real* __restrict__ x, Strides xs, Window g, wide total) {
  GR_EACH(i, total) {
    // i counts (n, c, t, r, s, z, p, q), row-major
    const offset places = (offset)(g.d.out * g.h.out * g.w.out);
    const offset row = i / places, place = i - row * places;
    const Point o = unflatten(place, 1, g.d.out, g.h.out, g.w.out);
    const Point k = unflatten(row, g.channels, g.d.window, g.h.window, g.w.window);
    const Point in = {k.n, k.c, input_of(g.d, o.d, k.d), input_of(g.h, o.h, k.h),
                      input_of(g.w, o.w, k.w)};
    const bool seen = inside(g.d, in.d) && inside(g.h, in.h) && inside(g.w, in.w);
    cols[k.n * (offset)cs.n + k.c * (offset)cs.c + k.d * (offset)cs.t + k.h * (offset)cs.r +
         k.w * (offset)cs.s + o.d * (offset)cs.z + o.h * (offset)cs.p + o.w * (offset)cs.q] =
        seen ? x[at(xs, in)] : rounded<real>(0);
  }
}

extern "C" __global__ void col2im(real* __restrict__ x, Strides xs, const real* __restrict__ cols,
                                  ColumnStrides cs, Window g, wide total) {
  GR_EACH(i, total) {
    const Point in = unflatten(i, g.channels, g.d.size, g.h.size, g.w.size);
    const Cover zs = covering(g.d, in.d), ps = covering(g.h, in.h), qs = covering(g.w, in.w);
    accum sum = 0;
    for (offset z = zs.first; z <= zs.last; ++z) {
      const offset t = tap_of(g.d, in.d, z);
      for (offset p = ps.first; p <= ps.last; ++p) {
        const offset r = tap_of(g.h, in.h, p);
        for (offset q = qs.first; q <= qs.last; ++q) {
          const offset s = tap_of(g.w, in.w, q);
          if (t < 0 || r < 0 || s < 0) continue;
          sum += widen(cols[in.n * (offset)cs.n + in.c * (offset)cs.c + t * (offset)cs.t +
                            r * (offset)cs.r + s * (offset)cs.s + z * (offset)cs.z +
                            p * (offset)cs.p + q * (offset)cs.q]);
        }
      }
    }
    x[at(xs, in)] = rounded<real>(sum);
  }
}
