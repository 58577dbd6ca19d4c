#pragma once

#include <span>
#include <utility>
#include <vector>

#include "autograd/intercept.hpp"
#include "autograd/pass.hpp"
#include "lamppp/autograd/ops.hpp"

namespace lmp::autograd {

/// Note [Structured ops]
/// An op that is not pointwise is a struct: its attributes as members, `name`, `saves` (bit i:
/// operand i is read by the gradient, kSavesResult: the result is), `forward` on Tensors, and
/// `vjp`, a template over Tensor and Variable that adds the operands' gradients to the pass. On
/// Tensors apply() is just forward; on Variables it also makes a node, if a gradient flows. The
/// node holds the op that ran, so a forward that is not const may note something in it for vjp; vjp
/// has to do without where a transform made the node, which starts from the op as it was given. A
/// member `bool recorded` is true in a forward whose notes a node will hold.
///
/// For forward mode it says `tangent = kLinear` (linear in all operands together: the tangent is
/// the op on the tangents) or kMultilinear (in each: a sum over the operands, the op with one
/// exchanged for its tangent), or has
///   Variable jvp(std::span<const Variable> x, const Variable& y, std::span<const Variable> t)
///   const
/// for x operands, y result, t tangents (undefined where zero). For vmap it says `leading_batch`
/// where one more leading axis on all operands, or on some of those that broadcast, makes no
/// difference; or a unary op has
///   Op shifted(std::int64_t lanes) const
/// which is itself with one more axis in front of its operand; or any op has
///   Variable batch(std::span<const Mapped> in, std::int64_t lanes) const
/// An op with an `index` member has the index as its last operand there, since lanes may differ in
/// it.
inline constexpr int kMostSaved = 7;  // operands whose saving a mask can ask for
inline constexpr unsigned kSavesResult = 1u << kMostSaved;

enum class Tangent { Linear, Multilinear };
inline constexpr Tangent kLinear = Tangent::Linear, kMultilinear = Tangent::Multilinear;

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

/// Whether an op on these inputs is recorded, if its result is floating.
inline bool records(std::span<const Variable* const> inputs) noexcept {
  bool any = false;
  for (const Variable* v : inputs) any |= v->requires_grad();
  return any && autograd_thread.recording;
}

/// `out` = a + b as a Variable, as the operator makes it.
Variable record_sum(Tensor out, const Variable& a, const Variable& b);

/// `out` = op(inputs...) as a Variable.
template <class Op>
Variable record(Op op, Tensor out, std::span<const Variable* const> inputs) {
  if (!is_floating(out.type()) || !records(inputs)) return Variable(std::move(out));
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

/// An op with kArity operands (kList: any number, which forward takes as a list) as transforms see
/// it.
inline constexpr int kList = -1;
template <class Op, int kArity>
class StructuredOp final : public AnyOp {
 public:
  static constexpr bool kIndexed = requires(const Op& op) { op.index; };

  explicit StructuredOp(const Op& op) : op_(op) {}
  const char* name() const noexcept override { return op_.name; }
  bool differentiable(std::size_t i) const noexcept override {
    return !kIndexed || i < static_cast<std::size_t>(kArity);
  }

  Tensor forward(Inputs in) const override {
    if constexpr (kArity == kList) {
      std::vector<Tensor> list;
      for (const Variable* v : in) list.push_back(v->data());
      return op_.forward(list);
    } else {
      return forward(in, std::make_index_sequence<kArity>());
    }
  }
  Variable record(Tensor out, Inputs in) const override {
    return autograd::record(with_index(in), std::move(out),
                            kIndexed ? in.first(in.size() - 1) : in);
  }
  Variable tangent(std::span<const Variable> x, const Variable& y,
                   std::span<const Variable> t) const override {
    if constexpr (requires { op_.jvp(x, y, t); }) {
      return op_.jvp(x, y, t);
    } else {
      std::vector<const Variable*> operands;
      for (const Variable& v : x) operands.push_back(&v);
      if constexpr (Op::tangent == kLinear) {
        std::vector<Variable> zeros(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) {
          if (!differentiable(i)) continue;
          if (!t[i].defined())
            zeros[i] =
                broadcast_to(Variable(tensor::zeros({}, x[i].device(), x[i].type())), x[i].shape());
          operands[i] = t[i].defined() ? &t[i] : &zeros[i];
        }
        return intercept(*this, operands);
      } else {
        Variable total;
        for (std::size_t i = 0; i < x.size(); ++i) {
          if (!t[i].defined()) continue;
          operands[i] = &t[i];
          const Variable part = intercept(*this, operands);
          total = total.defined() ? total + part : part;
          operands[i] = &x[i];
        }
        return total;
      }
    }
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const override {
    if constexpr (requires { op_.shifted(lanes); }) {
      const Variable* const operand[] = {&in[0].value};
      return intercept(StructuredOp(op_.shifted(lanes)), operand);
    } else if constexpr (requires { Op::leading_batch; }) {
      return batch_aligned(*this, in);
    } else {
      return op_.batch(in, lanes);
    }
  }

 private:
  Op with_index(Inputs in) const {
    Op op = op_;
    if constexpr (kIndexed) op.index = decltype(op.index)(in.back()->data());
    return op;
  }
  template <std::size_t... I>
  Tensor forward(Inputs in, std::index_sequence<I...>) const {
    return with_index(in).forward(in[I]->data()...);
  }

  const Op op_;
};

template <class Op, class... T>
requires requires { Op::saves; }
Variable apply(Op op, const Variable& x, const T&... rest) {
  const Variable* const inputs[] = {&x, &rest...};
  if (autograd_thread.intercepted) [[unlikely]] {
    const StructuredOp<Op, 1 + sizeof...(T)> any(op);
    if constexpr (any.kIndexed) {
      const Variable index(op.index.tensor);
      const Variable* const all[] = {&x, &rest..., &index};
      return intercept(any, all);
    } else {
      return intercept(any, inputs);
    }
  }
  if constexpr (requires { op.recorded; }) op.recorded = records(inputs);
  Tensor out = op.forward(x.data(), rest.data()...);
  return record(std::move(op), std::move(out), inputs);
}

}  // namespace lmp::autograd

namespace lmp::tensor {

template <class Op, class... T>
Tensor apply(Op op, const Tensor& x, const T&... rest) {
  return op.forward(x, rest...);
}

}  // namespace lmp::tensor
