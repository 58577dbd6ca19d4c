#pragma once

#include <span>
#include <utility>
#include <vector>

#include "autograd/trace.hpp"

namespace lmp::autograd {

/// An operand under vmap: where lanes differ, axis 0 of the value runs over them.
struct Mapped {
  Variable value;
  bool mapped;
};

/// An op with its attributes, as transforms see it.
class AnyOp {
 public:
  using Inputs = std::span<const Variable* const>;

  virtual const char* name() const noexcept = 0;
  /// The op on the operands' tensors, and its result in the graph where that has to be.
  virtual Tensor forward(Inputs in) const = 0;
  virtual Variable record(Tensor out, Inputs in) const = 0;
  /// Whether operand i can have a gradient at all.
  virtual bool differentiable(std::size_t i) const noexcept = 0;
  /// The tangent of the result y; t[i] is undefined where it is zero, one at least is defined.
  virtual Variable tangent(std::span<const Variable> x, const Variable& y,
                           std::span<const Variable> t) const = 0;
  /// The results of all lanes along axis 0; one operand at least is mapped.
  virtual Variable batch(std::span<const Mapped> in, std::int64_t lanes) const = 0;

 protected:
  ~AnyOp() = default;
};

/// A list as the operands of an op.
std::vector<const Variable*> pointers(const std::vector<Variable>& values);

/// Interprets an op where somebody looks at operations; see Note [Transforms].
Variable intercept(const AnyOp& op, AnyOp::Inputs in);

/// `shape` with the lanes of vmap in front. Throws ShapeError where there is no room for them.
Shape in_lanes(const Shape& shape, std::int64_t lanes);
/// The same values with the lanes along axis 0 for all: an operand that is not mapped is repeated.
Variable stacked(const Mapped& in, std::int64_t lanes);
/// An operand of a broadcasting op, whose own axes count from the last: with axes of size 1 behind
/// the lanes, so that it has `ndim` of its own. One that is not mapped needs none.
Variable with_rank(const Mapped& in, int ndim);

/// The rule of ops whose operands broadcast from the last axis on: the same op, ranks aligned.
Variable batch_aligned(const AnyOp& op, std::span<const Mapped> in);

/// The outermost call that is running says where it was called; a function of the library that
/// calls others changes nothing for them.
class CallScope {
 public:
  explicit CallScope(const CallSite& site) noexcept {
    if (autograd_thread.intercepted && !autograd_thread.site) [[unlikely]] {
      autograd_thread.site = &site;
      mine_ = true;
    }
  }
  CallScope(const CallScope&) = delete;
  ~CallScope() {
    if (mine_) [[unlikely]]
      autograd_thread.site = nullptr;
  }

 private:
  bool mine_ = false;
};

}  // namespace lmp::autograd
