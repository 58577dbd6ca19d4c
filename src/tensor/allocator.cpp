#include "tensor/allocator.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "lamppp/error.hpp"
#include "lamppp/tensor/memory.hpp"

#if defined(__has_feature)
#define LMP_HAS_FEATURE(name) __has_feature(name)
#else
#define LMP_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||           \
    LMP_HAS_FEATURE(address_sanitizer) || LMP_HAS_FEATURE(thread_sanitizer) || \
    LMP_HAS_FEATURE(memory_sanitizer) || LMP_HAS_FEATURE(leak_sanitizer)
#define LMP_SANITIZED 1
#else
#define LMP_SANITIZED 0
#endif
#undef LMP_HAS_FEATURE

namespace lmp::tensor::detail {

constinit ThreadCache no_cache;
constinit thread_local ThreadState thread_state{&no_cache, false, 0};

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kHugePage = 2 * kMiB;
constexpr std::size_t kMaxBytes = std::size_t{1} << 46;
constexpr auto kRelaxed = std::memory_order_relaxed;

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

std::atomic<std::size_t> system_bytes{0};
std::atomic<std::size_t> limit_bytes{0};
std::atomic<std::int64_t> system_allocations{0};

bool reserve_system(std::size_t bytes) noexcept {
  const std::size_t held = system_bytes.fetch_add(bytes, kRelaxed) + bytes;
  const std::size_t limit = limit_bytes.load(kRelaxed);
  if (limit == 0 || held <= limit) return true;
  system_bytes.fetch_sub(bytes, kRelaxed);
  return false;
}

/// A segment aligned to huge pages, or null.
void* map_segment(std::size_t bytes) noexcept {
  if (!reserve_system(bytes)) return nullptr;
  void* const raw =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    system_bytes.fetch_sub(bytes, kRelaxed);
    return nullptr;
  }
  char* const begin = static_cast<char*>(raw);
  const std::size_t lead = (0 - reinterpret_cast<std::uintptr_t>(begin)) % kHugePage;
  if (lead != 0) munmap(begin, lead);
  munmap(begin + lead + bytes, kHugePage - lead);
#ifdef MADV_HUGEPAGE
  madvise(begin + lead, bytes, MADV_HUGEPAGE);
#endif
  system_allocations.fetch_add(1, kRelaxed);
  return begin + lead;
}

class Heap {
 public:
  constexpr Heap(std::size_t unit, std::size_t segment) noexcept : unit_(unit), segment_(segment) {}

  void* allocate(std::size_t bytes) noexcept {
    const std::size_t size = round_up(bytes + sizeof(Block), unit_);
    const std::lock_guard lock(mutex);
    Block* block = best_fit(size);
    if (block != nullptr) {
      unlink(block);
    } else {
      // Without this, requests that grow step by step would leave a cached segment for each of
      // them.
      if (free_bytes_ > used_bytes_ + kKeptBytes) release_segments();
      block = grow(size);
      if (block == nullptr) return nullptr;
    }
    if (block->size - size >= kMinRemainder) {
      Block* const rest = at(block, static_cast<std::ptrdiff_t>(size));
      *rest = {.size = block->size - size, .previous_size = size, .last = block->last};
      *block = {.size = size, .previous_size = block->previous_size};
      tell_next(rest);
      link(rest);
    }
    block->free = false;
    used_bytes_ += block->size;
    return block + 1;
  }

  void deallocate(void* pointer) noexcept {
    const std::lock_guard lock(mutex);
    Block* block = static_cast<Block*>(pointer) - 1;
    used_bytes_ -= block->size;
    if (!block->last) {
      if (Block* const next = next_of(block); next->free) {
        unlink(next);
        block->size += next->size;
        block->last = next->last;
      }
    }
    if (block->previous_size != 0) {
      Block* const previous = at(block, -static_cast<std::ptrdiff_t>(block->previous_size));
      if (previous->free) {
        unlink(previous);
        previous->size += block->size;
        previous->last = block->last;
        block = previous;
      }
    }
    tell_next(block);
    link(block);
  }

  void release() noexcept {
    const std::lock_guard lock(mutex);
    release_segments();
  }

  std::int64_t used_bytes() noexcept {
    const std::lock_guard lock(mutex);
    return static_cast<std::int64_t>(used_bytes_);
  }

  std::mutex mutex;

