/* Counts the heap of a process that has this library preloaded: live bytes and their peak, PyTorch's own and all.
 *
 * PyTorch's profiler sees only the threads it was started in, and so not what a communication thread frees. Blocks below
 * 4 KiB are left out. heap_peak(1) is of PyTorch's CPU allocator (called from libc10), heap_peak(0) of everything,
 * oneDNN's and BLAS's scratch memory included; both since the last heap_reset().
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), __libc_free(void *);

#define SLOTS (1u << 20)
static _Atomic(uintptr_t) owned[SLOTS]; /* addresses that libc10 asked for; 1: a slot that is free again */
static _Atomic long now[2], peak[2];

static void count(int kind, long bytes) {
  long live = atomic_fetch_add(&now[kind], bytes) + bytes, most = peak[kind];
  while (live > most && !atomic_compare_exchange_weak(&peak[kind], &most, live)) {
  }
}

static int is_of_torch(void *caller) {
  static _Atomic(uintptr_t) low, high; /* callers seen in libc10 */
  uintptr_t at = (uintptr_t)caller;
  if (low && at >= low && at <= high) return 1;
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, "libc10.so")) return 0;
  if (!low || at < low) low = at;
  if (at > high) high = at;
  return 1;
}

static void add(void *block, void *caller) {
  long bytes = block ? (long)malloc_usable_size(block) : 0;
  if (bytes < 4096) return;
  count(0, bytes);
  if (!caller || !is_of_torch(caller)) return;
  count(1, bytes);
  for (unsigned slot = (unsigned)((uintptr_t)block >> 6) % SLOTS;; slot = (slot + 1) % SLOTS) {
    uintptr_t seen = owned[slot];
    if (seen <= 1 && atomic_compare_exchange_strong(&owned[slot], &seen, (uintptr_t)block)) return;
  }
}

static void drop(void *block) {
  long bytes = block ? (long)malloc_usable_size(block) : 0;
  if (bytes < 4096) return;
  count(0, -bytes);
  for (unsigned slot = (unsigned)((uintptr_t)block >> 6) % SLOTS; owned[slot]; slot = (slot + 1) % SLOTS)
    if (owned[slot] == (uintptr_t)block) {
      owned[slot] = 1;
      count(1, -bytes);
      return;
    }
}

void *malloc(size_t size) {
  void *block = __libc_malloc(size);
  return add(block, 0), block;
}
void *calloc(size_t count, size_t size) {
  void *block = __libc_calloc(count, size);
  return add(block, 0), block;
}
void *realloc(void *old, size_t size) {
  drop(old);
  void *block = __libc_realloc(old, size);
  return add(block, 0), block;
}
void free(void *block) {
  drop(block);
  __libc_free(block);
}
void *memalign(size_t alignment, size_t size) {
  void *block = __libc_memalign(alignment, size);
  return add(block, 0), block;
}
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
  void *block = __libc_memalign(alignment, size);
  if (!block) return ENOMEM;
  add(block, __builtin_return_address(0));
  return *out = block, 0;
}

void heap_reset(void) {
  peak[0] = (long)now[0];
  peak[1] = (long)now[1];
}
long heap_now(int of_torch) { return now[of_torch]; }
long heap_peak(int of_torch) { return peak[of_torch]; }
