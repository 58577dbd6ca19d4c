#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "lamppp/tensor/ops.hpp"
#include "ops/composites.hpp"
#include "ops/einsum.hpp"
#include "ops/linalg.hpp"
#include "ops/pointwise_run.hpp"
#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"
#include "tensor/generate.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::table {

Tensor triangle(const char* op, const Shape& shape, Device device) {
  if (shape.ndim() < 2)
    throw ShapeError(tensor::detail::concat(op, ": shape ", shape, " has fewer than 2 axes"));
  const Tensor rows = tensor::arange(0, shape.dim(shape.ndim() - 2), 1, device);
  const Tensor columns = tensor::arange(0, shape.dim(shape.ndim() - 1), 1, device);
  return tensor::ops::sub(columns, rows.expand_dims(1));
}

}  // namespace lmp::table

namespace lmp::tensor {

using namespace detail;
using autograd::Variable;
using table::BroadcastTo;
using table::HeldIndex;
using table::Over;
using table::Reshape;
using table::View;
using table::ViewSpec;

inline namespace ops {

namespace {
Tensor apply_list(const table::Cat& op, const std::vector<Tensor>& list) {
  return op.forward(list);
}
std::pair<Tensor, Tensor> sorted(const table::ArgSort& op, const Tensor& x) {
  Tensor values;
  Tensor order = op.forward(x, &values);
  return {std::move(values), std::move(order)};
}
bool holds_anywhere(const Tensor& condition) { return any(condition).item() != 0; }
}  // namespace

#define LMP_T Tensor
#define LMP_SITE_PARAMETER
#define LMP_CALLED
#include "ops/functions.inc"
#undef LMP_CALLED
#undef LMP_SITE_PARAMETER
#undef LMP_T

Tensor argsort(const Tensor& x, int axis, bool descending) {
  check_defined("argsort", x);
  const int a = normalize_axis("argsort", axis, x.ndim());
  return table::ArgSort{a, descending, x.shape().dim(a)}.forward(x);
}

Tensor nonzero(const Tensor& x) {
  check_defined("nonzero", x);
  const std::size_t count = backend(x.device()).count_nonzero(x);
  Tensor out = allocate(Shape{count, x.ndim()}, DataType::Int64, x.device());
  backend(x.device()).nonzero(out, x);
  return out;
}

Tensor one_hot(const Tensor& labels, std::int64_t classes) {
  check_defined("one_hot", labels);
  if (!is_integer(labels.type()))
    throw TypeError(concat("one_hot: labels are ", labels.type(), "; they have to be integers"));
  if (classes <= 0) throw ValueError(concat("one_hot: ", classes, " classes"));
  if (labels.numel() > 0 && (any(labels < 0).item() != 0 || any(labels >= classes).item() != 0))
    throw IndexError(concat("one_hot: a label lies outside [0, ", classes, ")"));
  return eq(labels.expand_dims(-1), arange(0, classes, 1, labels.device())).astype(DataType::Int64);
}

bool allclose(const Tensor& a, const Tensor& b, double relative, double absolute, bool equal_nan) {
  check_defined("allclose", a);
  check_defined("allclose", b);
  if (a.shape() != b.shape()) return false;
  const Tensor x = a.astype(DataType::Float64), y = b.astype(DataType::Float64);
  Tensor close =
      logical_or(eq(x, y), logical_and(le(abs(x - y), absolute + relative * abs(y)), isfinite(y)));
  if (equal_nan) close = logical_or(close, logical_and(isnan(x), isnan(y)));
  return all(close).item() != 0;
}

bool array_equal(const Tensor& a, const Tensor& b) {
  check_defined("array_equal", a);
  check_defined("array_equal", b);
  return a.shape() == b.shape() && all(eq(a, b)).item() != 0;
}

Tensor full(const Shape& shape, Number value, Device device, DataType type) {
  check_number_held("full", value, type);
  Tensor out = allocate(shape, type, device);
  backend(device).fill(out, value);
  return out;
}

namespace {
DataType type_of(Number value) {
  return value.kind() == Number::Kind::Bool      ? DataType::Bool
         : value.kind() == Number::Kind::Integer ? DataType::Int64
                                                 : DataType::Float32;
}
}  // namespace

Tensor full(const Shape& shape, Number value, Device device) {
  return full(shape, value, device, type_of(value));
}
Tensor zeros(const Shape& shape, Device device, DataType type) {
  return full(shape, 0, device, type);
}
Tensor ones(const Shape& shape, Device device, DataType type) {
  return full(shape, 1, device, type);
}
Tensor empty(const Shape& shape, Device device, DataType type) {
  return allocate(shape, type, device);
}
Tensor full_like(const Tensor& x, Number value) {
  check_defined("full_like", x);
  return full(x.shape(), value, x.device(), x.type());
}
Tensor zeros_like(const Tensor& x) { return full_like(x, 0); }
Tensor ones_like(const Tensor& x) { return full_like(x, 1); }
Tensor empty_like(const Tensor& x) {
  check_defined("empty_like", x);
  return allocate(x.shape(), x.type(), x.device());
}

Tensor arange(Number stop) { return arange(0, stop, 1); }

Tensor arange(Number start, Number stop, Number step, Device device) {
  const bool floats = start.kind() == Number::Kind::Float || stop.kind() == Number::Kind::Float ||
                      step.kind() == Number::Kind::Float;
  return arange(start, stop, step, device, floats ? DataType::Float32 : DataType::Int64);
}

Tensor arange(Number start, Number stop, Number step, Device device, DataType type) {
  if (step.to_double() == 0) throw ValueError("arange: the step cannot be 0");
  if (start.kind() != Number::Kind::Float && stop.kind() != Number::Kind::Float &&
      step.kind() != Number::Kind::Float) {
    // Unsigned, where differences do not overflow.
    const auto from = static_cast<std::uint64_t>(start.integer()),
               to = static_cast<std::uint64_t>(stop.integer()),
               by = static_cast<std::uint64_t>(step.integer());
    const bool up = step.integer() > 0;
    const bool none = up ? start.integer() >= stop.integer() : start.integer() <= stop.integer();
    const std::uint64_t n = none ? 0 : ((up ? to - from : from - to) - 1) / (up ? by : 0 - by) + 1;
    if (n >= std::uint64_t{1} << 63) throw ShapeError(concat("arange: ", n, " values"));
    return generate<std::int64_t>(static_cast<std::int64_t>(n), device, type,
                                  [&](std::vector<std::int64_t>& values, std::int64_t first) {
                                    std::uint64_t next =
                                        from + static_cast<std::uint64_t>(first) * by;
                                    for (std::int64_t& value : values) {
                                      value = static_cast<std::int64_t>(next);
                                      next += by;
                                    }
                                  });
  }
  const double from = start.to_double(), by = step.to_double();
  const double count = std::ceil((stop.to_double() - from) / by);
  if (!(count < 9e18)) throw ValueError("arange: the number of values is not finite");
  return generate<double>(
      static_cast<std::int64_t>(std::max(count, 0.0)), device, type,
      [&](std::vector<double>& values, std::int64_t first) {
        for (std::size_t i = 0; i < values.size(); ++i)
          values[i] = from + static_cast<double>(first + static_cast<std::int64_t>(i)) * by;
      });
}

Tensor linspace(double start, double stop, std::int64_t count, Device device, DataType type) {
  if (count < 0) throw ValueError(concat("linspace: ", count, " values"));
  return generate<double>(
      count, device, type, [&](std::vector<double>& values, std::int64_t first) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          const auto at = static_cast<double>(first + static_cast<std::int64_t>(i));
          const double t = count == 1 ? 0 : at / static_cast<double>(count - 1);
          values[i] = t == 1 ? stop : start + t * (stop - start);
        }
      });
}

Tensor eye(std::int64_t n, std::int64_t m, Device device, DataType type) {
  Tensor out = zeros(Shape{n, m < 0 ? n : m}, device, type);
  out.diagonal().fill(1);
  return out;
}

}  // namespace ops

#define LMP_T Tensor
#define LMP_OPS ops
#define LMP_SITE_PARAMETER
#define LMP_ONLY_SITE_PARAMETER
#define LMP_SITE_ARGUMENT
#define LMP_LOCATED(T) const T&
#define LMP_VALUE(located) located
#define LMP_SITE_OF(located)
#include "ops/members.inc"
#undef LMP_SITE_OF
#undef LMP_VALUE
#undef LMP_LOCATED
#undef LMP_SITE_ARGUMENT
#undef LMP_ONLY_SITE_PARAMETER
#undef LMP_SITE_PARAMETER
#undef LMP_OPS
#undef LMP_T

}  // namespace lmp::tensor
