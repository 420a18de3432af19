// The functions that g++ -fsanitize=thread,undefined calls at every access and at undefined
// behaviour.  The sanitizers' own libraries are not linked: these stand in for them, so that a
// report knows the CUDA thread, block and barrier interval.
#include "runner.h"

using namespace runner;

#define PC __builtin_return_address(0)
#define ACCESS(name, size, kind) \
  void __tsan_##name(void* p) { on_access(p, size, kind, PC); }
#define ACCESSES(n)                      \
  ACCESS(read##n, n, READ)               \
  ACCESS(write##n, n, WRITE)             \
  ACCESS(unaligned_read##n, n, READ)     \
  ACCESS(unaligned_write##n, n, WRITE)   \
  ACCESS(volatile_read##n, n, READ)      \
  ACCESS(volatile_write##n, n, WRITE)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
// A copied structure: checked for bounds and order, not for the alignment of its whole size.
void __tsan_read_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; ++i) on_access((char*)p + i, 1, READ, PC);
}
void __tsan_write_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; ++i) on_access((char*)p + i, 1, WRITE, PC);
}

// The first member of each handler's data is the source location.
struct Location { const char* file; unsigned line, column; };
static void undefined(const char* what, void* data) {
  if (!active) return;
  auto* at = (Location*)data;
  report("undefined behaviour: %s at %s:%u", what, at->file, at->line);
  stop();
}
#define UNDEFINED(name)                                              \
  void __ubsan_handle_##name(void* data) { undefined(#name, data); } \
  void __ubsan_handle_##name##_abort(void* data) { undefined(#name, data); }
UNDEFINED(out_of_bounds)
UNDEFINED(add_overflow)
UNDEFINED(sub_overflow)
UNDEFINED(mul_overflow)
UNDEFINED(negate_overflow)
UNDEFINED(divrem_overflow)
UNDEFINED(shift_out_of_bounds)
UNDEFINED(type_mismatch_v1)
UNDEFINED(pointer_overflow)
UNDEFINED(load_invalid_value)
UNDEFINED(builtin_unreachable)
UNDEFINED(missing_return)
UNDEFINED(vla_bound_not_positive)
UNDEFINED(nonnull_arg)
UNDEFINED(nonnull_return_v1)
UNDEFINED(float_cast_overflow)
UNDEFINED(invalid_builtin)
}
