#pragma once

#include <cstdint>

#include "lamppp/tensor/shape.hpp"

namespace lmp::cpu {

/// An axis between what is outside and inside of it, in a dense tensor.
struct Axes {
  std::int64_t outer = 1, size = 1, inner = 1;
  Axes(const tensor::Shape& shape, int axis) : size(shape.dim(axis)) {
    for (int d = 0; d < axis; ++d) outer *= shape.dim(d);
    for (int d = axis + 1; d < shape.ndim(); ++d) inner *= shape.dim(d);
  }
};

}  // namespace lmp::cpu
