#include "cuda/allocator.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/runtime.hpp"
#include "lamppp/error.hpp"
#include "tensor/format.hpp"

namespace lmp::cuda {

using tensor::detail::concat;

namespace {

// Note [GPU allocator]
// A pool for each stream: memory that a stream's ops have used can be given to its next ops at
// once, since they run later. A pool carves blocks out of segments, best fit, and joins free
// neighbours; in front of that, blocks of up to 1 MiB wait in lists by size, so that what a
// training step allocates again and again costs a pop and a push. A block that another stream has
// used waits for events of that stream before it is free.
//
// Where nothing fits, blocks that were waiting are looked at again, cached segments are given back
// to the driver, and the request is tried once more.

constexpr std::size_t kGranule = 512;
constexpr std::size_t kListBytes = std::size_t{1} << 20;
constexpr std::size_t kSegmentBytes = std::size_t{32} << 20;

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

struct Pool;
class Heap;

}  // namespace

/// A piece of a segment.
struct Block {
  std::byte* data;
  std::size_t bytes;
  std::size_t asked = 0;
  Pool* pool;
  Block* before = nullptr;  // neighbours in the segment
  Block* after = nullptr;
  bool free = false;
  Block* next = nullptr;              // in a list
  std::vector<cudaStream_t> users{};  // other streams

  bool whole_segment() const { return !before && !after; }
};

namespace {

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
  }
};

/// Sizes of the lists: multiples of 512 up to 4 KiB, then four to a doubling.
constexpr int kLists = 40;
constexpr int list_of(std::size_t bytes) {
  const std::size_t last = (bytes - (bytes != 0)) / kGranule;
  const int shift = std::max(0, static_cast<int>(std::bit_width(last)) - 3);
  return 4 * shift + static_cast<int>(last >> shift);
}
constexpr std::size_t list_bytes(int list) {
  if (list < 8) return kGranule * static_cast<std::size_t>(list + 1);
  const int shift = list / 4 - 1;
  return (kGranule * static_cast<std::size_t>(list % 4 + 5)) << shift;
}
static_assert(list_of(kListBytes) < kLists);

struct Pool {
  Heap* heap;
  cudaStream_t stream;
  std::array<Block*, kLists> lists{};
  std::set<Block*, BySize> free{};
  bool kept = false;
};

struct Waiting {
  Block* block;
  std::vector<cudaEvent_t> events;
};

/// The memory of one GPU.
class Heap {
 public:
  explicit Heap(int index) : index_(index) {}

  Memory allocate(cudaStream_t stream, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (!waiting_.empty()) [[unlikely]]
      collect(false);
    Pool& pool = pool_of(stream);
    Block* block = nullptr;
    if (bytes <= kListBytes && caching()) {
      Block*& head = pool.lists[static_cast<std::size_t>(list_of(bytes))];
      if (head) [[likely]] {
        block = head;
        head = block->next;
        cached_ -= block->bytes;
      }
    }
    if (!block) block = carve(pool, bytes);
    block->asked = bytes;
    live_ += bytes;
    live_blocks_ += block->bytes;
    peak_ = std::max(peak_, live_);
    ++allocations_;
    return {block->data, block};
  }

  void deallocate(Block* block) noexcept {
    const std::lock_guard lock(mutex_);
    if (lost_) return;
    live_ -= block->asked;
    live_blocks_ -= block->bytes;
    if (!block->users.empty()) [[unlikely]] {
      wait_for_users(block);
      return;
    }
    put_back(block);
  }

  void used_on(Block* block, cudaStream_t stream) {
    if (lost_)
      throw DeviceLostError(concat("CUDA:", index_,
                                   " was reset after this tensor was made; make it anew from what "
                                   "the CPU has"));
    if (block->pool->stream == stream) return;
    const std::lock_guard lock(mutex_);
    if (std::find(block->users.begin(), block->users.end(), stream) == block->users.end())
      block->users.push_back(stream);
  }

  void keep(cudaStream_t stream, bool keep) {
    const std::lock_guard lock(mutex_);
    pool_of(stream).kept = keep;
    if (!keep && !caching()) release_segments();
  }

  void lose() noexcept { lost_ = true; }

