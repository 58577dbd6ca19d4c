#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "lamppp/tensor/memory.hpp"

namespace lmp::tensor::detail {

// Note [CPU allocator]
// Blocks up to 64 KiB come in size classes. A thread keeps two batches of each class: it pops from
// and pushes to one, the other is empty or full, so whole batches move to and from the global lists
// in constant time, and no pattern of use goes there more often than once a batch (the magazines of
// Bonwick and Adams, "Magazines and Vmem", USENIX 2001). A batch that no list has is carved out of
// one block of a heap. Larger blocks come from a heap: segments from mmap, tiled by blocks with
// boundary tags, best fit. A thread whose cache is gone (it has ended) or not there (caching is
// off) finds `no_cache`, whose lists are empty and have no room, so the inline paths need no case
// for it.

inline constexpr std::size_t kAlignment = 64;
inline constexpr std::size_t kSmallBytes = std::size_t{64} << 10;
inline constexpr int kSizeClasses = 36;

/// Multiples of 64 bytes up to 512, then four sizes to a doubling.
constexpr int size_class(std::size_t bytes) noexcept {
  const std::size_t last = (bytes - (bytes != 0)) / kAlignment;
  const int shift = static_cast<int>(std::bit_width(last | 4)) - 3;
  return 4 * shift + static_cast<int>(last >> shift);
}

constexpr std::size_t class_bytes(int index) noexcept {
  const auto i = static_cast<std::size_t>(index);
  return kAlignment * (i < 4 ? i + 1 : (i % 4 + 5) << (i / 4 - 1));
}

struct FreeBlock {
  FreeBlock* next;
  FreeBlock* next_batch;  // these two: in the first block of a batch in a global list
  std::uint32_t count;
};

struct alignas(kAlignment) ThreadCache {
  struct Bin {
    FreeBlock* head = nullptr;
    std::atomic<FreeBlock*> spare = nullptr;
    std::atomic<std::uint32_t> room = 0;
  };

  // Written by the owner alone; atomic since memory_stats() reads them from other threads.
  template <class T>
  static void add(std::atomic<T>& counter, T change) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + change, std::memory_order_relaxed);
  }
  FreeBlock* pop(Bin& bin) noexcept {
    FreeBlock* const block = bin.head;
    bin.head = block->next;
    add(bin.room, 1U);
    return block;
  }
  void push(Bin& bin, FreeBlock* block) noexcept {
    block->next = bin.head;
    bin.head = block;
    add(bin.room, ~0U);
  }

  std::atomic<std::int64_t> live_bytes = 0;
  std::atomic<std::int64_t> allocations = 0;
  std::array<Bin, kSizeClasses> bins{};
  ThreadCache* next_registered = nullptr;
  ThreadCache* next_idle = nullptr;
};

struct ThreadState {
  ThreadCache* cache;
  bool detached;
  std::int64_t fail_in;
};

extern ThreadCache no_cache;
// constinit on the declaration saves the call of an initialisation wrapper on every access,
// initial-exec that of __tls_get_addr in a shared library.
extern constinit thread_local ThreadState thread_state __attribute__((tls_model("initial-exec")));

void* cpu_allocate_slow(std::size_t bytes);
void cpu_deallocate_slow(void* pointer, std::size_t bytes) noexcept;

/// `bytes` of uninitialised memory at a multiple of 64, or OutOfMemoryError.
[[nodiscard, gnu::always_inline]] inline void* cpu_allocate(std::size_t bytes) {
  if (bytes <= kSmallBytes) {
    ThreadCache& cache = *thread_state.cache;
    ThreadCache::Bin& bin = cache.bins[static_cast<std::size_t>(size_class(bytes))];
    if (bin.head != nullptr) [[likely]] {
      ThreadCache::add(cache.live_bytes, static_cast<std::int64_t>(bytes));
      ThreadCache::add(cache.allocations, std::int64_t{1});
      return cache.pop(bin);
    }
  }
  return cpu_allocate_slow(bytes);
}

/// Takes back what cpu_allocate(bytes) gave, on any thread.
inline void cpu_deallocate(void* pointer, std::size_t bytes) noexcept {
  if (bytes <= kSmallBytes) {
    ThreadCache& cache = *thread_state.cache;
    ThreadCache::Bin& bin = cache.bins[static_cast<std::size_t>(size_class(bytes))];
    if (bin.room.load(std::memory_order_relaxed) != 0) [[likely]] {
      ThreadCache::add(cache.live_bytes, -static_cast<std::int64_t>(bytes));
      cache.push(bin, static_cast<FreeBlock*>(pointer));
      return;
    }
  }
  cpu_deallocate_slow(pointer, bytes);
}

/// See lamppp/tensor/memory.hpp.
MemoryStats cpu_memory_stats();
void cpu_empty_cache();
void cpu_set_memory_limit(std::size_t bytes) noexcept;

/// For tests: the count-th allocation of this thread from now on throws OutOfMemoryError. While
/// armed the thread has no cache; 0 disarms.
void fail_allocation_in(std::int64_t count) noexcept;

}  // namespace lmp::tensor::detail
