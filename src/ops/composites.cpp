#include "ops/composites.hpp"

#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::TensorAccess;
using tensor::detail::allocate;
using tensor::detail::backend;

namespace {

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
    case Activation::None:
      break;
  }
  return OpId::kCount;
}

std::size_t rows_of(const Tensor& x) {
  std::size_t rows = 1;
  for (int d = 0; d + 1 < x.ndim(); ++d) rows *= x.shape()[static_cast<std::size_t>(d)];
  return rows;
}

IntList own_axes(const Variable& lanes) {
  IntList axes;
  for (int d = 1; d < lanes.ndim(); ++d) axes.push_back(d);
  return axes;
}

int own_rank(const Mapped& m) { return m.value.ndim() - (m.mapped ? 1 : 0); }

}  // namespace

// ---- Linear ----

Tensor activation_gradient(Activation activation, const Tensor& y, Tensor g) {
  const bool reusable = g.is_contiguous() && TensorAccess::unique(g);
  Tensor out = reusable ? g : allocate(g.shape(), g.type(), g.device());
  const tensor::detail::GradientTarget target{&out, false};
  const tensor::detail::Operand unread = Number(0);
  backend(g.device()).backward(op_of(activation), &target, g, &unread, 1, y);
  return out;
}

Variable activation_gradient(Activation activation, const Variable& y, const Variable& g) {
  switch (activation) {
    case Activation::Relu:
      return where(y > 0, g, 0);
    case Activation::Sigmoid:
      return g * y * (1 - y);
    default:
      return g * (1 - y * y);
  }
}

template <bool kActivated>
Tensor Linear<kActivated>::forward(const Tensor& x, const Tensor& weight,
                                   const Tensor& bias) const {
  IntList shape(x.shape());
  const std::int64_t features = weight.shape().dim(0);
  shape[shape.size() - 1] = features;
  Tensor out = allocate(Shape(shape), x.type(), x.device());
  if (out.numel() == 0) return out;
  const Shape flat{rows_of(x), features};
  const Tensor rows =
      x.ndim() == 2 ? out : TensorAccess::view(out, 0, flat, tensor::detail::dense_strides(flat));
  backend(x.device())
      .linear(rows, as_rows(x),
              TensorAccess::view(weight, 0, Shape{weight.shape()[1], weight.shape()[0]},
                                 IntList{weight.strides()[1], weight.strides()[0]}),
              bias.defined() && !bias.is_contiguous() ? bias.contiguous() : bias,
              op_of(activation));
  return out;
}

template <bool kActivated>
Variable Linear<kActivated>::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  const Mapped &x = in[0], &weight = in[1];
  const bool biased = in.size() > 2;
  if (!weight.mapped && !(biased && in[2].mapped))  // the lanes of x are so many more rows
    return biased ? apply(*this, x.value, weight.value, in[2].value)
                  : apply(*this, x.value, weight.value);
  Mapped y{{}, x.mapped || weight.mapped};
  if (!weight.mapped) {
    y.value = apply(Linear<false>{}, x.value, weight.value);
  } else {
    IntList shape(x.value.shape());
    if (!x.mapped) shape = IntList(in_lanes(x.value.shape(), lanes));
    const std::int64_t inputs = shape[shape.size() - 1];
    std::int64_t rows = 1;
    for (std::size_t d = 1; d + 1 < shape.size(); ++d) rows *= shape[d];
    const Variable flat =
        reshape(x.value, x.mapped ? IntList{lanes, rows, inputs} : IntList{rows, inputs});
    shape[shape.size() - 1] = weight.value.shape().dim(1);
    y.value = reshape(matmul(flat, transpose(weight.value)), shape);
  }
  if (biased) {
    const int rank = own_rank(y);
    y.value = autograd::with_rank(y, rank) + autograd::with_rank(in[2], rank);
  }
  return activated(y.value, activation);
}

template struct Linear<false>;
template struct Linear<true>;

// ---- Cross-entropy ----

Tensor CrossEntropy::forward(const Tensor& logits) {
  const Tensor x = logits.contiguous();
  if (recorded && reduces()) gradient = allocate(x.shape(), x.type(), x.device());
  if (recorded && !reduces())
    stats = allocate(Shape{index.tensor.numel(), 2}, tensor::detail::at_least_float(x.type()),
                     x.device());
  Tensor loss = allocate(reduces() ? Shape() : index.tensor.shape(), x.type(), x.device());
  backend(x.device()).cross_entropy(loss, gradient, stats, x, index.tensor, options);
  return loss;
}

Tensor CrossEntropy::scaled_gradient(bool again, const Tensor& g) {
  if (gradient.type() == DataType::Float16 && options.reduction == LossReduction::Mean) {
    const Tensor counted = sum(ne(index.tensor, options.ignore_index));
    Tensor out = again ? gradient.clone() : std::move(gradient);
    out *= g.astype(DataType::Float32) / maximum(counted, 1);
    return out;
  }
  if (again) return gradient * g;
  Tensor out = std::move(gradient);
  backend(out.device()).scale(out, g);
  return out;
}

