// Fibers, the order in which they run, block barriers, warp operations and asynchronous copies.
#include "runner.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

namespace runner {

Lane* current;
uint3 block_index;
dim3 block_size, grid_size;
unsigned char* dynamic_shared;
Lanes lanes;
std::vector<Warp> warps;
uint64_t epoch, block_first_epoch, launch_first_epoch;
bool active, failed;
std::string error;

struct Fiber { void* stack_pointer; ucontext_t context; unsigned char* stack; };
static const size_t STACK = 128 << 10, GUARD = 4096;
static std::vector<Fiber> fibers;
static std::vector<Fiber*> idle;
static Fiber main_fiber;
static Fiber* running;
static unsigned char* stacks;
static size_t stacks_bytes;
static void fiber_main();

// ---- switching: six registers on x86-64, ucontext elsewhere -----------------------------------
#if defined(__x86_64__)
extern "C" void gr_switch(void** save, void* load);
asm(R"(.text
.globl gr_switch
.hidden gr_switch
.type gr_switch,@function
gr_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size gr_switch,.-gr_switch
)");
static void start_fiber(Fiber& f) {
  void** top = reinterpret_cast<void**>(f.stack + STACK) - 1;
  *--top = reinterpret_cast<void*>(&fiber_main);  // rsp % 16 == 8 on entry, as after a call
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
}
static void switch_fibers(Fiber* from, Fiber* to) { gr_switch(&from->stack_pointer, to->stack_pointer); }
#else
static void start_fiber(Fiber& f) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
}
static void switch_fibers(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }
#endif

static void switch_to(Fiber* to) {
  Fiber* from = running;
  running = to;
  switch_fibers(from, to);
}