 private:
  /// Precedes the memory handed out; the blocks of a segment tile it.
  struct alignas(kAlignment) Block {
    std::size_t size;           // this header included
    std::size_t previous_size;  // of the block before this one, 0 for the first of a segment
    bool last = false;
    bool free = false;
    Block* next_free = nullptr;
    Block* previous_free = nullptr;
  };

  static constexpr std::size_t kMinRemainder = 4096;
  static constexpr std::size_t kKeptBytes = 64 * kMiB;
  static constexpr int kBins = 160;
  static_assert(size_class(2 * kMaxBytes) < kBins);

  static Block* at(Block* block, std::ptrdiff_t offset) noexcept {
    return reinterpret_cast<Block*>(reinterpret_cast<char*>(block) + offset);
  }
  static Block* next_of(Block* block) noexcept {
    return at(block, static_cast<std::ptrdiff_t>(block->size));
  }
  static void tell_next(Block* block) noexcept {
    if (!block->last) next_of(block)->previous_size = block->size;
  }

  Block*& bin(int index) noexcept { return bins_[static_cast<std::size_t>(index)]; }

  void link(Block* block) noexcept {
    const int index = size_class(block->size);
    block->free = true;
    block->previous_free = nullptr;
    block->next_free = std::exchange(bin(index), block);
    if (block->next_free != nullptr) block->next_free->previous_free = block;
    filled_[static_cast<std::size_t>(index / 64)] |= std::uint64_t{1} << (index % 64);
    free_bytes_ += block->size;
  }

  void unlink(Block* block) noexcept {
    const int index = size_class(block->size);
    if (block->next_free != nullptr) block->next_free->previous_free = block->previous_free;
    (block->previous_free != nullptr ? block->previous_free->next_free : bin(index)) =
        block->next_free;
    if (bin(index) == nullptr)
      filled_[static_cast<std::size_t>(index / 64)] &= ~(std::uint64_t{1} << (index % 64));
    free_bytes_ -= block->size;
  }

  /// The first bin with free blocks from `index` on, kBins if there is none.
  int next_filled(int index) const noexcept {
    std::uint64_t wanted = ~std::uint64_t{0} << (index % 64);
    for (int word = index / 64; word < static_cast<int>(filled_.size());
         ++word, wanted = ~std::uint64_t{0}) {
      const std::uint64_t bits = filled_[static_cast<std::size_t>(word)] & wanted;
      if (bits != 0) return 64 * word + std::countr_zero(bits);
    }
    return kBins;
  }

  Block* best_fit(std::size_t size) noexcept {
    Block* best = nullptr;
    for (int i = next_filled(size_class(size)); i < kBins && best == nullptr;
         i = next_filled(i + 1)) {
      for (Block* b = bin(i); b != nullptr && (best == nullptr || best->size != size);
           b = b->next_free) {
        if (b->size >= size && (best == nullptr || b->size < best->size)) best = b;
      }
    }
    return best;
  }

  Block* grow(std::size_t size) noexcept {
    const std::size_t least = round_up(size, kHugePage);
    std::size_t bytes = std::max(least, segment_);
    void* memory = map_segment(bytes);
    if (memory == nullptr && bytes > least) memory = map_segment(bytes = least);
    return memory == nullptr ? nullptr
                             : new (memory) Block{.size = bytes, .previous_size = 0, .last = true};
  }

  void release_segments() noexcept {
    for (int i = next_filled(0); i < kBins; i = next_filled(i + 1)) {
      for (Block *b = bin(i), *next; b != nullptr; b = next) {
        next = b->next_free;
        if (b->previous_size != 0 || !b->last) continue;
        unlink(b);
        system_bytes.fetch_sub(b->size, kRelaxed);
        munmap(b, b->size);
      }
    }
  }

  std::size_t unit_;
  std::size_t segment_;
  std::size_t used_bytes_ = 0;
  std::size_t free_bytes_ = 0;
  std::array<Block*, kBins> bins_{};
  std::array<std::uint64_t, (kBins + 63) / 64> filled_{};
};

// A heap for each range of sizes, so that a long-lived small block does not pin a large segment.
constinit Heap batch_heap(kAlignment, kHugePage);
constinit Heap medium_heap(4096, 16 * kMiB);
constinit Heap large_heap(4096, 32 * kMiB);

Heap& heap_of(std::size_t bytes) noexcept { return bytes <= kMiB ? medium_heap : large_heap; }

