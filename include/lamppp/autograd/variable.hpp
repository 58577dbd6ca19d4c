#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lamppp/autograd/call_site.hpp"
#include "lamppp/autograd/guards.hpp"
#include "lamppp/export.hpp"
#include "lamppp/tensor/ops.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::autograd {

using tensor::BFloat16;
using tensor::Bound;
using tensor::DataType;
using tensor::Device;
using tensor::DeviceType;
using tensor::Half;
using tensor::IntList;
using tensor::Number;
using tensor::Scalar;
using tensor::Shape;
using tensor::Tensor;

/// A plain number that knows where it was written.
template <>
struct Located<Number> {
  /// Any arithmetic value, at the line where the operator stands.
  template <class T>
  requires std::is_arithmetic_v<T>
  constexpr Located(T number, CallSite where = CallSite::here()) : value(number), site(where) {}
  Number value;   ///< the number
  CallSite site;  ///< the line of the operator
};

/// The operation that made a Variable: a node of the graph.
class Node;
/// What a node is called: "mul", "sum", "leaf", ...
LMP_API const char* name_of(const Node& node) noexcept;

namespace detail {
LMP_API void retain_handle(Node* node) noexcept;
LMP_API void release_handle(Node* node) noexcept;

/// One Variable's share in a node.
class NodeHandle {
 public:
  NodeHandle() = default;
  explicit NodeHandle(Node* owned) noexcept : node_(owned) {}
  NodeHandle(const NodeHandle& other) noexcept : node_(other.node_) {
    if (node_) retain_handle(node_);
  }
  NodeHandle(NodeHandle&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  NodeHandle& operator=(NodeHandle other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~NodeHandle() {
    if (node_) release_handle(node_);
  }
  Node* get() const noexcept { return node_; }
  explicit operator bool() const noexcept { return node_ != nullptr; }

 private:
  Node* node_ = nullptr;
};
}  // namespace detail

class Variable;
class HookList;

/// Removes a hook. A copy removes the same one; a handle that goes away removes nothing, and one
/// whose Variable or node is gone does nothing.
class LMP_API HookHandle {
 public:
  /// Of no hook.
  HookHandle() = default;
  /// Takes the hook away, also from within a pass: from its next node on.
  void remove();

 private:
  friend class HookList;
  HookHandle(std::weak_ptr<HookList> list, std::uint64_t id) : list_(std::move(list)), id_(id) {}
  std::weak_ptr<HookList> list_;
  std::uint64_t id_ = 0;
};

namespace detail {

class LMP_API GradientHook {
 public:
  GradientHook() = default;
  GradientHook(const GradientHook&) = delete;
  GradientHook& operator=(const GradientHook&) = delete;
  virtual ~GradientHook();
  /// Undefined where the gradient stays as it is.
  virtual Variable run(const Variable& gradient) = 0;
};

}  // namespace detail

/// Options of Variable::backward.
struct BackwardOptions {
  /// The seed; ones where it is left out. Has the shape of the Variable.
  std::optional<Tensor> gradient = std::nullopt;
  /// Keeps what the graph saved, so that it can be run again.
  bool retain_graph = false;
};

/// A Tensor that remembers how it was made: the tensor plus an edge into the graph. One that needs
/// no gradient is just its tensor. Like Tensor it is a handle: copies share value and gradient.
///
/// A leaf is made with requires_grad = true; its gradient accumulates over backward passes until
/// zero_grad(). The result of an op on Variables requires a gradient if any operand does (and no
/// NoGradGuard is alive); it keeps its gradient when a Variable that stands for it is alive while
/// the backward pass runs.
///
/// Building and differentiating graphs on several threads at once is safe, over shared leaves too.
/// What one thread writes in place no other may use at the same time.
class LMP_API Variable {
 public:
  /// Undefined: every use of it throws.
  Variable() = default;
  /// Wraps a tensor, sharing its memory. Throws TypeError where `requires_grad` is asked of a type
  /// that is not floating.
  Variable(Tensor data, bool requires_grad = false);
  /// A copy shares value, gradient and place in the graph.
  Variable(const Variable&) = default;
  /// Leaves `other` undefined.
  Variable(Variable&&) noexcept = default;
  /// Rebinds this handle (lvalues only).
  Variable& operator=(const Variable&) & = default;
  /// Rebinds this handle (lvalues only).
  Variable& operator=(Variable&&) & noexcept = default;
  ~Variable() = default;

