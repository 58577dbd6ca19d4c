#pragma once

#include <cstddef>

#include "tensor/allocator.hpp"

namespace lmp::cpu {

/// Memory for one computation, aligned to 64 bytes, from the library's allocator.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : bytes_(bytes), data_(tensor::detail::cpu_allocate(bytes)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { tensor::detail::cpu_deallocate(data_, bytes_); }
  void* data() const { return data_; }

 private:
  std::size_t bytes_;
  void* data_;
};

}  // namespace lmp::cpu