/// The batches of one size class that no thread holds.
struct alignas(kAlignment) GlobalList {
  void put(FreeBlock* batch, std::uint32_t count) noexcept {
    const std::lock_guard lock(mutex);
    batch->count = count;
    batch->next_batch = std::exchange(batches, batch);
    blocks += count;
  }

  void put_block(FreeBlock* block, std::uint32_t batch_size) noexcept {
    const std::lock_guard lock(mutex);
    FreeBlock* const top = batches;
    const bool joins = top != nullptr && top->count < batch_size;
    *block = joins ? FreeBlock{top, top->next_batch, top->count + 1} : FreeBlock{nullptr, top, 1};
    batches = block;
    ++blocks;
  }

  FreeBlock* take() noexcept {
    const std::lock_guard lock(mutex);
    FreeBlock* const batch = batches;
    if (batch != nullptr) {
      batches = batch->next_batch;
      blocks -= batch->count;
    }
    return batch;
  }

  std::int64_t blocks_out() noexcept {
    const std::lock_guard lock(mutex);
    return carved.load(kRelaxed) - blocks;
  }

  std::mutex mutex;
  FreeBlock* batches = nullptr;
  std::int64_t blocks = 0;
  std::atomic<std::int64_t> carved = 0;
};

constinit std::array<GlobalList, kSizeClasses> global_lists;

constinit std::mutex registry_mutex;
constinit std::atomic<ThreadCache*> registered{nullptr};
constinit ThreadCache* idle = nullptr;
pthread_key_t thread_end;

struct {
  std::atomic<std::int64_t> live_bytes{0};
  std::atomic<std::int64_t> allocations{0};
} constinit uncached;
std::atomic<std::int64_t> peak_live_bytes{0};

static_assert(std::is_trivially_destructible_v<Heap> &&
              std::is_trivially_destructible_v<GlobalList> &&
              std::is_trivially_destructible_v<ThreadState>);

/// Batches fill 4 to 128 KiB and are whole pages: 64 blocks, fewer above 2 KiB.
constexpr std::uint32_t batch_size(int index) noexcept {
  return static_cast<std::uint32_t>(
      std::min<std::size_t>(64, 2 * kSmallBytes / std::bit_ceil(class_bytes(index))));
}

std::int64_t held_blocks(const ThreadCache::Bin& bin, int index) noexcept {
  const std::uint32_t size = batch_size(index);
  return std::int64_t{size} - bin.room.load(kRelaxed) +
         (bin.spare.load(kRelaxed) != nullptr ? size : 0);
}

template <class F>
void for_each_mutex(F&& f) noexcept {
  f(registry_mutex);
  for (GlobalList& list : global_lists) f(list.mutex);
  for (Heap* heap : {&batch_heap, &medium_heap, &large_heap}) f(heap->mutex);
}

/// Hands what the thread's cache holds to the global lists.
void flush(ThreadCache& cache) noexcept {
  for (int i = 0; i < kSizeClasses; ++i) {
    ThreadCache::Bin& bin = cache.bins[static_cast<std::size_t>(i)];
    GlobalList& list = global_lists[static_cast<std::size_t>(i)];
    const std::uint32_t size = batch_size(i);
    if (FreeBlock* const spare = bin.spare.exchange(nullptr, kRelaxed)) list.put(spare, size);
    if (FreeBlock* const head = std::exchange(bin.head, nullptr)) {
      list.put(head, size - bin.room.exchange(size, kRelaxed));
    }
  }
}

/// Its counters stay with the cache, so the sums over all caches do too.
void retire(ThreadCache* cache) noexcept {
  const std::lock_guard lock(registry_mutex);
  cache->next_idle = std::exchange(idle, cache);
}

void detach() noexcept {
  ThreadCache* const cache = std::exchange(thread_state.cache, &no_cache);
  thread_state.detached = true;
  if (cache == &no_cache) return;
  pthread_setspecific(thread_end, nullptr);
  flush(*cache);
  retire(cache);
}

bool start_caching() noexcept {
  const char* const wanted = std::getenv("LAMPPP_ALLOCATOR_CACHE");
  if (LMP_SANITIZED || (wanted != nullptr && std::strcmp(wanted, "0") == 0)) return false;
  if (pthread_key_create(&thread_end, [](void*) { detach(); }) != 0) return false;
  constexpr auto unlock = []() noexcept { for_each_mutex([](std::mutex& m) { m.unlock(); }); };
  pthread_atfork([]() noexcept { for_each_mutex([](std::mutex& m) { m.lock(); }); }, unlock,
                 unlock);
  return true;
}

