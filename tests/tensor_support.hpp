#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "lamppp/lamppp.hpp"

/// What the tests of tensors share: arrays of double, read and computed without the library's own
/// iteration, to compare with.
namespace lmp::plain {

using Index = std::vector<std::int64_t>;
using Rng = std::mt19937;

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInf = std::numeric_limits<double>::infinity();

inline constexpr DataType kAllTypes[] = {
    DataType::Bool,  DataType::UInt8,   DataType::Int8,     DataType::Int16,   DataType::Int32,
    DataType::Int64, DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64};

inline std::size_t pick(Rng& rng, std::size_t below) { return rng() % below; }

template <class T>
T read(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline double element(const void* from, DataType type) {
  switch (type) {
    case DataType::Bool: return read<bool>(from);
    case DataType::UInt8: return read<unsigned char>(from);
    case DataType::Int8: return read<std::int8_t>(from);
    case DataType::Int16: return read<std::int16_t>(from);
    case DataType::Int32: return read<std::int32_t>(from);
    case DataType::Int64: return static_cast<double>(read<std::int64_t>(from));
    case DataType::Float16: return read<Half>(from);
    case DataType::BFloat16: return read<BFloat16>(from);
    case DataType::Float32: return read<float>(from);
    case DataType::Float64: break;
  }
  return read<double>(from);
}

/// What is left of `value` in an element of `type`, which has to be able to hold it.
inline double rounded(double value, DataType type) {
  switch (type) {
    case DataType::Float16: return Half(static_cast<float>(value));
    case DataType::BFloat16: return BFloat16(static_cast<float>(value));
    case DataType::Float32: return static_cast<float>(value);
    default: return value;
  }
}

/// Relative and absolute at once; those of PyTorch's tests, where they are not tighter than our results.
inline double tolerance(DataType type) {
  switch (type) {
    case DataType::Float16: return 1e-3;
    case DataType::BFloat16: return 1e-2;
    case DataType::Float32: return 1e-6;
    case DataType::Float64: return 1e-13;
    default: return 0;
  }
}

/// All positions of a shape in row-major order.
inline std::vector<Index> indices_of(const Shape& shape) {
  std::vector<Index> all;
  Index at(shape.size(), 0);
  for (std::size_t n = shape.numel(); n > 0; --n) {
    all.push_back(at);
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (++at[d] < static_cast<std::int64_t>(shape[d])) break;
      at[d] = 0;
    }
  }
  return all;
}

struct Array {
  Shape shape;
  std::vector<double> data;

  double operator[](const Index& at) const {
    std::size_t flat = 0;
    for (std::size_t d = 0; d < shape.size(); ++d) flat = flat * shape[d] + static_cast<std::size_t>(at[d]);
    return data[flat];
  }
  std::int64_t dim(int d) const { return shape.dim(d); }
  int ndim() const { return shape.ndim(); }
};

inline Array build(const Shape& shape, const std::function<double(const Index&)>& value) {
  Array out{shape, {}};
  for (const Index& at : indices_of(shape)) out.data.push_back(value(at));
  return out;
}

inline Array array_of(const Tensor& t) {
  return build(t.shape(), [&](const Index& at) {
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < at.size(); ++d) offset += at[d] * t.strides()[d];
    return element(static_cast<const char*>(t.data()) + offset * static_cast<std::int64_t>(size_of(t.type())),
                   t.type());
  });
}

inline std::vector<double> values(const Tensor& t) { return array_of(t).data; }

inline Tensor tensor_of(const Array& array, DataType type) {
  return Tensor(array.data, array.shape, DeviceType::CPU, type);
}

/// Small numbers that every type holds: sums of a few thousand are exact in a float.
inline Tensor draw(Rng& rng, const Shape& shape, DataType type) {
  return tensor_of(build(shape,
                         [&](const Index&) {
                           const double n = static_cast<double>(pick(rng, 17));
                           if (type == DataType::Bool) return static_cast<double>(pick(rng, 2));
                           if (type == DataType::UInt8) return n;
                           return is_floating(type) ? (n - 8) / 4 : n - 8;
                         }),
                   type);
}