  /// False for a default-constructed or moved-from Variable.
  bool defined() const noexcept { return data_.defined(); }
  /// The value. In-place writes through it (`v.data() -= ...`, `v.data().fill(7)`) are not
  /// recorded, but counted: a backward pass that needs an overwritten value throws.
  const Tensor& data() const& noexcept { return data_; }
  /// The value of a temporary, moved out.
  Tensor data() && noexcept { return std::move(data_); }
  /// The accumulated gradient; zeros where none has arrived yet. Shares the buffer: a later
  /// backward pass writes a new one while this one is held. Throws AutogradError where
  /// requires_grad() is false.
  Tensor grad() const;
  /// True once a gradient has arrived and has not been cleared.
  bool has_grad() const;
  /// Whether a gradient reaches this value in a backward pass.
  bool requires_grad() const noexcept { return static_cast<bool>(node_); }
  /// The operation that made this value; null for a leaf and where no gradient is required.
  const Node* grad_fn() const noexcept;
  /// True where no operation made this value: a parameter, an input, a constant.
  bool is_leaf() const noexcept { return grad_fn() == nullptr; }
  /// Makes a leaf of this handle, or stops it from being one. Throws AutogradError for the result
  /// of an op (use detach()), TypeError for types that are not floating.
  const Variable& requires_grad_(bool value = true) &;  // NOLINT(readability-identifier-naming)
  /// The same value without a gradient: shares the memory, not the graph. Inside jvp its tangent
  /// is zero.
  Variable detach() const;
  /// Forgets the gradient. The graph stays as it is.
  void zero_grad() const;
  /// Adds `gradient` (cast to this type) to the gradient. Throws ShapeError for another shape.
  void incr_grad(const Tensor& gradient) const;

  /// Computes the gradient of this value with respect to every leaf it depends on and adds it to
  /// their gradients, seeded with ones. Saved values are released on the way: a second pass throws
  /// unless retain_graph was given. Throws AutogradError where nothing requires a gradient, where
  /// the graph was released, and where a saved value was changed in place. A pass that breaks off,
  /// by that or by what a hook throws, may have come to some leaves already: drop their gradients
  /// (zero_grad) and build the graph anew.
  void backward() const { backward(BackwardOptions()); }
  /// The same, seeded with `gradient`, which has the shape of this value.
  void backward(const Tensor& gradient) const { backward(BackwardOptions{gradient}); }
  /// The same with options.
  void backward(const BackwardOptions& options) const;

  /// Calls `hook` in every pass with the gradient of this value, once it is complete and before
  /// anything is done with it: before a leaf adds it to its gradient, before the operation that
  /// made the value goes on backwards, before lmp::grad returns it. What the hook returns, if
  /// anything, takes its place. `hook` is a callable of `const Variable&` or `const Tensor&` that
  /// returns nothing, a Tensor or a Variable; it outlives this handle, as long as the graph does,
  /// and must not own this Variable (that would keep both forever). It must not write into the
  /// gradient, whose memory others may share: return a new one. Hooks run in the order they
  /// were made. One that throws ends the pass. Throws AutogradError where requires_grad() is false.
  template <class F>
  HookHandle register_hook(F hook) const;
  /// Calls `hook(const Variable& leaf)` after each pass's gradient was added to this leaf's: for an
  /// optimiser step that needs no gradients kept, `w.data() -= rate * w.grad(); w.zero_grad();`.
  /// Throws AutogradError for the result of an operation.
  template <class F>
  HookHandle register_post_accumulate_hook(F hook) const;

