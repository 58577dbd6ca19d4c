#include <algorithm>
#include <initializer_list>

#include "autograd/intercept.hpp"
#include "autograd/pass.hpp"
#include "autograd/record.hpp"
#include "lamppp/autograd/ops.hpp"
#include "ops/pointwise_run.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"

#define LMP_FN constexpr
#define LMP_MATH_FN inline

namespace lmp::table {
namespace {

using autograd::Variable;

// Finds out what a gradient is made of: which of the incoming gradient, the operands and the result
// it depends on, and whether it is the incoming gradient as it is.
struct Probe {
  unsigned depends = 0;
  bool untouched = false;
};
template <class T>
constexpr unsigned depends_of(const T& v) {
  if constexpr (__is_same(T, Probe))
    return v.depends;
  else
    return 0;
}
template <class A, class B>
concept EitherProbe = __is_same(A, Probe) || __is_same(B, Probe);

#define LMP_PROBE_OPERATOR(op) \
  template <class A, class B>  \
  requires EitherProbe<A, B>   \
  constexpr Probe operator op(const A& a, const B& b) { return {depends_of(a) | depends_of(b)}; }
LMP_PROBE_OPERATOR(+)
LMP_PROBE_OPERATOR(-)
LMP_PROBE_OPERATOR(*)
LMP_PROBE_OPERATOR(/)
LMP_PROBE_OPERATOR(==)
LMP_PROBE_OPERATOR(>)
LMP_PROBE_OPERATOR(<)
#undef LMP_PROBE_OPERATOR
constexpr Probe operator-(Probe x) { return {x.depends}; }
#define LMP_UNARY(function, Op) \
  constexpr Probe function(Probe x) { return {x.depends}; }
#define LMP_BINARY(function, Op) \
  template <class A, class B>    \
  requires EitherProbe<A, B>     \
  constexpr Probe function(const A& a, const B& b) { return {depends_of(a) | depends_of(b)}; }
#include "lamppp/tensor/pointwise.def"
template <class A, class B>
constexpr Probe where(Probe condition, const A& a, const B& b) {
  return {condition.depends | depends_of(a) | depends_of(b)};
}
constexpr Probe of(Probe, double) { return {}; }
constexpr Probe zero(Probe) { return {}; }
constexpr Probe normal_cdf(Probe x) { return {x.depends}; }
constexpr Probe normal_density(Probe x) { return {x.depends}; }

tensor::Number of(const Variable&, double value) { return value; }
Variable zero(const Variable& like) {
  return Variable(tensor::full({}, 0, like.device(), like.type())).broadcast_to(like.shape());
}

Variable normal_cdf(const Variable& x);
Variable normal_density(const Variable& x);

#include "ops/math.hpp"
#include "ops/pointwise.hpp"

Variable normal_cdf(const Variable& x) { return (1 + erf(x * kSqrtHalf)) / 2; }
Variable normal_density(const Variable& x) { return exp(x * x / -2) * kOneOverSqrt2Pi; }

template <class G>
constexpr void probe_into(PointwiseOp& op, unsigned mask, int operand, const G& gradient) {
  if constexpr (__is_same(G, Probe)) {
    if (mask >> operand & 1) op.reads[mask] |= static_cast<unsigned char>(gradient.depends & 15);
    if (gradient.untouched) op.passes |= static_cast<unsigned char>(1u << operand);
  }
}

template <class Op, int kArity>
constexpr PointwiseOp describe() {
  PointwiseOp op{Op::info, kArity, false, {}, 0};
  constexpr Probe g{16, true}, a{1}, b{2}, c{4}, y{8};
  const auto probe = [&](const auto& grads) {
    op.differentiable = true;
    for (unsigned mask = 1; mask < 8; ++mask) {
      probe_into(op, mask, 0, grads.a);
      probe_into(op, mask, 1, grads.b);
      probe_into(op, mask, 2, grads.c);
    }
  };
  if constexpr (kArity == 1) {
    if constexpr (requires { Op::grad(g, a, y); }) probe(Op::grad(g, a, y));
  } else if constexpr (kArity == 2) {
    if constexpr (requires { Op::grad(g, a, b, y); }) probe(Op::grad(g, a, b, y));
  } else {
    probe(Op::grad(g, a, b, c, y));
  }
  return op;
}

constexpr PointwiseOp kOps[kOpCount] = {
#define LMP_UNARY(function, Op) describe<Op, 1>(),
#define LMP_BINARY(function, Op) describe<Op, 2>(),
#define LMP_TERNARY(function, Op) describe<Op, 3>(),
#include "lamppp/tensor/pointwise.def"
};

// The gradients as recorded Variables.
using VariableGrad = void (*)(const Variable& g, const Variable* in, const Variable& y,
                              Variable* out);

template <class G>
void take(Variable& out, G&& gradient) {
  if constexpr (__is_same(std::remove_cvref_t<G>, Variable)) out = std::forward<G>(gradient);
}

template <class Op, int kArity>
void variable_grad(const Variable& g, const Variable* in, const Variable& y, Variable* out) {
  const auto take_all = [&](auto grads) {
    take(out[0], std::move(grads.a));
    take(out[1], std::move(grads.b));
    take(out[2], std::move(grads.c));
  };
  if constexpr (kArity == 1)
    take_all(Op::grad(g, in[0], y));
  else if constexpr (kArity == 2)
    take_all(Op::grad(g, in[0], in[1], y));
  else
    take_all(Op::grad(g, in[0], in[1], in[2], y));
}

template <class Op, int kArity>
constexpr VariableGrad variable_grad_of() {
  if constexpr (describe<Op, kArity>().differentiable)
    return &variable_grad<Op, kArity>;
  else
    return nullptr;
}

constexpr VariableGrad kVariableGrads[kOpCount] = {
#define LMP_UNARY(function, Op) variable_grad_of<Op, 1>(),
#define LMP_BINARY(function, Op) variable_grad_of<Op, 2>(),
#define LMP_TERNARY(function, Op) variable_grad_of<Op, 3>(),
#include "lamppp/tensor/pointwise.def"
};

}  // namespace

const PointwiseOp& pointwise_op(OpId op) noexcept { return kOps[static_cast<int>(op)]; }

}  // namespace lmp::table

