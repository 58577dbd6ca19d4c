#pragma once

#include <span>
#include <type_traits>
#include <utility>

#include "lamppp/tensor/op_options.hpp"
#include "ops/structured.hpp"

/// Ops that others could be made of, and which are one for speed: kernels of their own compute
/// them, and their first gradients, in few passes over memory. Gradients that are recorded, forward
/// mode and vmap where lanes differ in more than rows take the definition out of other ops.
///
/// A forward may note in its op what the kernel of the gradient reads beside what is saved; an op
/// that has gone through a transform has no notes, and then the definition serves the gradient too.
namespace lmp::table {

using tensor::Activation;
using tensor::CrossEntropyOptions;
using tensor::LossReduction;

/// Whether the gradient of an activation can be told from its result, so that linear() need not
/// keep what went in.
constexpr bool is_seen_in_result(Activation a) {
  return a == Activation::Relu || a == Activation::Sigmoid || a == Activation::Tanh;
}

template <class V>
V activated(const V& x, Activation activation) {
  switch (activation) {
    case Activation::Relu:
      return relu(x);
    case Activation::Gelu:
      return gelu(x);
    case Activation::GeluTanh:
      return gelu_tanh(x);
    case Activation::Silu:
      return silu(x);
    case Activation::Sigmoid:
      return sigmoid(x);
    case Activation::Tanh:
      return tanh(x);
    case Activation::None:
      break;
  }
  return x;
}

/// g times the derivative of an activation that is_seen_in_result, y.
Tensor activation_gradient(Activation activation, const Tensor& y, Tensor g);
Variable activation_gradient(Activation activation, const Variable& y, const Variable& g);

/// (..., n) as the rows of a matrix.
template <class V>
V as_rows(const V& x) {
  return x.ndim() == 1 ? expand_dims(x, 0) : x.ndim() == 2 ? x : flatten(x, 0, -2);
}

/// activation(x w^T + bias), the bias an operand or not.
template <bool kActivated>
struct Linear {
  static constexpr unsigned saves = kActivated ? 1 | 2 | kSavesResult : 1 | 2;
  static constexpr const char* name = "linear";
  Activation activation = Activation::None;
  Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias = Tensor()) const;

  template <class V>
  void vjp(const Saves<V>& s, const V&) const {
    V g = std::move(s.pass.gradient());
    if constexpr (kActivated) g = activation_gradient(activation, s.result(), std::move(g));
    g = as_rows(g);
    if (s.pass.wants(0)) add_product(s.pass, 0, g, s.input(1));
    if (s.pass.wants(1)) add_product(s.pass, 1, transpose(g), as_rows(s.input(0)));
    if (s.pass.node().num_edges() > 2) s.pass.add(2, std::move(g));
  }
  Variable jvp(Variables x, const Variable& y, Variables t) const {
    Variable sum;
    const auto add = [&](const Variable& term) { sum = sum.defined() ? sum + term : term; };
    if (t[0].defined()) add(apply(Linear<false>{}, t[0], x[1]));
    if (t[1].defined()) add(apply(Linear<false>{}, x[0], t[1]));
    if (t.size() > 2 && t[2].defined()) add(t[2]);
    return kActivated ? activation_gradient(activation, y, sum) : sum;
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
};
extern template struct Linear<false>;
extern template struct Linear<true>;

/// Of logits (..., classes) for the labels in `index`.
struct CrossEntropy {
  static constexpr unsigned saves = 1;
  static constexpr const char* name = "cross_entropy";
  CrossEntropyOptions options;
  HeldIndex index;
  bool recorded = false;
  // Notes: where the loss is one number its gradient, which costs next to nothing while the logits
  // are at hand, and else what that is made of.
  Tensor gradient = {}, stats = {};