  /// Writes into the value; never recorded. See Tensor::copy and Tensor::fill.
  const Variable& copy(const Tensor& other) const;
  /// Copies the value of `other`.
  const Variable& copy(const Variable& other) const { return copy(other.data_); }
  /// Writes one number into every element; never recorded.
  const Variable& fill(Number value) const;
  /// x = x + other, recorded, where a gradient flows; in place where none does or inside
  /// NoGradGuard. Throws AutogradError on a leaf that requires a gradient outside NoGradGuard.
  Variable& operator+=(Located<Variable> other) &;
  /// `x = x - other`; see operator+=.
  Variable& operator-=(Located<Variable> other) &;
  /// `x = x * other`; see operator+=.
  Variable& operator*=(Located<Variable> other) &;
  /// `x = x / other`; see operator+=.
  Variable& operator/=(Located<Variable> other) &;
  /// `x = x + other`; see operator+=.
  Variable& operator+=(Located<Tensor> other) &;
  /// `x = x + other`; see operator+=.
  Variable& operator+=(Located<Number> other) &;
  /// `x = x - other`; see operator+=.
  Variable& operator-=(Located<Tensor> other) &;
  /// `x = x - other`; see operator+=.
  Variable& operator-=(Located<Number> other) &;
  /// `x = x * other`; see operator+=.
  Variable& operator*=(Located<Tensor> other) &;
  /// `x = x * other`; see operator+=.
  Variable& operator*=(Located<Number> other) &;
  /// `x = x / other`; see operator+=.
  Variable& operator/=(Located<Tensor> other) &;
  /// `x = x / other`; see operator+=.
  Variable& operator/=(Located<Number> other) &;

  /// See Tensor::type.
  DataType type() const noexcept { return data_.type(); }
  /// See Tensor::device.
  Device device() const noexcept { return data_.device(); }
  /// See Tensor::shape.
  const Shape& shape() const& noexcept { return data_.shape(); }
  /// See Tensor::shape.
  Shape shape() && noexcept { return data_.shape(); }
  /// See Tensor::ndim.
  int ndim() const noexcept { return data_.ndim(); }
  /// See Tensor::numel.
  std::size_t numel() const noexcept { return data_.numel(); }
  /// See Tensor::size.
  std::size_t size(int axis) const { return data_.size(axis); }
  /// See Tensor::index.
  Scalar index(const IntList& indices) const { return data_.index(indices); }
  /// See Tensor::item.
  Scalar item() const { return data_.item(); }
  /// See Tensor::item.
  template <tensor::Element T>
  T item() const {
    return data_.template item<T>();
  }
  /// See Tensor::to_vector.
  template <tensor::Element T>
  std::vector<T> to_vector() const {
    return data_.template to_vector<T>();
  }

#define LMP_T Variable
#define LMP_SITE , CallSite site = CallSite::here()
#define LMP_ONLY_SITE CallSite site = CallSite::here()
#define LMP_LOCATED(T) Located<T>
#include "lamppp/tensor/members.inc"
#undef LMP_LOCATED
#undef LMP_ONLY_SITE
#undef LMP_SITE
#undef LMP_T

 private:
  friend struct VariableAccess;
  Variable(Tensor&& data, detail::NodeHandle&& node) noexcept
      : data_(std::move(data)), node_(std::move(node)) {}

  HookHandle add_gradient_hook(std::shared_ptr<detail::GradientHook> hook) const;
  HookHandle add_post_accumulate_hook(std::shared_ptr<detail::GradientHook> hook) const;

  Tensor data_;
  detail::NodeHandle node_;
};

namespace detail {

template <class F>
class GradientHookOf final : public GradientHook {
 public:
  explicit GradientHookOf(F f) : f_(std::move(f)) {}
  Variable run(const Variable& gradient) override {
    if constexpr (std::is_invocable_v<F&, const Variable&>) {
      return call(gradient);
    } else {
      return call(gradient.data());
    }
  }

 private:
  template <class T>
  Variable call(const T& gradient) {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, const T&>>) {
      f_(gradient);
      return {};
    } else {
      return f_(gradient);
    }
  }
  F f_;
};

}  // namespace detail

template <class F>
HookHandle Variable::register_hook(F hook) const {
  return add_gradient_hook(std::make_shared<detail::GradientHookOf<F>>(std::move(hook)));
}

template <class F>
HookHandle Variable::register_post_accumulate_hook(F hook) const {
  return add_post_accumulate_hook(std::make_shared<detail::GradientHookOf<F>>(std::move(hook)));
}

/// Prints the value as its tensor does.
LMP_API std::ostream& operator<<(std::ostream& out, const Variable& variable);

}  // namespace lmp::autograd
