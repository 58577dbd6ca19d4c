#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::detail::allocate;
using tensor::detail::backend;

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

Tensor Scatter::winners(const Shape& whole, DataType type) const {
  const Tensor& at = index.tensor;
  const Tensor order =
      tensor::arange(0, static_cast<std::int64_t>(at.numel()), 1, at.device()).reshape(at.shape());
  const Tensor last =
      tensor::ops::scatter(tensor::zeros(whole, at.device(), DataType::Int64), axis, at, order);
  return tensor::ops::eq(tensor::ops::gather(last, axis, at), order).astype(type);
}

}  // namespace lmp::table
