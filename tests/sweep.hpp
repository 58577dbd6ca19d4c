#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "lamppp/lamppp.hpp"

/// What the table-driven tests share: seeded shapes, tensors of every type in every layout, their
/// elements read without the library's own loops, and distances in units of the last place.
namespace sweep {

using lmp::tensor::DataType;
using lmp::tensor::IntList;
using lmp::tensor::Shape;
using lmp::tensor::Tensor;

/// Holds every element of every type exactly, Int64 included.
using Wide = long double;
static_assert(std::numeric_limits<Wide>::digits >= 64);

inline constexpr DataType kTypes[] = {
    DataType::Bool,  DataType::UInt8,   DataType::Int8,     DataType::Int16,   DataType::Int32,
    DataType::Int64, DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64};

enum class Layout { Contiguous, Transposed, Sliced, Reversed, Expanded, Offset, Scalar, Empty };
inline constexpr Layout kLayouts[] = {Layout::Contiguous, Layout::Transposed, Layout::Sliced,
                                      Layout::Reversed,   Layout::Expanded,   Layout::Offset,
                                      Layout::Scalar,     Layout::Empty};

inline std::ostream& operator<<(std::ostream& out, Layout layout) {
  constexpr const char* names[] = {"contiguous", "transposed", "sliced", "reversed",
                                   "expanded",   "offset",     "scalar", "empty"};
  return out << names[static_cast<int>(layout)];
}

/// Random numbers that are the same on every platform.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t bits() { return engine_(); }
  /// On [low, high], both included.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  /// On [low, high).
  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  bool chance(double probability) { return real(0, 1) < probability; }

 private:
  std::mt19937_64 engine_;
};

/// Calls f with a value of the C++ type of `type`.
template <class F>
auto visit(DataType type, F&& f) {
  using namespace lmp::tensor;
  switch (type) {
    case DataType::Bool:
      return f(bool{});
    case DataType::UInt8:
      return f(std::uint8_t{});
    case DataType::Int8:
      return f(std::int8_t{});
    case DataType::Int16:
      return f(std::int16_t{});
    case DataType::Int32:
      return f(std::int32_t{});
    case DataType::Int64:
      return f(std::int64_t{});
    case DataType::Float16:
      return f(Half{});
    case DataType::BFloat16:
      return f(BFloat16{});
    case DataType::Float32:
      return f(float{});
    default:
      return f(double{});
  }
}

/// Precision and exponent range of a floating type, and what else follows from them.
struct Format {
  int digits;
  int min_exponent;  // of the smallest normal number
  Wide max;
  Wide min_normal() const { return std::ldexp(Wide{1}, min_exponent); }
  Wide denorm_min() const { return ulp(0); }
  /// The distance of neighbours at x.
  Wide ulp(Wide x) const {
    const Wide size = std::min(std::abs(x), max);
    const int exponent = size < min_normal() ? min_exponent : std::ilogb(size);
    return std::ldexp(Wide{1}, exponent - (digits - 1));
  }
};
inline Format format(DataType type) {
  switch (type) {
    case DataType::Float16:
      return {11, -14, 65504};
    case DataType::BFloat16:
      return {8, -126, 0x1.fep127L};
    case DataType::Float32:
      return {24, -126, std::numeric_limits<float>::max()};
    default:
      return {53, -1022, std::numeric_limits<double>::max()};
  }
}

/// x rounded to the nearest number of a floating type, halves to even.
inline Wide round_to(DataType type, Wide x) {
  if (type == DataType::Float64) return static_cast<double>(x);
  if (type == DataType::Float32) return static_cast<float>(x);
  if (x == 0 || !std::isfinite(x)) return x;
  const Format f = format(type);
  const Wide step = f.ulp(x);
  const Wide rounded = std::copysign(std::rint(x / step) * step, x);
  return std::abs(rounded) > f.max ? std::copysign(std::numeric_limits<Wide>::infinity(), x)
                                   : rounded;
}

/// The limits of an integer type or Bool.
inline Wide lowest(DataType type) {
  return visit(type,
               []<class T>(T) { return static_cast<Wide>(std::numeric_limits<T>::lowest()); });
}
inline Wide highest(DataType type) {
  return visit(type, []<class T>(T) { return static_cast<Wide>(std::numeric_limits<T>::max()); });
}

