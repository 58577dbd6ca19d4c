#pragma once

#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "lamppp/error.hpp"
#include "lamppp/export.hpp"
#include "lamppp/tensor/data_type.hpp"
#include "lamppp/tensor/device_type.hpp"
#include "lamppp/tensor/number.hpp"
#include "lamppp/tensor/shape.hpp"
#include "lamppp/tensor/storage.hpp"

/// Tensors and what computes with them; nothing here knows of gradients.
namespace lmp::tensor {

/// An open or closed bound of a slice.
using Bound = std::optional<std::int64_t>;

/// An n-dimensional array of one type on one device: memory that copies and views share, plus a
/// shape, strides and a type. A Tensor is a handle, so `const` says nothing about the elements. Up
/// to 8 dimensions; 0-dimensional (one element, shape `()`) and zero-size tensors are ordinary
/// values. A default-constructed or moved-from tensor is undefined: every operation on it throws.
class LMP_API Tensor {
 public:
  /// Undefined: every operation on it throws.
  Tensor() = default;

  /// Copies `data` (row-major) into a tensor of `shape`, converted to `type`.
  /// Throws ShapeError where their sizes differ.
  template <Element T>
  Tensor(const std::vector<T>& data, const Shape& shape, Device device = DeviceType::CPU,
         DataType type = kDataTypeOf<T>)
      : Tensor(Raw{}, data, shape, device, type) {}
  /// The same from a span.
  template <class T, std::size_t N>
  requires Element<std::remove_const_t<T>> Tensor(
      std::span<T, N> data, const Shape& shape, Device device = DeviceType::CPU,
      DataType type = kDataTypeOf<std::remove_const_t<T>>)
      : Tensor(data.data(), data.size(), kDataTypeOf<std::remove_const_t<T>>, shape, device, type) {
  }
  /// The same from a braced list of one arithmetic type: `{1, 2}` makes Int32, `{1.0}` Float64,
  /// `{1.0f}` Float32. The shape is not optional; nested braces go through autograd::tensor or
  /// nested vectors.
  template <Element T>
  explicit Tensor(std::initializer_list<T> data, const Shape& shape,
                  Device device = DeviceType::CPU, DataType type = kDataTypeOf<T>)
      : Tensor(data.begin(), data.size(), kDataTypeOf<T>, shape, device, type) {}
  /// A matrix from nested vectors. Throws ShapeError where the rows differ in length.
  template <Element T>
  explicit Tensor(const std::vector<std::vector<T>>& rows, Device device = DeviceType::CPU,
                  DataType type = kDataTypeOf<T>) {
    std::vector<T> flat;
    const std::size_t columns = rows.empty() ? 0 : rows.front().size();
    for (const auto& row : rows) {
      if (row.size() != columns) ragged();
      flat.insert(flat.end(), row.begin(), row.end());
    }
    *this = Tensor(flat, Shape{rows.size(), columns}, device, type);
  }
  /// A 3-dimensional tensor from nested vectors. Throws ShapeError where they are ragged.
  template <Element T>
  explicit Tensor(const std::vector<std::vector<std::vector<T>>>& blocks,
                  Device device = DeviceType::CPU, DataType type = kDataTypeOf<T>) {
    std::vector<std::vector<T>> rows;
    const std::size_t height = blocks.empty() ? 0 : blocks.front().size();
    for (const auto& block : blocks) {
      if (block.size() != height) ragged();
      rows.insert(rows.end(), block.begin(), block.end());
    }
    const Tensor matrix(rows, device, type);
    *this = matrix.reshape(Shape{blocks.size(), height, matrix.shape().back()});
  }

  /// A copy shares the memory; clone() copies it.
  Tensor(const Tensor&) = default;
  /// Leaves `other` undefined.
  Tensor(Tensor&& other) noexcept
      : storage_(std::move(other.storage_)),
        data_(std::exchange(other.data_, nullptr)),
        shape_(std::move(other.shape_)),
        strides_(std::move(other.strides_)),
        type_(other.type_),
        contiguous_(std::exchange(other.contiguous_, false)) {
    other.shape_.clear();
  }
  /// Rebinds this handle; lvalues only, so that `select(x, 0, 1) = t` does not compile (write
  /// `select(x, 0, 1).copy(t)`).
  Tensor& operator=(const Tensor&) & = default;
  /// Rebinds this handle; lvalues only.
  Tensor& operator=(Tensor&& other) & noexcept {
    if (this == &other) return *this;
    storage_ = std::move(other.storage_);
    data_ = std::exchange(other.data_, nullptr);
    shape_ = other.shape_;
    strides_ = other.strides_;
    type_ = other.type_;
    contiguous_ = std::exchange(other.contiguous_, false);
    other.shape_.clear();
    return *this;
  }
  ~Tensor() = default;

