#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iosfwd>
#include <vector>

#include "lamppp/export.hpp"

namespace lmp::tensor {

/// The most dimensions a tensor has.
inline constexpr int kMaxDims = 8;

namespace detail {
/// Room for kMaxDims entries of which some are in use. Clearing the rest would double the cost of a
/// Tensor; copying them unread is what the compiler may take for a mistake.
template <class T>
struct Slots {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
  Slots() noexcept {}
  Slots(const Slots& other) noexcept { std::memcpy(at, other.at, sizeof(at)); }
  Slots& operator=(const Slots& other) noexcept {
    if (this != &other) std::memcpy(at, other.at, sizeof(at));
    return *this;
  }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
  T& operator[](std::size_t i) noexcept { return at[i]; }
  const T& operator[](std::size_t i) const noexcept { return at[i]; }
  T at[kMaxDims];
};
}  // namespace detail

/// One integer of a braced list, of any integer type: what lets `{n, 3}` mix int and size_t.
struct Dim {
  std::int64_t value;  ///< the integer
  /// Any integer converts.
  template <std::integral I>
  constexpr Dim(I v) noexcept : value(static_cast<std::int64_t>(v)) {}
};

class Shape;

/// Up to 8 integers without a heap: axes, strides, permutations, the target of a reshape. Made from
/// one integer, a braced list of integers of any types mixed, a vector of integers, or a Shape.
class LMP_API IntList {
 public:
  /// Empty.
  IntList() = default;
  /// `{2, n, -1}`.
  IntList(std::initializer_list<Dim> values);
  /// One integer; a bool is not one.
  template <std::integral I>
  requires(!std::same_as<I, bool>) IntList(I value)
  noexcept : size_(1) { values_[0] = static_cast<std::int64_t>(value); }
  /// The integers of a vector. Throws ShapeError beyond 8.
  template <std::integral I>
  IntList(const std::vector<I>& values) {
    for (I v : values) push_back(static_cast<std::int64_t>(v));
  }
  /// The sizes of a shape.
  IntList(const Shape& shape) noexcept;

  /// How many there are.
  std::size_t size() const noexcept { return size_; }
  /// True without entries.
  bool empty() const noexcept { return size_ == 0; }
  /// Entry i, unchecked.
  std::int64_t operator[](std::size_t i) const noexcept { return values_[i]; }
  /// Entry i, unchecked.
  std::int64_t& operator[](std::size_t i) noexcept { return values_[i]; }
  /// The first entry.
  const std::int64_t* begin() const noexcept { return values_.at; }
  /// Behind the last entry.
  const std::int64_t* end() const noexcept { return values_.at + size_; }
  /// The first entry.
  std::int64_t* begin() noexcept { return values_.at; }
  /// Behind the last entry.
  std::int64_t* end() noexcept { return values_.at + size_; }
  /// Throws ShapeError beyond 8 entries.
  void push_back(std::int64_t value) {
    if (size_ == kMaxDims) too_many();
    values_[size_++] = value;
  }

  /// The same entries.
  friend bool operator==(const IntList& a, const IntList& b) noexcept {
    if (a.size_ != b.size_) return false;
    for (std::size_t i = 0; i < a.size_; ++i)
      if (a.values_[i] != b.values_[i]) return false;
    return true;
  }

 private:
  [[noreturn]] static void too_many();
  detail::Slots<std::int64_t> values_;
  std::uint8_t size_ = 0;
};

/// The sizes of a tensor's dimensions, outermost first; up to 8, without a heap. Made from a braced
/// list of integers of any types mixed, or from a vector of integers. Throws ShapeError on a
/// negative size, on more than 8 dimensions, and where the number of elements overflows.
class LMP_API Shape {
 public:
  /// As in a container.
  using value_type = std::size_t;
  /// As in a container.
  using const_iterator = const std::size_t*;
  /// As in a container.
  using iterator = const_iterator;
  /// As in a container.
  using size_type = std::size_t;

  /// No dimensions: the shape of a single element.
  Shape() = default;
  /// `{2, n}`, of any integer types.
  Shape(std::initializer_list<Dim> sizes);
  /// The sizes in a vector.
  template <std::integral I>
  Shape(const std::vector<I>& sizes) : Shape(IntList(sizes)) {}
  /// The sizes in a list.
  Shape(const IntList& sizes);

  /// Number of dimensions.
  std::size_t size() const noexcept { return size_; }
  /// Number of dimensions, signed.
  int ndim() const noexcept { return size_; }
  /// True for 0 dimensions.
  bool empty() const noexcept { return size_ == 0; }
  /// Drops all dimensions.
  void clear() noexcept { size_ = 0; }
  /// The size of dimension i, unchecked.
  std::size_t operator[](std::size_t i) const noexcept { return sizes_[i]; }
  /// The size of dimension i as a signed number, unchecked.
  std::int64_t dim(int i) const noexcept { return static_cast<std::int64_t>(sizes_.at[i]); }
  /// The size of the first dimension.
  const std::size_t* begin() const noexcept { return sizes_.at; }
  /// Behind the size of the last dimension.
  const std::size_t* end() const noexcept { return sizes_.at + size_; }
  /// The outermost size; not for 0 dimensions.
  std::size_t front() const noexcept { return sizes_[0]; }
  /// The innermost size; not for 0 dimensions.
  std::size_t back() const noexcept { return sizes_[size_ - 1]; }
  /// Product of the sizes; 1 for no dimensions.
  std::size_t numel() const noexcept {
    std::size_t n = 1;
    for (std::size_t i = 0; i < size_; ++i) n *= sizes_[i];
    return n;
  }

  /// The same sizes.
  friend bool operator==(const Shape& a, const Shape& b) noexcept {
    if (a.size_ != b.size_) return false;
    for (std::size_t i = 0; i < a.size_; ++i)
      if (a.sizes_[i] != b.sizes_[i]) return false;
    return true;
  }
  /// Compares with any vector of integers.
  template <std::integral I>
  friend bool operator==(const Shape& a, const std::vector<I>& b) noexcept {
    if (a.size_ != b.size()) return false;
    for (std::size_t i = 0; i < a.size_; ++i)
      if (a.sizes_[i] != static_cast<std::size_t>(b[i])) return false;
    return true;
  }

 private:
  detail::Slots<std::size_t> sizes_;
  std::uint8_t size_ = 0;
};

inline IntList::IntList(const Shape& shape) noexcept
    : size_(static_cast<std::uint8_t>(shape.size())) {
  for (std::size_t i = 0; i < size_; ++i) values_[i] = static_cast<std::int64_t>(shape[i]);
}

/// "(2, 3)".
LMP_API std::ostream& operator<<(std::ostream& out, const Shape& shape);
/// "(2, -1)".
LMP_API std::ostream& operator<<(std::ostream& out, const IntList& list);

}  // namespace lmp::tensor
