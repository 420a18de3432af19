// Guarded allocations, and what every access is checked for: bounds, alignment, read-only
// arguments, initialisation and order (races).
#include "runner.h"

#include <link.h>
#include <sys/mman.h>

#include <map>

namespace runner {

// Per byte of an argument, as the host passes it and reads it back.
enum ByteState : unsigned char { NOT_PART = 0, UNWRITTEN = 1, WRITTEN = 2 };

struct Cell {  // one granule of memory: its last accesses
  uint64_t write_epoch = 0, read_epoch = 0;
  const void *write_pc = nullptr, *read_pc = nullptr;
  uint32_t write_warp_epoch = 0, read_warp_epoch = 0;
  uint16_t write_thread = 0, read_thread = 0;
  bool atomic = false, several_readers = false;
  ByteState state = UNWRITTEN;
};
struct Region {
  uintptr_t low, high;
  unsigned granule;
  std::string name;
  bool read_only, shared;
  std::vector<Cell> cells;
  void* map;
  size_t map_bytes;
};
static std::map<uintptr_t, Region> regions;  // by their low end
static Region* last_region;
static std::map<uintptr_t, int> reported;
static const size_t MARGIN = 1 << 20;
static const char* KIND[] = {"read", "write", "atomic", "async write"};

void forget_region() { last_region = nullptr; }

static Region* find(uintptr_t a) {
  auto it = regions.upper_bound(a);
  if (it == regions.begin()) return nullptr;
  --it;
  return a < it->second.high ? &it->second : nullptr;
}

// ---- the module's own image holds constants and the runner's state: not checked ---------------------
static uintptr_t image_low, image_high;
static int find_image(dl_phdr_info* info, size_t, void*) {
  uintptr_t low = ~(uintptr_t)0, high = 0;
  for (int k = 0; k < info->dlpi_phnum; ++k) {
    auto& p = info->dlpi_phdr[k];
    if (p.p_type != PT_LOAD) continue;
    const uintptr_t a = info->dlpi_addr + p.p_vaddr;
    low = a < low ? a : low;
    high = a + p.p_memsz > high ? a + p.p_memsz : high;
  }
  if ((uintptr_t)&find_image < low || (uintptr_t)&find_image >= high) return 0;
  image_low = low;
  image_high = high;
  return 1;
}
static size_t in_image(const void* pc) { return (uintptr_t)pc - image_low; }

void begin_memory_checks() {
  if (!image_low) dl_iterate_phdr(find_image, nullptr);
  reported.clear();
  last_region = nullptr;
}

static void out_of_bounds(uintptr_t a, unsigned size, Kind kind, const void* pc) {
  auto it = regions.upper_bound(a);
  Region* nearest = nullptr;
  if (it != regions.begin()) nearest = &std::prev(it)->second;
  if (it != regions.end() && (!nearest || it->first - a < a - nearest->high)) nearest = &it->second;
  if (nearest)
    report("out of bounds: %s of %u bytes at byte %ld of '%s' (%lu bytes) @pc=%zx", KIND[kind], size,
           (long)(a - nearest->low), nearest->name.c_str(),
           (unsigned long)(nearest->high - nearest->low), in_image(pc));
  else
    report("out of bounds: %s of %u bytes at %p @pc=%zx", KIND[kind], size, (void*)a, in_image(pc));
  stop();
}

// Is a recorded access of this launch not ordered before one that happens now?
static bool unordered(uint64_t when, unsigned thread, uint32_t warp_epoch) {
  if (when < launch_first_epoch) return false;
  if (when < block_first_epoch) return true;  // another block of this launch
  const unsigned me = current->linear;
  if (when != epoch || thread == me) return false;
  return !(thread >> 5 == me >> 5 && warp_epoch != warps[me >> 5].epoch);
}

static void check_race(Region& r, Cell& c, size_t i, Kind kind, const void* pc) {
  const bool stale_write = r.shared && c.write_epoch < block_first_epoch;
  const bool stale_read = r.shared && c.read_epoch < block_first_epoch;
  const bool with_write = !stale_write && !(kind == ATOMIC && c.atomic) &&
                          unordered(c.write_epoch, c.write_thread, c.write_warp_epoch);
  const bool several = c.several_readers && (c.read_epoch == epoch ||
      (c.read_epoch >= launch_first_epoch && c.read_epoch < block_first_epoch));
  const bool with_read = kind != READ && !stale_read &&
      (several || unordered(c.read_epoch, c.read_thread, c.read_warp_epoch));
  if (!with_write && !with_read) return;
  const void* other = with_write ? c.write_pc : c.read_pc;
  if (reported[(uintptr_t)pc * 31 + (uintptr_t)other]++) return;
  const bool other_block = (with_write ? c.write_epoch : c.read_epoch) < block_first_epoch;
  report("race on byte %ld of '%s': %s @pc=%zx is not ordered after the %s by thread %u of %s block "
         "@pc=%zx",
         (long)(i * r.granule), r.name.c_str(), KIND[kind], in_image(pc),
         with_write ? (c.atomic ? "atomic" : "write") : "read",
         with_write ? c.write_thread : c.read_thread, other_block ? "another" : "this",
         in_image(other));
}

static void record(Region& r, Cell& c, Kind kind, const void* pc) {
  const uint16_t me = (uint16_t)current->linear;
  const uint32_t warp_epoch = warps[me >> 5].epoch;
  if (kind != READ) {
    c.write_epoch = epoch;
    c.write_thread = me;
    c.write_warp_epoch = warp_epoch;
    c.write_pc = pc;
    c.atomic = kind == ATOMIC;
    c.state = WRITTEN;
    return;
  }
  const bool stale = r.shared && c.read_epoch < block_first_epoch;
  const bool same_time = c.read_epoch == epoch || c.read_epoch < block_first_epoch;
  if (c.read_epoch >= launch_first_epoch && !stale && same_time) {
    if (c.read_thread != me || c.read_epoch != epoch) c.several_readers = true;
    else c.read_warp_epoch = warp_epoch;
    return;
  }
  c.read_epoch = epoch;
  c.read_thread = me;
  c.read_warp_epoch = warp_epoch;
  c.read_pc = pc;
  c.several_readers = false;
}

static void check(uintptr_t a, unsigned size, Kind kind, const void* pc) {
  Region* r = last_region;
  if (!r || a < r->low || a >= r->high) r = find(a);
  if (!r && a >= image_low && a < image_high) return;
  if (!r || a + size > r->high) out_of_bounds(a, size, kind, pc);
  last_region = r;
  const long at = (long)(a - r->low);
  if (a % size && size <= 16) {
    report("misaligned: %s of %u bytes at byte %ld of '%s' @pc=%zx", KIND[kind], size, at,
           r->name.c_str(), in_image(pc));
    stop();
  }
  if (r->read_only && kind != READ) {
    report("%s to the read-only argument '%s' @pc=%zx", KIND[kind], r->name.c_str(), in_image(pc));
    stop();
  }
  for (size_t i = at / r->granule, end = (at + size - 1) / r->granule; i <= end; ++i) {
    Cell& c = r->cells[i];
    if (c.state == NOT_PART) {
      report("out of bounds: %s of %u bytes at byte %ld of '%s', between the elements of a strided "
             "view @pc=%zx", KIND[kind], size, at, r->name.c_str(), in_image(pc));
      stop();
    }
    check_race(*r, c, i, kind, pc);
    if (kind == LATER_WRITE) continue;
    const bool unwritten = r->shared ? c.write_epoch < block_first_epoch : c.state == UNWRITTEN;
    if (kind != WRITE && unwritten && !reported[(uintptr_t)pc]++)
      report("uninitialised: %s of byte %ld of '%s' @pc=%zx", KIND[kind], (long)(i * r->granule),
             r->name.c_str(), in_image(pc));
    record(*r, c, kind, pc);
  }
}
void on_access(const void* p, unsigned size, Kind kind, const void* pc) {
  if (active && !on_fiber_stack((uintptr_t)p)) check((uintptr_t)p, size, kind, pc);
}
void check_access(const void* p, unsigned size, Kind kind, const void* pc) {
#ifdef GR_CHECK
  on_access(p, size, kind, pc);
#else
  (void)p, (void)size, (void)kind, (void)pc;
#endif
}

// ---- shared memory -----------------------------------------------------------------------------
extern "C" void* gr_alloc(size_t bytes, unsigned granule, const char* name, int read_only,
                          const unsigned char* states);
extern "C" void gr_free(void* p, unsigned char* states);
struct Shared { void* p; size_t bytes; };
static std::map<const char*, Shared> shared_arrays;
static size_t static_shared;
static size_t dynamic_bytes;

void* shared_array(const char* key, size_t bytes, unsigned granule, const char* name) {
  Shared& s = shared_arrays[key];
  if (s.p) return s.p;
  s = {gr_alloc(bytes, granule, name, 0, nullptr), bytes};
  regions[(uintptr_t)s.p].shared = true;
  static_shared += bytes;
  if (static_shared > 48 << 10) {
    report("static shared memory above 48 KiB: %zu bytes", static_shared);
    stop();
  }
  return s.p;
}
unsigned char* make_dynamic_shared(size_t bytes) {
  dynamic_bytes = bytes;
  if (!bytes) return nullptr;
  auto* p = (unsigned char*)gr_alloc(bytes, 2, "dynamic shared memory", 0, nullptr);
  regions[(uintptr_t)p].shared = true;
  return p;
}
void clear_shared() {
  for (auto& a : shared_arrays) memset(a.second.p, 0xff, a.second.bytes);
  if (dynamic_shared) memset(dynamic_shared, 0xff, dynamic_bytes);
}
void free_shared() {
  for (auto& a : shared_arrays) gr_free(a.second.p, nullptr);
  if (dynamic_shared) gr_free(dynamic_shared, nullptr);
  shared_arrays.clear();
  static_shared = 0;
  dynamic_shared = nullptr;
}

// ---- "device" allocations: nothing is mapped within a megabyte of either end ------------------------
extern "C" void* gr_alloc(size_t bytes, unsigned granule, const char* name, int read_only,
                          const unsigned char* states) {
  const size_t total = (bytes + 4095) / 4096 * 4096 + 2 * MARGIN;
  auto* map = (unsigned char*)mmap(nullptr, total, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  const uintptr_t low = (uintptr_t)map + MARGIN;
  Region r{low, low + bytes, granule, name, read_only != 0, false, {}, map, total};
#ifdef GR_CHECK
  r.cells.resize((bytes + granule - 1) / granule);
  if (states)
    for (size_t i = 0; i < r.cells.size(); ++i) r.cells[i].state = (ByteState)states[i * granule];
#else
  (void)states;
#endif
  memset(map + MARGIN, 0xff, bytes);
  regions[low] = std::move(r);
  forget_region();
  return map + MARGIN;
}
extern "C" void gr_free(void* p, unsigned char* states) {
  auto i = regions.find((uintptr_t)p);
  Region& r = i->second;
  if (states)
    for (size_t b = 0; b < r.high - r.low; ++b)
      states[b] = r.cells.empty() ? (unsigned char)WRITTEN : r.cells[b / r.granule].state;
  munmap(r.map, r.map_bytes);
  regions.erase(i);
  forget_region();
}

}  // namespace runner
