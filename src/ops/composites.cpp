#include "ops/composites.hpp"

#include <utility>

#include "ops/pointwise_run.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::TensorAccess;
using tensor::detail::allocate;
using tensor::detail::backend;

// ---- Linear ----

OpId op_of(Activation activation) {
  switch (activation) {
    case Activation::Relu:
      return OpId::Relu;
    case Activation::Gelu:
      return OpId::Gelu;
    case Activation::GeluTanh:
      return OpId::GeluTanh;
    case Activation::Silu:
      return OpId::Silu;
    case Activation::Sigmoid:
      return OpId::Sigmoid;
    case Activation::Tanh:
      return OpId::Tanh;
    default:
      return OpId::kCount;
  }
}

bool result_suffices(Activation activation) {
  return !(pointwise_op(op_of(activation)).reads[1] & 1);
}

template <class V>
V activated(Activation activation, const V& x) {
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
    default:
      return x;
  }
}
template Tensor activated(Activation, const Tensor&);
template Variable activated(Activation, const Variable&);

namespace {

Tensor transposed(const Tensor& m) {
  return TensorAccess::view(m, 0, {m.shape().dim(1), m.shape().dim(0)},
                            {m.strides()[1], m.strides()[0]});
}

// Dense memory of any shape as rows of `columns`, of which a matrix has its own.
Tensor matrix_of(const Tensor& x) {
  if (x.ndim() == 2) return x;
  const Tensor dense = x.contiguous();
  const std::int64_t columns = x.shape().dim(x.ndim() - 1);
  std::int64_t rows = 1;
  for (int d = 0; d < x.ndim() - 1; ++d) rows *= x.shape().dim(d);
  return TensorAccess::view(dense, 0, {rows, columns}, {columns, 1});
}

}  // namespace

template <bool kActivated>
Tensor Linear<kActivated>::forward(const Tensor& x, const Tensor& weight,
                                   const Tensor& bias) const {
  IntList shape(x.shape());
  shape[shape.size() - 1] = weight.shape().dim(0);
  Tensor out = allocate(Shape(shape), x.type(), x.device());
  const tensor::detail::Backend& b = backend(x.device());
  b.matmul(matrix_of(out), matrix_of(x), transposed(weight));
  if (kActivated || bias.defined())
    b.bias_activation(out, bias.defined() ? bias.contiguous() : bias, op_of(activation));
  return out;
}

template <bool kActivated>
void Linear<kActivated>::backward(const Saves<Tensor>& s) const {
  Tensor g = std::move(s.pass.gradient());
  const tensor::detail::Backend& b = backend(g.device());
  if constexpr (kActivated) {
    const bool reusable = g.is_contiguous() && TensorAccess::unique(g);
    const Tensor made = reusable ? g : allocate(g.shape(), g.type(), g.device());
    const tensor::detail::Operand unread[1] = {Number(0)};
    const tensor::detail::GradientTarget to[1] = {{&made, false}};
    b.backward(op_of(activation), to, g, unread, 1, s.result());
    g = made;
  }
  const Tensor rows = matrix_of(g);
  if (s.pass.node().num_edges() > 2 && s.pass.wants(2)) {
    const std::int64_t n = rows.shape().dim(1);
    Tensor sums = allocate({n}, g.type(), g.device());
    b.reduce(Reduction::Sum, TensorAccess::view(sums, 0, {1, n}, {n, 1}), rows);
    s.pass.add(2, std::move(sums));
  }
  if (s.pass.wants(1)) {
    Tensor made = allocate(s.pass.shape(1), g.type(), g.device());
    b.matmul(made, transposed(rows), matrix_of(s.input(0)));
    s.pass.add(1, std::move(made));
  }
  if (s.pass.wants(0)) {
    Tensor made = allocate(s.pass.shape(0), g.type(), g.device());
    b.matmul(matrix_of(made), rows, s.input(1));
    s.pass.add(0, std::move(made));
  }
}

template <bool kActivated>
Variable Linear<kActivated>::through_activation(const Variable& g,
                                                const Saves<Variable>& s) const {
  if constexpr (kActivated)
    return autograd::gradient_from_result(op_of(activation), g, s.result());
  else
    return g;
}

template <bool kActivated>
Variable Linear<kActivated>::jvp(Variables x, const Variable& y, Variables t) const {
  Variable d;
  const auto add = [&](const Variable& part) { d = d.defined() ? d + part : part; };
  if (t[0].defined()) add(matmul(t[0], transpose(x[1])));
  if (t[1].defined()) add(matmul(x[0], transpose(t[1])));
  if (t.size() > 2 && t[2].defined()) add(t[2]);
  return kActivated ? autograd::gradient_from_result(op_of(activation), d, y) : d;
}

