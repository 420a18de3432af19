// CUDA C++ as ordinary C++ on one CPU thread (g++ 10 or newer): the language and the intrinsics.
// Every CUDA thread is a fiber; __syncthreads and the *_sync functions switch fibers.
// kernels/cuda/device.cuh includes this in place of the GPU's own when GR_CPU is defined.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static

#define GR_JOIN_(a, b) a##b
#define GR_JOIN(a, b) GR_JOIN_(a, b)
#define GR_TEXT_(x) #x
#define GR_TEXT(x) GR_TEXT_(x)
#define GR_UNCHECKED __attribute__((no_sanitize("thread", "undefined"), noinline))

// GR_SHARED(float, tile, [16][17]): one guarded allocation per array, 0xff before each block.
#define GR_SHARED(T, name, dims)                                                            \
  static const char GR_JOIN(gr_key_, __LINE__) = 0;                                         \
  typedef T GR_JOIN(gr_type_, __LINE__) dims;                                               \
  GR_JOIN(gr_type_, __LINE__)& name = *reinterpret_cast<GR_JOIN(gr_type_, __LINE__)*>(      \
      runner::shared_array(&GR_JOIN(gr_key_, __LINE__), sizeof(GR_JOIN(gr_type_, __LINE__)), \
                           sizeof(T), #name))
#define GR_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(runner::dynamic_shared)

struct uint3 { unsigned x, y, z; };
struct dim3 : uint3 {
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : uint3{a, b, c} {}
};
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) uint4 { unsigned x, y, z, w; };

namespace runner {

struct Fiber;
struct Lane {  // one CUDA thread
  uint3 index;
  unsigned linear;
  int state;
  const char* where;  // the barrier it waits at
  int vote;
  unsigned mask;          // of the warp operation it waits in
  const char* operation;
  void* request;
  Fiber* fiber;
};
extern Lane* current;  // the running CUDA thread
extern uint3 block_index;
extern dim3 block_size, grid_size;
extern unsigned char* dynamic_shared;

enum Kind { READ, WRITE, ATOMIC, LATER_WRITE };
enum Vote { NO_VOTE, ANY, ALL, COUNT };
void* shared_array(const char* key, size_t bytes, unsigned granule, const char* name);
int block_barrier(const char* where, int vote, Vote how);
// The last lane of `mask` to arrive runs `run` for all of them, then all go on.
void warp_collective(unsigned mask, const char* operation, void* request,
                     void (*run)(void** requests, unsigned mask));
void check_access(const void* address, unsigned size, Kind kind, const void* pc);
void copy_async(void* to, const void* from, int bytes, int valid, const void* pc);
void copy_async_commit();
void copy_async_wait(int pending);

// ---- kernels register themselves with their signature --------------------------------------
void register_kernel(const char* name, void (*call)(void**), std::string signature, unsigned bound);

template <class T> std::string describe() {
  // p: pointer to const, P: pointer, f: floating, i: integer, S: structure; then its size
  char kind = 'S';
  if (std::is_pointer<T>::value)
    kind = std::is_const<typename std::remove_pointer<T>::type>::value ? 'p' : 'P';
  else if (std::is_floating_point<T>::value) kind = 'f';
  else if (std::is_integral<T>::value) kind = 'i';
  return kind + std::to_string(sizeof(T)) + " ";
}
template <auto F> struct Entry;
template <class... A, void (*F)(A...)> struct Entry<F> {
  template <size_t... I> static void unpack(void** values, std::index_sequence<I...>) {
    F(*reinterpret_cast<std::remove_const_t<A>*>(values[I])...);
  }
  static void call(void** values) { unpack(values, std::index_sequence_for<A...>{}); }
  static std::string signature() { return (std::string() + ... + describe<A>()); }
};
struct Registration {
  Registration(const char* name, void (*call)(void**), std::string signature, unsigned bound) {
    register_kernel(name, call, signature, bound);
  }
};

inline int lane() { return current->linear & 31; }

}  // namespace runner

#define GR_EXPORT(name, bound)                                                  \
  static runner::Registration GR_JOIN(gr_register_, __COUNTER__)(               \
      #name, &runner::Entry<&name>::call, runner::Entry<&name>::signature(), bound);

#define threadIdx (runner::current->index)
#define blockIdx (runner::block_index)
#define blockDim (runner::block_size)
#define gridDim (runner::grid_size)
#define warpSize 32

// ---- barriers and warp functions -------------------------------------------------------------
#define GR_HERE __FILE__ ":" GR_TEXT(__LINE__)
#define __syncthreads() ((void)runner::block_barrier(GR_HERE, 0, runner::NO_VOTE))
#define __syncthreads_or(p) runner::block_barrier(GR_HERE, !!(p), runner::ANY)
#define __syncthreads_and(p) runner::block_barrier(GR_HERE, !!(p), runner::ALL)
#define __syncthreads_count(p) runner::block_barrier(GR_HERE, !!(p), runner::COUNT)
inline void __threadfence() {}

namespace runner {
template <class T> struct Exchange { T in, out; int source; };
template <class T> GR_UNCHECKED void exchange(void** requests, unsigned mask) {
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    auto* mine = static_cast<Exchange<T>*>(requests[l]);
    if (mask >> mine->source & 1) mine->out = static_cast<Exchange<T>*>(requests[mine->source])->in;
    else memset(&mine->out, 0xff, sizeof(T));  // undefined in CUDA
  }
}
template <class T> GR_UNCHECKED T shuffle(unsigned mask, T value, int source, const char* operation) {
  Exchange<T> request{value, value, source};
  warp_collective(mask, operation, &request, exchange<T>);
  return request.out;
}
struct Ballot { unsigned in, out; };
inline GR_UNCHECKED void count_ballot(void** requests, unsigned mask) {
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) bits |= (static_cast<Ballot*>(requests[l])->in ? 1u : 0u) << l;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) static_cast<Ballot*>(requests[l])->out = bits;
}
inline GR_UNCHECKED unsigned ballot(unsigned mask, int predicate, const char* operation) {
  Ballot request{(unsigned)!!predicate, 0};
  warp_collective(mask, operation, &request, count_ballot);
  return request.out;
}
inline void nothing(void**, unsigned) {}
}  // namespace runner

