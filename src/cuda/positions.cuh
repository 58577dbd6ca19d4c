#pragma once

#include <cstdint>

#include "cuda/runtime.hpp"

namespace lmp::cuda {

/// Writes a report, unless there is one: the host sees it when it is whole.
__device__ inline void publish(IndexReport* report, const char* op, std::int64_t value,
                               std::int64_t size) {
  if (atomicCAS(&report->state, IndexReport::kNone, IndexReport::kBegun) != IndexReport::kNone)
    return;
  report->op = op;
  report->value = value;
  report->size = size;
  __threadfence_system();
  *static_cast<volatile int*>(&report->state) = IndexReport::kWhole;
}

/// Positions along an axis from indices in a kernel, of which negative ones count from the end. One
/// that is out of range is reported and read as 0, so `size` is not 0.
struct Positions {
  Positions(const Context& context, const char* named, std::int64_t axis_size)
      : size(axis_size), op(named), report(index_report(context.index)) {}
  __device__ __forceinline__ std::int64_t operator()(std::int64_t i) const {
    if (static_cast<std::uint64_t>(i) < static_cast<std::uint64_t>(size)) return i;
    if (i < 0 && i + size >= 0) return i + size;
    refuse(i);
    return 0;
  }
  /// Reports that position i is out of range.
  __device__ void refuse(std::int64_t i) const { publish(report, op, i, size); }
  std::int64_t size;

 private:
  const char* op;
  IndexReport* report;
};

}  // namespace lmp::cuda
