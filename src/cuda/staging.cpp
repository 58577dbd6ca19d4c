#include "cuda/staging.hpp"

#include <bit>
#include <cstring>
#include <mutex>
#include <vector>

namespace lmp::cuda {
namespace {

// Note [Copies from the host]
// The driver takes up to 64 KiB along with the call; of what is larger it would wait until the GPU
// has it, unless it lies in pinned memory. So that is where it is copied first, into a buffer that
// is used again once an event says that the GPU has read it. What is very large goes by the driver:
// beside the copy itself the wait is short, and pinned memory is scarce.
constexpr std::size_t kByCall = std::size_t{64} << 10, kLargest = std::size_t{8} << 20;
constexpr std::size_t kPinned = std::size_t{64} << 20;  // all buffers of a GPU together

struct Buffer {
  int index;
  void* data;
  std::size_t bytes;
  cudaEvent_t read;
};

struct Buffers {
  std::mutex mutex;
  std::vector<Buffer> all;
};
// Never destroyed: the driver frees pinned memory at exit.
Buffers& buffers() {
  static auto* const instance = new Buffers;
  return *instance;
}

// One that is free, or null where there is no room for another.
Buffer* take(Buffers& held, int index, std::size_t bytes) {
  std::size_t pinned = 0;
  for (Buffer& b : held.all) {
    if (b.index != index) continue;
    pinned += b.bytes;
    if (b.bytes >= bytes && cudaEventQuery(b.read) == cudaSuccess) return &b;
  }
  cudaGetLastError();
  const std::size_t size = std::bit_ceil(bytes);
  if (pinned + size > kPinned) return nullptr;
  Buffer made{index, nullptr, size, nullptr};
  if (cudaHostAlloc(&made.data, size, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  if (cudaEventCreateWithFlags(&made.read, cudaEventDisableTiming) != cudaSuccess) {
    cudaFreeHost(made.data);
    cudaGetLastError();
    return nullptr;
  }
  return &held.all.emplace_back(made);
}

}  // namespace

void copy_from_host(const Context& context, void* to, const void* from, std::size_t bytes) {
  if (bytes > kByCall && bytes <= kLargest) {
    Buffers& held = buffers();
    const std::lock_guard lock(held.mutex);
    if (const Buffer* const buffer = take(held, context.index, bytes)) {
      std::memcpy(buffer->data, from, bytes);
      check(cudaMemcpyAsync(to, buffer->data, bytes, cudaMemcpyHostToDevice, context.stream),
            "a copy from the host");
      check(cudaEventRecord(buffer->read, context.stream), "a copy from the host");
      return;
    }
  }
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, context.stream),
        "a copy from the host");
}

void forget_staging(int index) noexcept {
  Buffers& held = buffers();
  const std::lock_guard lock(held.mutex);
  std::erase_if(held.all, [&](const Buffer& b) { return b.index == index; });
}

}  // namespace lmp::cuda
