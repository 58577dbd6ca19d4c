#include "cuda/staging.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/format.hpp"

namespace lmp::cuda {
namespace {

// Note [Pinned memory]
// Copies run beside the host from and to pinned memory only; of pageable memory the driver takes up
// to 64 KiB along with the call, and otherwise waits for the GPU. So what a program copies goes by
// way of pieces of pinned memory, which are used again once an event says that their copy is done:
// to the GPU, the host fills one and leaves it; from the GPU, a new tensor's memory is filled out
// of one when somebody first asks for it. What is very large goes by the driver: beside the copy
// itself the wait is short, and pinned memory is scarce.
constexpr std::size_t kByCall = std::size_t{64} << 10, kLargest = std::size_t{8} << 20;
constexpr std::size_t kSmallest = 256, kSlab = std::size_t{64} << 10;
constexpr std::size_t kPinned = std::size_t{64} << 20;  // of a GPU, together
constexpr std::size_t kSizes = std::countr_zero(kLargest) + 1;

struct Piece {
  int index;
  void* data;
  std::size_t bytes;  // a power of two
  cudaEvent_t done = nullptr;
  tensor::detail::Storage* to = nullptr;  // what waits for it, and how much
  std::size_t wanted = 0;
  bool lost = false;
};

struct Gpu {
  std::array<std::deque<Piece*>, kSizes> free;  // by size, the one that is free the longest first
  std::vector<std::unique_ptr<Piece>> pieces;
  std::vector<void*> slabs;
  std::size_t pinned = 0;
};
struct Staging {
  std::mutex mutex;     // for pieces
  std::mutex arrivals;  // for what waits for them; taken first
  std::array<Gpu, kMaxDevices> gpus;
};
// Never destroyed: the driver frees pinned memory at exit.
Staging& staging() {
  static auto* const instance = new Staging;
  return *instance;
}
Gpu& gpu_of(int index) { return staging().gpus[static_cast<std::size_t>(index)]; }
std::deque<Piece*>& free_list(Gpu& gpu, std::size_t bytes) {
  return gpu.free[static_cast<std::size_t>(std::countr_zero(bytes))];
}

// Makes pieces of a size, and returns one of them, or null.
Piece* grow(Gpu& gpu, int index, std::size_t size) {
  const std::size_t slab = std::max(size, kSlab);
  if (gpu.pinned + slab > kPinned) return nullptr;
  void* memory = nullptr;
  if (cudaHostAlloc(&memory, slab, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  gpu.slabs.push_back(memory);
  gpu.pinned += slab;
  Piece* made = nullptr;
  for (std::size_t at = 0; at < slab; at += size) {
    auto piece = std::make_unique<Piece>(Piece{index, static_cast<std::byte*>(memory) + at, size});
    if (cudaEventCreateWithFlags(&piece->done, cudaEventDisableTiming) != cudaSuccess) {
      cudaGetLastError();
      break;
    }
    if (made) free_list(gpu, size).push_back(piece.get());
    if (!made) made = piece.get();
    gpu.pieces.push_back(std::move(piece));
  }
  return made;
}

// One of this size whose last copy is done, or null.
Piece* take_free(Gpu& gpu, std::size_t size) {
  std::deque<Piece*>& free = free_list(gpu, size);
  if (free.empty()) return nullptr;
  if (cudaEventQuery(free.front()->done) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  Piece* const piece = free.front();
  free.pop_front();
  return piece;
}

// One that is at least as large, or null where there is no room for another.
Piece* take(int index, std::size_t bytes) {
  const std::size_t size = std::max(std::bit_ceil(bytes), kSmallest);
  const std::lock_guard lock(staging().mutex);
  Gpu& gpu = gpu_of(index);
  if (Piece* const piece = take_free(gpu, size)) return piece;
  if (Piece* const made = grow(gpu, index, size)) return made;
  for (std::size_t larger = 2 * size; larger <= kLargest; larger *= 2)
    if (Piece* const piece = take_free(gpu, larger)) return piece;
  return nullptr;
}

void give_back(Piece* piece) noexcept {
  const std::lock_guard lock(staging().mutex);
  try {
    free_list(gpu_of(piece->index), piece->bytes).push_back(piece);
  } catch (const std::bad_alloc&) {  // it is not used again
  }
}

[[noreturn]] void throw_lost(const Piece& piece) {
  throw DeviceLostError(tensor::detail::concat(
      "a tensor that was copied from CUDA:", piece.index,
      " has no values: the GPU failed, or was reset, before they arrived; copy it again"));
}

// Records when what was started last on the stream is done with the piece.
void mark(const Context& context, const Piece& piece, cudaError_t started, const char* what) {
  check(started, what);
  check(cudaEventRecord(piece.done, context.stream), what);
}

}  // namespace

void copy_from_host(const Context& context, void* to, const void* from, std::size_t bytes) {
  constexpr const char* kWhat = "a copy from the host";
  if (bytes > kByCall && bytes <= kLargest) {
    if (Piece* const piece = take(context.index, bytes)) {
      const std::unique_ptr<Piece, void (*)(Piece*)> after(piece, [](Piece* p) { give_back(p); });
      std::memcpy(piece->data, from, bytes);
      mark(context, *piece,
           cudaMemcpyAsync(to, piece->data, bytes, cudaMemcpyHostToDevice, context.stream), kWhat);
      return;
    }
  }
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, context.stream), kWhat);
}

bool start_arrival(const Context& context, const tensor::Tensor& to, const void* from,
                   std::size_t bytes) {
  if (bytes == 0 || bytes > kLargest) return false;
  Piece* const piece = take(context.index, bytes);
  if (!piece) return false;
  try {
    mark(context, *piece,
         cudaMemcpyAsync(piece->data, from, bytes, cudaMemcpyDeviceToHost, context.stream),
         "a copy to the host");
  } catch (...) {
    give_back(piece);
    throw;
  }
  tensor::detail::Storage* const storage = tensor::TensorAccess::storage(to);
  piece->to = storage;
  piece->wanted = bytes;
  storage->arriving.store(piece, std::memory_order_release);
  return true;
}

void arrive(tensor::detail::Storage& storage) {
  const auto arriving = [&] {
    return static_cast<Piece*>(storage.arriving.load(std::memory_order_acquire));
  };
  std::unique_lock lock(staging().arrivals);
  Piece* const piece = arriving();
  if (!piece) return;  // another thread has waited for it
  if (piece->lost) throw_lost(*piece);
  check_not_capturing("reading a tensor whose values are still on their way from the GPU");
  const Context context(tensor::Device(tensor::DeviceType::CUDA, piece->index));
  const cudaEvent_t done = piece->done;
  lock.unlock();  // others may read or drop what has arrived, which this one may depend on
  check(cudaEventSynchronize(done), "a copy to the host");
  lock.lock();
  if (arriving() != piece) return;
  if (piece->lost) throw_lost(*piece);
  std::memcpy(storage.data, piece->data, piece->wanted);
  piece->to = nullptr;
  storage.arriving.store(nullptr, std::memory_order_release);
  give_back(piece);
  lock.unlock();
  throw_reported(context);
}

void abandon_arrival(tensor::detail::Storage& storage) noexcept {
  const std::lock_guard lock(staging().arrivals);
  auto* const piece = static_cast<Piece*>(storage.arriving.load(std::memory_order_acquire));
  if (!piece) return;
  piece->to = nullptr;
  storage.arriving.store(nullptr, std::memory_order_relaxed);
  if (piece->lost)
    delete piece;
  else
    give_back(piece);
}

void forget_staging(int index) noexcept {
  Staging& all = staging();
  const std::scoped_lock lock(all.arrivals, all.mutex);
  Gpu& gpu = gpu_of(index);
  const bool whole = !gpu.pieces.empty() && cudaDeviceSynchronize() == cudaSuccess;
  cudaGetLastError();
  for (std::unique_ptr<Piece>& piece : gpu.pieces) {
    if (!piece->to) continue;
    if (whole) {
      std::memcpy(piece->to->data, piece->data, piece->wanted);
      piece->to->arriving.store(nullptr, std::memory_order_release);
    } else {
      piece->lost = true;
      static_cast<void>(piece.release());  // goes with the tensor
    }
  }
  for (void* slab : gpu.slabs) cudaFreeHost(slab);
  cudaGetLastError();
  gpu = Gpu{};
}

}  // namespace lmp::cuda
