#pragma once

#include <cstdint>

#include "lamppp/tensor/tensor.hpp"
#include "tensor/format.hpp"

namespace lmp::tensor::detail {

/// What integers cannot answer: what ValueError says.
inline constexpr const char* kNegativePower =
    "pow: integers to a negative power; convert with astype(Float32) first";
inline constexpr const char* kDivisionByZero =
    "remainder: integer division by zero; convert with astype(Float32) for NaN";

/// Throws Error where `x` is undefined.
void check_defined(const char* op, const Tensor& x);
/// Throws DeviceError where the devices differ.
void check_same_device(const char* op, const Tensor& a, const Tensor& b);
/// The axis in [0, ndim); negative ones count from the end. Throws IndexError.
int normalize_axis(const char* op, std::int64_t axis, int ndim);
/// Several axes, each at most once, as bits. None means all. Throws IndexError, ValueError for
/// duplicates.
unsigned axis_mask(const char* op, const IntList& axes, int ndim);
/// The shape both broadcast to. Throws ShapeError.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);
/// True where `from` broadcasts to `to`.
bool broadcasts_to(const Shape& from, const Shape& to) noexcept;
/// Strides of a tensor of `shape` and `strides` seen as one of `target`, which it broadcasts to.
IntList broadcast_strides(const Shape& shape, const IntList& strides, const Shape& target) noexcept;
/// `shape` with the axes in `mask` set to 1, or left out.
Shape reduced_shape(const Shape& shape, unsigned mask, bool keepdims);
/// What a reduction or a step computes in: Float64 stays, all else becomes Float32.
constexpr DataType at_least_float(DataType type) noexcept {
  return type == DataType::Float64 ? type : DataType::Float32;
}
/// True where two elements may share memory (a stride of 0, or overlapping views).
bool has_internal_overlap(const Tensor& x) noexcept;

}  // namespace lmp::tensor::detail