Tensor CrossEntropy::fused_gradient(const Tensor& logits, const Tensor& labels,
                                    const Tensor& g) const {
  const Tensor x = logits.contiguous();
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device()).cross_entropy_backward(out, g.contiguous(), stats, x, labels, options);
  return out;
}

Variable CrossEntropy::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  const Variable x = autograd::stacked(in[0], lanes), labels = autograd::stacked(in[1], lanes);
  CrossEntropyOptions each = options;
  each.reduction = LossReduction::None;
  const Variable losses = cross_entropy(x, labels.data(), each);
  const IntList axes = own_axes(losses);
  const auto total = [&](const Variable& v) { return axes.empty() ? v : sum(v, axes, false); };
  if (!reduces()) return losses;
  if (options.reduction == LossReduction::Sum) return total(losses);
  return total(losses) / total(astype(ne(labels, options.ignore_index), x.type()));
}

// ---- Normalisation ----

Tensor Normalize::run(const Tensor& x, const Tensor& residual, const Tensor& sum,
                      const Tensor& weight, const Tensor& bias) {
  const auto dense = [](const Tensor& t) { return t.defined() ? t.contiguous() : t; };
  stats = allocate(Shape{rows_of(x), 2}, tensor::detail::at_least_float(x.type()), x.device());
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device())
      .normalize(centered, out, sum, stats, dense(x), dense(residual), dense(weight), dense(bias),
                 eps);
  return out;
}

Tensor Normalize::forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return run(x, Tensor(), Tensor(), weight, bias);
}

std::pair<Tensor, Tensor> Normalize::forward_sum(const Tensor& x, const Tensor& residual,
                                                 const Tensor& weight, const Tensor& bias) {
  Tensor sum = allocate(x.shape(), x.type(), x.device());
  Tensor out = run(x, residual, sum, weight, bias);
  return {std::move(out), std::move(sum)};
}

void Normalize::fused_gradients(const Saves<Tensor>& s, const Tensor& g) const {
  Tensor out[3];
  const int count = s.pass.node().num_edges();
  const Tensor* const held = s.pass.wants(0) ? s.pass.pending(0, g.shape(), g.type()) : nullptr;
  for (int i = held ? 1 : 0; i < count; ++i)
    if (s.pass.wants(i)) out[i] = allocate(s.pass.shape(i), g.type(), g.device());
  backend(g.device())
      .normalize_backward(centered, {held ? held : &out[0], held != nullptr}, out[1], out[2],
                          g.contiguous(), stats, s.input(0).contiguous(), s.input(1).contiguous());
  for (int i = 0; i < count; ++i)
    if (out[i].defined()) s.pass.add(i, std::move(out[i]));
}

Variable Normalize::batch(std::span<const Mapped> in, std::int64_t) const {
  const bool biased = in.size() > 2;
  if (!in[1].mapped && !(biased && in[2].mapped))  // the lanes of x are so many more rows
    return biased ? apply(*this, in[0].value, in[1].value, in[2].value)
                  : apply(*this, in[0].value, in[1].value);
  const int rank = own_rank(in[0]);
  const Variable y = normal(in[0].value) * autograd::with_rank(in[1], rank);
  return biased ? y + autograd::with_rank(in[2], rank) : y;
}

std::pair<Tensor, Tensor> normalize_sum(Normalize norm, const Tensor& x, const Tensor& residual,
                                        const Tensor& weight, const Tensor& bias) {
  return norm.forward_sum(x, residual, weight, bias);
}

std::pair<Variable, Variable> normalize_sum(Normalize norm, const Variable& x,
                                            const Variable& residual, const Variable& weight,
                                            const Variable& bias) {
  if (autograd::autograd_thread.intercepted) {  // who looks on sees two ops
    Variable sum = x + residual;
    Variable y = bias.defined() ? apply(norm, sum, weight, bias) : apply(norm, sum, weight);
    return {std::move(y), std::move(sum)};
  }
  auto [y, added] = norm.forward_sum(x.data(), residual.data(), weight.data(), bias.data());
  Variable sum = autograd::record_sum(std::move(added), x, residual);
  const Variable* const inputs[] = {&sum, &weight, &bias};
  Variable out =
      autograd::record(std::move(norm), std::move(y), {inputs, bias.defined() ? 3u : 2u});
  return {std::move(out), std::move(sum)};
}

// ---- Dropout ----

Tensor Dropout::forward(const Tensor& x) const {
  Tensor out = allocate(x.shape(), x.type(), x.device());
  backend(x.device()).dropout(out, x.contiguous(), keep, seed, offset);
  return out;
}

Variable Dropout::batch(std::span<const Mapped> in, std::int64_t) const {
  const Variable& x = in[0].value;
  IntList own;
  for (int d = 1; d < x.ndim(); ++d) own.push_back(x.shape().dim(d));
  const Tensor kept = forward(tensor::ones(Shape(own), x.device(), x.type()));
  return where(Variable(tensor::ops::ne(kept, 0)), x * (keep > 0 ? 1 / keep : 0), 0);
}

}  // namespace lmp::table
