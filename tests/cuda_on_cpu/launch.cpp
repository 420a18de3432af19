// The C interface that module.py calls: kernels by name, one launch at a time.
#include "runner.h"

#include <map>

namespace runner {

struct Kernel { void (*call)(void**); std::string signature; unsigned bound; };
static std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
void register_kernel(const char* name, void (*call)(void**), std::string signature, unsigned bound) {
  kernels()[name] = {call, signature, bound};
}

// In the module's image, which the checks skip.
static void* values[64];
static char value_bytes[4096];

static void run_grid(const Kernel& kernel, const unsigned* grid) {
  std::vector<unsigned> blocks((size_t)grid[0] * grid[1] * grid[2]);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = (unsigned)i;
  shuffle_order(blocks);
  for (unsigned i : blocks) {
    block_index = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
    run_block(kernel.call, values);
    if (failed) return;
  }
}

extern "C" {
const char* gr_signature(const char* name) {
  auto it = kernels().find(name);
  return it == kernels().end() ? nullptr : it->second.signature.c_str();
}
unsigned gr_bound(const char* name) { return kernels().at(name).bound; }
const char* gr_error() { return error.c_str(); }

// 0: done; 1: the checks reported something, see gr_error.
int gr_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared,
              void** arguments, const size_t* sizes, int count, int order, uint64_t seed) {
  const Kernel& kernel = kernels().at(name);
  char* next = value_bytes;
  for (int i = 0; i < count; ++i) {
    memcpy(next, arguments[i], sizes[i]);
    values[i] = next;
    next += (sizes[i] + 15) / 16 * 16;
  }
  grid_size = dim3(grid[0], grid[1], grid[2]);
  block_size = dim3(block[0], block[1], block[2]);
  lanes.count = block[0] * block[1] * block[2];
  warps.assign((lanes.count + 31) / 32, Warp{0, 0});
  set_order((Order)order, seed);
  error.clear();
  failed = false;
  begin_memory_checks();
  prepare_fibers(lanes.count);
  dynamic_shared = make_dynamic_shared(shared);
  launch_first_epoch = epoch + 1;
  active = true;
  run_grid(kernel, grid);
  active = false;
  current = nullptr;
  free_shared();
  return error.empty() ? 0 : 1;
}
}

}  // namespace runner
