// What the parts of the runner share: scheduler.cpp, memory.cpp, launch.cpp, hooks.cpp.
// Compiled without sanitizers; GR_CHECK turns the memory checks on.
#pragma once
#include "cuda_on_cpu.h"

#include <string>
#include <vector>

namespace runner {

enum State { NEW, READY, WAIT_BLOCK, WAIT_WARP, DONE };
enum Order { ASCENDING, DESCENDING, RANDOM };

struct Warp { unsigned arrived, epoch; };  // epoch: whole-warp operations passed in this block

// In the module's own image, so that the checks skip what kernels read of it (threadIdx).
struct Lanes {
  Lane at[1024];
  unsigned count;
  Lane* begin() { return at; }
  Lane* end() { return at + count; }
  Lane& operator[](unsigned i) { return at[i]; }
};
extern Lanes lanes;
extern std::vector<Warp> warps;

// Time is counted in epochs: one per barrier interval.
extern uint64_t epoch, block_first_epoch, launch_first_epoch;
extern bool active;  // inside a launch
extern bool failed;
extern std::string error;

__attribute__((format(printf, 1, 2))) void report(const char* format, ...);
[[noreturn]] void stop();  // leaves the fiber for good

// scheduler.cpp
void prepare_fibers(unsigned count);
void run_block(void (*call)(void**), void** values);
void shuffle_order(std::vector<unsigned>& order);
void set_order(Order order, uint64_t seed);
bool on_fiber_stack(uintptr_t address);
void reset_copies(unsigned lanes);

// memory.cpp
void on_access(const void* address, unsigned size, Kind kind, const void* pc);
void begin_memory_checks();
void forget_region();
void clear_shared();
void free_shared();
unsigned char* make_dynamic_shared(size_t bytes);

}  // namespace runner
