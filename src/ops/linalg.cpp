#include "ops/linalg.hpp"

#include <string>
#include <utility>
#include <vector>

#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"

namespace lmp::table {

using autograd::Variable;
using tensor::IntList;
using tensor::Shape;
using tensor::Tensor;
using tensor::detail::allocate;
using tensor::detail::backend;
using tensor::detail::BadMatrix;
using tensor::detail::concat;

namespace {

// The shape without its last `count` axes.
IntList without_last(const Shape& shape, int count) {
  IntList sizes;
  for (int d = 0; d < shape.ndim() - count; ++d) sizes.push_back(shape.dim(d));
  return sizes;
}

std::int64_t order_of(const Tensor& a) { return a.shape().dim(a.ndim() - 1); }

// "the matrix of shape (3, 3)", "matrix (1, 0) of a batch of shape (2, 2, 3, 3)".
std::string describe(const Tensor& a, std::int64_t index) {
  const IntList batch = without_last(a.shape(), 2);
  if (batch.empty()) return concat("the matrix of shape ", a.shape());
  IntList place = batch;
  for (std::size_t d = batch.size(); d-- > 0; index /= batch[d]) place[d] = index % batch[d];
  return concat("matrix ", place, " of the batch of shape ", a.shape());
}

void check_regular(const char* op, const Tensor& a, BadMatrix bad) {
  if (bad.index < 0) return;
  throw LinAlgError(concat(op, ": ", describe(a, bad.index),
                           " is singular, so it has no inverse; look for rows that depend on each "
                           "other, or add a small multiple of eye(",
                           order_of(a), ")"));
}

// Of each matrix the trace of inverse * tangent.
Variable trace_of_product(const Variable& inverse, const Variable& tangent) {
  return sum(transpose(inverse) * tangent, {-2, -1}, false);
}

}  // namespace

Tensor Solve::forward(const Tensor& a, const Tensor& b) const {
  IntList shape(tensor::detail::broadcast_shapes(name, Shape(without_last(a.shape(), 2)),
                                                 Shape(without_last(b.shape(), 2))));
  shape.push_back(order_of(a));
  shape.push_back(b.shape().dim(b.ndim() - 1));
  Tensor out = allocate(Shape(shape), a.type(), a.device());
  if (out.numel() > 0) check_regular(name, a, backend(a.device()).solve(out, a, b));
  return out;
}

Variable Solve::jvp(std::span<const Variable> x, const Variable& y,
                    std::span<const Variable> t) const {
  if (!t[0].defined()) return solve(x[0], t[1]);
  const Variable moved = matmul(t[0], y);
  return solve(x[0], t[1].defined() ? t[1] - moved : -moved);
}

Tensor Inverse::forward(const Tensor& a) const {
  Tensor out = allocate(a.shape(), a.type(), a.device());
  if (out.numel() > 0) check_regular(name, a, backend(a.device()).inverse(out, a));
  return out;
}

Variable Inverse::jvp(std::span<const Variable>, const Variable& y,
                      std::span<const Variable> t) const {
  return -matmul(matmul(y, t[0]), y);
}

Tensor Cholesky::forward(const Tensor& a) const {
  Tensor out = allocate(a.shape(), a.type(), a.device());
  if (out.numel() == 0) return out;
  const BadMatrix bad = backend(a.device()).cholesky(out, a);
  if (bad.index >= 0)
    throw LinAlgError(concat(name, ": ", describe(a, bad.index),
                             " is not positive definite, its leading minor of order ", bad.order,
                             " is not positive; check that it is symmetric, or add a small "
                             "multiple of eye(",
                             order_of(a), ")"));
  return out;
}

Variable Cholesky::jvp(std::span<const Variable>, const Variable& y,
                       std::span<const Variable> t) const {
  const Variable tangent = 0.5 * (t[0] + transpose(t[0]));
  const Variable left = solve(y, tangent);
  return matmul(y, half_triangle(solve(y, transpose(left))));
}

Tensor Determinant::forward(const Tensor& a) const {
  const Shape shape(without_last(a.shape(), 2));
  if (order_of(a) == 0) return tensor::full(shape, 1, a.device(), a.type());
  Tensor out = allocate(shape, a.type(), a.device());
  if (out.numel() > 0) backend(a.device()).determinant(false, out, a);
  return out;
}

Variable Determinant::jvp(std::span<const Variable> x, const Variable& y,
                          std::span<const Variable> t) const {
  return y * trace_of_product(apply(Inverse{name}, x[0]), t[0]);
}

Tensor LogDeterminant::forward(const Tensor& a) const {
  IntList sizes = without_last(a.shape(), 2);
  if (order_of(a) == 0) {
    const Tensor one = tensor::full(Shape(sizes), 1, a.device(), a.type());
    return tensor::stack({one, tensor::zeros_like(one)}, -1);
  }
  sizes.push_back(2);
  Tensor out = allocate(Shape(sizes), a.type(), a.device());
  if (out.numel() > 0) backend(a.device()).determinant(true, out, a);
  return out;
}

Variable LogDeterminant::jvp(std::span<const Variable> x, const Variable&,
                             std::span<const Variable> t) const {
  const Variable log = expand_dims(trace_of_product(apply(Inverse{name}, x[0]), t[0]), -1);
  std::vector<std::pair<std::int64_t, std::int64_t>> widths(static_cast<std::size_t>(log.ndim()));
  widths.back().first = 1;  // the sign does not move
  return pad(log, widths);
}

}  // namespace lmp::table