bool caching() noexcept {
  static const bool on = start_caching();
  return on;
}

ThreadCache* new_cache() noexcept {
  {
    const std::lock_guard lock(registry_mutex);
    if (idle != nullptr) return std::exchange(idle, idle->next_idle);
  }
  auto* const cache = new (std::nothrow) ThreadCache;
  if (cache == nullptr) return nullptr;
  for (int i = 0; i < kSizeClasses; ++i)
    cache->bins[static_cast<std::size_t>(i)].room = batch_size(i);
  cache->next_registered = registered.load(kRelaxed);
  while (!registered.compare_exchange_weak(cache->next_registered, cache)) {
  }
  return cache;
}

/// This thread's cache, null if it has none and cannot get one.
ThreadCache* attach() noexcept {
  if (thread_state.cache != &no_cache) return thread_state.cache;
  if (thread_state.detached || !caching()) return nullptr;
  ThreadCache* const cache = new_cache();
  if (cache == nullptr) return nullptr;
  if (pthread_setspecific(thread_end, cache) != 0) {
    retire(cache);
    return nullptr;
  }
  return thread_state.cache = cache;
}

template <class F>
void for_each_cache(F&& f) noexcept {
  for (ThreadCache* c = registered.load(); c != nullptr; c = c->next_registered) f(*c);
}

std::int64_t live_bytes_now() noexcept {
  std::int64_t live = uncached.live_bytes.load(kRelaxed);
  for_each_cache([&](const ThreadCache& c) { live += c.live_bytes.load(kRelaxed); });
  std::int64_t peak = peak_live_bytes.load(kRelaxed);
  while (live > peak && !peak_live_bytes.compare_exchange_weak(peak, live, kRelaxed)) {
  }
  return live;
}

void count(ThreadCache* cache, std::int64_t bytes, std::int64_t allocations) noexcept {
  if (cache != nullptr) {
    ThreadCache::add(cache->live_bytes, bytes);
    ThreadCache::add(cache->allocations, allocations);
  } else {
    uncached.live_bytes.fetch_add(bytes, kRelaxed);
    uncached.allocations.fetch_add(allocations, kRelaxed);
  }
}

/// A chain of blocks of a class; its first block tells how many. Null when memory is exhausted.
FreeBlock* take_batch(int index) noexcept {
  GlobalList& list = global_lists[static_cast<std::size_t>(index)];
  if (FreeBlock* const batch = list.take()) return batch;
  const std::size_t bytes = class_bytes(index);
  const std::uint32_t size = batch_size(index);
  char* const memory = static_cast<char*>(batch_heap.allocate(size * bytes));
  if (memory == nullptr) return nullptr;
  FreeBlock* batch = nullptr;
  for (std::uint32_t i = size; i-- > 0;)
    batch = new (memory + i * bytes) FreeBlock{batch, nullptr, size};
  list.carved.fetch_add(size, kRelaxed);
  return batch;
}

void* allocate_small(ThreadCache* cache, int index) noexcept {
  if (cache == nullptr) {
    FreeBlock* const batch = take_batch(index);
    if (batch != nullptr && batch->count > 1) {
      global_lists[static_cast<std::size_t>(index)].put(batch->next, batch->count - 1);
    }
    return batch;
  }
  ThreadCache::Bin& bin = cache->bins[static_cast<std::size_t>(index)];
  if (bin.head == nullptr) {
    std::uint32_t room = 0;
    bin.head = bin.spare.exchange(nullptr, kRelaxed);
    if (bin.head == nullptr) {
      bin.head = take_batch(index);
      if (bin.head == nullptr) return nullptr;
      room = batch_size(index) - bin.head->count;
    }
    bin.room.store(room, kRelaxed);
  }
  return cache->pop(bin);
}

void deallocate_small(ThreadCache* cache, FreeBlock* block, int index) noexcept {
  GlobalList& list = global_lists[static_cast<std::size_t>(index)];
  const std::uint32_t size = batch_size(index);
  if (cache == nullptr) return list.put_block(block, size);
  ThreadCache::Bin& bin = cache->bins[static_cast<std::size_t>(index)];
  if (bin.room.load(kRelaxed) == 0) {
    if (FreeBlock* const full = bin.spare.exchange(bin.head, kRelaxed)) list.put(full, size);
    bin.head = nullptr;
    bin.room.store(size, kRelaxed);
  }
  cache->push(bin, block);
}

