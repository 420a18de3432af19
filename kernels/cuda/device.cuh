// What every kernel is written with: number types, indices, shared memory, tensor cores.
// All inline PTX of the package is here.  With GR_CPU defined the same names come from the CPU
// runner of the tests (tests/cuda_on_cpu), which is why kernels never write asm themselves.
//
// A source file is compiled once per choice of
//   GR_REAL   f32 | f64 | f16 | b16   what arrays hold
//   GR_WIDE   defined: offsets are 64-bit, for arrays of 2^30 elements or more
#pragma once
#ifdef GR_CPU
#include "cuda_on_cpu.h"
#else

#define GR_SHARED(T, name, dims) __shared__ __align__(16) T name dims

struct f16 { unsigned short bits; };
struct b16 { unsigned short bits; };

__device__ __forceinline__ float widen(f16 v) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
  return r;
}
__device__ __forceinline__ f16 narrow_f16(float v) {
  f16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
__device__ __forceinline__ float widen(b16 v) { return __uint_as_float((unsigned)v.bits << 16); }
__device__ __forceinline__ b16 narrow_b16(float v) {
  b16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
__device__ __forceinline__ unsigned to_tf32(float v) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}

// D (16 x 8) += A (16 x depth) * B (depth x 8) by one warp, with float32 sums.
// Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16".
#define GR_MMA(name, shape)                                                                   \
  __device__ __forceinline__ void name(float (&d)[4], const unsigned (&a)[4],                 \
                                       const unsigned (&b)[2]) {                              \
    asm volatile("mma.sync.aligned." shape                                                    \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"                   \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));         \
  }
GR_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
GR_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
GR_MMA(mma_b16, "m16n8k16.row.col.f32.bf16.bf16.f32")

// 16 bytes from global to shared memory, in the background; the bytes past `valid` become 0.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, int valid) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
               :: "r"(to), "l"(global), "r"(valid));
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;\n"); }
template <int N> __device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}
#endif

// ---- numbers: arrays hold `real`, sums run in `accum` --------------------------------------
typedef float f32;
typedef double f64;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
template <class T> struct Number { typedef float accum; };
template <> struct Number<double> { typedef double accum; };
template <class T> __device__ __forceinline__ T rounded(typename Number<T>::accum v);
template <> __device__ __forceinline__ float rounded<float>(float v) { return v; }
template <> __device__ __forceinline__ double rounded<double>(double v) { return v; }
template <> __device__ __forceinline__ f16 rounded<f16>(float v) { return narrow_f16(v); }
template <> __device__ __forceinline__ b16 rounded<b16>(float v) { return narrow_b16(v); }

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

#ifndef GR_REAL
#define GR_REAL f32
#endif
typedef GR_REAL real;
typedef Number<real>::accum accum;

// ---- indices -------------------------------------------------------------------------------
typedef long long wide;
#ifdef GR_WIDE
typedef long long offset;
constexpr int RESIDENT = 1;  // blocks per multiprocessor that tiled kernels leave registers for
#else
typedef int offset;
constexpr int RESIDENT = 2;
#endif

// for (every i below total) shared out over the grid
#define GR_EACH(i, total)                                                            \
  for (offset i = (offset)blockIdx.x * (offset)blockDim.x + (offset)threadIdx.x;     \
       i < (offset)(total); i += (offset)gridDim.x * (offset)blockDim.x)
