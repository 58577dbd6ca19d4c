#include <limits>

#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::detail::allocate;
using tensor::detail::backend;
using tensor::detail::reduced_shape;

namespace {

Tensor reduced(Reduction reduction, const Tensor& x, unsigned mask, DataType type) {
  Tensor out = allocate(reduced_shape(x.shape(), mask, true), type, x.device());
  backend(x.device()).reduce(reduction, out, x);
  return out;
}

DataType sum_type(DataType type) { return is_floating(type) ? type : DataType::Int64; }

// Squares and differences of halves would be rounded in between.
Tensor at_least_float(const Tensor& x) {
  return x.type() == DataType::Float64 ? x : x.astype(DataType::Float32);
}
DataType float_type(const Tensor& x) { return is_floating(x.type()) ? x.type() : DataType::Float32; }

}  // namespace

IntList axes_of(unsigned mask) {
  IntList axes;
  for (int d = 0; d < tensor::kMaxDims; ++d)
    if (mask >> d & 1) axes.push_back(d);
  return axes;
}

std::int64_t count_of(const Shape& shape, unsigned mask) {
  std::int64_t n = 1;
  for (int d = 0; d < shape.ndim(); ++d)
    if (mask >> d & 1) n *= shape.dim(d);
  return n;
}

Tensor Sum::forward(const Tensor& x) const { return reduced(Reduction::Sum, x, mask, sum_type(x.type())); }

Tensor Sum::spread(const Tensor& g, const Shape& shape) {
  constexpr std::size_t kSmall = 4096;
  const Tensor view = g.broadcast_to(shape);
  return shape.numel() <= kSmall ? view.contiguous() : view;
}

Tensor Prod::forward(const Tensor& x) const { return reduced(Reduction::Prod, x, mask, sum_type(x.type())); }

Tensor Extreme::forward(const Tensor& x) const {
  return reduced(largest ? Reduction::Max : Reduction::Min, x, mask, x.type());
}

Tensor Var::forward(const Tensor& x) const {
  const std::int64_t n = count_of(x.shape(), mask) - correction;
  const Tensor v = at_least_float(x);
  if (n <= 0)
    return tensor::full(reduced_shape(x.shape(), mask, true), std::numeric_limits<double>::quiet_NaN(),
                        x.device(), float_type(x));
  const Tensor difference = v - mean(v, axes_of(mask));
  return (sum(square(difference), axes_of(mask)) / static_cast<double>(n)).astype(float_type(x));
}

Tensor Std::forward(const Tensor& x) const {
  return sqrt(Var{mask, correction}.forward(at_least_float(x))).astype(float_type(x));
}

Tensor Norm::forward(const Tensor& x) const {
  return sqrt(sum(square(at_least_float(x)), axes_of(mask))).astype(float_type(x));
}

Tensor LogSumExp::forward(const Tensor& x) const {
  const Tensor v = at_least_float(x);
  if (count_of(x.shape(), mask) == 0)
    return tensor::full(reduced_shape(x.shape(), mask, true), -std::numeric_limits<double>::infinity(),
                        x.device(), float_type(x));
  const Tensor top = max(v, axes_of(mask));
  const Tensor shift = where(isinf(top), 0, top);
  return (log(sum(exp(v - shift), axes_of(mask))) + shift).astype(float_type(x));
}

Tensor Cumsum::forward(const Tensor& x) const {
  Tensor out = allocate(x.shape(), sum_type(x.type()), x.device());
  if (x.numel() > 0) backend(x.device()).cumsum(out, x, axis);
  return out;
}

Tensor Softmax::forward(const Tensor& x) const {
  if (x.numel() == 0) return allocate(x.shape(), float_type(x), x.device());
  const Tensor v = at_least_float(x);
  const Tensor e = exp(v - max(v, axis));
  return (e / sum(e, axis)).astype(float_type(x));
}

Tensor LogSoftmax::forward(const Tensor& x) const {
  if (x.numel() == 0) return allocate(x.shape(), float_type(x), x.device());
  const Tensor v = at_least_float(x);
  const Tensor shifted = v - max(v, axis);
  return (shifted - log(sum(exp(shifted), axis))).astype(float_type(x));
}

Tensor Matmul::forward(const Tensor& a, const Tensor& b) const {
  IntList shape;
  const Shape batch = tensor::detail::broadcast_shapes(
      name, Shape(IntList(std::vector<std::size_t>(a.shape().begin(), a.shape().end() - 2))),
      Shape(IntList(std::vector<std::size_t>(b.shape().begin(), b.shape().end() - 2))));
  for (std::size_t n : batch) shape.push_back(static_cast<std::int64_t>(n));
  shape.push_back(a.shape().dim(a.ndim() - 2));
  shape.push_back(b.shape().dim(b.ndim() - 1));
  Tensor out = allocate(Shape(shape), a.type(), a.device());
  backend(a.device()).matmul(out, a, b);
  return out;
}

}  // namespace lmp::table
