#include "tensor/iteration.hpp"

#include <algorithm>
#include <cstdlib>

namespace lmp::tensor::detail {

Iteration::Iteration(const Shape& shape, std::span<const IntList> operand_strides, bool reorder) {
  int order[kMaxDims];
  int count = 0;
  for (int d = 0; d < shape.ndim(); ++d) {
    numel *= shape.dim(d);
    if (shape[static_cast<std::size_t>(d)] != 1) order[count++] = d;
  }
  if (reorder) {
    const IntList& first = operand_strides[0];
    std::stable_sort(order, order + count, [&](int a, int b) {
      return std::abs(first[static_cast<std::size_t>(a)]) >
             std::abs(first[static_cast<std::size_t>(b)]);
    });
  }
  const auto operands = operand_strides.size();
  for (int k = 0; k < count; ++k) {
    const auto d = static_cast<std::size_t>(order[k]);
    const auto size = static_cast<std::int64_t>(shape[d]);
    bool merges = ndim > 0;
    for (std::size_t i = 0; merges && i < operands; ++i)
      merges = strides[i][ndim - 1] == operand_strides[i][d] * size;
    if (!merges) ++ndim;
    sizes[ndim - 1] = merges ? sizes[ndim - 1] * size : size;
    for (std::size_t i = 0; i < operands; ++i) strides[i][ndim - 1] = operand_strides[i][d];
  }
}

}  // namespace lmp::tensor::detail