/// The size is passed on as it is, so that a sanitizer sees the first byte past it.
void* allocate_uncached(std::size_t bytes) noexcept {
  void* memory = nullptr;
  if (!reserve_system(bytes)) return nullptr;
  if (posix_memalign(&memory, kAlignment, std::max<std::size_t>(bytes, 1)) != 0) {
    system_bytes.fetch_sub(bytes, kRelaxed);
    return nullptr;
  }
  system_allocations.fetch_add(1, kRelaxed);
  return memory;
}

void* try_allocate(ThreadCache* cache, std::size_t bytes) noexcept {
  if (!caching()) return allocate_uncached(bytes);
  return bytes <= kSmallBytes ? allocate_small(cache, size_class(bytes))
                              : heap_of(bytes).allocate(bytes);
}

[[noreturn]] void throw_out_of_memory(std::size_t bytes) {
  const MemoryStats stats = memory_stats();
  const std::size_t limit = limit_bytes.load(kRelaxed);
  throw OutOfMemoryError(
      "out of CPU memory: " + std::to_string(bytes) + " bytes asked for, " +
      std::to_string(stats.live_bytes) + " live, " + std::to_string(stats.cached_bytes) +
      " cached, " +
      (limit == 0 ? "no limit set" : "limit " + std::to_string(limit) + " (set_memory_limit)") +
      "; free tensors, use smaller batches or raise the limit");
}

void release_all() noexcept {
  for (Heap* heap : {&batch_heap, &medium_heap, &large_heap}) heap->release();
}

}  // namespace

void* cpu_allocate_slow(std::size_t bytes) {
  ThreadCache* const cache = attach();
  void* memory = nullptr;
  const bool fails = thread_state.fail_in > 0 && --thread_state.fail_in == 0;
  if (bytes <= kMaxBytes && !fails) {
    memory = try_allocate(cache, bytes);
    if (memory == nullptr) {
      release_all();
      memory = try_allocate(cache, bytes);
    }
  }
  if (memory == nullptr) throw_out_of_memory(bytes);
  count(cache, static_cast<std::int64_t>(bytes), 1);
  live_bytes_now();
  return memory;
}

void cpu_deallocate_slow(void* pointer, std::size_t bytes) noexcept {
  ThreadCache* const cache = attach();
  count(cache, -static_cast<std::int64_t>(bytes), 0);
  if (!caching()) {
    std::free(pointer);
    system_bytes.fetch_sub(bytes, kRelaxed);
  } else if (bytes > kSmallBytes) {
    heap_of(bytes).deallocate(pointer);
  } else {
    deallocate_small(cache, static_cast<FreeBlock*>(pointer), size_class(bytes));
  }
}

void fail_allocation_in(std::int64_t count) noexcept {
  if (count > 0) detach();
  thread_state.detached = count > 0;
  thread_state.fail_in = count;
}

MemoryStats cpu_memory_stats() {
  MemoryStats stats;
  stats.live_bytes = live_bytes_now();
  stats.peak_live_bytes = peak_live_bytes.load(kRelaxed);
  stats.allocations = uncached.allocations.load(kRelaxed);
  stats.system_allocations = system_allocations.load(kRelaxed);
  auto blocks = medium_heap.used_bytes() + large_heap.used_bytes();
  std::array<std::int64_t, kSizeClasses> out{};  // blocks of each class that are in use
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = global_lists[i].blocks_out();
  for_each_cache([&](const ThreadCache& cache) {
    stats.allocations += cache.allocations.load(kRelaxed);
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] -= held_blocks(cache.bins[i], static_cast<int>(i));
  });
  for (std::size_t i = 0; i < out.size(); ++i) {
    blocks += out[i] * static_cast<std::int64_t>(class_bytes(static_cast<int>(i)));
  }
  const auto held = static_cast<std::int64_t>(system_bytes.load(kRelaxed));
  stats.live_block_bytes = caching() ? blocks : held;
  stats.cached_bytes = held - stats.live_block_bytes;
  return stats;
}

void cpu_empty_cache() {
  if (ThreadCache* const cache = thread_state.cache; cache != &no_cache) flush(*cache);
  release_all();
}

void cpu_set_memory_limit(std::size_t bytes) noexcept { limit_bytes.store(bytes, kRelaxed); }

}  // namespace lmp::tensor::detail
