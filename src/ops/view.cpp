#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

using tensor::TensorAccess;
using tensor::detail::backend;

ViewSpec ViewSpec::all(const Shape& input) {
  ViewSpec spec;
  spec.shape = input;
  for (int d = 0; d < input.ndim(); ++d) spec.source[d].axis[0] = static_cast<std::int8_t>(d);
  return spec;
}

Tensor ViewSpec::view(const Tensor& x) const {
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < x.shape().size(); ++d) offset += start[d] * x.strides()[d];
  IntList strides;
  for (int d = 0; d < shape.ndim(); ++d) {
    std::int64_t stride = 0;
    for (const std::int8_t axis : source[d].axis)
      if (axis >= 0) stride += source[d].step * x.strides()[static_cast<std::size_t>(axis)];
    strides.push_back(stride);
  }
  return TensorAccess::view(x, shape.numel() == 0 ? 0 : offset, shape, strides);
}

bool ViewSpec::invert(const Shape& input, ViewSpec& back) const {
  back = ViewSpec::all(input);
  for (int i = 0; i < input.ndim(); ++i) back.source[i].axis[0] = -1;
  for (int d = 0; d < shape.ndim(); ++d) {
    const std::int8_t axis = source[d].axis[0];
    if (source[d].axis[1] >= 0) return false;
    if (axis < 0) {
      if (shape.dim(d) != 1) return false;
      continue;
    }
    if (shape.dim(d) != input.dim(axis) || std::abs(source[d].step) != 1) return false;
    back.source[axis] = {{static_cast<std::int8_t>(d), -1}, source[d].step};
    back.start[d] = source[d].step < 0 ? input.dim(axis) - 1 : 0;
  }
  for (int i = 0; i < input.ndim(); ++i)
    if (back.source[i].axis[0] < 0 && input.dim(i) != 1) return false;
  return true;
}

ViewSpec ViewSpec::shifted(std::int64_t lanes) const {
  ViewSpec spec;
  spec.shape = in_lanes(shape, lanes);
  spec.source[0].axis[0] = 0;
  for (int d = 0; d + 1 < tensor::kMaxDims; ++d) {
    spec.start[d + 1] = start[d];
    spec.source[d + 1] = source[d];
    for (std::int8_t& axis : spec.source[d + 1].axis)
      if (axis >= 0) ++axis;
  }
  return spec;
}

Tensor Embed::forward(const Tensor& x) const {
  Tensor out = tensor::detail::allocate(whole, x.type(), x.device());
  const auto put = [&](const Tensor& part) { backend(x.device()).fill(part, value); };
  // Around a block only what is outside of it is filled.
  bool block = whole.ndim() == spec.shape.ndim();
  for (int d = 0; block && d < whole.ndim(); ++d)
    block = spec.source[d].axis[0] == d && spec.source[d].axis[1] < 0 && spec.source[d].step == 1;
  if (!block) put(out);
  Tensor rest = out;
  for (int d = 0; block && d < whole.ndim(); ++d) {
    const std::int64_t start = spec.start[d], length = spec.shape.dim(d);
    put(narrow(rest, d, 0, start));
    put(narrow(rest, d, start + length, whole.dim(d) - start - length));
    rest = narrow(rest, d, start, length);
  }
  backend(x.device()).copy(spec.view(out), x);
  return out;
}

Tensor Reshape::forward(const Tensor& x) const {
  if (x.is_contiguous())
    return TensorAccess::view(x, 0, shape, tensor::detail::dense_strides(shape));
  // Axes of the result are split off groups of input axes that run on; where one would straddle a
  // gap, only a copy has that shape.
  IntList strides(shape);
  int d = x.ndim() - 1, out = shape.ndim() - 1;
  if (x.numel() > 0) {
    while (d >= 0) {
      std::int64_t group = x.shape().dim(d);
      const std::int64_t inner = x.strides()[static_cast<std::size_t>(d)];
      while (d > 0 && (x.shape().dim(d - 1) == 1 ||
                       x.strides()[static_cast<std::size_t>(d - 1)] == inner * group)) {
        group *= x.shape().dim(--d);
      }
      std::int64_t made = 1;
      while (out >= 0 && (made < group || shape.dim(out) == 1)) {
        strides[static_cast<std::size_t>(out)] = made * inner;
        made *= shape.dim(out--);
      }
      if (made != group) return Reshape{shape}.forward(x.contiguous());
      --d;
    }
    for (; out >= 0; --out) strides[static_cast<std::size_t>(out)] = 0;
  }
  return TensorAccess::view(x, 0, shape, strides);
}

Tensor BroadcastTo::forward(const Tensor& x) const {
  return TensorAccess::view(x, 0, shape,
                            tensor::detail::broadcast_strides(x.shape(), x.strides(), shape));
}

Tensor Copy::forward(const Tensor& x) const {
  Tensor out = tensor::detail::allocate(x.shape(), type, x.device());
  backend(x.device()).copy(out, x);
  return out;
}

Tensor ToDevice::forward(const Tensor& x) const {
  const Tensor dense = x.contiguous();
  const std::size_t bytes = dense.numel() * tensor::size_of(dense.type());
  Tensor out = tensor::detail::allocate(dense.shape(), dense.type(), device);
  if (device.type == tensor::DeviceType::CPU)
    backend(from).fetch(out, dense, bytes);
  else if (from.type != tensor::DeviceType::CPU)
    backend(device).copy(out, dense);
  else
    backend(device).upload(out, dense.data(), bytes);
  return out;
}

Tensor Cat::forward(const std::vector<Tensor>& list) const {
  IntList shape(list.front().shape());
  const auto a = static_cast<std::size_t>(axis);
  shape[a] = 0;
  for (const Tensor& t : list) shape[a] += t.shape().dim(axis);
  Tensor out = tensor::detail::allocate(Shape(shape), list.front().type(), list.front().device());
  backend(out.device()).cat(out, list, axis);
  return out;
}

}  // namespace lmp::table
