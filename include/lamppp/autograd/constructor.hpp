#pragma once

#include <initializer_list>
#include <vector>

#include "lamppp/autograd/variable.hpp"

/// Constructors of Variables: those of Tensor, with `requires_grad` last.
namespace lmp::autograd {

/// 0 everywhere.
LMP_API Variable zeros(const Shape& shape, Device device = DeviceType::CPU,
                       DataType type = DataType::Float32, bool requires_grad = false);
/// 1 everywhere.
LMP_API Variable ones(const Shape& shape, Device device = DeviceType::CPU,
                      DataType type = DataType::Float32, bool requires_grad = false);
/// One number everywhere.
LMP_API Variable full(const Shape& shape, Number value, Device device, DataType type,
                      bool requires_grad = false);
/// Uniform on [0, 1).
LMP_API Variable rand(const Shape& shape, Device device = DeviceType::CPU,
                      DataType type = DataType::Float32, bool requires_grad = false);
/// Normal with the given mean and standard deviation.
LMP_API Variable randn(double mean, double deviation, const Shape& shape,
                       Device device = DeviceType::CPU, DataType type = DataType::Float32,
                       bool requires_grad = false);

/// From nested vectors, the shape inferred; ragged input throws ShapeError.
template <tensor::Element T>
Variable tensor(const std::vector<T>& values, Device device = DeviceType::CPU,
                DataType type = tensor::kDataTypeOf<T>, bool requires_grad = false) {
  return Variable(Tensor(values, Shape{values.size()}, device, type), requires_grad);
}
/// The same for a matrix, row by row.
template <tensor::Element T>
Variable tensor(const std::vector<std::vector<T>>& rows, Device device = DeviceType::CPU,
                DataType type = tensor::kDataTypeOf<T>, bool requires_grad = false) {
  return Variable(Tensor(rows, device, type), requires_grad);
}
/// The same for three dimensions.
template <tensor::Element T>
Variable tensor(const std::vector<std::vector<std::vector<T>>>& blocks,
                Device device = DeviceType::CPU, DataType type = tensor::kDataTypeOf<T>,
                bool requires_grad = false) {
  return Variable(Tensor(blocks, device, type), requires_grad);
}
/// From nested braces of one arithmetic type: `tensor({{1.0f, 2.0f}, {3.0f, 4.0f}})`.
template <tensor::Element T>
Variable tensor(std::initializer_list<T> values, Device device = DeviceType::CPU,
                DataType type = tensor::kDataTypeOf<T>, bool requires_grad = false) {
  return tensor(std::vector<T>(values), device, type, requires_grad);
}
/// The same for a matrix, row by row.
template <tensor::Element T>
Variable tensor(std::initializer_list<std::initializer_list<T>> rows,
                Device device = DeviceType::CPU, DataType type = tensor::kDataTypeOf<T>,
                bool requires_grad = false) {
  return tensor(std::vector<std::vector<T>>(rows.begin(), rows.end()), device, type, requires_grad);
}

}  // namespace lmp::autograd