template <bool kActivated>
Variable Linear<kActivated>::batch(std::span<const Mapped> in, std::int64_t) const {
  const bool biased = in.size() > 2;
  if (!in[1].mapped && !(biased && in[2].mapped))
    return linear(in[0].value, in[1].value, biased ? in[2].value : Variable(), activation);
  // A vector has an axis in front of its own for the time of the product.
  const int own = in[0].value.ndim() - (in[0].mapped ? 1 : 0), rank = own < 2 ? 2 : own;
  const Mapped x = {own < 2 ? expand_dims(in[0].value, -2) : in[0].value, in[0].mapped};
  Variable y =
      matmul(with_rank(x, rank), with_rank({transpose(in[1].value), in[1].mapped}, rank));
  if (biased) y = y + with_rank(in[2], rank);
  return activated(activation, own < 2 ? squeeze(y, -2) : y);
}

template struct Linear<false>;
template struct Linear<true>;

// ---- Cross-entropy ----

Tensor CrossEntropy::forward(const Tensor& logits) {
  const auto rows = static_cast<std::int64_t>(index.tensor.numel());
  const DataType type =
      logits.type() == DataType::Float64 ? DataType::Float64 : DataType::Float32;
  stats = allocate({rows, 2}, type, logits.device());
  Tensor out =
      allocate(options.reduction == LossReduction::None ? index.tensor.shape() : Shape{},
               logits.type(), logits.device());
  counted = backend(logits.device())
                .cross_entropy(out, stats, logits.contiguous(), index.tensor, options);
  return out;
}

void CrossEntropy::backward(const Saves<Tensor>& s, const Tensor& g) const {
  const Tensor logits = s.input(0);
  const Tensor& labels = index.get(name);
  if (!stats.defined()) {
    CrossEntropy again = *this;
    again.forward(logits);
    return again.backward(s, g);
  }
  Tensor out = allocate(logits.shape(), logits.type(), logits.device());
  const double scale =
      options.reduction == LossReduction::Mean ? 1 / static_cast<double>(counted) : 1;
  backend(g.device()).cross_entropy_backward(out, g.contiguous(), scale, stats,
                                             logits.contiguous(), labels, options);
  s.pass.add(0, std::move(out));
}

Variable CrossEntropy::reduced(const Variable& losses, const Variable& labels,
                               const IntList& axes) const {
  if (options.reduction == LossReduction::None) return losses;
  const auto sum_all = [&](const Variable& v) { return axes.empty() ? v : sum(v, axes, false); };
  if (options.reduction == LossReduction::Sum) return sum_all(losses);
  return sum_all(losses) / sum_all(astype(labels != options.ignore_index, losses.type()));
}

namespace {

IntList all_axes(int first, int count) {
  IntList axes;
  for (int d = first; d < count; ++d) axes.push_back(d);
  return axes;
}

}  // namespace

Variable CrossEntropy::slope(const Variable& logits, const Variable& labels,
                             const Variable& g) const {
  const std::int64_t classes = logits.shape().dim(logits.ndim() - 1);
  const Variable kept = labels != options.ignore_index;
  const Variable picked =
      expand_dims(labels, -1) == Variable(tensor::arange(0, classes, 1, labels.device()));
  const Variable target = astype(picked, logits.type()) * (1 - options.label_smoothing) +
                          options.label_smoothing / static_cast<double>(classes);
  Variable by = g;
  if (options.reduction == LossReduction::Mean) by = by / sum(astype(kept, logits.type()));
  if (options.reduction == LossReduction::None) by = expand_dims(by, -1);
  return where(expand_dims(kept, -1), by * (softmax(logits) - target), 0);
}

Variable CrossEntropy::jvp(Variables x, const Variable&, Variables t) const {
  // The sum of the parts of all logits; a tangent stands where a gradient does otherwise.
  CrossEntropy each = *this;
  each.options.reduction = LossReduction::Sum;
  const Variable losses = sum(each.slope(x[0], x[1], t[0]), -1, false);
  return reduced(losses, x[1], all_axes(0, losses.ndim()));
}

Variable CrossEntropy::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  const Variable labels = autograd::stacked(in[1], lanes);
  CrossEntropyOptions each = options;
  each.reduction = LossReduction::None;
  const Variable losses = cross_entropy(autograd::stacked(in[0], lanes), labels.data(), each);
  return reduced(losses, labels, all_axes(1, losses.ndim()));
}

// ---- Normalisation ----

template <bool kCentered>
Tensor Normalize<kCentered>::forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const std::size_t columns = weight.numel(), rows = columns == 0 ? 0 : x.numel() / columns;
  const DataType type = x.type() == DataType::Float64 ? DataType::Float64 : DataType::Float32;
  stats = allocate({rows, 2}, type, x.device());
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device())
      .normalize(kCentered, out, stats, x.contiguous(), weight.contiguous(),
                 bias.defined() ? bias.contiguous() : bias, eps);
  return out;
}