  Tensor forward(const Tensor& logits);
  template <class V>
  void vjp(const Saves<V>& s, const V& g) {
    const V x = s.input(0);
    const Tensor& labels = index.get(name);
    if constexpr (std::is_same_v<V, Tensor>) {
      if (gradient.defined()) return s.pass.add(0, scaled_gradient(s.pass.retains_graph(), g));
      if (stats.defined()) return s.pass.add(0, fused_gradient(x, labels, g));
    }
    s.pass.add(0, astype((reduces() ? g : expand_dims(g, -1)) * slope(x, V(labels)), x.type()));
  }
  Variable jvp(Variables x, const Variable&, Variables t) const {
    const Variable change = slope(x[0], x[1]) * t[0];
    return astype(reduces() ? sum(change) : sum(change, -1, false), x[0].type());
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;

 private:
  bool reduces() const { return options.reduction != LossReduction::None; }
  Tensor scaled_gradient(bool again, const Tensor& g);
  Tensor fused_gradient(const Tensor& x, const Tensor& labels, const Tensor& g) const;
  /// softmax - target, the derivative of each loss by its logits; over their number for the mean,
  /// which of halves is widened.
  template <class V>
  V slope(const V& x, const V& labels) const {
    const V label = expand_dims(labels, -1);
    const auto classes = static_cast<std::int64_t>(x.shape().back());
    const V hit = astype(eq(label, V(tensor::arange(0, classes, 1, x.device()))), x.type());
    const double spread = options.label_smoothing / static_cast<double>(classes);
    const V counts = ne(label, options.ignore_index);
    V d = softmax(x, -1) - (hit * (1 - options.label_smoothing) + spread);
    if (options.reduction == LossReduction::Mean) d = widened(d) / maximum(sum(counts), 1);
    return where(counts, d, 0);
  }
};

/// Rows of weight's size as x / sqrt(mean(x^2) + eps) * weight, with the mean of x subtracted
/// first where `centered`, and with a bias or not.
struct Normalize {
  static constexpr unsigned saves = 1 | 2;
  const char* name;
  bool centered;
  double eps;
  Tensor stats = {};  // a note

  Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias = Tensor());
  /// The same of x + residual, and that sum.
  std::pair<Tensor, Tensor> forward_sum(const Tensor& x, const Tensor& residual,
                                        const Tensor& weight, const Tensor& bias);
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    if constexpr (std::is_same_v<V, Tensor>) {
      if (stats.defined()) return fused_gradients(s, g);
    }
    const V x = s.input(0);
    if (s.pass.wants(0)) s.pass.add(0, project(x, g * s.input(1)));
    if (s.pass.wants(1)) s.pass.add(1, g * normal(x));
    if (s.pass.node().num_edges() > 2) s.pass.add(2, g);
  }
  Variable jvp(Variables x, const Variable&, Variables t) const {
    Variable sum;
    const auto add = [&](const Variable& term) { sum = sum.defined() ? sum + term : term; };
    if (t[0].defined()) add(project(x[0], t[0]) * x[1]);
    if (t[1].defined()) add(normal(x[0]) * t[1]);
    if (t.size() > 2 && t[2].defined()) add(t[2]);
    return sum;
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;

 private:
  Tensor run(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& weight,
             const Tensor& bias);
  void fused_gradients(const Saves<Tensor>& s, const Tensor& g) const;
  template <class V>
  V shifted(const V& x) const {
    return centered ? x - mean(x, -1) : x;
  }
  template <class V>
  V scale(const V& shifted) const {
    return 1 / sqrt(mean(square(shifted), -1) + eps);
  }
  /// What is multiplied by the weight.
  template <class V>
  V normal(const V& x) const {
    const V d = shifted(widened(x));
    return astype(d * scale(d), x.type());
  }
  /// The Jacobian of normal(x) times t; it is its own transpose.
  template <class V>
  V project(const V& x, const V& t) const {
    const V d = shifted(widened(x)), by = scale(d), n = d * by, wide = widened(t);
    return astype(by * (shifted(wide) - n * mean(n * wide, -1)), x.type());
  }
};

/// norm(x + residual) and that sum, all of one type, in one pass. They are recorded as the two ops
/// that they are: what the sum's other uses have for its gradient, the norm's kernel adds to.
std::pair<Tensor, Tensor> normalize_sum(Normalize norm, const Tensor& x, const Tensor& residual,
                                        const Tensor& weight, const Tensor& bias);
std::pair<Variable, Variable> normalize_sum(Normalize norm, const Variable& x,
                                            const Variable& residual, const Variable& weight,
                                            const Variable& bias);

/// x with the elements where the stream says so left out. The stream is told by where it starts, so
/// the same op drops the same elements of a gradient or tangent; lanes of vmap drop the same, as
/// what is drawn inside is one for all.
struct Dropout {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "dropout";
  double keep;
  std::uint64_t seed, offset;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, apply(*this, g));
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
};

}  // namespace lmp::table
