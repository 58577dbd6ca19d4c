#include "lamppp/tensor/update.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"

namespace lmp::tensor {
namespace {

using detail::concat;

void check_goes_with(const char* op, const char* what, const Tensor& x, const Tensor& parameter,
                     DataType type) {
  detail::check_defined(op, x);
  detail::check_same_device(op, parameter, x);
  if (x.shape() != parameter.shape())
    throw ShapeError(concat(op, ": ", what, " of shape ", x.shape(), " for a parameter of shape ",
                            parameter.shape()));
  if (x.type() != type)
    throw TypeError(concat(op, ": ", what, " is ", x.type(), "; for a parameter of ",
                           parameter.type(), " it has to be ", type));
}

void check_state(const char* op, const char* what, const Tensor& x, const Tensor& parameter) {
  check_goes_with(op, what, x, parameter, update_state_type(parameter.type()));
  if (!x.is_contiguous())
    throw ShapeError(concat(op, ": ", what, " of shape ", x.shape(), " is not contiguous"));
}

// Calls f(x, i) with each tensor that the step writes, i the number of its update.
template <class F>
void for_written(const std::vector<ParameterUpdate>& updates, int states, F&& f) {
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const ParameterUpdate& u = updates[i];
    if (!u.gradient.defined()) continue;
    f(u.parameter, i);
    if (u.master.defined()) f(u.master, i);
    if (states > 0) f(u.first, i);
    if (states > 1) f(u.second, i);
  }
}

// Throws where two of the tensors that a step writes share elements. Of one with gaps only the
// first element is looked at.
void check_distinct(const char* op, const std::vector<ParameterUpdate>& updates, int states) {
  struct Span {
    const std::byte *begin, *end;
    std::size_t number;
  };
  std::vector<Span> spans;
  for_written(updates, states, [&](const Tensor& x, std::size_t i) {
    const auto* const begin = static_cast<const std::byte*>(x.data());
    const std::size_t elements = x.is_contiguous() ? x.numel() : 1;
    if (x.numel() != 0) spans.push_back({begin, begin + elements * size_of(x.type()), i});
  });
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return std::less<>()(a.begin, b.begin); });
  for (std::size_t i = 1; i < spans.size(); ++i) {
    const Span &a = spans[i - 1], &b = spans[i];
    if (!std::less<>()(b.begin, a.end)) continue;
    throw ValueError(concat(op, ": updates ", std::min(a.number, b.number), " and ",
                            std::max(a.number, b.number),
                            " write the same memory; list a parameter once, with a state of its "
                            "own, and clone() what shares elements"));
  }
}

// Counts the writing of each tensor as a version, and throws where two of them share elements.
// Which is looked for only where two share a storage: of one that k tensors share, the k versions
// that they read rise by k each, and by more than one a tensor altogether; or where memory is
// foreign, of which there may be two storages.
void bump_versions(const char* op, const std::vector<ParameterUpdate>& updates, int states) {
  std::uint32_t risen = 0;
  bool foreign = false;
  for_written(updates, states, [&](const Tensor& x, std::size_t) {
    risen -= x.version() + 1;
    foreign |= TensorAccess::storage(x)->deleter != nullptr;
  });
  for_written(updates, states, [](const Tensor& x, std::size_t) { TensorAccess::bump_version(x); });
  for_written(updates, states, [&](const Tensor& x, std::size_t) { risen += x.version(); });
  if (risen != 0 || foreign) check_distinct(op, updates, states);
}

// Checks all, then runs step(updates) on dense memory.
template <class Step>
void run(const char* op, const std::vector<ParameterUpdate>& updates, int states, Step&& step) {
  const Tensor* any = nullptr;
  bool dense = true;
  for (const ParameterUpdate& u : updates) {
    if (!u.gradient.defined()) continue;
    detail::check_defined(op, u.parameter);
    if (any) detail::check_same_device(op, *any, u.parameter);
    any = &u.parameter;
    if (!is_floating(u.parameter.type()))
      throw TypeError(concat(op, ": a parameter is ", u.parameter.type(), ", not floating"));
    check_goes_with(op, "the gradient", u.gradient, u.parameter, u.parameter.type());
    if (states > 0)
      check_state(op, states > 1 ? "the first moment" : "the momentum", u.first, u.parameter);
    if (states > 1) check_state(op, "the second moment", u.second, u.parameter);
    if (u.master.defined()) {
      if (u.parameter.type() == update_state_type(u.parameter.type()))
        throw TypeError(concat(op, ": a master for a parameter of ", u.parameter.type(),
                               "; only halves have one"));
      check_state(op, "the master", u.master, u.parameter);
    }
    if (detail::has_internal_overlap(u.parameter))
      throw ValueError(concat(op, ": a parameter of shape ", u.parameter.shape(),
                              " shares elements and cannot be written; clone() it"));
    dense &= u.parameter.is_contiguous() && u.gradient.is_contiguous();
  }
  if (!any) return;
  bump_versions(op, updates, states);
  const detail::Backend& backend = detail::backend(any->device());
  if (dense) return step(backend, updates);
  std::vector<ParameterUpdate> copies = updates;
  for (ParameterUpdate& u : copies) {
    if (!u.gradient.defined()) continue;
    u.parameter = contiguous(u.parameter);
    u.gradient = contiguous(u.gradient);
  }
  step(backend, copies);
  for (std::size_t i = 0; i < copies.size(); ++i)
    if (copies[i].gradient.defined() && !copies[i].parameter.shares_storage(updates[i].parameter))
      backend.copy(updates[i].parameter, copies[i].parameter);
}

}  // namespace

inline namespace ops {

DataType update_state_type(DataType parameter) { return detail::at_least_float(parameter); }

void sgd_step(const std::vector<ParameterUpdate>& updates, const SgdRule& rule) {
  run("sgd_step", updates, rule.momentum != 0 ? 1 : 0,
      [&](const detail::Backend& backend, const std::vector<ParameterUpdate>& all) {
        backend.sgd_step(all, rule);
      });
}

void adam_step(const std::vector<ParameterUpdate>& updates, const AdamRule& rule) {
  run("adam_step", updates, 2,
      [&](const detail::Backend& backend, const std::vector<ParameterUpdate>& all) {
        backend.adam_step(all, rule);
      });
}

}  // namespace ops
}  // namespace lmp::tensor