/// |got - exact| in units of the last place of `type` at max(|exact|, scale): 0 where both are NaN,
/// or the same infinity or zero; infinite where only one of them is NaN, or an infinity or a zero
/// has the wrong sign.
inline double ulps(DataType type, Wide got, Wide exact, Wide scale = 0) {
  constexpr double kFar = std::numeric_limits<double>::infinity();
  const Format f = format(type);
  if (std::isnan(got) || std::isnan(exact)) return std::isnan(got) && std::isnan(exact) ? 0 : kFar;
  if (got == exact)
    return got != 0 || std::signbit(got) == std::signbit(exact) || scale != 0 ? 0 : kFar;
  if (std::isinf(exact)) return kFar;
  if (std::isinf(got)) {  // as the first number beyond the largest one
    if (round_to(type, exact) == got) return 0;
    got = std::copysign(f.max + f.ulp(f.max), got);
  }
  return static_cast<double>(std::abs(got - exact) / f.ulp(std::max(std::abs(exact), scale)));
}

/// A dense tensor of the given values, which `type` holds exactly.
inline Tensor dense(DataType type, const Shape& shape, const std::vector<Wide>& values) {
  Tensor out = lmp::empty(shape, lmp::DeviceType::CPU, type);
  visit(type, [&]<class T>(T) {
    T* to = out.data<T>();
    for (Wide v : values) {
      if constexpr (std::is_same_v<T, lmp::tensor::Half> ||
                    std::is_same_v<T, lmp::tensor::BFloat16>)
        *to++ = T(static_cast<float>(v));
      else
        *to++ = static_cast<T>(v);
    }
  });
  return out;
}

/// Calls f(offset) for every element of a view in row-major order.
template <class F>
void each_offset(const Shape& shape, const IntList& strides, F&& f) {
  std::vector<std::size_t> index(shape.size(), 0);
  std::int64_t offset = 0;
  for (std::size_t left = shape.numel(); left > 0; --left) {
    f(offset);
    for (std::size_t d = shape.size(); d-- > 0;) {
      offset += strides[d];
      if (++index[d] < shape[d]) break;
      offset -= strides[d] * shape.dim(static_cast<int>(d));
      index[d] = 0;
    }
  }
}

/// The elements in row-major order, as if broadcast to `shape`.
inline std::vector<Wide> read(const Tensor& x, const Shape& shape) {
  IntList strides;
  const std::size_t added = shape.size() - x.shape().size();
  for (std::size_t d = 0; d < shape.size(); ++d)
    strides.push_back(d < added || x.shape()[d - added] == 1 ? 0 : x.strides()[d - added]);
  std::vector<Wide> values;
  values.reserve(shape.numel());
  visit(x.type(), [&]<class T>(T) {
    const T* from = x.data<T>();
    each_offset(shape, strides, [&](std::int64_t at) {
      if constexpr (std::is_same_v<T, lmp::tensor::Half> ||
                    std::is_same_v<T, lmp::tensor::BFloat16>)
        values.push_back(static_cast<float>(from[at]));
      else
        values.push_back(static_cast<Wide>(from[at]));
    });
  });
  return values;
}
inline std::vector<Wide> read(const Tensor& x) { return read(x, x.shape()); }

/// The shape with sizes replaced: an IntList can be changed, a Shape cannot.
inline Shape with_size(const Shape& shape, std::size_t axis, std::int64_t size) {
  IntList sizes(shape);
  sizes[axis] = size;
  return Shape(sizes);
}

/// The `index`-th shape for a layout: mostly a handful of elements in 1 to 4 dimensions; every
/// tenth one crosses a block of 1024 elements.
inline Shape random_shape(Rng& rng, Layout layout, int index) {
  if (layout == Layout::Scalar) return {};
  if (index % 10 == 9) {
    const std::int64_t n = rng.integer(1, 3);
    if (layout == Layout::Empty) return Shape{n, 0, 1025};
    if (layout != Layout::Transposed && rng.chance(0.4)) return Shape{1023 + n};
    return rng.chance(0.5) ? Shape{n + 1, 540 + n} : Shape{5, n, 300};
  }
  IntList sizes;
  const std::int64_t ndim = rng.integer(layout == Layout::Transposed ? 2 : 1, 4);
  for (std::int64_t d = 0; d < ndim; ++d) sizes.push_back(rng.integer(1, ndim > 2 ? 4 : 7));
  if (layout == Layout::Empty) sizes[static_cast<std::size_t>(rng.integer(0, ndim - 1))] = 0;
  return Shape(sizes);
}

/// A shape that broadcasts to `shape`: some leading axes left out, some others 1.
inline Shape broadcastable(Rng& rng, const Shape& shape) {
  IntList sizes;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (sizes.empty() && rng.chance(0.15)) continue;
    sizes.push_back(rng.chance(0.2) ? 1 : static_cast<std::int64_t>(shape[d]));
  }
  return Shape(sizes);
}