  /// False for a default-constructed or moved-from tensor.
  bool defined() const noexcept { return static_cast<bool>(storage_); }
  /// The type of the elements.
  DataType type() const noexcept { return type_; }
  /// Where the memory is.
  Device device() const noexcept { return storage_ ? storage_->device : Device{}; }
  /// The sizes of the dimensions, outermost first.
  const Shape& shape() const& noexcept { return shape_; }
  /// The same of a temporary.
  Shape shape() && noexcept { return shape_; }
  /// Steps between neighbours along each dimension, in elements; may be 0 (expanded) or negative.
  const IntList& strides() const& noexcept { return strides_; }
  /// The same of a temporary.
  IntList strides() && noexcept { return strides_; }
  /// Number of dimensions.
  int ndim() const noexcept { return shape_.ndim(); }
  /// Number of elements; 0 where undefined.
  std::size_t numel() const noexcept { return storage_ ? shape_.numel() : 0; }
  /// The size of one dimension; negative axes count from the end. Throws IndexError out of range.
  std::size_t size(int axis) const;
  /// True where the elements lie densely in row-major order.
  bool is_contiguous() const noexcept { return contiguous_; }
  /// True where both share the same memory.
  bool shares_storage(const Tensor& other) const noexcept {
    return storage_ && storage_.get() == other.storage_.get();
  }
  /// Counts in-place writes to the memory, through any handle or view.
  std::uint32_t version() const noexcept {
    return storage_ ? storage_->version.load(std::memory_order_relaxed) : 0;
  }

  /// The first element's address. Elements follow strides(). Of a copy from a GPU, waits until it
  /// has arrived; throws as lmp::cuda::synchronize() does, and DeviceError inside Graph::capture().
  void* data() const {
    if (storage_ && storage_->arriving.load(std::memory_order_acquire)) [[unlikely]]
      detail::arrive(*storage_.get());
    return data_;
  }
  /// The first element's address as T. Throws TypeError where T is not the element type.
  template <Element T>
  T* data() const {
    check_type(kDataTypeOf<T>, "data<T>()");
    return static_cast<T*>(data());
  }
  /// All elements in row-major order, converted to T (as astype does), from any device.
  template <Element T>
  std::vector<T> to_vector() const {
    if constexpr (std::is_same_v<T, bool>) {
      const std::vector<unsigned char> bytes =
          astype(DataType::Bool).template copy_out<unsigned char>();
      return std::vector<bool>(bytes.begin(), bytes.end());
    } else {
      return astype(kDataTypeOf<T>).template copy_out<T>();
    }
  }
  /// The element at `indices`, one for each dimension; negative ones count from the end.
  /// Throws IndexError for another number of indices or one out of range.
  Scalar index(const IntList& indices) const;
  /// The only element. Throws ShapeError where there is not exactly one.
  Scalar item() const;
  /// The only element, exactly. Throws TypeError where T is not the element type.
  template <Element T>
  T item() const {
    check_type(kDataTypeOf<T>, "item<T>()");
    T value;
    copy_item(&value);
    return value;
  }

