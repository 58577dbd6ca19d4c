#include <new>

#include "lamppp/tensor/storage.hpp"

#include "tensor/access.hpp"
#include "tensor/allocator.hpp"
#include "tensor/backend.hpp"
#include "tensor/format.hpp"
#include "tensor/queue.hpp"

namespace lmp::tensor {
namespace detail {

constinit std::atomic<const Backend*> cpu_backend{&cpu::backend};

constinit thread_local std::uint16_t current_queues = 0;

void change_queues(std::uint16_t queues) {
#ifdef LAMPPP_HAVE_CUDA
  cuda::change_queues(queues);
#else
  current_queues = queues;
#endif
}

const Backend& other_backend(Device device) {
  if (device.type == DeviceType::CPU)
    throw DeviceError(concat("there is one CPU device, CPU:0; asked for CPU:", int{device.index}));
#ifdef LAMPPP_HAVE_CUDA
  return cuda::backend_of(device);
#else
  throw DeviceError(concat(device,
                           ": this build of Lamp++ has no GPUs; use DeviceType::CPU, or build it "
                           "with a CUDA toolkit (-DLAMPPP_CUDA=ON)"));
#endif
}

void arrive(Storage& storage) {
#ifdef LAMPPP_HAVE_CUDA
  cuda::arrive(storage);
#else
  static_cast<void>(storage);
#endif
}

void destroy(Storage* storage) noexcept {
#ifdef LAMPPP_HAVE_CUDA
  if (storage->arriving.load(std::memory_order_acquire)) [[unlikely]]
    cuda::abandon_arrival(*storage);
#endif
  if (storage->deleter) {
    storage->deleter(storage->data, storage->context);
    delete storage;
  } else {
    backend(storage->device).deallocate(storage);
  }
}

Tensor allocate(const Shape& shape, DataType type, Device device) {
  const std::size_t numel = shape.numel();
  std::size_t bytes;
  if (__builtin_mul_overflow(numel, size_of(type), &bytes) || bytes > PTRDIFF_MAX - 4096)
    throw ShapeError(concat("allocation: a tensor of shape ", shape, " and type ", type,
                            " would have more bytes than can be addressed; check the sizes"));
  Storage* storage = backend(device).allocate(bytes, device);
  return TensorAccess::make(StorageRef(storage), storage->data, shape, dense_strides(shape), type,
                            true);
}

}  // namespace detail

MemoryStats memory_stats(Device device) { return detail::backend(device).memory_stats(device); }

void set_memory_limit(std::size_t bytes, Device device) {
  detail::backend(device).set_memory_limit(bytes, device);
}

void empty_cache() {
  detail::cpu_empty_cache();
#ifdef LAMPPP_HAVE_CUDA
  cuda::empty_cache();
#endif
}

Tensor TensorAccess::view(const Tensor& base, std::int64_t offset, const Shape& shape,
                          const IntList& strides) {
  std::int64_t step = 1;
  bool contiguous = true;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != step) contiguous = false;
    step *= static_cast<std::int64_t>(shape[i]);
  }
  contiguous |= shape.numel() == 0;
  return make(base.storage_, base.data_ + offset * static_cast<std::int64_t>(size_of(base.type_)),
              shape, contiguous ? detail::dense_strides(shape) : strides, base.type_, contiguous);
}

}  // namespace lmp::tensor
