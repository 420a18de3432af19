// Activations and their slopes, element by element.  The numbers of the names are their places in
// contract.ACTIVATIONS.
#include "device.cuh"

enum Activation { RELU, LEAKY_RELU, ELU, SIGMOID, TANH, SOFTPLUS, GELU, SILU };

// One name for the float and the double function.
#define GR_MATH(name, single, twice)                                    \
  __device__ __forceinline__ float name(float v) { return single(v); }  \
  __device__ __forceinline__ double name(double v) { return twice(v); }
GR_MATH(exponential, expf, exp)
GR_MATH(exponential_less_1, expm1f, expm1)
GR_MATH(log_of_1_plus, log1pf, log1p)
GR_MATH(hyperbolic_tangent, tanhf, tanh)
GR_MATH(error_function, erff, erf)
GR_MATH(magnitude, fabsf, fabs)

__device__ accum sigmoid(accum v) {
  const accum small = exponential(-magnitude(v));  // never overflows
  return (v < 0 ? small : (accum)1) / (1 + small);
}
__device__ accum normal_cdf(accum v) {
  return (1 + error_function(v * (accum)0.70710678118654752)) / 2;
}
__device__ accum normal_density(accum v) {
  return exponential(-v * v / 2) * (accum)0.39894228040143268;
}

__device__ accum value_at(int name, accum v, accum leaky_slope, accum elu_alpha) {
  switch (name) {
    case RELU: return v > 0 || v != v ? v : (accum)0;
    case LEAKY_RELU: return v > 0 ? v : leaky_slope * v;
    case ELU: return v > 0 ? v : elu_alpha * exponential_less_1(v);
    case SIGMOID: return sigmoid(v);
    case TANH: return hyperbolic_tangent(v);
    case SOFTPLUS:
      return (v > 0 || v != v ? v : (accum)0) + log_of_1_plus(exponential(-magnitude(v)));
    case GELU: return v * normal_cdf(v);
    default: return v * sigmoid(v);  // SILU
  }
}
__device__ accum slope_from_input(int name, accum v, accum leaky_slope, accum elu_alpha) {
  switch (name) {
    case RELU: return v > 0 ? 1 : 0;
    case LEAKY_RELU: return v > 0 ? (accum)1 : leaky_slope;
    case ELU: return v > 0 ? (accum)1 : elu_alpha * exponential(v);
    case SIGMOID: return sigmoid(v) * sigmoid(-v);
    case TANH: {
      const accum y = hyperbolic_tangent(v);
      return 1 - y * y;
    }
    case SOFTPLUS: return sigmoid(v);
    case GELU: return normal_cdf(v) + v * normal_density(v);
    default: return sigmoid(v) * (1 + v * sigmoid(-v));  // SILU
  }
}
__device__ accum slope_from_output(int name, accum y, accum leaky_slope, accum elu_alpha) {
  switch (name) {
    case RELU: return y > 0 ? 1 : 0;
    case LEAKY_RELU: return y > 0 ? (accum)1 : leaky_slope;
    case ELU: return y > 0 ? (accum)1 : y + elu_alpha;
    case SIGMOID: return y * (1 - y);
    case TANH: return 1 - y * y;
    default: return -exponential_less_1(-y);  // SOFTPLUS
  }
}

// y and x may be the same array, hence without __restrict__.
extern "C" __global__ void activate(real* y, const real* x, int name, double leaky_slope,
                                    double elu_alpha, wide total) {
  GR_EACH(i, total) {
    y[i] = rounded<real>(value_at(name, widen(x[i]), (accum)leaky_slope, (accum)elu_alpha));
  }
}

__device__ __forceinline__ accum slope_at(int name, bool from_output, accum saved,
                                          accum leaky_slope, accum elu_alpha) {
  return from_output ? slope_from_output(name, saved, leaky_slope, elu_alpha)
                     : slope_from_input(name, saved, leaky_slope, elu_alpha);
}

extern "C" __global__ void activate_backward(real* dx, const real* dy, const real* saved, int name,
                                             int from_output, double leaky_slope, double elu_alpha,
                                             wide total) {
  GR_EACH(i, total) {
    const accum slope = slope_at(name, from_output, widen(saved[i]), (accum)leaky_slope,
                                 (accum)elu_alpha);
    dx[i] = rounded<real>(widen(dy[i]) * slope);
  }
}

// dz (rows, columns) = dy * slope, and partial (columns, chunks): its sums over chunks of rows, in
// one pass; bias_finish of conv_finish.cu adds the chunks up.  A block takes 32 columns of one
// chunk, each of its warps every eighth row.
constexpr int WARPS = 8;
extern "C" __global__ void __launch_bounds__(32 * WARPS)
linear_slope(real* __restrict__ dz, accum* __restrict__ partial, const real* __restrict__ dy,
             const real* __restrict__ y, int name, double leaky_slope, double elu_alpha, wide rows,
             wide columns, wide chunks) {
  GR_SHARED(accum, part, [WARPS][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // blockIdx.x counts (column tile, chunk)
  const offset chunk = (offset)blockIdx.x % (offset)chunks;
  const offset column = (offset)blockIdx.x / (offset)chunks * 32 + lane;
  const offset length = ((offset)rows + (offset)chunks - 1) / (offset)chunks;
  const offset end = min((chunk + 1) * length, (offset)rows);
  accum sum = 0;
  if (column < (offset)columns)
    for (offset row = chunk * length + warp; row < end; row += WARPS) {
      const offset i = row * (offset)columns + column;
      const accum v = widen(dy[i]) * slope_at(name, true, widen(y[i]), (accum)leaky_slope,
                                              (accum)elu_alpha);
      dz[i] = rounded<real>(v);
      sum += v;
    }
  part[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < (offset)columns) {
    for (int other = 1; other < WARPS; ++other) sum += part[other][lane];
    partial[column * (offset)chunks + chunk] = sum;
  }
}