template <bool kCentered>
void Normalize<kCentered>::backward(const Saves<Tensor>& s, const Tensor& g) const {
  const Tensor x = s.input(0), weight = s.input(1);
  if (!stats.defined()) {
    Normalize again = *this;
    again.forward(x, weight);
    return again.backward(s, g);
  }
  const auto wanted = [&](int i) {
    return i < s.pass.node().num_edges() && s.pass.wants(i)
               ? allocate(s.pass.shape(i), g.type(), g.device())
               : Tensor();
  };
  Tensor made[3] = {wanted(0), wanted(1), wanted(2)};
  backend(g.device())
      .normalize_backward(kCentered, made[0], made[1], made[2], g.contiguous(), stats,
                          x.contiguous(), weight.contiguous());
  for (int i = 0; i < 3; ++i)
    if (made[i].defined()) s.pass.add(i, std::move(made[i]));
}

template <bool kCentered>
IntList Normalize<kCentered>::axes_of(const Variable& x, const Variable& weight) {
  return all_axes(x.ndim() - weight.ndim(), x.ndim());
}

template <bool kCentered>
Variable Normalize<kCentered>::centered(const Variable& x, const IntList& axes) {
  return kCentered ? x - mean(x, axes) : x;
}

template <bool kCentered>
Variable Normalize<kCentered>::scale_of(const Variable& centered, const IntList& axes) const {
  return rsqrt(mean(square(centered), axes) + eps);
}

template <bool kCentered>
Variable Normalize<kCentered>::through(const Variable& v, const Variable& unit,
                                       const Variable& scale, const IntList& axes) {
  return scale * (centered(v, axes) - unit * mean(v * unit, axes));
}

template <bool kCentered>
Variable Normalize<kCentered>::jvp(Variables x, const Variable&, Variables t) const {
  const IntList axes = axes_of(x[0], x[1]);
  const Variable moved = centered(x[0], axes), scale = scale_of(moved, axes);
  const Variable unit = moved * scale;
  Variable d;
  const auto add = [&](const Variable& part) { d = d.defined() ? d + part : part; };
  if (t[0].defined()) add(through(t[0], unit, scale, axes) * x[1]);
  if (t[1].defined()) add(unit * t[1]);
  if (t.size() > 2 && t[2].defined()) add(t[2]);
  return d;
}

template <bool kCentered>
Variable Normalize<kCentered>::batch(std::span<const Mapped> in, std::int64_t) const {
  const bool biased = in.size() > 2;
  const auto normalized = [&](const Variable& weight) {
    if constexpr (kCentered)
      return layer_norm(in[0].value, weight, Variable(), eps);
    else
      return rms_norm(in[0].value, weight, eps);
  };
  const int own = in[0].value.ndim() - (in[0].mapped ? 1 : 0);
  Variable y;
  if (in[1].mapped) {
    const Tensor ones = tensor::ones(in[1].value.select(0, 0).shape(), in[0].value.device(),
                                     in[0].value.type());
    y = normalized(Variable(ones)) * with_rank(in[1], own);
  } else {
    y = normalized(in[1].value);
  }
  return biased ? y + with_rank(in[2], own) : y;
}

template struct Normalize<false>;
template struct Normalize<true>;

// ---- Embedding and dropout ----

Tensor Embedding::forward(const Tensor& weight) const {
  IntList shape(index.tensor.shape());
  shape.push_back(weight.shape().dim(1));
  Tensor out = allocate(Shape(shape), weight.type(), weight.device());
  const auto n = static_cast<std::int64_t>(index.tensor.numel());
  const Tensor flat = TensorAccess::view(index.tensor, 0, {n}, {1});
  const std::int64_t columns = weight.shape().dim(1);
  backend(weight.device())
      .index_select(name, TensorAccess::view(out, 0, {n, columns}, {columns, 1}), weight, 0, flat);
  return out;
}

Variable Embedding::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  const auto& [weight, at] = std::pair(in[0], in[1]);
  if (!weight.mapped) return embedding(weight.value, at.value.data());
  // The lanes' tables one behind the other; the gradient adds to all of them at once.
  const Shape& shape = weight.value.shape();
  const std::int64_t rows = shape.dim(1), columns = shape.dim(2);
  const Variable all = autograd::stacked(at, lanes);
  const Variable inside = where(all < 0, all + rows, all);
  const Variable starts = Variable(tensor::arange(lanes)) * rows;
  IntList first{lanes};
  for (int d = 1; d < all.ndim(); ++d) first.push_back(1);
  return embedding(reshape(weight.value, {lanes * rows, columns}),
                   (inside + reshape(starts, first)).data());
}

Tensor Dropout::forward(const Tensor& x) const {
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device()).dropout(out, x.contiguous(), keep, seed, offset);
  return out;
}

Variable Dropout::batch(std::span<const Mapped> in, std::int64_t) const {
  // All lanes lose the same elements, as they see the same numbers of rand().
  const Variable& x = in[0].value;
  IntList own;
  for (int d = 1; d < x.ndim(); ++d) own.push_back(x.shape().dim(d));
  return x * Variable(forward(tensor::ones(Shape(own), x.device(), x.type())));
}

}  // namespace lmp::table