template <class T> T __shfl_sync(unsigned m, T v, int source, int width = 32) {
  const int base = runner::lane() & ~(width - 1);
  return runner::shuffle(m, v, base | (source & (width - 1)), "__shfl_sync");
}
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int width = 32) {
  const int l = runner::lane(), s = l ^ x;
  return runner::shuffle(m, v, (s & ~(width - 1)) > (l & ~(width - 1)) ? l : s, "__shfl_xor_sync");
}
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int width = 32) {
  const int l = runner::lane();
  return runner::shuffle(m, v, (l & (width - 1)) + (int)d >= width ? l : l + (int)d,
                         "__shfl_down_sync");
}
inline unsigned __ballot_sync(unsigned m, int p) { return runner::ballot(m, p, "__ballot_sync"); }
inline int __any_sync(unsigned m, int p) { return runner::ballot(m, p, "__any_sync") != 0; }
inline int __all_sync(unsigned m, int p) { return runner::ballot(m, p, "__all_sync") == m; }
inline void __syncwarp(unsigned m = 0xffffffffu) {
  runner::warp_collective(m, "__syncwarp", nullptr, runner::nothing);
}

// ---- atomics: one OS thread, and fibers never switch inside them ------------------------------
#define GR_ATOMIC(name, result)                                                        \
  template <class T> GR_UNCHECKED T name(T* p, std::common_type_t<T> v) {              \
    runner::check_access(p, sizeof(T), runner::ATOMIC, __builtin_return_address(0));   \
    T old = *p;                                                                        \
    *p = (result);                                                                     \
    return old;                                                                        \
  }
GR_ATOMIC(atomicAdd, old + v)
GR_ATOMIC(atomicMax, old > v ? old : v)
GR_ATOMIC(atomicMin, old < v ? old : v)
template <class T> GR_UNCHECKED T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> v) {
  runner::check_access(p, sizeof(T), runner::ATOMIC, __builtin_return_address(0));
  T old = *p;
  if (old == compare) *p = v;
  return old;
}

// ---- math and bit functions ------------------------------------------------------------------
template <class A, class B> auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return (T)a < (T)b ? (T)a : (T)b;
}
template <class A, class B> auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return (T)a > (T)b ? (T)a : (T)b;
}
inline float __uint_as_float(unsigned x) { float f; memcpy(&f, &x, 4); return f; }
inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }

#include "primitives.h"
