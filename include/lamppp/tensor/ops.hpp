#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "lamppp/tensor/op_options.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::tensor {
inline namespace ops {

#define LMP_T Tensor
#define LMP_SITE
#define LMP_SITE_ARGUMENT
#include "lamppp/tensor/functions.inc"
#undef LMP_SITE_ARGUMENT
#undef LMP_SITE
#undef LMP_T

#define LMP_OPERATOR(op, function)                                                       \
  inline Tensor operator op(const Tensor& a, const Tensor& b) { return function(a, b); } \
  inline Tensor operator op(const Tensor& a, Number b) { return function(a, b); }        \
  inline Tensor operator op(Number a, const Tensor& b) { return function(a, b); }
LMP_OPERATOR(+, add)
LMP_OPERATOR(-, sub)
LMP_OPERATOR(*, mul)
LMP_OPERATOR(/, div)
#undef LMP_OPERATOR
/// neg(x).
inline Tensor operator-(const Tensor& x) { return neg(x); }

/// One dtype for two numbers: Bool, Int64 or Float32 by category.
LMP_API Tensor where(const Tensor& condition, Number a, Number b);
/// Positions along `axis` that sort x: ascending unless `descending`, stable, NaN last (first where
/// descending). Int64.
LMP_API Tensor argsort(const Tensor& x, int axis = -1, bool descending = false);
/// Coordinates of the elements that are not 0: Int64, shape (count, ndim), in row-major order.
LMP_API Tensor nonzero(const Tensor& x);
/// Int64 of shape (..., classes): 1 at each label, 0 elsewhere. Throws IndexError for a label
/// outside [0, classes).
LMP_API Tensor one_hot(const Tensor& labels, std::int64_t classes);
/// Whether shapes agree and |a - b| <= absolute + relative * |b| everywhere; equal infinities are
/// close, NaN is close to nothing unless `equal_nan`.
LMP_API bool allclose(const Tensor& a, const Tensor& b, double relative = 1e-5,
                      double absolute = 1e-8, bool equal_nan = false);
/// Whether shapes and all elements agree (types may differ; NaN equals nothing).
LMP_API bool array_equal(const Tensor& a, const Tensor& b);

/// 0 everywhere.
LMP_API Tensor zeros(const Shape& shape, Device device = DeviceType::CPU,
                     DataType type = DataType::Float32);
/// 1 everywhere.
LMP_API Tensor ones(const Shape& shape, Device device = DeviceType::CPU,
                    DataType type = DataType::Float32);
/// Elements without a value yet.
LMP_API Tensor empty(const Shape& shape, Device device = DeviceType::CPU,
                     DataType type = DataType::Float32);
/// One number everywhere; by its category Bool, Int64 or Float32 unless `type` says otherwise.
LMP_API Tensor full(const Shape& shape, Number value, Device device = DeviceType::CPU);
/// The same in a given type. Throws ValueError where it does not hold the number.
LMP_API Tensor full(const Shape& shape, Number value, Device device, DataType type);
/// 0 everywhere, in the shape and type of x, on its device.
LMP_API Tensor zeros_like(const Tensor& x);
/// 1 everywhere, like x.
LMP_API Tensor ones_like(const Tensor& x);
/// Elements without a value yet, like x.
LMP_API Tensor empty_like(const Tensor& x);
/// One number everywhere, like x.
LMP_API Tensor full_like(const Tensor& x, Number value);
/// start, start + step, ... before stop: Int64 where all are integers, else Float32.
LMP_API Tensor arange(Number stop);
/// The same with a start and a step, which may be negative but not 0. Throws ValueError for a step
/// of 0, ShapeError for more values than a tensor holds.
LMP_API Tensor arange(Number start, Number stop, Number step = 1, Device device = DeviceType::CPU);
/// The same in a given type.
LMP_API Tensor arange(Number start, Number stop, Number step, Device device, DataType type);
/// `count` evenly spaced values from start to stop, both included.
LMP_API Tensor linspace(double start, double stop, std::int64_t count,
                        Device device = DeviceType::CPU, DataType type = DataType::Float32);
/// Ones on the diagonal of an n by n (or n by m) matrix.
LMP_API Tensor eye(std::int64_t n, std::int64_t m = -1, Device device = DeviceType::CPU,
                   DataType type = DataType::Float32);

}  // namespace ops
}  // namespace lmp::tensor