namespace lmp::autograd {

using lmp::table::OpId;
using lmp::table::PointwiseOp;
using tensor::detail::GradientTarget;
using tensor::detail::Operand;

namespace {

constexpr int kResultBit = 3;
// Above this, gradients that meet in one buffer are added while they are in the cache; below, a
// second small kernel is cheaper than the general loop, unless it is launched.
constexpr std::size_t kFuseAbove = 4096;

struct VariableOperand {
  VariableOperand(const Variable& v) : variable(&v), operand(v.data()) {}
  VariableOperand(Number n) : operand(n) {}
  const Variable* variable = nullptr;
  Operand operand;
};

class PointwiseNode final : public Node {
 public:
  // `reads`: what is saved, by operand, and bit kResultBit for the result.
  PointwiseNode(OpId id, unsigned reads) : id_(id), reads_(reads) {}
  const char* name() const noexcept override { return op().info.name; }

  void backward(Pass<Tensor>& pass) override {
    unsigned mask = 0;
    for (int i = 0; i < op().arity; ++i) {
      if (!pass.wants(i)) continue;
      if (op().passes >> i & 1)
        pass.add(i, pass.gradient());
      else
        mask |= 1u << i;
    }
    if (mask == 0) return;
    const unsigned reads = op().reads[mask];
    Operand in[3] = {Number(0), Number(0), Number(0)};
    Tensor result;
    for (int i = 0; i < op().arity; ++i)
      if (reads >> i & 1) in[i] = operand(pass, i);
    if (reads >> kResultBit & 1) result = pass.saved(slot_of(kResultBit)).tensor;

    Tensor g = std::move(pass.gradient());
    Tensor made[3];
    GradientTarget targets[3];
    bool reusable = g.is_contiguous() && tensor::TensorAccess::unique(g);
    const bool launched = tensor::detail::runs_later(g.device());
    for (int i = 0; i < op().arity; ++i) {
      if (!(mask >> i & 1)) continue;
      if (g.numel() > kFuseAbove || launched) {
        if (const Tensor* held = pass.pending(i, g.shape(), g.type())) {
          targets[i] = {held, true};
          continue;
        }
        if (launched && i > 0 && made[0].defined() && pass.meet(0, i, g)) {
          targets[i] = {&made[0], true};
          continue;
        }
      }
      made[i] = reusable ? g : tensor::detail::allocate(g.shape(), g.type(), g.device());
      reusable = false;
      targets[i] = {&made[i], false};
    }
    tensor::detail::backend(g.device()).backward(id_, targets, g, in, op().arity, result);
    g = Tensor();
    for (int i = 0; i < op().arity; ++i)
      if (made[i].defined()) pass.add(i, std::move(made[i]));
  }

  void backward(Pass<Variable>& pass) override {
    // What the gradients asked for do not read stands in as a number; so do gradients not asked
    // for.
    const Variable unread(tensor::full({}, 1, pass.gradient().device(), pass.gradient().type()));
    const Variable unread_condition(
        tensor::full({}, true, pass.gradient().device(), DataType::Bool));
    Variable in[3];
    for (int i = 0; i < op().arity; ++i) {
      if (!(reads_ >> i & 1)) {
        in[i] = op().info.condition >> i & 1 ? unread_condition : unread;
      } else if (const Saved& s = pass.saved(slot_of(i)); s.tensor.defined()) {
        in[i] = pass.input(slot_of(i), i);
      } else {
        in[i] =
            Variable(tensor::full({}, s.number, pass.gradient().device(), pass.gradient().type()));
      }
    }
    const Variable y = reads_ >> kResultBit & 1 ? pass.result(slot_of(kResultBit)) : unread;
    Variable out[3];
    lmp::table::kVariableGrads[static_cast<int>(id_)](pass.gradient(), in, y, out);
    for (int i = 0; i < op().arity; ++i)
      if (pass.wants(i) && out[i].defined()) pass.add(i, std::move(out[i]));
  }

