#pragma once

#include "cuda/launch.cuh"

namespace lmp::cuda {

/// Division of numbers >= 0 as by a Divider where they fit into 31 bits, and the long way else.
struct LongDivider {
  std::int64_t divisor = 1;
  LongDivider() = default;
  /// By d > 0, of numbers up to `most`.
  LongDivider(std::int64_t d, std::int64_t most)
      : divisor(d), fits_(std::max(d, most) < std::int64_t{1} << 31) {
    if (fits_) divider_ = Divider(static_cast<std::uint32_t>(d));
  }
  __device__ __forceinline__ std::int64_t divide(std::int64_t n) const {
    return fits_ ? divider_.divide(static_cast<std::uint32_t>(n)) : n / divisor;
  }

 private:
  Divider divider_;
  bool fits_ = true;
};

}  // namespace lmp::cuda
