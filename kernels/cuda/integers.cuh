// Integer arrays of any dtype, read one element at a time.
#pragma once
#include "device.cuh"

__device__ __forceinline__ wide load_integer(const void* p, int bytes, int is_signed, offset i) {
  switch (bytes * 2 + is_signed) {
    case 2: return static_cast<const unsigned char*>(p)[i];
    case 3: return static_cast<const signed char*>(p)[i];
    case 4: return static_cast<const unsigned short*>(p)[i];
    case 5: return static_cast<const short*>(p)[i];
    case 8: return static_cast<const unsigned*>(p)[i];
    case 9: return static_cast<const int*>(p)[i];
    default: return static_cast<const wide*>(p)[i];  // uint64 from 2^63 on reads as negative
  }
}
// A failed value check: the kernels that depend on it then write nothing.
__device__ __forceinline__ bool failed(const wide* bad) { return bad != nullptr && *bad != -1; }
// Records the smallest position; -1, nothing found yet, is the largest unsigned number.
__device__ __forceinline__ void record_bad(wide* bad, offset i) {
  atomicMin(reinterpret_cast<unsigned long long*>(bad), (unsigned long long)i);
}
