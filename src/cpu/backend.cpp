#include "cpu/backend.hpp"

#include <cstring>
#include <new>

#include "tensor/allocator.hpp"

namespace lmp::cpu {

using tensor::Device;
using tensor::detail::Storage;

namespace {

// A storage is one block: its header in the first 64 bytes, then the data.
constexpr std::size_t kHeader = 64;
static_assert(sizeof(Storage) <= kHeader);

Storage* allocate(std::size_t bytes, Device device) {
  void* block = tensor::detail::cpu_allocate(kHeader + bytes);
  auto* storage = new (block) Storage;
  storage->data = static_cast<std::byte*>(block) + kHeader;
  storage->bytes = bytes;
  storage->device = device;
  return storage;
}

void deallocate(Storage* storage) noexcept {
  const std::size_t bytes = storage->bytes;
  storage->~Storage();
  tensor::detail::cpu_deallocate(storage, kHeader + bytes);
}

tensor::MemoryStats memory_stats(Device) { return tensor::detail::cpu_memory_stats(); }
void set_memory_limit(std::size_t bytes, Device) { tensor::detail::cpu_set_memory_limit(bytes); }

void upload(const Tensor& to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to.data(), from, bytes);
}

void download(void* to, const Tensor& from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from.data(), bytes);
}

}  // namespace

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
    .fetch = [](const Tensor& to, const Tensor& from,
                std::size_t bytes) { download(to.data(), from, bytes); },
    .fill = &fill,
    .one = [](DataType, Device) { return Tensor(); },
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

}  // namespace lmp::cpu