void prepare_fibers(unsigned count) {
  if (fibers.size() < count) {
    if (stacks) munmap(stacks, stacks_bytes);
    stacks_bytes = (STACK + GUARD) * count;
    stacks = (unsigned char*)mmap(nullptr, stacks_bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fibers.assign(count, Fiber{});
    for (unsigned i = 0; i < count; ++i) {
      unsigned char* guard = stacks + i * (STACK + GUARD);
      mprotect(guard, GUARD, PROT_NONE);
      fibers[i].stack = guard + GUARD;
    }
  }
  idle.clear();
  for (auto& f : fibers) {
    start_fiber(f);
    idle.push_back(&f);
  }
}
bool on_fiber_stack(uintptr_t a) { return a - (uintptr_t)stacks < stacks_bytes; }

// ---- the order of threads ------------------------------------------------------------------------
static Order order_of_threads;
static uint64_t random_state;
static std::vector<unsigned> start_order;
static std::vector<Lane*> ready;
static size_t ready_head;
static unsigned next_new, done, waiting;

void set_order(Order order, uint64_t seed) {
  order_of_threads = order;
  random_state = seed * 0x9E3779B97F4A7C15ull + 1442695040888963407ull;
}
static unsigned random_below(size_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (unsigned)((random_state >> 33) % n);
}
template <class V> static void reorder(V& v, size_t from = 0) {
  if (order_of_threads == DESCENDING)
    for (size_t i = from, j = v.size(); i + 1 < j; ++i) std::swap(v[i], v[--j]);
  if (order_of_threads == RANDOM)
    for (size_t i = v.size(); i > from + 1; --i) std::swap(v[i - 1], v[from + random_below(i - from)]);
}
void shuffle_order(std::vector<unsigned>& order) { reorder(order); }

void report(const char* format, ...) {
  if (error.size() > 6000) return;
  char text[900], where[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  error += text;
  if (current) {
    snprintf(where, sizeof where, " [block %u,%u,%u thread %u,%u,%u]", block_index.x, block_index.y,
             block_index.z, current->index.x, current->index.y, current->index.z);
    error += where;
  }
  error += "\n";
}
void stop() {
  failed = true;
  switch_to(&main_fiber);
  abort();
}

// What runs next: a thread that may go on, else one that has not started, else the main fiber.
static Fiber* pick() {
  if (ready_head < ready.size()) {
    Lane* lane = ready[ready_head++];
    if (ready_head == ready.size()) ready.clear(), ready_head = 0;
    lane->state = READY;
    current = lane;
    return lane->fiber;
  }
  if (next_new < lanes.count) {
    current = nullptr;
    Fiber* f = idle.back();
    idle.pop_back();
    return f;
  }
  return &main_fiber;
}
static void wait_here() {
  Lane* me = current;
  Fiber* to = pick();
  if (to != me->fiber) switch_to(to);
  current = me;
}

static void (*kernel_call)(void**);
static void** kernel_values;
static void fiber_main() {
  for (;;) {
    while (next_new < lanes.count) {
      Lane& lane = lanes[start_order[next_new++]];
      lane.fiber = running;
      lane.state = READY;
      current = &lane;
      kernel_call(kernel_values);
      current = &lane;
      copy_async_wait(0);
      lane.state = DONE;
      ++done;
    }
    current = nullptr;
    idle.push_back(running);
    switch_to(pick());
  }
}

// ---- block barriers ----------------------------------------------------------------------------
static int vote_any, vote_all, vote_count;
int block_barrier(const char* where, int vote, Vote how) {
  Lane* me = current;
  me->where = where;
  me->vote = vote;
  me->state = WAIT_BLOCK;
  ++waiting;
  wait_here();
  return how == ANY ? vote_any : how == ALL ? vote_all : how == COUNT ? vote_count : 0;
}
static void release_block() {
  Lane* first = nullptr;
  vote_any = vote_count = 0;
  vote_all = 1;
  for (auto& lane : lanes) {
    if (lane.state != WAIT_BLOCK) continue;
    if (!first) first = &lane;
    if (strcmp(first->where, lane.where)) {
      current = &lane;
      report("divergent barrier: this thread waits at %s, thread %u at %s", lane.where,
             first->linear, first->where);
      failed = true;
      return;
    }
    vote_any |= lane.vote;
    vote_all &= lane.vote;
    vote_count += lane.vote;
  }
  if (done) {
    report("barrier %s: %u thread(s) of the block have already returned", first->where, done);
    failed = true;
    return;
  }
  ++epoch;
  waiting = 0;
  for (auto& lane : lanes)
    if (lane.state == WAIT_BLOCK) ready.push_back(&lane);
  reorder(ready);
}
static void report_deadlock() {
  unsigned in_warp = 0;
  Lane *a = nullptr, *b = nullptr;
  for (auto& lane : lanes) {
    if (lane.state == WAIT_WARP) ++in_warp, a = &lane;
    if (lane.state == WAIT_BLOCK) b = &lane;
  }
  report("deadlock: %u thread(s) wait in a warp operation (thread %u in %s, mask %08x, arrived "
         "%08x), %u at a barrier (%s), %u returned",
         in_warp, a ? a->linear : 0, a ? a->operation : "-", a ? a->mask : 0,
         a ? warps[a->linear >> 5].arrived : 0, waiting, b ? b->where : "-", done);
  failed = true;
}

void run_block(void (*call)(void**), void** values) {
  kernel_call = call;
  kernel_values = values;
  done = waiting = next_new = 0;
  ready.clear();
  ready_head = 0;
  block_first_epoch = ++epoch;
  for (auto& w : warps) w = Warp{0, 0};
  reset_copies(lanes.count);
  start_order.resize(lanes.count);
  unsigned i = 0;
  for (unsigned z = 0; z < block_size.z; ++z)
    for (unsigned y = 0; y < block_size.y; ++y)
      for (unsigned x = 0; x < block_size.x; ++x, ++i) {
        lanes[i] = Lane{};
        lanes[i].index = {x, y, z};
        lanes[i].linear = start_order[i] = i;
      }
  reorder(start_order);
  clear_shared();
  while (done < lanes.count && !failed) {
    current = nullptr;
    if (ready_head == ready.size() && next_new >= lanes.count) {
      if (waiting && waiting + done == lanes.count) release_block();
      else report_deadlock();
      if (failed) return;
    }
    running = &main_fiber;
    switch_to(pick());
  }
}

// ---- warp operations ---------------------------------------------------------------------------
void warp_collective(unsigned mask, const char* operation, void* request,
                     void (*run)(void**, unsigned)) {
  Lane* me = current;
  const unsigned l = me->linear & 31, w = me->linear >> 5;
  if (!(mask >> l & 1)) {
    report("%s: mask %08x lacks the calling lane %u", operation, mask, l);
    stop();
  }
  Warp& warp = warps[w];
  Lane* base = &lanes[w * 32];
  me->mask = mask;
  me->operation = operation;
  me->request = request;
  const unsigned left = lanes.count - w * 32;
  const unsigned present = left >= 32 ? ~0u : (1u << left) - 1, needed = mask & present;
  warp.arrived |= 1u << l;
  if ((warp.arrived & needed) != needed) {
    me->state = WAIT_WARP;
    wait_here();
    return;
  }
  void* requests[32];
  for (unsigned i = 0; i < 32; ++i) {
    if (!(needed >> i & 1)) continue;
    if (strcmp(base[i].operation, operation)) {
      report("warp mismatch: lane %u is in %s, lane %u in %s", i, base[i].operation, l, operation);
      stop();
    }
    if (base[i].mask != mask) {
      report("%s: lanes %u and %u pass masks %08x and %08x", operation, i, l, base[i].mask, mask);
      stop();
    }
    requests[i] = base[i].request;
  }
  run(requests, needed);
  warp.arrived &= ~needed;
  if (needed == present) ++warp.epoch;
  const size_t at = ready.size();
  for (unsigned i = 0; i < 32; ++i)
    if ((needed >> i & 1) && i != l) ready.push_back(&base[i]);
  reorder(ready, at);
}

// ---- cp.async: the data arrives as late as the program allows, at the wait; until then 0xff ------
struct Copy { void* to; const void* from; int bytes, valid, group; const void* pc; };
struct Copies { std::vector<Copy> queue; int committed = 0; };
static std::vector<Copies> copies;

void reset_copies(unsigned count) { copies.assign(count, {}); }
void copy_async(void* to, const void* from, int bytes, int valid, const void* pc) {
  if ((uintptr_t)to % bytes || (valid && (uintptr_t)from % bytes)) {
    report("misaligned: cp.async of %d bytes @pc=%zx", bytes, (size_t)pc);
    stop();
  }
#ifdef GR_CHECK
  on_access(to, bytes, LATER_WRITE, pc);
  if (valid) on_access(from, valid, READ, pc);
#endif
  memset(to, 0xff, bytes);
  Copies& mine = copies[current->linear];
  mine.queue.push_back({to, from, bytes, valid, mine.committed, pc});
}
void copy_async_commit() { ++copies[current->linear].committed; }
void copy_async_wait(int pending) {
  Copies& mine = copies[current->linear];
  size_t i = 0;
  for (; i < mine.queue.size() && mine.queue[i].group < mine.committed - pending; ++i) {
    const Copy& c = mine.queue[i];
#ifdef GR_CHECK
    on_access(c.to, c.bytes, WRITE, c.pc);
#endif
    memcpy(c.to, c.from, c.valid);
    memset((char*)c.to + c.valid, 0, c.bytes - c.valid);
  }
  mine.queue.erase(mine.queue.begin(), mine.queue.begin() + i);
}

}  // namespace runner
