#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include "autograd/node.hpp"

namespace lmp::autograd {

/// How many of a few low bits are set; host code is compiled for CPUs without an instruction for
/// it.
constexpr int count_bits(unsigned mask) noexcept {
  int n = 0;
  for (; mask != 0; mask &= mask - 1) ++n;
  return n;
}

/// What a node's backward sees of a running pass: the incoming gradient, what was saved, and where
/// the gradients of its inputs go. With Tensor the pass only computes. With Variable it computes
/// what may belong to a transform, and where it is to create a graph, saved inputs and results are
/// reconnected to the graph that is there, so that what is computed is recorded.
template <class V>
class Pass {
 public:
  virtual ~Pass() = default;

  Node& node() const noexcept { return *node_; }
  /// The incoming gradient; a backward that no longer needs it may move it on.
  V& gradient() noexcept { return gradient_; }
  bool wants(int input) const noexcept { return node_->edge(input).node != nullptr; }
  const Shape& shape(int input) const noexcept { return node_->edge(input).shape; }
  DataType type(int input) const noexcept { return node_->edge(input).type; }

  /// Whether nodes keep what they hold, for another pass.
  bool retains_graph() const noexcept { return retain_graph_; }
  /// Whether gradients are to have a graph of their own.
  bool creates_graph() const noexcept { return create_graph_; }
  /// Saved value `slot`, unchanged since.
  const Saved& saved(int slot) const {
    return unpacked_ ? (*unpacked_)[static_cast<std::size_t>(slot)] : node_->checked(slot);
  }
  /// Saved value `slot`, which is input `input` of the node.
  V input(int slot, int input) const {
    const Tensor& t = saved(slot).tensor;
    if constexpr (std::is_same_v<V, Variable>) {
      const Edge& edge = node_->edge(input);
      if (!edge.node || !create_graph_) return Variable(t);
      edge.node->retain(Node::kHandleUnit);
      return VariableAccess::make(t, detail::NodeHandle(edge.node));
    } else {
      return t;
    }
  }
  /// Saved value `slot`, which is the node's result.
  V result(int slot) const {
    const Tensor& t = saved(slot).tensor;
    if constexpr (std::is_same_v<V, Variable>) {
      if (!create_graph_) return Variable(t);
      node_->retain(Node::kHandleUnit);
      return VariableAccess::make(t, detail::NodeHandle(node_));
    } else {
      return t;
    }
  }

  /// Adds a gradient of an input. It is summed back to the input's shape where the input was
  /// broadcast, and cast to its type; ignored where none is wanted.
  virtual void add(int input, V gradient) = 0;
  /// The buffer that input's gradient has so far, if one of this shape and type may be added to it
  /// in place: the input's own shape and type, dense, and nobody else's.
  virtual const Tensor* pending(int input, const Shape& shape, DataType type) = 0;
  /// Whether the gradients of two inputs, each like `like`, are only ever seen as their sum.
  virtual bool meet(int a, int b, const Tensor& like) const = 0;

  /// For nodes with several results, which have a node each: adds the gradient of result `k` of
  /// `count` to what `to` finds in results() when its turn comes.
  virtual void add_result(Node* to, std::size_t k, std::size_t count, V gradient) = 0;
  /// The gradients of the results, undefined where none arrived.
  virtual std::vector<V> results() = 0;

 protected:
  Pass(bool retain_graph, bool create_graph)
      : retain_graph_(retain_graph || create_graph), create_graph_(create_graph) {}
  Node* node_ = nullptr;
  V gradient_;
  bool retain_graph_, create_graph_;
  const std::vector<Saved>* unpacked_ = nullptr;  // what hooks gave back for the node at work
};

}  // namespace lmp::autograd
