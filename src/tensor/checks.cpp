#include "tensor/checks.hpp"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "lamppp/error.hpp"
#include "tensor/access.hpp"

namespace lmp::tensor::detail {

void check_defined(const char* op, const Tensor& x) {
  if (!x.defined())
    throw Error(
        concat(op, ": undefined tensor (default-constructed or moved from); assign one first"));
  if (TensorAccess::storage(x)->access == Access::None)
    throw AutogradError(concat(
        op, ": under vmap a Variable of shape ", x.shape(),
        " stands for the values of all lanes, so there is none to read; compute with operations on "
        "Variables (where() for an if) instead of item(), to_vector() or the Tensor of data(), and "
        "return from the function what is needed after it"));
}

void check_same_device(const char* op, const Tensor& a, const Tensor& b) {
  if (!(a.device() == b.device()))
    throw DeviceError(concat(op, ": operands on ", a.device(), " and ", b.device(),
                             "; move one with to(device)"));
}

int normalize_axis(const char* op, std::int64_t axis, int ndim) {
  if (axis < -ndim || axis >= ndim)
    throw IndexError(
        ndim == 0 ? concat(op, ": axis ", axis, " of a 0-dimensional tensor, which has none")
                  : concat(op, ": axis ", axis, " is out of range for ", ndim, " dimension",
                           ndim == 1 ? "" : "s", "; it has to lie in [", -ndim, ", ", ndim, ")"));
  return static_cast<int>(axis < 0 ? axis + ndim : axis);
}

unsigned axis_mask(const char* op, const IntList& axes, int ndim) {
  if (axes.empty()) return (1u << ndim) - 1;
  unsigned mask = 0;
  for (std::int64_t axis : axes) {
    const unsigned bit = 1u << normalize_axis(op, axis, ndim);
    if (mask & bit) throw ValueError(concat(op, ": axis ", axis, " is given twice in ", axes));
    mask |= bit;
  }
  return mask;
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  IntList out;
  const std::size_t n = std::max(a.size(), b.size());
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t x = i + a.size() < n ? 1 : a[i + a.size() - n];
    const std::size_t y = i + b.size() < n ? 1 : b[i + b.size() - n];
    if (x != y && x != 1 && y != 1)
      throw ShapeError(concat(op, ": shapes ", a, " and ", b, " do not broadcast (", x, " against ",
                              y, "); sizes have to agree or be 1, counted from the last"));
    out.push_back(static_cast<std::int64_t>(x == 1 ? y : x));
  }
  return Shape(out);
}

bool broadcasts_to(const Shape& from, const Shape& to) noexcept {
  if (from.size() > to.size()) return false;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::size_t size = from[from.size() - 1 - i];
    if (size != 1 && size != to[to.size() - 1 - i]) return false;
  }
  return true;
}

IntList broadcast_strides(const Shape& shape, const IntList& strides,
                          const Shape& target) noexcept {
  IntList out(target);
  const std::size_t lead = target.size() - shape.size();
  for (std::size_t i = 0; i < target.size(); ++i)
    out[i] = i < lead || (shape[i - lead] == 1 && target[i] != 1) ? 0 : strides[i - lead];
  return out;
}

Shape reduced_shape(const Shape& shape, unsigned mask, bool keepdims) {
  IntList out;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (!(mask >> i & 1))
      out.push_back(static_cast<std::int64_t>(shape[i]));
    else if (keepdims)
      out.push_back(1);
  }
  return Shape(out);
}

bool has_internal_overlap(const Tensor& x) noexcept {
  if (x.is_contiguous()) return false;
  // Sorted by stride, each axis has to step over everything the smaller ones span.
  std::pair<std::int64_t, std::int64_t> axes[kMaxDims];
  std::size_t count = 0;
  for (int d = 0; d < x.ndim(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    if (x.shape()[i] == 0) return false;
    if (x.shape()[i] == 1) continue;
    const std::pair axis(std::abs(x.strides()[i]), x.shape().dim(d));
    std::size_t at = count++;
    for (; at > 0 && axis < axes[at - 1]; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  std::int64_t span = 0;
  for (const auto& [step, size] : std::span(axes, count)) {
    if (step <= span) return true;
    span += step * (size - 1);
  }
  return false;
}

}  // namespace lmp::tensor::detail