  /// Writes `other` into this tensor, through views into their base: cast to this type and
  /// broadcast to this shape. Throws ShapeError where it does not broadcast. Returns this tensor.
  const Tensor& copy(const Tensor& other) const;
  /// Writes one number into every element, through views into their base: a float is cast to this
  /// type. Throws ValueError for an integer that this type does not have.
  const Tensor& fill(Number value) const;
  /// In place, through views into their base. The result keeps this type: throws TypeError where
  /// the operation would need a wider category (Int32 += 0.5), ShapeError where `other` does not
  /// broadcast to this shape or this tensor is expanded (its elements share memory).
  const Tensor& operator+=(const Tensor& other) const;
  /// In place; see operator+=.
  const Tensor& operator-=(const Tensor& other) const;
  /// In place; see operator+=.
  const Tensor& operator*=(const Tensor& other) const;
  /// In place; see operator+=.
  const Tensor& operator/=(const Tensor& other) const;
  /// In place; see operator+=.
  const Tensor& operator+=(Number other) const;
  /// In place; see operator+=.
  const Tensor& operator-=(Number other) const;
  /// In place; see operator+=.
  const Tensor& operator*=(Number other) const;
  /// In place; see operator+=.
  const Tensor& operator/=(Number other) const;

#define LMP_T Tensor
#define LMP_SITE
#define LMP_ONLY_SITE
#define LMP_LOCATED(T) const T&
#include "lamppp/tensor/members.inc"
#undef LMP_LOCATED
#undef LMP_ONLY_SITE
#undef LMP_SITE
#undef LMP_T

  /// Wraps memory that someone else owns, row-major. `deleter(data)` runs when the last tensor that
  /// shares the memory goes; without one the memory has to outlive them all.
  static Tensor from_blob(void* data, const Shape& shape, DataType type,
                          Device device = DeviceType::CPU) {
    return adopt(data, shape, nullptr, type, device, nullptr, nullptr);
  }
  /// The same with a deleter.
  template <std::invocable<void*> Deleter>
  static Tensor from_blob(void* data, const Shape& shape, DataType type, Deleter deleter,
                          Device device = DeviceType::CPU) {
    return adopt(data, shape, nullptr, type, device, std::move(deleter));
  }
  /// The same with strides in elements.
  template <std::invocable<void*> Deleter>
  static Tensor from_blob(void* data, const Shape& shape, const IntList& strides, DataType type,
                          Deleter deleter, Device device = DeviceType::CPU) {
    return adopt(data, shape, &strides, type, device, std::move(deleter));
  }

 private:
  friend struct TensorAccess;
  struct Raw {};
  Tensor(const void* data, std::size_t count, DataType from, const Shape& shape, Device device,
         DataType type);
  template <class T>
  Tensor(Raw, const std::vector<T>& data, const Shape& shape, Device device, DataType type) {
    if constexpr (std::is_same_v<T, bool>) {
      const std::vector<unsigned char> bytes(data.begin(), data.end());
      *this = Tensor(bytes.data(), bytes.size(), DataType::Bool, shape, device, type);
    } else {
      *this = Tensor(data.data(), data.size(), kDataTypeOf<T>, shape, device, type);
    }
  }
  template <class Deleter>
  static void run_deleter(void* data, void* context) {
    Deleter* deleter = static_cast<Deleter*>(context);
    (*deleter)(data);
    delete deleter;
  }
  static Tensor adopt(void* data, const Shape& shape, const IntList* strides, DataType type,
                      Device device, void (*deleter)(void*, void*), void* context);
  template <class Deleter>
  static Tensor adopt(void* data, const Shape& shape, const IntList* strides, DataType type,
                      Device device, Deleter deleter) {
    auto context = std::make_unique<Deleter>(std::move(deleter));
    Tensor made = adopt(data, shape, strides, type, device, &run_deleter<Deleter>, context.get());
    context.release();  // the storage's now
    return made;
  }
  template <class T>
  std::vector<T> copy_out() const {
    std::vector<T> values(numel());
    copy_elements(values.data());
    return values;
  }
  void copy_elements(void* out) const;
  void copy_item(void* out) const;
  void check_type(DataType asked, const char* what) const {
    if (asked != type_ || !storage_ || storage_->access == detail::Access::None)
      wrong_type(asked, what);
  }
  [[noreturn]] void wrong_type(DataType asked, const char* what) const;
  [[noreturn]] static void ragged();

  detail::StorageRef storage_;
  std::byte* data_ = nullptr;
  Shape shape_;
  IntList strides_;
  DataType type_ = DataType::Float32;
  bool contiguous_ = false;
};

/// Prints like NumPy: nested brackets, aligned columns, at least one decimal for floats, shortened
/// with
/// ... above 1,000 elements; the type and shape follow for anything but Float32.
LMP_API std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

}  // namespace lmp::tensor
