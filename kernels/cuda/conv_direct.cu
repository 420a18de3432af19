// Convolution with few channels per group (depthwise above all), where a tile would be mostly
// empty: one thread per element of y or dx, one block per element of dw.
#include "conv.cuh"

extern "C" __global__ void conv_direct(real* __restrict__ out, Strides os,
                                       const real* __restrict__ source, Strides ss,
                                       const real* __restrict__ w, WeightStrides ws,
                                       const real* __restrict__ bias, Conv g, wide total) {
  const bool transposed = g.transposed != 0;
  const wide out_d = transposed ? g.d.size : g.d.out, out_h = transposed ? g.h.size : g.h.out,
             out_w = transposed ? g.w.size : g.w.out;
  GR_EACH(i, total) {
    const Point o = unflatten(i, g.groups * g.out_channels, out_d, out_h, out_w);
    const offset stride_d = transposed ? (offset)g.d.stride : 1,
                 stride_h = transposed ? (offset)g.h.stride : 1,
                 stride_w = transposed ? (offset)g.w.stride : 1;
    const Lines l = {line_of(g.d, transposed, o.d % stride_d),
                     line_of(g.h, transposed, o.h % stride_h),
                     line_of(g.w, transposed, o.w % stride_w)};
    accum sum = direct_sum(source, ss, w, ws, g, l, o.n, o.c / (offset)g.out_channels,
                           o.c % (offset)g.out_channels, o.d / stride_d, o.h / stride_h,
                           o.w / stride_w);
    if (bias) sum += widen(bias[o.c]);
    out[at(os, o)] = rounded<real>(sum);
  }
}

// dw: one block per (k, c, t, r, s); its threads share out the pixels and add up in a tree.
extern "C" __global__ void __launch_bounds__(128)
conv_direct_filter(real* __restrict__ dw, WeightStrides ws, const real* __restrict__ dy,
                   Strides dys, const real* __restrict__ x, Strides xs, Conv g) {
  GR_SHARED(accum, part, [128]);
  const Point f = unflatten((offset)blockIdx.x, g.channels, g.d.window, g.h.window, g.w.window);
  const offset group = f.n / (offset)g.out_channels, k = f.n % (offset)g.out_channels;
  const real* image = x + (group * (offset)g.channels + f.c) * (offset)xs.c;
  const real* gradient = dy + f.n * (offset)dys.c;
  const offset total = (offset)(g.batch * g.d.out * g.h.out * g.w.out);
  accum sum = 0;
  for (offset i = threadIdx.x; i < total; i += 128) {
    Point o = unflatten(i, 1, g.d.out, g.h.out, g.w.out);
    const Point in = {o.n, 0, input_of(g.d, o.d, f.d), input_of(g.h, o.h, f.h),
                      input_of(g.w, o.w, f.w)};
    if (inside(g.d, in.d) && inside(g.h, in.h) && inside(g.w, in.w))
      sum = multiply_add(widen(gradient[at(dys, o)]), widen(image[at(xs, in)]), sum);
  }
  part[threadIdx.x] = sum;
  for (int half = 64; half; half >>= 1) {
    __syncthreads();
    if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0)
    dw[group * (offset)ws.group + k * (offset)ws.out + f.c * (offset)ws.channel +
       f.d * (offset)ws.t + f.h * (offset)ws.r + f.w * (offset)ws.s] = rounded<real>(part[0]);
}
