#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::tensor::detail {

/// A tensor of n elements on any device, made a piece at a time so that a large one needs little
/// memory beside its own: make(values, start) fills a vector with the elements from `start`, which
/// is even.
template <class T, class F>
Tensor generate(std::int64_t n, Device device, DataType type, F&& make) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 16;
  std::vector<T> values;
  const auto piece = [&](std::int64_t start) {
    const std::int64_t size = std::min(kPiece, n - start);
    values.resize(static_cast<std::size_t>(size));
    make(values, start);
    return Tensor(values, Shape{size}, device, type);
  };
  if (n <= kPiece) return piece(0);
  Tensor out = allocate(Shape{n}, type, device);
  for (std::int64_t start = 0; start < n; start += kPiece) {
    const Tensor some = piece(start);
    backend(device).copy(TensorAccess::view(out, start, some.shape(), some.strides()), some);
  }
  return out;
}

}  // namespace lmp::tensor::detail
