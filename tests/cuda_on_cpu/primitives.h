// The CPU's versions of the PTX wrappers in kernels/cuda/device.cuh: 16-bit conversions, cp.async,
// and mma.sync, whose fragment layouts are those of the PTX ISA manual, section "Matrix
// Fragments for mma".
#pragma once

struct f16 { unsigned short bits; };
struct b16 { unsigned short bits; };

inline float widen(f16 v) {
  _Float16 h;
  memcpy(&h, &v, 2);
  return (float)h;
}
inline GR_UNCHECKED f16 narrow_f16(float v) {  // beyond 65504 becomes inf, as on the GPU
  const _Float16 h = (_Float16)v;
  f16 out;
  memcpy(&out, &h, 2);
  return out;
}
inline float widen(b16 v) { return __uint_as_float((unsigned)v.bits << 16); }
inline b16 narrow_b16(float v) {  // to nearest, ties to even
  const unsigned u = __float_as_uint(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {(unsigned short)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
inline unsigned to_tf32(float v) {  // cvt.rna: to nearest, ties away from zero
  const unsigned u = __float_as_uint(v);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}

namespace runner {
struct Product { float* d; const unsigned* a; const unsigned* b; };
struct TF32 {
  static constexpr int depth = 8, packed = 1;
  static float element(unsigned u, int) { return __uint_as_float(u & 0xffffe000u); }
};
struct BF16 {
  static constexpr int depth = 16, packed = 2;
  static float element(unsigned u, int half) {
    return __uint_as_float(half ? u & 0xffff0000u : u << 16);
  }
};
struct FP16 {
  static constexpr int depth = 16, packed = 2;
  static float element(unsigned u, int half) { return widen(f16{(unsigned short)(u >> 16 * half)}); }
};
// Tensor cores cut a sum off where other units round it: Fasi et al. 2021, "Numerical behavior of
// NVIDIA tensor cores", PeerJ Computer Science 7:e330.
inline GR_UNCHECKED float cut_off(double sum) {
  const float near = (float)sum;
  const bool outward = fabs((double)near) > fabs(sum) && fabs((double)near) <= 3.402823466e38;
  return outward ? __uint_as_float(__float_as_uint(near) - 1) : near;
}
// D (16 x 8) += A (16 x depth) * B (depth x 8), the fragments gathered from the warp's 32 lanes.
template <class Type> GR_UNCHECKED void multiply(void** requests, unsigned) {
  constexpr int depth = Type::depth, packed = Type::packed;
  float a[16][depth], b[depth][8];
  for (int l = 0; l < 32; ++l) {
    auto* q = static_cast<Product*>(requests[l]);
    const int group = l >> 2, in_group = l & 3;
    for (int i = 0; i < 4; ++i)
      for (int h = 0; h < packed; ++h)
        a[group + (i & 1) * 8][packed * in_group + h + (i >> 1) * 4 * packed] =
            Type::element(q->a[i], h);
    for (int i = 0; i < 2; ++i)
      for (int h = 0; h < packed; ++h)
        b[packed * in_group + h + i * 4 * packed][group] = Type::element(q->b[i], h);
  }
  for (int l = 0; l < 32; ++l) {
    auto* q = static_cast<Product*>(requests[l]);
    const int group = l >> 2, in_group = l & 3;
    for (int e = 0; e < 4; ++e) {
      double sum = q->d[e];
      for (int k = 0; k < depth; ++k)
        sum += (double)a[group + (e >> 1) * 8][k] * b[k][2 * in_group + (e & 1)];
      q->d[e] = cut_off(sum);
    }
  }
}
template <class Type>
GR_UNCHECKED void product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                          const char* name) {
  Product request{d, a, b};
  warp_collective(0xffffffffu, name, &request, multiply<Type>);
}
}  // namespace runner

inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  runner::product<runner::TF32>(d, a, b, "mma.m16n8k8.tf32");
}
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  runner::product<runner::FP16>(d, a, b, "mma.m16n8k16.f16");
}
inline void mma_b16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  runner::product<runner::BF16>(d, a, b, "mma.m16n8k16.bf16");
}
inline GR_UNCHECKED void copy_async_16(void* shared, const void* global, int valid) {
  runner::copy_async(shared, global, 16, valid, __builtin_return_address(0));
}
inline void copy_async_commit() { runner::copy_async_commit(); }
template <int N> void copy_async_wait() { runner::copy_async_wait(N); }