 private:
  const PointwiseOp& op() const noexcept { return lmp::table::kOps[static_cast<int>(id_)]; }
  int slot_of(int bit) const noexcept { return count_bits(reads_ & ((1u << bit) - 1)); }
  Operand operand(const Pass<Tensor>& pass, int i) const {
    const Saved& s = pass.saved(slot_of(i));
    return s.tensor.defined() ? Operand(s.tensor) : Operand(s.number);
  }

  OpId id_;
  unsigned reads_;
};

[[gnu::always_inline]] inline Tensor forward(OpId id, const VariableOperand* in, int count) {
  const Operand operands[3] = {in[0].operand, count > 1 ? in[1].operand : Operand(Number(0)),
                               count > 2 ? in[2].operand : Operand(Number(0))};
  return tensor::ops::pointwise(id, operands, count);
}

[[gnu::always_inline]] inline Variable record_pointwise(OpId id, Tensor&& out,
                                                        const VariableOperand* in, int count) {
  if (!autograd_thread.recording) return Variable(std::move(out));
  unsigned wants = 0;
  for (int i = 0; i < count; ++i)
    if (in[i].variable && in[i].variable->requires_grad()) wants |= 1u << i;
  const PointwiseOp& op = lmp::table::pointwise_op(id);
  wants &= ~op.info.condition;
  if (wants == 0 || !op.differentiable || !is_floating(out.type())) return Variable(std::move(out));
  const unsigned reads = op.reads[wants & ~unsigned{op.passes}];
  NodeBuilder builder = NodeBuilder::make<PointwiseNode>(count, count_bits(reads), id, reads);
  for (int i = 0; i < count; ++i) {
    if (in[i].variable)
      builder.add_edge(*in[i].variable);
    else
      builder.add_edge();
    if (!(reads >> i & 1)) continue;
    if (in[i].variable)
      builder.save(in[i].variable->data());
    else
      builder.save(in[i].operand.number);
  }
  if (reads >> kResultBit & 1) builder.save(out);
  return VariableAccess::make(std::move(out), builder.finish());
}

/// A pointwise op as transforms see it: numbers among the operands stay in here.
class AnyPointwise final : public AnyOp {
 public:
  AnyPointwise(OpId id, const VariableOperand* in, int count) : id_(id), count_(count) {
    for (int i = 0; i < count; ++i) {
      numbers_[i] = in[i].operand.number;
      if (in[i].variable) place_[variables_++] = i;
    }
  }
  const char* name() const noexcept override { return op().info.name; }
  bool differentiable(std::size_t i) const noexcept override {
    return op().differentiable && !(op().info.condition >> place_[i] & 1);
  }
  Tensor forward(Inputs in) const override {
    const Operands all(*this, in);
    return autograd::forward(id_, all.at, count_);
  }
  Variable record(Tensor out, Inputs in) const override {
    const Operands all(*this, in);
    return record_pointwise(id_, std::move(out), all.at, count_);
  }

  // The sum of the op's gradients, each applied to the tangent of its operand in the place of the
  // incoming gradient: what they multiply by are the partial derivatives.
  Variable tangent(std::span<const Variable> x, const Variable& y,
                   std::span<const Variable> t) const override {
    bool plain = !autograd_thread.recording || !y.requires_grad();
    for (const Variable* v : {x.data(), t.data()})
      for (std::size_t i = 0; i < x.size(); ++i)
        plain &= !v[i].defined() || (value_level(v[i].data()) == 0 &&
                                     !(autograd_thread.recording && v[i].requires_grad()));
    return plain ? tangent_of_tensors(x, y, t) : tangent_of_variables(x, y, t);
  }

  Variable batch(std::span<const Mapped> in, std::int64_t) const override {
    return batch_aligned(*this, in);
  }

 private:
  struct Operands {
    Operands(const AnyPointwise& any, Inputs in)
        : at{any.numbers_[0], any.numbers_[1], any.numbers_[2]} {
      for (std::size_t i = 0; i < in.size(); ++i) at[any.place_[i]] = VariableOperand(*in[i]);
    }
    VariableOperand at[3];
  };
  const PointwiseOp& op() const noexcept { return lmp::table::pointwise_op(id_); }

