// Partial sums of conv_filter.cu and its tensor-core sister added up in their fixed order, and the
// gradient of the bias.
#include "conv.cuh"

// One element of dw as the plain sum over what lies inside the image: see direct_sum.
__device__ accum direct_filter(const real* __restrict__ dy, const Strides& dys,
                               const real* __restrict__ x, const Strides& xs, const Conv& g,
                               const Point& f) {
  const offset group = f.n / (offset)g.out_channels;
  const offset total = (offset)(g.batch * g.d.out * g.h.out * g.w.out);
  accum sum = 0;
  for (offset i = 0; i < total; ++i) {
    Point o = unflatten(i, 1, g.d.out, g.h.out, g.w.out);
    const Point in = {o.n, group * (offset)g.channels + f.c, input_of(g.d, o.d, f.d),
                      input_of(g.h, o.h, f.h), input_of(g.w, o.w, f.w)};
    o.c = f.n;
    if (inside(g.d, in.d) && inside(g.h, in.h) && inside(g.w, in.w))
      sum = multiply_add(widen(dy[at(dys, o)]), widen(x[at(xs, in)]), sum);
  }
  return sum;
}

// partial (splits, total) -> dw; total counts (k, c, t, r, s)
extern "C" __global__ void conv_finish_filter(real* __restrict__ dw, WeightStrides ws,
                                              const accum* __restrict__ partial,
                                              const real* __restrict__ dy, Strides dys,
                                              const real* __restrict__ x, Strides xs, Conv g,
                                              wide splits, wide total) {
  GR_EACH(i, total) {
    accum sum = 0;
    for (offset s = 0; s < (offset)splits; ++s) sum += partial[s * (offset)total + i];
    const Point f = unflatten(i, g.channels, g.d.window, g.h.window, g.w.window);
    if (!is_finite(sum)) sum = direct_filter(dy, dys, x, xs, g, f);
    const offset group = f.n / (offset)g.out_channels, k = f.n % (offset)g.out_channels;
    dw[group * (offset)ws.group + k * (offset)ws.out + f.c * (offset)ws.channel +
       f.d * (offset)ws.t + f.h * (offset)ws.r + f.w * (offset)ws.s] = rounded<real>(sum);
  }
}

// partial (K, chunks): each block sums one chunk of one channel's pixels in a tree.
extern "C" __global__ void __launch_bounds__(256)
bias_partial(accum* __restrict__ partial, const real* __restrict__ dy, Strides dys, wide channels,
             wide d, wide h, wide w, wide chunk, wide chunks, wide total) {
  GR_SHARED(accum, part, [256]);
  const offset k = (offset)blockIdx.x / (offset)chunks;
  const offset begin = (offset)blockIdx.x % (offset)chunks * (offset)chunk;
  const offset end = min(begin + (offset)chunk, (offset)total);
  accum sum = 0;
  for (offset i = begin + (offset)threadIdx.x; i < end; i += 256) {
    Point o = unflatten(i, 1, d, h, w);
    o.c = k;
    sum += widen(dy[at(dys, o)]);
  }
  part[threadIdx.x] = sum;
  for (int half = 128; half; half >>= 1) {
    __syncthreads();
    if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = part[0];
}
extern "C" __global__ void bias_finish(real* __restrict__ db, wide step,
                                       const accum* __restrict__ partial, wide chunks, wide total) {
  GR_EACH(k, total) {
    accum sum = 0;
    for (offset i = 0; i < (offset)chunks; ++i) sum += partial[k * (offset)chunks + i];
    db[k * (offset)step] = rounded<real>(sum);
  }
}
