#include "cpu/backend.hpp"

#include <cstring>
#include <new>

#include "cpu/matmul.hpp"
#include "tensor/allocator.hpp"
#include "tensor/checks.hpp"
#include "tensor/iteration.hpp"

namespace lmp::cpu {

using tensor::Device;
using tensor::IntList;
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

// Batch axes that run on with one stride each go to the product at once; where broadcasting leaves
// more than one axis, the outer ones are walked here.
void matmul_batches(const Tensor& out, const Tensor& a, const Tensor& b) {
  const int n = out.ndim();
  const auto at = [](const IntList& list, int i) { return list[static_cast<std::size_t>(i)]; };
  IntList batch, out_strides, a_batch, b_batch;
  // An operand's strides with its batch axes broadcast to the result's.
  const auto batched = [&](const Tensor& x) {
    IntList shape(out.shape());
    for (int back = 1; back <= 2; ++back)
      shape[static_cast<std::size_t>(n - back)] = x.shape().dim(x.ndim() - back);
    return tensor::detail::broadcast_strides(x.shape(), x.strides(), tensor::Shape(shape));
  };
  const IntList a_strides = batched(a), b_strides = batched(b);
  for (int d = 0; d < n - 2; ++d) {
    batch.push_back(out.shape().dim(d));
    out_strides.push_back(at(out.strides(), d));
    a_batch.push_back(at(a_strides, d));
    b_batch.push_back(at(b_strides, d));
  }
  const IntList all[3] = {out_strides, a_batch, b_batch};
  const tensor::detail::Iteration loop(tensor::Shape(batch), all, false);
  const int inner = loop.ndim - 1;
  const auto size = static_cast<std::int64_t>(tensor::size_of(out.type()));
  MatmulArgs args{};
  args.type = out.type();
  args.batch = loop.ndim == 0 ? 1 : loop.sizes[inner];
  args.m = out.shape().dim(n - 2);
  args.n = out.shape().dim(n - 1);
  args.k = a.shape().dim(a.ndim() - 1);
  args.a_batch = loop.ndim == 0 ? 0 : loop.strides[1][inner];
  args.a_row = at(a_strides, n - 2);
  args.a_col = at(a_strides, n - 1);
  args.b_batch = loop.ndim == 0 ? 0 : loop.strides[2][inner];
  args.b_row = at(b_strides, n - 2);
  args.b_col = at(b_strides, n - 1);
  if (loop.numel == 0) return;
  std::int64_t offsets[3] = {};
  for (std::int64_t done = 0; done < loop.numel; done += args.batch) {
    for (int i = 0; i < 3; ++i)
      offsets[i] =
          tensor::detail::RunWalker(loop.sizes, loop.strides[i], loop.ndim, done).offset() * size;
    args.c = static_cast<std::byte*>(out.data()) + offsets[0];
    args.a = static_cast<const std::byte*>(a.data()) + offsets[1];
    args.b = static_cast<const std::byte*>(b.data()) + offsets[2];
    matmul(args);
  }
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
    .upload = &upload,
    .download = &download,
    .fill = &fill,
    .reduce = &reduce,
    .spread = &spread,
    .softmax = &softmax,
    .softmax_gradient = &softmax_gradient,
    .arg_extreme = &arg_extreme,
    .cumsum = &cumsum,
    .matmul = &matmul_batches,
    .index_select = &index_select,
    .index_add = &index_add,
    .gather = &gather,
    .scatter = &scatter,
    .argsort = &argsort,
    .count_nonzero = &count_nonzero,
    .nonzero = &nonzero,
    .random = &random,
    .random_words = &random_words,
    .bias_activation = &bias_activation,
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
