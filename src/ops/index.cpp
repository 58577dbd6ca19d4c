#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::detail::allocate;
using tensor::detail::backend;

Tensor ArgSort::forward(const Tensor& x, Tensor* values) const {
  IntList shape(x.shape());
  shape[static_cast<std::size_t>(axis)] = keep;
  Tensor order = allocate(Shape(shape), DataType::Int64, x.device());
  if (values) *values = allocate(order.shape(), x.type(), x.device());
  if (order.numel() > 0)
    backend(x.device()).argsort(order, values ? *values : Tensor(), x, axis, descending);
  return order;
}

Tensor IndexSelect::forward(const Tensor& x) const {
  IntList shape(x.shape());
  shape[static_cast<std::size_t>(axis)] = static_cast<std::int64_t>(index.tensor.numel());
  Tensor out = allocate(Shape(shape), x.type(), x.device());
  backend(x.device()).index_select(name, out, x, axis, index.tensor);
  return out;
}

Tensor IndexAdd::forward(const Tensor& x) const {
  Tensor out = tensor::zeros(whole, x.device(), x.type());
  backend(x.device()).index_add(name, out, axis, index.tensor, x);
  return out;
}

Tensor Gather::forward(const Tensor& x) const {
  Tensor out = allocate(index.tensor.shape(), x.type(), x.device());
  backend(x.device()).gather(name, out, x, axis, index.tensor);
  return out;
}

Tensor ScatterAdd::forward(const Tensor& x, const Tensor& source) const {
  Tensor out = Copy{name, x.type()}.forward(x);
  backend(x.device()).scatter(name, out, axis, index.tensor, source, true);
  return out;
}

Tensor Scatter::forward(const Tensor& x, const Tensor& source) const {
  Tensor out = Copy{name, x.type()}.forward(x);
  backend(x.device()).scatter(name, out, axis, index.tensor, source, false);
  return out;
}

Variable spread_index(const Variable& index, const Shape& shape, int axis) {
  IntList sizes{shape.dim(0)}, whole(shape);
  for (int d = 1; d < shape.ndim(); ++d)
    sizes.push_back(d == axis ? index.shape().dim(index.ndim() - 1) : 1);
  whole[static_cast<std::size_t>(axis)] = sizes[static_cast<std::size_t>(axis)];
  const bool lanes = index.ndim() == 2;
  if (!lanes) sizes[0] = 1;
  return broadcast_to(reshape(index, sizes), Shape(whole));
}

Variable IndexSelect::batch(std::span<const Mapped> in, std::int64_t) const {
  const auto& [x, at] = std::pair(in[0], in[1]);
  if (!at.mapped) return index_select(x.value, axis + 1, at.value.data());
  if (x.mapped)
    return gather(x.value, axis + 1, spread_index(at.value, x.value.shape(), axis + 1).data());
  // One look-up for all lanes.
  const Variable found = index_select(x.value, axis, flatten(at.value).data());
  IntList shape;
  for (int d = 0; d < x.value.ndim(); ++d) {
    if (d == axis) shape.push_back(at.value.shape().dim(0));
    shape.push_back(d == axis ? at.value.shape().dim(1) : x.value.shape().dim(d));
  }
  return movedim(reshape(found, shape), axis, 0);
}

Variable IndexAdd::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  const Shape all = in_lanes(whole, lanes);
  if (!in[1].mapped)
    return apply(IndexAdd{axis + 1, HeldIndex(in[1].value.data()), all}, in[0].value);
  const Variable x = autograd::stacked(in[0], lanes);
  const Variable zeros(tensor::zeros(all, x.device(), x.type()));
  return scatter_add(zeros, axis + 1, spread_index(in[1].value, x.shape(), axis + 1).data(), x);
}

Variable Gather::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  return gather(autograd::stacked(in[0], lanes), axis + 1, autograd::stacked(in[1], lanes).data());
}

Variable ScatterAdd::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  return scatter_add(autograd::stacked(in[0], lanes), axis + 1,
                     autograd::stacked(in[2], lanes).data(), autograd::stacked(in[1], lanes));
}

Variable Scatter::batch(std::span<const Mapped> in, std::int64_t lanes) const {
  return scatter(autograd::stacked(in[0], lanes), axis + 1, autograd::stacked(in[2], lanes).data(),
                 autograd::stacked(in[1], lanes));
}

}  // namespace lmp::table