/// One of the layouts that are not a matter of shape.
inline Layout random_layout(Rng& rng) { return kLayouts[rng.integer(0, 5)]; }

/// A tensor of this type, shape and layout whose elements come from draw(), which the type holds
/// exactly. Memory around and between the elements holds drawn values too.
template <class Draw>
Tensor arrange(Rng& rng, Layout layout, DataType type, const Shape& shape, Draw&& draw) {
  const auto fresh = [&](const Shape& s) {
    std::vector<Wide> values(s.numel());
    for (Wide& v : values) v = draw();
    return dense(type, s, values);
  };
  const auto any_axis = [&] { return static_cast<std::size_t>(rng.integer(0, shape.ndim() - 1)); };
  if (shape.empty()) layout = Layout::Scalar;
  if (shape.numel() == 0) layout = Layout::Empty;
  switch (layout) {
    case Layout::Transposed: {
      IntList sizes, axes;
      for (int d = shape.ndim() - 1; d >= 0; --d) {
        sizes.push_back(shape.dim(d));
        axes.push_back(d);
      }
      return lmp::permute(fresh(Shape(sizes)), axes);
    }
    case Layout::Sliced: {
      const std::size_t axis = any_axis();
      const std::int64_t n = shape.dim(static_cast<int>(axis)), step = rng.integer(2, 3);
      return lmp::slice(fresh(with_size(shape, axis, n * step + 1)), static_cast<int>(axis), 1,
                        n * step + 1, step);
    }
    case Layout::Reversed: {
      IntList axes;
      for (int d = 0; d < shape.ndim(); ++d) axes.push_back(d);
      return lmp::flip(fresh(shape), axes);
    }
    case Layout::Expanded:
      return lmp::expand(fresh(with_size(shape, any_axis(), 1)), shape);
    case Layout::Offset: {
      const auto n = static_cast<std::int64_t>(shape.numel());
      return lmp::narrow(fresh(Shape{n + 4}), 0, 3, n).reshape(shape);
    }
    case Layout::Scalar:
      return lmp::select(fresh(Shape{5}), 0, rng.integer(0, 4));
    default:
      return fresh(shape);
  }
}

/// A number that `type` holds: of a floating type mostly from [low, high), sometimes much larger or
/// smaller; of an integer type small half of the time, else from its whole range.
inline Wide draw_value(Rng& rng, DataType type, double low = -4, double high = 4) {
  if (type == DataType::Bool) return rng.chance(0.5) ? 1 : 0;
  if (lmp::tensor::is_integer(type)) {
    if (rng.chance(0.5)) return rng.integer(type == DataType::UInt8 ? 0 : -9, 9);
    return visit(type, [&]<class T>(T) -> Wide {
      if constexpr (std::is_integral_v<T>) return static_cast<T>(rng.bits());
      return 0;
    });
  }
  const double value = rng.real(low, high);
  if (rng.chance(0.85)) return round_to(type, value);
  const Wide max = format(type).max;
  return std::clamp(round_to(type, std::ldexp(value, static_cast<int>(rng.integer(-20, 20)))), -max,
                    max);
}

/// Values where something changes: zeros, limits, denormals, infinities, NaN; a `few` of them.
inline std::vector<Wide> edges(DataType type, bool few) {
  if (!lmp::tensor::is_floating(type)) {
    if (type == DataType::Bool) return {0, 1};
    const Wide low = lowest(type), high = highest(type);
    std::vector<Wide> all = {low, low + 1, low / 2, 0, 1, 2, 3, 7, high / 2, high - 1, high};
    if (low < 0) all.insert(all.end(), {-1, -2, -3, -7});
    for (Wide& v : all) v = std::floor(v);
    return all;
  }
  const Format f = format(type);
  std::vector<Wide> all = {0, f.denorm_min(), 1, 2, f.max, std::numeric_limits<Wide>::infinity()};
  if (!few) {
    all.insert(all.end(),
               {f.denorm_min() * 3, f.min_normal() - f.denorm_min(), f.min_normal(), f.ulp(1),
                0.5L - f.ulp(0.25L), 0.5, 1 - f.ulp(0.5L), 1 + f.ulp(1), 1.5, 2.5, 3, 10,
                round_to(type, 88.7L), round_to(type, 103.9L), 128, 150, 1 / f.ulp(1),
                1 / f.ulp(1) - 0.5L * (type != DataType::Float64), f.max / 2});
    for (Wide& v : all) v = round_to(type, v);
  }
  for (std::size_t i = 0, n = all.size(); i < n; ++i) all.push_back(-all[i]);
  all.push_back(std::numeric_limits<Wide>::quiet_NaN());
  return all;
}

}  // namespace sweep
