#include <limits>

#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::detail::allocate;
using tensor::detail::backend;

namespace {

Tensor reduced(Reduction reduction, const Tensor& x, const Over& over, DataType type) {
  Tensor out = allocate(over.shape(x.shape()), type, x.device());
  const Shape kept = tensor::detail::reduced_shape(x.shape(), over.mask, true);
  const Tensor target =
      tensor::TensorAccess::view(out, 0, kept, tensor::detail::dense_strides(kept));
  backend(x.device()).reduce(reduction, target, x);
  return out;
}

Tensor constant(const Tensor& x, const Over& over, double value) {
  return tensor::full(over.shape(x.shape()), value, x.device(),
                      is_floating(x.type()) ? x.type() : DataType::Float32);
}

DataType sum_type(DataType type) { return is_floating(type) ? type : DataType::Int64; }

// Squares and differences of halves would be rounded in between.
Tensor at_least_float(const Tensor& x) {
  return x.type() == DataType::Float64 ? x : x.astype(DataType::Float32);
}
DataType float_type(const Tensor& x) {
  return is_floating(x.type()) ? x.type() : DataType::Float32;
}

}  // namespace

IntList axes_of(unsigned mask) {
  IntList axes;
  for (int d = 0; d < tensor::kMaxDims; ++d)
    if (mask >> d & 1) axes.push_back(d);
  return axes;
}

std::int64_t Over::count(const Shape& input) const {
  std::int64_t n = 1;
  for (int d = 0; d < input.ndim(); ++d)
    if (mask >> d & 1) n *= input.dim(d);
  return n;
}

Tensor Sum::forward(const Tensor& x) const {
  return reduced(Reduction::Sum, x, over, sum_type(x.type()));
}

Tensor Sum::spread(const Tensor& g, const Shape& shape) {
  constexpr std::size_t kSmall = 4096;
  Tensor view = tensor::TensorAccess::view(
      g, 0, shape, tensor::detail::broadcast_strides(g.shape(), g.strides(), shape));
  if (shape.numel() > kSmall) return view;
  Tensor out = allocate(shape, g.type(), g.device());
  backend(g.device()).copy(out, view);
  return out;
}

Tensor Prod::forward(const Tensor& x) const {
  return reduced(Reduction::Prod, x, over, sum_type(x.type()));
}

Tensor Extreme::forward(const Tensor& x) const {
  return reduced(largest ? Reduction::Max : Reduction::Min, x, over, x.type());
}

Tensor Var::forward(const Tensor& x) const {
  const std::int64_t n = over.count(x.shape()) - correction;
  if (n <= 0) return constant(x, over, std::numeric_limits<double>::quiet_NaN());
  const Tensor v = at_least_float(x);
  const Tensor squares = over.sum_of(square(v - over.mean_of(v)));
  return over.drop((squares / static_cast<double>(n)).astype(float_type(x)), x.shape());
}

Tensor Std::forward(const Tensor& x) const {
  return sqrt(Var{over, correction}.forward(at_least_float(x))).astype(float_type(x));
}

Tensor Norm::forward(const Tensor& x) const {
  return over.drop(sqrt(over.sum_of(square(at_least_float(x)))).astype(float_type(x)), x.shape());
}

Tensor LogSumExp::forward(const Tensor& x) const {
  if (over.count(x.shape()) == 0)
    return constant(x, over, -std::numeric_limits<double>::infinity());
  const Tensor v = at_least_float(x);
  const Tensor top = over.max_of(v);
  const Tensor shift = where(isinf(top), 0, top);
  return over.drop((log(over.sum_of(exp(v - shift))) + shift).astype(float_type(x)), x.shape());
}

Tensor ArgExtreme::forward(const Tensor& x) const {
  IntList shape(x.shape());
  shape[static_cast<std::size_t>(axis)] = 1;
  Tensor out = allocate(Shape(shape), DataType::Int64, x.device());
  backend(x.device()).arg_extreme(largest, out, x, axis);
  return keepdims ? out : out.squeeze(axis);
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
