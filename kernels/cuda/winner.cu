// Winners checked, and turned into PyTorch's plane indices and back.
#include "winner.cuh"

extern "C" __global__ void check_winner(wide* bad, const void* winner, Strides winner_s,
                                        int winner_bytes, Window g, wide total) {
  const wide taps = g.d.window * g.h.window * g.w.window;
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    // Read as unsigned: a 4-byte winner may exceed a narrow offset.
    const wide tap = winner_bytes == 4
                         ? (wide)static_cast<const unsigned*>(winner)[at(winner_s, o)]
                         : (wide)load_winner(winner, winner_bytes, at(winner_s, o));
    if (tap >= taps || !inside(g, input_at(g, o, (offset)tap))) record_bad(bad, i);
  }
}

extern "C" __global__ void winner_to_index(wide* __restrict__ index, Strides index_s,
                                           const void* winner, Strides winner_s, int winner_bytes,
                                           const wide* bad, Window g, wide total) {
  if (failed(bad)) return;
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    const Point in = input_at(g, o, load_winner(winner, winner_bytes, at(winner_s, o)));
    index[at(index_s, o)] = ((wide)in.d * g.h.size + in.h) * g.w.size + in.w;
  }
}

// The tap through which the window at `o` sees position `index` of its plane, or -1.
__device__ offset tap_of_index(const Window& g, const Point& o, wide index) {
  if (index < 0 || index >= g.d.size * g.h.size * g.w.size) return -1;
  Point in = o;
  in.w = (offset)(index % g.w.size);
  in.h = (offset)(index / g.w.size % g.h.size);
  in.d = (offset)(index / g.w.size / g.h.size);
  const offset t = tap_of(g.d, in.d, o.d), r = tap_of(g.h, in.h, o.h), s = tap_of(g.w, in.w, o.w);
  if (t < 0 || r < 0 || s < 0) return -1;
  if (t >= (offset)g.d.window || r >= (offset)g.h.window || s >= (offset)g.w.window) return -1;
  return (t * (offset)g.h.window + r) * (offset)g.w.window + s;
}

extern "C" __global__ void check_index_in_window(wide* bad, const wide* __restrict__ index,
                                                 Strides index_s, Window g, wide total) {
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    if (tap_of_index(g, o, index[at(index_s, o)]) < 0) record_bad(bad, i);
  }
}

extern "C" __global__ void index_to_winner(void* winner, Strides winner_s, int winner_bytes,
                                           const wide* __restrict__ index, Strides index_s,
                                           const wide* bad, Window g, wide total) {
  if (failed(bad)) return;
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.channels, g.d.out, g.h.out, g.w.out);
    store_winner(winner, winner_bytes, at(winner_s, o), tap_of_index(g, o, index[at(index_s, o)]));
  }
}
