#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "lamppp/tensor/tensor.hpp"

namespace lmp::tensor {

/// The library's way into a Tensor's parts.
struct TensorAccess {
  static Tensor make(detail::StorageRef storage, std::byte* data, const Shape& shape,
                     const IntList& strides, DataType type, bool contiguous) {
    Tensor t;
    t.storage_ = std::move(storage);
    t.data_ = data;
    t.shape_ = shape;
    t.strides_ = strides;
    t.type_ = type;
    t.contiguous_ = contiguous;
    return t;
  }
  /// A view of `base` that starts `offset` elements from its first.
  static Tensor view(const Tensor& base, std::int64_t offset, const Shape& shape,
                     const IntList& strides);
  static detail::Storage* storage(const Tensor& t) noexcept { return t.storage_.get(); }
  static bool unique(const Tensor& t) noexcept { return t.storage_.unique(); }
  static void bump_version(const Tensor& t) noexcept { t.storage_->bump_version(); }
};

namespace detail {

/// Strides of dense row-major data.
inline IntList dense_strides(const Shape& shape) noexcept {
  IntList strides(shape);
  std::int64_t step = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= static_cast<std::int64_t>(shape[i]);
  }
  return strides;
}

/// f(place, part) for parts that lie one after another along an axis of `out`.
template <class F>
void for_places(const Tensor& out, const std::vector<Tensor>& parts, int axis, F&& f) {
  std::int64_t offset = 0;
  for (const Tensor& part : parts) {
    f(TensorAccess::view(out, offset, part.shape(), out.strides()), part);
    offset += part.shape().dim(axis) * out.strides()[static_cast<std::size_t>(axis)];
  }
}

/// A dense tensor without values, on any device. Throws ShapeError where the byte count overflows.
Tensor allocate(const Shape& shape, DataType type, Device device);

}  // namespace detail
}  // namespace lmp::tensor
