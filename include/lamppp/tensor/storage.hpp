#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "lamppp/export.hpp"
#include "lamppp/tensor/device_type.hpp"

/// Memory behind tensors. An implementation detail that is here because Tensor's copies are inline.
namespace lmp::tensor::detail {

/// What may be done with the memory through a tensor: a value that a transform of autograd holds is
/// read only, or has no memory of its own at all.
enum class Access : std::uint8_t { Full, Read, None };

struct Storage {
  std::atomic<std::uint32_t> references{1};
  std::atomic<std::uint32_t> version{0};
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  Device device;
  Access access = Access::Full;
  /// Frees foreign memory (from_blob); null where the library owns the bytes.
  void (*deleter)(void* data, void* context) = nullptr;
  void* context = nullptr;
  /// Set while values are on their way here from a GPU; Tensor::data() waits for them.
  std::atomic<void*> arriving{nullptr};

  void bump_version() noexcept {
    version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
};

LMP_API void destroy(Storage* storage) noexcept;
/// Waits for what is `arriving`.
LMP_API void arrive(Storage& storage);

class StorageRef {
 public:
  StorageRef() = default;
  explicit StorageRef(Storage* owned) noexcept : storage_(owned) {}
  StorageRef(const StorageRef& other) noexcept : storage_(other.storage_) {
    if (storage_) storage_->references.fetch_add(1, std::memory_order_relaxed);
  }
  StorageRef(StorageRef&& other) noexcept : storage_(std::exchange(other.storage_, nullptr)) {}
  StorageRef& operator=(StorageRef other) noexcept {
    std::swap(storage_, other.storage_);
    return *this;
  }
  ~StorageRef() {
    // Nobody else can add a reference while ours is the only one, so the last owner needs no atomic
    // read-modify-write.
    if (storage_ && (storage_->references.load(std::memory_order_acquire) == 1 ||
                     storage_->references.fetch_sub(1, std::memory_order_acq_rel) == 1))
      destroy(storage_);
  }
  Storage* get() const noexcept { return storage_; }
  Storage* operator->() const noexcept { return storage_; }
  explicit operator bool() const noexcept { return storage_ != nullptr; }
  bool unique() const noexcept { return storage_->references.load(std::memory_order_acquire) == 1; }

 private:
  Storage* storage_ = nullptr;
};

}  // namespace lmp::tensor::detail
