#include <limits>

#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::detail::allocate;
using tensor::detail::backend;

namespace {

Tensor reduced(Reduction reduction, const Tensor& x, const Over& over, DataType type,
               const Tensor& with = {}, double divisor = 1) {
  Tensor out = allocate(over.shape(x.shape()), type, x.device());
  const Shape kept = tensor::detail::reduced_shape(x.shape(), over.mask, true);
  const Tensor target =
      tensor::TensorAccess::view(out, 0, kept, tensor::detail::dense_strides(kept));
  backend(x.device()).reduce(reduction, target, x, with, divisor);
  return out;
}

Tensor mean_in(const Tensor& x, const Over& over, DataType type) {
  return reduced(Reduction::Mean, x, over, type, {}, static_cast<double>(over.count(x.shape())));
}

DataType sum_type(DataType type) { return is_floating(type) ? type : DataType::Int64; }

// Squares and differences of halves would be rounded in between.
DataType at_least_float(const Tensor& x) { return tensor::detail::at_least_float(x.type()); }
Tensor zeros_of(const Over& over, const Tensor& x) {
  return tensor::zeros(over.shape(x.shape()), x.device(), at_least_float(x));
}
DataType float_type(const Tensor& x) {
  return is_floating(x.type()) ? x.type() : DataType::Float32;
}

// Halves are rounded between ops there.
bool takes_spread(const Tensor& x, const Tensor& y) {
  return x.type() == y.type() && x.type() == at_least_float(x);
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
  constexpr std::size_t kSmall = 4096, kShortRow = 256;
  const bool short_rows = shape.ndim() > 1 && shape.back() < kShortRow && takes_spread(g, g);
  Tensor view = tensor::TensorAccess::view(
      g, 0, shape, tensor::detail::broadcast_strides(g.shape(), g.strides(), shape));
  if (shape.numel() > kSmall && !short_rows) return view;
  Tensor out = allocate(shape, g.type(), g.device());
  if (shape.numel() <= kSmall) {
    backend(g.device()).copy(out, view);
  } else {
    const Tensor dense = g.contiguous();
    backend(g.device()).spread(Spread::Repeat, out, out, {}, dense, dense);
  }
  return out;
}

Tensor Mean::forward(const Tensor& x) const { return mean_in(x, over, x.type()); }

Tensor Prod::forward(const Tensor& x) const {
  return reduced(Reduction::Prod, x, over, sum_type(x.type()));
}

Tensor Extreme::forward(const Tensor& x) const {
  return reduced(largest ? Reduction::Max : Reduction::Min, x, over, x.type());
}

Tensor mean_of(const Tensor& x, const Over& over) {
  return mean_in(x, {over.mask}, at_least_float(x));
}

Tensor Var::forward(const Tensor& x) const { return in(x, float_type(x)); }

Tensor Var::in(const Tensor& x, DataType type) const {
  const std::int64_t n = over.count(x.shape()) - correction;
  if (n <= 0)
    return tensor::full(over.shape(x.shape()), std::numeric_limits<double>::quiet_NaN(), x.device(),
                        type);
  return reduced(Reduction::Deviations, x, over, type, {}, static_cast<double>(n));
}

Tensor Std::forward(const Tensor& x) const {
  return sqrt(Var{over, correction}.in(x, at_least_float(x))).astype(float_type(x));
}

Tensor Norm::forward(const Tensor& x) const {
  const Tensor center = zeros_of({over.mask}, x);
  return sqrt(reduced(Reduction::Squares, x, over, at_least_float(x), center))
      .astype(float_type(x));
}

Tensor LogSumExp::forward(const Tensor& x) const {
  if (over.count(x.shape()) == 0)
    return tensor::full(over.shape(x.shape()), -std::numeric_limits<double>::infinity(), x.device(),
                        float_type(x));
  const DataType type = at_least_float(x);
  const Tensor top = reduced(Reduction::Max, x, {over.mask}, x.type()).astype(type);
  const Tensor sum = reduced(Reduction::Exps, x, {over.mask}, type, top);
  return over.drop(where(isinf(top), top, log(sum) + top).astype(float_type(x)), x.shape());
}

Tensor count_equal(const Tensor& x, const Tensor& y, const Over& over) {
  if (!takes_spread(x, y)) return over.sum_of(astype(eq(x, y), at_least_float(y)));
  return reduced(Reduction::Equals, x, {over.mask}, x.type(), y.contiguous());
}

Tensor spread(Spread op, const Tensor& x, const Tensor& a, const Tensor& b) {
  if (!takes_spread(x, a) || b.type() != a.type()) return spread_by_ops(op, x, a, b);
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device()).spread(op, out, x.contiguous(), {}, a.contiguous(), b.contiguous());
  return out;
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
  Tensor out = allocate(x.shape(), float_type(x), x.device());
  backend(x.device()).softmax(false, out, x, axis);
  return out;
}

Tensor LogSoftmax::forward(const Tensor& x) const {
  Tensor out = allocate(x.shape(), float_type(x), x.device());
  backend(x.device()).softmax(true, out, x, axis);
  return out;
}

Tensor softmax_gradient(bool log, const Tensor& y, const Tensor& g, int axis) {
  Tensor out = allocate(y.shape(), y.type(), y.device());
  backend(y.device()).softmax_gradient(log, out, y, g, axis);
  return out;
}

namespace {

Shape product_shape(const Tensor& a, const Tensor& b) {
  IntList shape;
  const Shape batch = tensor::detail::broadcast_shapes(
      Matmul::name,
      Shape(IntList(std::vector<std::size_t>(a.shape().begin(), a.shape().end() - 2))),
      Shape(IntList(std::vector<std::size_t>(b.shape().begin(), b.shape().end() - 2))));
  for (std::size_t n : batch) shape.push_back(static_cast<std::int64_t>(n));
  shape.push_back(a.shape().dim(a.ndim() - 2));
  shape.push_back(b.shape().dim(b.ndim() - 1));
  return Shape(shape);
}

// Where a gradient was broadcast, or an operand cast, the pass has to see it.
template <class V>
void add_product_of(autograd::Pass<V>& pass, int i, const V& a, const V& b) {
  V product = apply(Matmul{}, a, b);
  const bool in_rows = product.shape() != pass.shape(i) && product.numel() == pass.shape(i).numel();
  pass.add(i, in_rows ? reshape(product, pass.shape(i)) : std::move(product));
}

}  // namespace

Tensor Matmul::forward(const Tensor& a, const Tensor& b) const {
  Tensor out = allocate(product_shape(a, b), a.type(), a.device());
  backend(a.device()).matmul(out, a, b, false);
  return out;
}

void add_product(autograd::Pass<Tensor>& pass, int i, const Tensor& a, const Tensor& b) {
  if (const Tensor* held = pass.pending(i, pass.shape(i), a.type())) {
    const Shape shape = product_shape(a, b);
    if (shape.numel() == held->numel())
      return backend(a.device()).matmul(held->reshape(shape), a, b, true);
  }
  add_product_of(pass, i, a, b);
}

void add_product(autograd::Pass<Variable>& pass, int i, const Variable& a, const Variable& b) {
  add_product_of(pass, i, a, b);
}

}  // namespace lmp::table
