#include "cuda/backend.hpp"

#include <array>
#include <atomic>
#include <mutex>
#include <new>

#include "cuda/capture.hpp"
#include "cuda/runtime.hpp"
#include "cuda/staging.hpp"
#include "profiler/recording.hpp"
#include "tensor/access.hpp"
#include "tensor/allocator.hpp"

namespace lmp::cuda {

using tensor::Device;
using tensor::detail::Storage;

namespace {

Storage* allocate(std::size_t bytes, Device device) {
  void* const place = tensor::detail::cpu_allocate(sizeof(Storage));
  Memory memory{};
  try {
    check_alive(device.index);
    if (bytes > 0) memory = allocate_bytes(device.index, current_stream(device.index), bytes);
  } catch (...) {
    tensor::detail::cpu_deallocate(place, sizeof(Storage));
    throw;
  }
  auto* const storage = new (place) Storage;
  storage->data = static_cast<std::byte*>(memory.data);
  storage->context = memory.block;
  storage->bytes = bytes;
  storage->device = device;
  return storage;
}

void deallocate(Storage* storage) noexcept {
  if (storage->context) free_bytes(static_cast<Block*>(storage->context));
  storage->~Storage();
  tensor::detail::cpu_deallocate(storage, sizeof(Storage));
}

tensor::MemoryStats memory_stats(Device device) { return stats_of(device.index); }
void set_memory_limit(std::size_t bytes, Device device) { set_limit(device.index, bytes); }

void upload(const Tensor& to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  check_not_capturing("a copy from the host");
  copy_from_host(Context(to.device()), to.data(), from, bytes);
}

void download(void* to, const Tensor& from, std::size_t bytes) {
  const Context context(from.device());
  if (bytes > 0) {
    check_not_capturing("a copy to the host");
    check(cudaMemcpyAsync(to, from.data(), bytes, cudaMemcpyDeviceToHost, context.stream),
          "download");
  }
  synchronize(context, "download");
}

void fetch(const Tensor& to, const Tensor& from, std::size_t bytes) {
  check_not_capturing("a copy to the host");
  if (!start_arrival(Context(from.device()), to, from.data(), bytes))
    download(to.data(), from, bytes);
}

// A pass starts from a 1; kept, it costs no launch. It is made anew where somebody has written into
// what was given out.
struct One {
  Tensor tensor;
  int generation;
  bool valid(int now) const {
    return tensor.defined() && generation == now && tensor.version() == 0;
  }
};
One& kept_one(DataType type, int device) {
  static auto* const made = new std::array<std::array<One, tensor::kDataTypeCount>, kMaxDevices>;
  return (*made)[static_cast<std::size_t>(device)][static_cast<std::size_t>(type)];
}
std::mutex one_mutex;

// Not in a graph, which would only note its making.
Tensor one(DataType type, Device device) {
  if (current_capture()) return {};
  const std::lock_guard lock(one_mutex);
  One& here = kept_one(type, device.index);
  const int now = generation(device.index);
  if (!here.valid(now)) {
    const Tensor fresh = tensor::detail::allocate({}, type, device);
    fill(fresh, 1);
    synchronize(Context(device), "backward");  // all streams may read it
    here = {fresh, now};
  }
  return here.tensor;
}

}  // namespace

bool is_one(const Tensor& x) {
  const std::lock_guard lock(one_mutex);
  const One& here = kept_one(x.type(), x.device().index);
  return here.valid(generation(x.device().index)) && here.tensor.data() == x.data();
}

const tensor::detail::Backend backend = {
    .allocate = &allocate,
    .deallocate = &deallocate,
    .memory_stats = &memory_stats,
    .set_memory_limit = &set_memory_limit,
    .forward = &forward,
    .backward = &backward,
    .copy = &copy,
    .cat = &cat,
    .upload = &upload,
    .download = &download,
    .fetch = &fetch,
    .fill = &fill,
    .one = &one,
    .reduce = &reduce,
    .spread = &spread,
    .softmax = &softmax,
    .softmax_gradient = &softmax_gradient,
    .arg_extreme = &arg_extreme,
    .cumsum = &cumsum,
    .matmul = &matmul,
    .linear = &linear,
    .index_select = &index_select,
    .index_add = &index_add,
    .gather = &gather,
    .scatter = &scatter,
    .argsort = &argsort,
    .count_nonzero = &count_nonzero,
    .nonzero = &nonzero,
    .random = &random,
    .random_words = &random_words,
    .scale = &scale,
    .cross_entropy = &cross_entropy,
    .cross_entropy_backward = &cross_entropy_backward,
    .normalize = &normalize,
    .normalize_backward = &normalize_backward,
    .dropout = &dropout,
    .sgd_step = &sgd_step,
    .adam_step = &adam_step,
    .solve = &solve,
    .inverse = &inverse,
    .cholesky = &cholesky,
    .determinant = &determinant,
};

namespace {

// Counted: a Profiler, and from the first stream of its own on the program.
constinit std::atomic<int> recorders = 0;

}  // namespace

void record_events(bool on) noexcept { recorders.fetch_add(on ? 1 : -1); }

const tensor::detail::Backend& backend_of(Device device) {
  check_device(device.index);
  return recorders.load(std::memory_order_relaxed) == 0 ? backend : profiler::kRecordingBackend;
}

void note_use(const Tensor& x) {
  const Storage& storage = *tensor::TensorAccess::storage(x);
  if (storage.context && !storage.deleter)
    used_on(static_cast<Block*>(storage.context), current_stream(storage.device.index));
}

void empty_cache() noexcept { release_cached(); }

}  // namespace lmp::cuda