inline const char* const kLayouts[] = {"contiguous", "transposed", "stepped", "reversed", "offset", "expanded"};

/// x in memory that is laid out in another way. "expanded" alone changes what it holds: the first entry
/// along each of the first two axes, repeated.
inline Tensor in_layout(const std::string& layout, const Tensor& x) {
  const int n = x.ndim();
  Index axes, doubled;
  for (int d = 0; d < n; ++d) {
    axes.push_back(n - 1 - d);
    doubled.push_back(2 * x.shape().dim(d));
  }
  if (layout == "transposed") return x.permute(axes).clone().permute(axes);
  if (layout == "reversed") return x.flip(axes).clone().flip(axes);
  if (layout == "stepped") {
    Tensor view = lmp::full(doubled, 1, x.device(), x.type());
    for (int d = 0; d < n; ++d) view = view.slice(d, 1, std::nullopt, 2);
    view.copy(x);
    return view;
  }
  if (layout == "offset") {
    const auto count = static_cast<std::int64_t>(x.numel());
    Tensor view = lmp::full({count + 5}, 1, x.device(), x.type()).narrow(0, 3, count).reshape(x.shape());
    view.copy(x);
    return view;
  }
  if (layout == "expanded") {
    Tensor first = x;
    for (int d = 0; d < n && d < 2; ++d)
      if (x.shape().dim(d) > 0) first = first.narrow(d, 0, 1);
    return first.expand(x.shape());
  }
  return x;
}

/// 0-d, zero-size, and shapes around the widths and blocks that kernels work in, then random ones.
inline std::vector<Shape> some_shapes(Rng& rng) {
  std::vector<Shape> shapes = {{}, {0}, {1}, {0, 3}, {2, 0}, {1, 1, 1}, {1030}, {3, 65}, {70, 3}, {2, 1, 2, 1, 2, 1, 2, 2}};
  while (shapes.size() < 20) {
    Index sizes;
    for (std::size_t n = 1 + pick(rng, 4); n > 0; --n) sizes.push_back(1 + static_cast<std::int64_t>(pick(rng, 6)));
    shapes.emplace_back(sizes);
  }
  return shapes;
}

/// Compares with `want` rounded to the result's type.
inline void expect_near(const Tensor& got, const Array& want, double within, const std::string& what) {
  ASSERT_EQ(got.shape(), want.shape) << what;
  const Array result = array_of(got);
  for (std::size_t i = 0; i < want.data.size(); ++i) {
    const double a = result.data[i], b = rounded(want.data[i], got.type());
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    ASSERT_TRUE(same || std::abs(a - b) <= within * (1 + std::abs(b)))
        << what << ": element " << i << " of " << got.shape() << " is " << a << ", not " << b;
  }
}

inline void expect_equal(const Tensor& got, const Shape& shape, const std::vector<double>& want) {
  EXPECT_EQ(got.shape(), shape);
  EXPECT_EQ(values(got), want);
}

/// The message of the E that f throws; fails where it throws nothing or something else.
template <class E, class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

/// The statement throws an E whose message has `part` in it.
#define EXPECT_ERROR(E, part, ...)                                                   \
  do {                                                                               \
    SCOPED_TRACE(#__VA_ARGS__);                                                      \
    const std::string message = ::lmp::plain::error_of<E>([&] { (void)(__VA_ARGS__); }); \
    EXPECT_NE(message.find(part), std::string::npos) << message;                     \
  } while (false)

class NumThreads {
 public:
  explicit NumThreads(int count) { set_num_threads(count); }
  ~NumThreads() { set_num_threads(before_); }

 private:
  int before_ = get_num_threads();
};

inline bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.type() == y.type() && x.shape() == y.shape() &&
         (x.numel() == 0 || std::memcmp(x.data(), y.data(), x.numel() * size_of(x.type())) == 0);
}

}  // namespace lmp::plain