  tensor::MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    tensor::MemoryStats s;
    s.live_bytes = static_cast<std::int64_t>(live_);
    s.live_block_bytes = static_cast<std::int64_t>(live_blocks_);
    s.cached_bytes = static_cast<std::int64_t>(held_ - live_blocks_);
    s.peak_live_bytes = static_cast<std::int64_t>(peak_);
    s.allocations = allocations_;
    s.system_allocations = system_allocations_;
    return s;
  }

  void release() noexcept {
    const std::lock_guard lock(mutex_);
    collect(false);
    release_segments();
  }

  std::atomic<std::size_t> limit = 0;

 private:
  // Off, each tensor is an allocation of its own, so that a memory checker sees where it ends.
  static bool caching() {
    static const bool on = [] {
      const char* const asked = std::getenv("LAMPPP_ALLOCATOR_CACHE");
      return !asked || asked[0] != '0';
    }();
    return on;
  }

  Pool& pool_of(cudaStream_t stream) {
    if (last_ && last_->stream == stream) [[likely]]
      return *last_;
    auto& pool = pools_[stream];
    if (!pool) pool = std::make_unique<Pool>(Pool{this, stream});
    return *(last_ = pool.get());
  }

  Block* carve(Pool& pool, std::size_t bytes) {
    const std::size_t wanted = !caching() ? round_up(bytes, 16)  // a pack may be read to its end
                               : bytes <= kListBytes ? list_bytes(list_of(bytes))
                                                     : round_up(bytes, kGranule);
    Block* block = fitting(pool, wanted);
    if (!block) block = new_segment(pool, wanted);
    if (!block) {
      collect(true);
      block = fitting(pool, wanted);
    }
    if (!block) {
      release_segments();
      block = new_segment(pool, wanted);
    }
    if (!block) exhausted(bytes);
    if (caching() && block->bytes - wanted >= kGranule) split(block, wanted);
    return block;
  }

  Block* fitting(Pool& pool, std::size_t bytes) {
    Block key{nullptr, bytes, 0, nullptr};
    const auto found = pool.free.lower_bound(&key);
    if (found == pool.free.end()) return nullptr;
    Block* const block = *found;
    pool.free.erase(found);
    block->free = false;
    cached_ -= block->bytes;
    return block;
  }

  Block* new_segment(Pool& pool, std::size_t bytes) {
    const std::size_t segment =
        caching() ? round_up(bytes, bytes < kSegmentBytes ? kSegmentBytes : std::size_t{2} << 20)
                  : bytes;
    const std::size_t bound = limit.load(std::memory_order_relaxed);
    for (const std::size_t size : {segment, round_up(bytes, std::size_t{2} << 20)}) {
      if (bound != 0 && held_ + size > bound) continue;
      void* data = nullptr;
      int previous = 0;
      cudaGetDevice(&previous);
      if (previous != index_) cudaSetDevice(index_);
      const cudaError_t status = cudaMalloc(&data, size);
      if (previous != index_) cudaSetDevice(previous);
      ++system_allocations_;
      if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        continue;
      }
      check(status, "cudaMalloc");
      held_ += size;
      return new Block{static_cast<std::byte*>(data), size, 0, &pool};
    }
    return nullptr;
  }

  void split(Block* block, std::size_t bytes) {
    auto* rest = new Block{block->data + bytes, block->bytes - bytes, 0, block->pool};
    rest->before = block;
    rest->after = block->after;
    if (rest->after) rest->after->before = rest;
    block->after = rest;
    block->bytes = bytes;
    insert(rest);
  }

  void insert(Block* block) {
    block->free = true;
    block->pool->free.insert(block);
    cached_ += block->bytes;
  }

  // Takes `other`, a free neighbour that follows `block`, into it.
  void join(Block* block, Block* other) {
    block->pool->free.erase(other);
    cached_ -= other->bytes;
    block->bytes += other->bytes;
    block->after = other->after;
    if (block->after) block->after->before = block;
    delete other;
  }

  void put_back(Block* block) noexcept {
    if (!caching() && !block->pool->kept) {
      cudaFree(block->data);
      held_ -= block->bytes;
      delete block;
      return;
    }
    if (block->bytes <= kListBytes && block->bytes == list_bytes(list_of(block->bytes))) {
      Block*& head = block->pool->lists[static_cast<std::size_t>(list_of(block->bytes))];
      block->next = head;
      head = block;
      cached_ += block->bytes;
      return;
    }
    put_into_heap(block);
  }

  void put_into_heap(Block* block) noexcept {
    if (block->after && block->after->free) join(block, block->after);
    if (block->before && block->before->free) {
      Block* const before = block->before;
      before->pool->free.erase(before);
      cached_ -= before->bytes;
      before->bytes += block->bytes;
      before->after = block->after;
      if (before->after) before->after->before = before;
      delete block;
      block = before;
    }
    insert(block);
  }

  void wait_for_users(Block* block) noexcept {
    Waiting waiting{block, {}};
    for (const cudaStream_t stream : block->users) {
      cudaEvent_t event = nullptr;
      if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess &&
          cudaEventRecord(event, stream) == cudaSuccess)
        waiting.events.push_back(event);
    }
    block->users.clear();
    waiting_.push_back(std::move(waiting));
  }

  // Frees the blocks whose other streams are done; with `wait`, all of them.
  void collect(bool wait) noexcept {
    std::erase_if(waiting_, [&](Waiting& w) {
      while (!w.events.empty()) {
        const cudaEvent_t event = w.events.back();
        if (wait)
          cudaEventSynchronize(event);
        else if (cudaEventQuery(event) == cudaErrorNotReady)
          return false;
        cudaEventDestroy(event);
        w.events.pop_back();
      }
      put_back(w.block);
      return true;
    });
    cudaGetLastError();
  }

  void release_segments() noexcept {
    for (auto& [stream, pool] : pools_) {
      if (pool->kept) continue;
      for (Block*& head : pool->lists)
        while (head) {
          Block* const block = std::exchange(head, head->next);
          cached_ -= block->bytes;
          put_into_heap(block);
        }
      std::erase_if(pool->free, [&](Block* block) {
        if (!block->whole_segment()) return false;
        cudaFree(block->data);  // waits for what still runs
        held_ -= block->bytes;
        cached_ -= block->bytes;
        delete block;
        return true;
      });
    }
    cudaGetLastError();
  }

  [[noreturn]] void exhausted(std::size_t bytes) {
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    const std::size_t bound = limit.load(std::memory_order_relaxed);
    throw OutOfMemoryError(
        concat("CUDA:", index_, ": ", bytes, " bytes asked for; tensors hold ", live_,
               ", the cache keeps ", cached_, ", the driver has ", free, " of ", total, " free",
               bound ? concat(", and set_memory_limit allows ", bound) : std::string(),
               ". Free tensors, take smaller batches, or record less"));
  }

  const int index_;
  std::atomic<bool> lost_ = false;
  std::mutex mutex_;
  std::unordered_map<cudaStream_t, std::unique_ptr<Pool>> pools_;
  Pool* last_ = nullptr;
  std::vector<Waiting> waiting_;
  std::size_t live_ = 0, live_blocks_ = 0, cached_ = 0, held_ = 0, peak_ = 0;
  std::int64_t allocations_ = 0, system_allocations_ = 0;
};

