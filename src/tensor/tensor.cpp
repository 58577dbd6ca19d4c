#include "lamppp/tensor/tensor.hpp"

#include <memory>

#include "lamppp/tensor/ops.hpp"
#include "ops/pointwise_run.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"
#include "tensor/format.hpp"

namespace lmp::tensor {

using detail::concat;

Tensor::Tensor(const void* data, std::size_t count, DataType from, const Shape& shape,
               Device device, DataType type) {
  if (shape.numel() != count)
    throw ShapeError(concat("tensor: ", count, " values do not fill shape ", shape, ", which has ",
                            shape.numel(), " elements"));
  Tensor host = detail::allocate(shape, from, DeviceType::CPU);
  detail::backend(DeviceType::CPU).upload(host, data, count * size_of(from));
  *this = host.astype(type).to(device);
}

Tensor Tensor::adopt(void* data, const Shape& shape, const IntList* strides, DataType type,
                     Device device, void (*deleter)(void*, void*), void* context) {
  if (strides && strides->size() != shape.size())
    throw ShapeError(concat("from_blob: ", strides->size(), " strides for shape ", shape));
  if (!data && shape.numel() != 0)
    throw ValueError(concat("from_blob: null data for shape ", shape));
  detail::backend(device);
  auto storage = std::make_unique<detail::Storage>();
  storage->data = static_cast<std::byte*>(data);
  storage->bytes = shape.numel() * size_of(type);
  storage->device = device;
  storage->deleter = [](void*, void*) {};
  detail::Storage& owner = *storage;
  const Tensor base = TensorAccess::make(detail::StorageRef(storage.release()),
                                         static_cast<std::byte*>(data), {}, {}, type, true);
  Tensor made =
      TensorAccess::view(base, 0, shape, strides ? *strides : detail::dense_strides(shape));
  // Only now: after an exception the memory is still the caller's.
  if (deleter) {
    owner.deleter = deleter;
    owner.context = context;
  }
  return made;
}

std::size_t Tensor::size(int axis) const {
  return shape_[static_cast<std::size_t>(detail::normalize_axis("size", axis, ndim()))];
}

void Tensor::wrong_type(DataType asked, const char* what) const {
  detail::check_defined(what, *this);
  throw TypeError(concat(what, ": the tensor holds ", type_, ", not ", asked,
                         "; convert with astype(), or read with to_vector<T>()"));
}

void Tensor::ragged() {
  throw ShapeError("tensor: nested vectors of different lengths; each level has to be even");
}

void Tensor::copy_elements(void* out) const {
  const Tensor dense = contiguous();
  detail::backend(device()).download(out, dense, numel() * size_of(type_));
}

void Tensor::copy_item(void* out) const {
  if (numel() != 1)
    throw ShapeError(concat("item: the tensor has ", numel(), " elements, shape ", shape_,
                            "; index({...}) reads one of several"));
  copy_elements(out);
}

Scalar Tensor::item() const {
  detail::check_defined("item", *this);
  Scalar value;
  astype(DataType::Float64).copy_item(&value);
  return value;
}

Scalar Tensor::index(const IntList& indices) const {
  detail::check_defined("index", *this);
  if (indices.size() != shape_.size())
    throw IndexError(concat("index: ", indices.size(), " indices for shape ", shape_,
                            "; give one for each dimension"));
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < indices.size(); ++d) {
    const auto size = static_cast<std::int64_t>(shape_[d]);
    if (indices[d] < -size || indices[d] >= size)
      throw IndexError(concat("index: ", indices[d], " is out of range for axis ", d, " of size ",
                              size, " in shape ", shape_));
    offset += (indices[d] < 0 ? indices[d] + size : indices[d]) * strides_[d];
  }
  return TensorAccess::view(*this, offset, {}, {}).item();
}

namespace {

void check_writable(const char* op, const Tensor& x) {
  if (x.defined() && TensorAccess::storage(x)->access != detail::Access::Full)
    throw AutogradError(
        concat(op,
               ": a value that jvp or vmap computes cannot be written in place; compute a new one "
               "with operations on Variables, x = x + y"));
  detail::check_defined(op, x);
  if (detail::has_internal_overlap(x))
    throw ShapeError(concat(op, ": elements of this view of shape ", x.shape(), " with strides ",
                            x.strides(),
                            " share memory, so it cannot be written in place; clone() it first"));
}

// Memory under another storage's name, of a value inside a transform: it may overlap with any
// other.
bool is_alias(const Tensor& x) { return TensorAccess::storage(x)->access != detail::Access::Full; }

bool same_layout(const Tensor& a, const Tensor& b) {
  return a.data() == b.data() && a.type() == b.type() && a.shape() == b.shape() &&
         a.strides() == b.strides();
}

}  // namespace

const Tensor& Tensor::copy(const Tensor& other) const {
  check_writable("copy", *this);
  detail::check_defined("copy", other);
  if (!detail::broadcasts_to(other.shape_, shape_))
    throw ShapeError(concat("copy: shape ", other.shape_, " does not broadcast to ", shape_));
  if (same_layout(*this, other)) return *this;
  Tensor from = other.to(device());
  if (shares_storage(from) || is_alias(from)) from = from.clone();
  TensorAccess::bump_version(*this);
  detail::backend(device()).copy(*this, from.broadcast_to(shape_));
  return *this;
}

const Tensor& Tensor::fill(Number value) const {
  check_writable("fill", *this);
  ops::check_number_fits("fill", value, type_);
  TensorAccess::bump_version(*this);
  detail::backend(device()).fill(*this, value);
  return *this;
}

namespace {

const Tensor& in_place(lmp::table::OpId op, const char* name, const Tensor& x,
                       detail::Operand other) {
  check_writable(name, x);
  Tensor separate;
  if (other.tensor) {
    detail::check_defined(name, *other.tensor);
    if (!detail::broadcasts_to(other.tensor->shape(), x.shape()))
      throw ShapeError(concat(name, ": shape ", other.tensor->shape(), " does not broadcast to ",
                              x.shape(), ", the shape that is written"));
    if (is_alias(*other.tensor) ||
        (x.shares_storage(*other.tensor) && !same_layout(x, *other.tensor))) {
      separate = other.tensor->clone();
      other.tensor = &separate;
    }
  }
  const detail::Operand operands[2] = {x, other};
  ops::pointwise_into(op, name, x, operands, 2);
  return x;
}

}  // namespace

#define LMP_IN_PLACE(symbol, Op)                                     \
  const Tensor& Tensor::operator symbol(const Tensor& other) const { \
    return in_place(lmp::table::OpId::Op, #symbol, *this, other);    \
  }                                                                  \
  const Tensor& Tensor::operator symbol(Number other) const {        \
    return in_place(lmp::table::OpId::Op, #symbol, *this, other);    \
  }
LMP_IN_PLACE(+=, Add)
LMP_IN_PLACE(-=, Sub)
LMP_IN_PLACE(*=, Mul)
LMP_IN_PLACE(/=, Div)
#undef LMP_IN_PLACE

}  // namespace lmp::tensor
