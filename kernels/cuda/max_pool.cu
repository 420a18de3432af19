// Max-pooling by winners: one thread per output forward, one per input backward, which sums what
// it is owed.  No atomics, hence the same bits on every run.
#include "winner.cuh"

extern "C" __global__ void max_pool_forward(real* __restrict__ y, Strides ys, void* winner,
                                            Strides winner_s, int winner_bytes,
                                            const real* __restrict__ x, Strides xs, Window g,
                                            int last_of_ties, int omit_nan, wide total) {
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    Point in = o;
    offset tap = 0, best_tap = -1;
    accum best = 0;
    for (offset t = 0; t < (offset)g.d.window; ++t) {
      in.d = input_of(g.d, o.d, t);
      for (offset r = 0; r < (offset)g.h.window; ++r) {
        in.h = input_of(g.h, o.h, r);
        for (offset s = 0; s < (offset)g.w.window; ++s, ++tap) {
          in.w = input_of(g.w, o.w, s);
          if (!inside(g, in)) continue;  // padding never wins
          const accum v = widen(x[at(xs, in)]);
          const bool is_nan = v != v, best_is_nan = best != best;
          bool better;
          if (best_tap < 0) better = true;
          else if (omit_nan && (is_nan || best_is_nan))  // NaN ranks below -inf
            better = best_is_nan && (!is_nan || last_of_ties);
          else if (is_nan || best_is_nan) better = !best_is_nan;  // the first NaN stays
          else better = last_of_ties ? v >= best : v > best;
          if (better) best = v, best_tap = tap;
        }
      }
    }
    y[at(ys, o)] = rounded<real>(best);
    if (winner_bytes) store_winner(winner, winner_bytes, at(winner_s, o), best_tap);
  }
}

extern "C" __global__ void max_pool_backward(real* __restrict__ dx, Strides dxs,
                                             const real* __restrict__ dy, Strides dys,
                                             const void* winner, Strides winner_s, int winner_bytes,
                                             const wide* bad, Window g, wide total) {
  if (failed(bad)) return;
  GR_EACH(i, total) {
    const Point in = unflatten(i, g.channels, g.d.size, g.h.size, g.w.size);
    const Cover zs = covering(g.d, in.d), ps = covering(g.h, in.h), qs = covering(g.w, in.w);
    accum sum = 0;
    Point o = in;
    for (o.d = zs.first; o.d <= zs.last; ++o.d)
      for (o.h = ps.first; o.h <= ps.last; ++o.h)
        for (o.w = qs.first; o.w <= qs.last; ++o.w) {
          const offset tap = tap_between(g, in, o.d, o.h, o.w);
          if (tap >= 0 && load_winner(winner, winner_bytes, at(winner_s, o)) == tap)
            sum += widen(dy[at(dys, o)]);
        }
    dx[at(dxs, in)] = rounded<real>(sum);
  }
}

// x[i] = y of the last window, in row-major order, whose winner is i; 0 where there is none.
extern "C" __global__ void max_unpool_forward(real* __restrict__ x, Strides xs,
                                              const real* __restrict__ y, Strides ys,
                                              const void* winner, Strides winner_s,
                                              int winner_bytes, const wide* bad, Window g,
                                              wide total) {
  if (failed(bad)) return;
  GR_EACH(i, total) {
    const Point in = unflatten(i, g.channels, g.d.size, g.h.size, g.w.size);
    const Cover zs = covering(g.d, in.d), ps = covering(g.h, in.h), qs = covering(g.w, in.w);
    real kept = rounded<real>(0);
    bool found = false;
    Point o = in;
    for (o.d = zs.last; o.d >= zs.first && !found; --o.d)
      for (o.h = ps.last; o.h >= ps.first && !found; --o.h)
        for (o.w = qs.last; o.w >= qs.first && !found; --o.w) {
          const offset tap = tap_between(g, in, o.d, o.h, o.w);
          found = tap >= 0 && load_winner(winner, winner_bytes, at(winner_s, o)) == tap;
          if (found) kept = y[at(ys, o)];
        }
    x[at(xs, in)] = kept;
  }
}

// dy[o] = dx at o's winner where no later window has the same winner, else 0.
extern "C" __global__ void max_unpool_backward(real* __restrict__ dy, Strides dys,
                                               const real* __restrict__ dx, Strides dxs,
                                               const void* winner, Strides winner_s,
                                               int winner_bytes, const wide* bad, Window g,
                                               wide total) {
  if (failed(bad)) return;
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    const Point in = input_at(g, o, load_winner(winner, winner_bytes, at(winner_s, o)));
    const Cover zs = covering(g.d, in.d), ps = covering(g.h, in.h), qs = covering(g.w, in.w);
    bool replaced = false;
    Point later = o;
    for (later.d = o.d; later.d <= zs.last && !replaced; ++later.d)
      for (later.h = later.d == o.d ? o.h : ps.first; later.h <= ps.last && !replaced; ++later.h)
        for (later.w = later.d == o.d && later.h == o.h ? o.w + 1 : qs.first;
             later.w <= qs.last && !replaced; ++later.w) {
          const offset tap = tap_between(g, in, later.d, later.h, later.w);
          replaced = tap >= 0 && load_winner(winner, winner_bytes, at(winner_s, later)) == tap;
        }
    dy[at(dys, o)] = replaced ? rounded<real>(0) : dx[at(dxs, in)];
  }
}
