#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "lamppp/lamppp.hpp"

/// Tensors of given values in every layout that an op may meet.
namespace layouts {

enum class Layout { Contiguous, Transposed, Sliced, Reversed, Expanded, Offset, Scalar, Empty };
inline constexpr Layout kAll[] = {Layout::Contiguous, Layout::Transposed, Layout::Sliced, Layout::Reversed,
                                  Layout::Expanded,   Layout::Offset,     Layout::Scalar, Layout::Empty};

inline const char* name_of(Layout layout) {
  constexpr const char* names[] = {"contiguous", "transposed", "step-sliced", "reversed",
                                   "expanded",   "offset",     "0-d",         "zero-size"};
  return names[static_cast<int>(layout)];
}

/// A shape for the layout; some cross the blocks of 1024 elements that kernels work in.
inline std::vector<std::int64_t> random_shape(Layout layout, std::mt19937& random) {
  if (layout == Layout::Scalar) return {};
  const int ndim = std::uniform_int_distribution(1, 3)(random);
  std::vector<std::int64_t> shape;
  for (int d = 0; d < ndim; ++d) shape.push_back(std::uniform_int_distribution(1, 6)(random));
  if (random() % 8 == 0) shape = {shape.front() % 3 + 1, std::uniform_int_distribution(200, 1500)(random)};
  if (layout == Layout::Empty) shape[random() % shape.size()] = 0;
  return shape;
}

/// A view of the layout, of `shape`, over memory of its own: values come from draw(), in the view's order,
/// except that an expanded one repeats them along its first axis.
template <class Draw>
lmp::Tensor make(Layout layout, const std::vector<std::int64_t>& shape, lmp::DataType type, Draw&& draw) {
  const auto fresh = [&](const lmp::Shape& of) {
    std::vector<double> values(of.numel());
    for (double& v : values) v = draw();
    return lmp::Tensor(values, of, lmp::DeviceType::CPU, type);
  };
  std::vector<std::int64_t> grown = shape;
  switch (layout) {
    case Layout::Transposed: {
      if (shape.size() < 2) return fresh(shape);
      std::swap(grown.front(), grown.back());
      return fresh(grown).transpose(0, -1);
    }
    case Layout::Sliced:
      grown.back() = 2 * shape.back() + 1;
      return fresh(grown).slice(-1, 1, std::nullopt, 2);
    case Layout::Reversed: return fresh(shape).flip({});
    case Layout::Expanded:
      grown.front() = 1;
      return fresh(grown).broadcast_to(shape);
    case Layout::Offset:
      grown.front() = shape.front() + 2;
      return fresh(grown).narrow(0, 2, shape.front());
    default: return fresh(shape);
  }
}

}  // namespace layouts