  // By the kernels of the backward pass, each run for one operand alone.
  Variable tangent_of_tensors(std::span<const Variable> x, const Variable& y,
                              std::span<const Variable> t) const {
    Tensor total;
    for (std::size_t k = 0; k < x.size(); ++k) {
      const int i = place_[k];
      if (!t[k].defined()) continue;
      const Tensor g = tensor::broadcast_to(tensor::astype(t[k].data(), y.type()), y.shape());
      if (op().passes >> i & 1) {
        total = total.defined() ? total + g : g;
        continue;
      }
      const unsigned reads = op().reads[1u << i];
      Operand in[3] = {numbers_[0], numbers_[1], numbers_[2]};
      for (std::size_t other = 0; other < x.size(); ++other)
        if (reads >> place_[other] & 1) in[place_[other]] = Operand(x[other].data());
      Tensor made = tensor::detail::allocate(y.shape(), y.type(), y.device());
      GradientTarget targets[3];
      targets[i] = {&made, false};
      tensor::detail::backend(y.device()).backward(id_, targets, g, in, count_, y.data());
      total = total.defined() ? total + made : made;
    }
    return Variable(std::move(total));
  }

  Variable tangent_of_variables(std::span<const Variable> x, const Variable& y,
                                std::span<const Variable> t) const {
    Variable in[3];
    for (int i = 0; i < count_; ++i)
      in[i] = Variable(tensor::full({}, numbers_[i], y.device(), y.type()));
    for (std::size_t k = 0; k < x.size(); ++k) in[place_[k]] = x[k];
    Variable total;
    for (std::size_t k = 0; k < x.size(); ++k) {
      if (!t[k].defined()) continue;
      const Variable g = astype(t[k], y.type());
      Variable out[3];
      if (op().passes >> place_[k] & 1)
        out[place_[k]] = g;
      else
        lmp::table::kVariableGrads[static_cast<int>(id_)](g, in, y, out);
      const Variable& part = out[place_[k]];
      if (part.defined()) total = total.defined() ? total + part : part;
    }
    return total;
  }

  OpId id_;
  int count_;
  int place_[3] = {};  // of each Variable among the operands
  int variables_ = 0;
  Number numbers_[3] = {0, 0, 0};
};

[[gnu::cold]] Variable pointwise_seen(OpId id, const VariableOperand* in, int count,
                                      const CallSite& site) {
  const CallScope scope(site);
  const Variable* variables[3] = {};
  std::size_t n = 0;
  for (int i = 0; i < count; ++i)
    if (in[i].variable) variables[n++] = in[i].variable;
  return intercept(AnyPointwise(id, in, count), {variables, n});
}

Variable pointwise(OpId id, std::initializer_list<VariableOperand> in, CallSite site) {
  const int count = static_cast<int>(in.size());
  if (autograd_thread.intercepted) [[unlikely]]
    return pointwise_seen(id, in.begin(), count, site);
  return record_pointwise(id, forward(id, in.begin(), count), in.begin(), count);
}

}  // namespace

Variable record_sum(Tensor out, const Variable& a, const Variable& b) {
  const VariableOperand in[2] = {a, b};
  return record_pointwise(OpId::Add, std::move(out), in, 2);
}

inline namespace ops {

#define LMP_UNARY(function, Op) \
  Variable function(const Variable& x, CallSite site) { return pointwise(OpId::Op, {x}, site); }
#define LMP_BINARY(function, Op)                                           \
  Variable function(const Variable& a, const Variable& b, CallSite site) { \
    return pointwise(OpId::Op, {a, b}, site);                              \
  }                                                                        \
  Variable function(const Variable& a, Number b, CallSite site) {          \
    return pointwise(OpId::Op, {a, b}, site);                              \
  }                                                                        \
  Variable function(Number a, const Variable& b, CallSite site) {          \
    return pointwise(OpId::Op, {a, b}, site);                              \
  }
#include "lamppp/tensor/pointwise.def"

Variable where(const Variable& condition, const Variable& a, const Variable& b, CallSite site) {
  return pointwise(OpId::Where, {condition, a, b}, site);
}
Variable where(const Variable& condition, const Variable& a, Number b, CallSite site) {
  return pointwise(OpId::Where, {condition, a, b}, site);
}
Variable where(const Variable& condition, Number a, const Variable& b, CallSite site) {
  return pointwise(OpId::Where, {condition, a, b}, site);
}
Variable clamp(const Variable& x, const Variable& low, const Variable& high, CallSite site) {
  return pointwise(OpId::Clamp, {x, low, high}, site);
}
Variable clamp(const Variable& x, std::optional<Number> low, std::optional<Number> high,
               CallSite site) {
  const auto [from, to] = tensor::ops::clamp_bounds(x.data(), low, high);
  return pointwise(OpId::Clamp, {x, from, to}, site);
}

}  // namespace ops
}  // namespace lmp::autograd
