#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

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
  const Variable& requires_grad_(bool value = true) &;
  /// The same value without a gradient: shares the memory, not the graph.
  Variable detach() const { return Variable(data_); }
  /// Forgets the gradient. The graph stays as it is.
  void zero_grad() const;
  /// Adds `gradient` (cast to this type) to the gradient. Throws ShapeError for another shape.
  void incr_grad(const Tensor& gradient) const;

  /// Computes the gradient of this value with respect to every leaf it depends on and adds it to
  /// their gradients, seeded with ones. Saved values are released on the way: a second pass throws
  /// unless retain_graph was given. Throws AutogradError where nothing requires a gradient, where
  /// the graph was released, and where a saved value was changed in place.
  void backward() const { backward(BackwardOptions()); }
  /// The same, seeded with `gradient`, which has the shape of this value.
  void backward(const Tensor& gradient) const { backward(BackwardOptions{gradient}); }
  /// The same with options.
  void backward(const BackwardOptions& options) const;

  /// Writes into the value; never recorded. See Tensor::copy and Tensor::fill.
  const Variable& copy(const Tensor& other) const;
  /// Copies the value of `other`.
  const Variable& copy(const Variable& other) const { return copy(other.data_); }
  /// Writes one number into every element; never recorded.
  const Variable& fill(Number value) const;
  /// x = x + other, recorded, where a gradient flows; in place where none does or inside
  /// NoGradGuard. Throws AutogradError on a leaf that requires a gradient outside NoGradGuard.
  Variable& operator+=(const Variable& other) &;
  /// `x = x - other`; see operator+=.
  Variable& operator-=(const Variable& other) &;
  /// `x = x * other`; see operator+=.
  Variable& operator*=(const Variable& other) &;
  /// `x = x / other`; see operator+=.
  Variable& operator/=(const Variable& other) &;
  /// `x = x + other`; see operator+=.
  Variable& operator+=(Number other) &;
  /// `x = x - other`; see operator+=.
  Variable& operator-=(Number other) &;
  /// `x = x * other`; see operator+=.
  Variable& operator*=(Number other) &;
  /// `x = x / other`; see operator+=.
  Variable& operator/=(Number other) &;

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
#include "lamppp/tensor/members.inc"
#undef LMP_T

 private:
  friend struct VariableAccess;
  Variable(Tensor data, detail::NodeHandle node) noexcept
      : data_(std::move(data)), node_(std::move(node)) {}

  Tensor data_;
  detail::NodeHandle node_;
};

/// Prints the value as its tensor does.
LMP_API std::ostream& operator<<(std::ostream& out, const Variable& variable);

/// While one is alive on a thread, that thread records nothing: results need no gradient.
class LMP_API NoGradGuard {
 public:
  /// Stops recording on this thread.
  NoGradGuard() noexcept;
  /// Puts back what was before: guards nest.
  ~NoGradGuard();
  NoGradGuard(const NoGradGuard&) = delete;
  NoGradGuard& operator=(const NoGradGuard&) = delete;

 private:
  bool previous_;
};

/// Whether this thread records.
LMP_API bool is_grad_enabled() noexcept;

}  // namespace lmp::autograd
