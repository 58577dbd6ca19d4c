#pragma once

#include <span>
#include <utility>
#include <vector>

#include "autograd/pass.hpp"

namespace lmp::autograd {

/// Note [Structured ops]
/// An op that is not pointwise is a struct: its attributes as members, `name`, `saves` (bit i:
/// operand i is read by the gradient, kSavesResult: the result is), `forward` on Tensors, and
/// `vjp`, a template over Tensor and Variable that adds the operands' gradients to the pass. On
/// Tensors apply() is just forward; on Variables it also makes a node, if a gradient flows.
inline constexpr int kMostSaved = 7;  // operands whose saving a mask can ask for
inline constexpr unsigned kSavesResult = 1u << kMostSaved;

template <class V>
class Saves {
 public:
  Saves(Pass<V>& running, unsigned mask) : pass(running), mask_(mask) {}
  V input(int i) const { return pass.input(count_bits(mask_ & ((1u << i) - 1)), i); }
  V result() const { return pass.result(count_bits(mask_ & (kSavesResult - 1))); }
  Pass<V>& pass;

 private:
  unsigned mask_;
};

template <class Op>
class OpNode final : public Node {
 public:
  explicit OpNode(Op op) : op_(std::move(op)) {}
  const char* name() const noexcept override { return op_.name; }
  void backward(Pass<Tensor>& pass) override { run(pass); }
  void backward(Pass<Variable>& pass) override { run(pass); }

 private:
  template <class V>
  void run(Pass<V>& pass) {
    op_.vjp(Saves<V>(pass, Op::saves), pass.gradient());
  }
  Op op_;
};

/// `out` = op(inputs...) as a Variable.
template <class Op>
Variable record(Op op, Tensor out, std::span<const Variable* const> inputs) {
  bool any = false;
  for (const Variable* v : inputs) any |= v->requires_grad();
  if (!any || !autograd_thread.recording) return Variable(std::move(out));
  const int count = static_cast<int>(inputs.size());
  const int saved = count_bits(Op::saves);
  NodeBuilder builder = NodeBuilder::make<OpNode<Op>>(count, saved, std::move(op));
  int i = 0;
  for (const Variable* v : inputs) {
    builder.add_edge(*v);
    if (i < kMostSaved && (Op::saves >> i & 1)) builder.save(v->data());
    ++i;
  }
  if (Op::saves & kSavesResult) builder.save(out);
  return VariableAccess::make(std::move(out), builder.finish());
}

template <class Op, class... T>
Variable apply(Op op, const Variable& x, const T&... rest) {
  Tensor out = op.forward(x.data(), rest.data()...);
  const Variable* const inputs[] = {&x, &rest...};
  return record(std::move(op), std::move(out), inputs);
}

}  // namespace lmp::autograd

namespace lmp::tensor {

template <class Op, class... T>
Tensor apply(const Op& op, const Tensor& x, const T&... rest) {
  return op.forward(x, rest...);
}

}  // namespace lmp::tensor