// Never destroyed: tensors may outlive everything else.
constinit std::array<std::atomic<Heap*>, kMaxDevices> heaps{};

Heap& heap_of(int index) {
  auto& slot = heaps[static_cast<std::size_t>(index)];
  if (Heap* known = slot.load(std::memory_order_acquire)) [[likely]]
    return *known;
  auto made = std::make_unique<Heap>(index);
  Heap* none = nullptr;
  if (slot.compare_exchange_strong(none, made.get())) return *made.release();
  return *none;
}

}  // namespace

Memory allocate_bytes(int index, cudaStream_t stream, std::size_t bytes) {
  return heap_of(index).allocate(stream, bytes);
}
void free_bytes(Block* block) noexcept { block->pool->heap->deallocate(block); }
void used_on(Block* block, cudaStream_t stream) { block->pool->heap->used_on(block, stream); }
bool made_on(const Block* block, cudaStream_t stream) noexcept {
  return block->pool->stream == stream;
}
void forget_memory(int index) noexcept {
  if (Heap* const heap = heaps[static_cast<std::size_t>(index)].exchange(nullptr)) heap->lose();
}
void keep_memory(int index, cudaStream_t stream, bool keep) { heap_of(index).keep(stream, keep); }
tensor::MemoryStats stats_of(int index) { return heap_of(index).stats(); }
void release_cached() noexcept {
  for (const auto& heap : heaps)
    if (Heap* const used = heap.load(std::memory_order_acquire)) used->release();
}
void set_limit(int index, std::size_t bytes) noexcept { heap_of(index).limit = bytes; }

}  // namespace lmp::cuda
