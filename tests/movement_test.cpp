#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "autograd_support.hpp"
#include "lamppp/lamppp.hpp"

namespace {

using lmp::DataType;
using lmp::Shape;
using lmp::Tensor;
using lmp::tensor::BFloat16, lmp::tensor::Half;
using lmp::testing::contains, lmp::testing::message_of;
using Doubles = std::vector<double>;
using Ints = std::vector<std::int64_t>;

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
constexpr DataType kTypes[] = {
    DataType::Bool,  DataType::UInt8,   DataType::Int8,     DataType::Int16,   DataType::Int32,
    DataType::Int64, DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64};

/// Small integers that every type but Bool holds.
Tensor numbers(const Shape& shape, DataType type, unsigned seed = 1) {
  std::mt19937 random(seed);
  Doubles values(shape.numel());
  for (double& v : values) v = static_cast<double>(random() % 50);
  return Tensor(values, shape, lmp::DeviceType::CPU, type);
}

Tensor places(const Shape& shape, std::int64_t size, unsigned seed = 2) {
  std::mt19937 random(seed);
  Ints values(shape.numel());
  for (std::int64_t& v : values)
    v = static_cast<std::int64_t>(random() % (2 * static_cast<unsigned>(size))) - size;
  return Tensor(values, shape);
}

void expect_same(const Tensor& got, const Tensor& want, const std::string& what) {
  EXPECT_EQ(got.shape(), want.shape()) << what;
  EXPECT_TRUE(lmp::array_equal(got, want)) << what;
}

// ---- Casts and strides ----

std::vector<float> hard_floats() {
  std::vector<float> values;
  std::mt19937 random(3);
  for (int i = 0; i < 200001; ++i)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (std::uint32_t mantissa : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u,
                                   0x8001u, 0x18000u, 0x400000u, 0x7fefffu, 0x7ff000u, 0x7fffffu})
      for (std::uint32_t sign : {0u, 1u})
        values.push_back(std::bit_cast<float>(sign << 31 | exponent << 23 | mantissa));
  return values;
}

TEST(Casts, HalvesAreThePlainConversionsBitForBit) {
  std::vector<Half> half(65536);
  std::vector<BFloat16> brain(65536);
  for (std::size_t i = 0; i < half.size(); ++i)
    half[i].bits = brain[i].bits = static_cast<std::uint16_t>(i);
  const auto widened = [](const auto& halves) {
    return Tensor(halves, {65536}).astype(DataType::Float32).template to_vector<float>();
  };
  const auto from_half = widened(half), from_brain = widened(brain);
  for (std::size_t i = 0; i < half.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(from_half[i]),
              std::bit_cast<std::uint32_t>(float{half[i]}))
        << i;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(from_brain[i]),
              std::bit_cast<std::uint32_t>(float{brain[i]}))
        << i;
  }
  const std::vector<float> floats = hard_floats();
  const Tensor x(floats, {floats.size()});
  const auto to_half = x.astype(DataType::Float16).to_vector<Half>();
  const auto to_brain = x.astype(DataType::BFloat16).to_vector<BFloat16>();
  for (std::size_t i = 0; i < floats.size(); ++i) {
    ASSERT_EQ(to_half[i].bits, Half(floats[i]).bits) << std::bit_cast<std::uint32_t>(floats[i]);
    ASSERT_EQ(to_brain[i].bits, BFloat16(floats[i]).bits)
        << std::bit_cast<std::uint32_t>(floats[i]);
  }
}

template <class T>
void expect_saturated(const std::vector<float>& floats) {
  const Tensor x(floats, {floats.size()});
  for (const Tensor& from : {x, x.astype(DataType::Float64)}) {
    const auto got = from.astype(lmp::tensor::kDataTypeOf<T>).template to_vector<T>();
    for (std::size_t i = 0; i < floats.size(); ++i) {
      using Limits = std::numeric_limits<T>;
      const double v = floats[i];
      const T want = std::isnan(v)                                ? T{0}
                     : v >= std::ldexp(1.0, Limits::digits)       ? Limits::max()
                     : v <= static_cast<double>(Limits::lowest()) ? Limits::lowest()
                                                                  : static_cast<T>(v);
      ASSERT_EQ(got[i], want) << v;
    }
  }
}

TEST(Casts, FloatsTruncateAndSaturate) {
  std::vector<float> floats = hard_floats();
  for (int e = 5; e < 66; ++e)
    for (float near : {-1.5f, -1.0f, -0.5f, 0.0f, 0.5f, 1.0f})
      for (float sign : {-1.0f, 1.0f}) floats.push_back(sign * std::ldexp(1.0f, e) + near);
  expect_saturated<std::uint8_t>(floats);
  expect_saturated<std::int8_t>(floats);
  expect_saturated<std::int16_t>(floats);
  expect_saturated<std::int32_t>(floats);
  expect_saturated<std::int64_t>(floats);
}

TEST(Strides, AreReadAndWrittenInEveryType) {
  for (DataType type : kTypes) {
    for (std::int64_t n : {1, 7, 100, 3001}) {
      const Tensor x = numbers({2, n}, type);
      const Doubles all = x.to_vector<double>();
      for (std::int64_t step : {-5, -4, -3, -2, -1, 2, 3, 4, 5}) {
        const std::string what = std::string(lmp::tensor::name_of(type)) + " by " +
                                 std::to_string(step) + " of " + std::to_string(n);
        const Tensor view = lmp::slice(x, 1, std::nullopt, std::nullopt, step);
        Doubles want, written(all.size(), type == DataType::Bool ? 1 : 9);
        for (std::int64_t r = 0; r < 2; ++r)
          for (std::int64_t i = step < 0 ? n - 1 : 0; i >= 0 && i < n; i += step) {
            want.push_back(all[static_cast<std::size_t>(r * n + i)]);
            written[static_cast<std::size_t>(r * n + i)] = want.back();
          }
        EXPECT_EQ(view.contiguous().to_vector<double>(), want) << what;
        EXPECT_EQ(view.astype(DataType::Float64).to_vector<double>(), want) << what;
        const Tensor out = lmp::full_like(x, type == DataType::Bool ? 1 : 9);
        lmp::slice(out, 1, std::nullopt, std::nullopt, step).copy(view.clone());
        EXPECT_EQ(out.to_vector<double>(), written) << what;
      }
    }
  }
}

// ---- Indexing along an axis ----

struct Case {
  Shape x, index;
  int axis;
};

/// Shapes on either side of what is done by columns, and indices smaller than what they index.
const Case kCases[] = {{{5}, {3}, 0},
                       {{40}, {300}, 0},
                       {{33, 70}, {50, 70}, 0},
                       {{33, 70}, {2, 70}, 0},
                       {{33, 70}, {40, 66}, 0},
                       {{70, 33}, {70, 50}, 1},
                       {{70, 33}, {64, 9}, 1},
                       {{4, 9, 20}, {4, 9, 20}, 1},
                       {{4, 9, 20}, {3, 11, 17}, 1},
                       {{4, 9, 20}, {9, 9, 20}, 0},
                       {{9, 4, 20}, {9, 4, 25}, 2},
                       {{3, 4, 5, 6}, {2, 9, 3, 6}, 1},
                       {{9000, 18}, {9000, 18}, 0},
                       {{300, 200}, {600, 200}, 0},
                       {{3, 0}, {3, 0}, 0},
                       {{6, 1, 40}, {8, 1, 40}, 0}};

/// Calls f(place in the index, place in x) for every element of the index, in order.
void for_each_place(const Case& c, const Ints& at,
                    const std::function<void(std::size_t, std::size_t)>& f) {
  for (std::size_t i = 0; i < at.size(); ++i) {
    std::size_t rest = i, place = 0, step = 1;
    for (int d = c.x.ndim() - 1; d >= 0; --d) {
      const auto size = static_cast<std::size_t>(c.index.dim(d));
      const std::int64_t here = d == c.axis ? at[i] + (at[i] < 0 ? c.x.dim(d) : 0)
                                            : static_cast<std::int64_t>(rest % size);
      place += static_cast<std::size_t>(here) * step;
      rest /= size;
      step *= static_cast<std::size_t>(c.x.dim(d));
    }
    f(i, place);
  }
}

Tensor with(const Doubles& values, const Shape& shape, DataType type) {
  return Tensor(values, shape, lmp::DeviceType::CPU, type);
}

TEST(Indexing, AgreesWithPlainLoopsInEveryType) {
  for (const Case& c : kCases) {
    const Tensor index = places(c.index, c.x.dim(c.axis));
    const Ints at = index.to_vector<std::int64_t>();
    for (DataType type : kTypes) {
      const std::string what =
          std::string(lmp::tensor::name_of(type)) + " axis " + std::to_string(c.axis);
      const Tensor x = numbers(c.x, type), source = numbers(c.index, type, 5);
      const Doubles from = x.to_vector<double>(), values = source.to_vector<double>();
      Doubles gathered(at.size()), scattered = from, added = from;
      for_each_place(c, at, [&](std::size_t i, std::size_t place) {
        gathered[i] = from[place];
        scattered[place] = values[i];
        added[place] += values[i];
      });
      if (type == DataType::UInt8 || type == DataType::Int8)
        for (double& v : added)
          v = type == DataType::UInt8
                  ? static_cast<double>(static_cast<std::uint8_t>(static_cast<int>(v)))
                  : static_cast<double>(static_cast<std::int8_t>(static_cast<int>(v)));
      expect_same(lmp::gather(x, c.axis, index), with(gathered, c.index, type), "gather " + what);
      expect_same(lmp::scatter(x, c.axis, index, source), with(scattered, c.x, type),
                  "scatter " + what);
      expect_same(lmp::scatter_add(x, c.axis, index, source), with(added, c.x, type),
                  "scatter_add " + what);
    }
  }
}

TEST(Indexing, OfWholeRowsIsThatOfTheirElements) {
  for (const Shape& shape : {Shape{30, 1}, Shape{1, 30}, Shape{30, 2}, Shape{20, 3, 4},
                             Shape{7, 40, 33}, Shape{3, 500, 9}, Shape{40, 2000}}) {
    for (int axis = 0; axis < shape.ndim(); ++axis) {
      const std::int64_t size = shape.dim(axis);
      const Tensor index = places({2 * size + 1}, size);
      lmp::tensor::IntList spread;
      for (int d = 0; d < shape.ndim(); ++d) spread.push_back(d == axis ? 2 * size + 1 : 1);
      lmp::tensor::IntList whole(shape);
      whole[static_cast<std::size_t>(axis)] = 2 * size + 1;
      const Tensor everywhere = index.reshape(spread).broadcast_to(Shape(whole)).contiguous();
      for (DataType type : kTypes) {
        const lmp::Variable x(numbers(shape, type), lmp::tensor::is_floating(type));
        const Tensor want = lmp::gather(x.data(), axis, everywhere);
        const lmp::Variable y = lmp::index_select(x, axis, index);
        expect_same(y.data(), want, "index_select");
        if (!lmp::tensor::is_floating(type)) continue;
        const Tensor g = numbers(want.shape(), type, 7);
        y.backward(g);
        expect_same(x.grad(), lmp::scatter_add(lmp::zeros_like(x.data()), axis, everywhere, g),
                    "index_add");
      }
    }
  }
}

TEST(Indexing, HalvesAreAddedInFloatAndRoundedOnce) {
  for (DataType type : {DataType::Float16, DataType::BFloat16}) {
    const std::int64_t n = 4096;  // counting by ones stops at 2048 and at 256
    const Tensor none = lmp::zeros({n}, lmp::DeviceType::CPU, DataType::Int64);
    const Tensor ones = lmp::ones({n}, lmp::DeviceType::CPU, type);
    const Tensor zero = lmp::zeros({1}, lmp::DeviceType::CPU, type);
    EXPECT_EQ(lmp::scatter_add(zero, 0, none, ones).item(), n);
    const lmp::Variable x(zero, true);
    lmp::index_select(x, 0, none).backward(ones);
    EXPECT_EQ(x.grad().item(), n);
  }
}

TEST(Indexing, NamesTheFirstBadIndex) {
  for (const Case& c : kCases) {
    if (c.index.numel() == 0) continue;
    const std::int64_t size = c.x.dim(c.axis);
    Ints at = places(c.index, size).to_vector<std::int64_t>();
    at[at.size() / 2] = size;
    at.back() = at.size() > 1 ? -size - 1 : size;
    const Tensor index(at, c.index);
    const std::string want = "index " + std::to_string(size) + " is out of range for axis " +
                             std::to_string(c.axis) + " of size " + std::to_string(size);
    const Tensor x = numbers(c.x, DataType::Float32), source = numbers(c.index, DataType::Float32);
    EXPECT_EQ(message_of<lmp::IndexError>([&] { lmp::gather(x, c.axis, index); }),
              "gather: " + want);
    EXPECT_EQ(message_of<lmp::IndexError>([&] { lmp::scatter(x, c.axis, index, source); }),
              "scatter: " + want);
    EXPECT_EQ(message_of<lmp::IndexError>([&] { lmp::scatter_add(x, c.axis, index, source); }),
              "scatter_add: " + want);
  }
  for (std::int64_t bad : {kMin, kMax})
    EXPECT_THROW(
        lmp::index_select(numbers({3, 2}, DataType::Float32), 0, Tensor(Ints{0, bad}, {2})),
        lmp::IndexError);
  const Tensor none = lmp::zeros({0, 2});
  EXPECT_THROW(lmp::index_select(none, 0, Tensor(Ints{0}, {1})), lmp::IndexError);
  EXPECT_EQ(
      lmp::index_select(none, 0, lmp::zeros({0}, lmp::DeviceType::CPU, DataType::Int64)).shape(),
      Shape({0, 2}));
}

// ---- Sorting ----

Tensor with_ties(std::int64_t rows, std::int64_t n, DataType type) {
  std::mt19937 random(static_cast<unsigned>(n));
  Doubles values(static_cast<std::size_t>(rows * n));
  const bool is_float = lmp::tensor::is_floating(type);
  for (double& v : values) {
    v = static_cast<double>(static_cast<int>(random() % 200)) - (type == DataType::UInt8 ? 0 : 100);
    if (is_float && random() % 10 == 0) v = std::nan("");
    if (is_float && random() % 10 == 0) v = random() % 2 ? -0.0 : 0.0;
    if (is_float && random() % 20 == 0) v = random() % 2 ? -INFINITY : INFINITY;
  }
  return Tensor(values, {rows, n}, lmp::DeviceType::CPU, type);
}

TEST(Sorting, IsStableWithNanLastInEveryTypeAndLength) {
  for (DataType type : kTypes)
    for (std::int64_t n : {1, 2, 50, 127, 128, 129, 1000, 40000})
      for (bool descending : {false, true}) {
        const std::int64_t rows = n > 1000 ? 1 : 3;
        const Tensor x = with_ties(rows, n, type);
        const Doubles values = x.to_vector<double>();
        const auto before = [](double a, double b) {
          return std::isnan(a) ? false : std::isnan(b) ? true : a < b;
        };
        Ints want;
        for (std::int64_t r = 0; r < rows; ++r) {
          const double* row = values.data() + r * n;
          Ints order(static_cast<std::size_t>(n));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
            return descending ? before(row[b], row[a]) : before(row[a], row[b]);
          });
          want.insert(want.end(), order.begin(), order.end());
        }
        const std::string what = std::string(lmp::tensor::name_of(type)) + " " + std::to_string(n);
        EXPECT_EQ(lmp::argsort(x, 1, descending).to_vector<std::int64_t>(), want) << what;
        EXPECT_EQ(lmp::argsort(x.transpose(), 0, descending).transpose().to_vector<std::int64_t>(),
                  want)
            << what;
        if (!descending) continue;
        for (std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 16, n / 9, n / 2, n}) {
          const auto [top, order] = lmp::topk(x, k);
          expect_same(order, Tensor(want, {rows, n}).narrow(1, 0, k), "topk " + what);
          EXPECT_TRUE(lmp::allclose(top, lmp::gather(x, 1, order), 0, 0, true));
        }
      }
}

TEST(Sorting, KeepsAllBitsOfWideKeys) {
  Ints values = {kMax, kMin, 0, -1, 1, kMax - 1, kMin + 1, std::int64_t{1} << 40};
  while (values.size() < 400) values.push_back(values[values.size() - 8] / 3);
  const Tensor x(values, {values.size()});
  std::sort(values.begin(), values.end());
  EXPECT_EQ(lmp::sort(x).first.to_vector<std::int64_t>(), values);
}

// ---- What is set ----

TEST(Nonzero, FindsAllInOrder) {
  for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{100001}, Shape{300, 501},
                             Shape{3, 0, 2}, Shape{40, 3, 1000}, Shape{20000, 2, 3}})
    for (unsigned one_in : {1u, 2u, 100u, 1000000u}) {
      std::mt19937 random(4);
      std::vector<float> values(shape.numel());
      for (float& v : values) v = random() % one_in == 0 ? 0.5f : 0.0f;
      const Tensor x(values, shape);
      Ints want;
      std::vector<float> kept;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] == 0) continue;
        Ints place;
        std::size_t rest = i;
        for (int d = shape.ndim() - 1; d >= 0; --d) {
          place.push_back(static_cast<std::int64_t>(rest) % shape.dim(d));
          rest /= static_cast<std::size_t>(shape.dim(d));
        }
        want.insert(want.end(), place.rbegin(), place.rend());
        kept.push_back(static_cast<float>(i));
      }
      EXPECT_EQ(lmp::nonzero(x).to_vector<std::int64_t>(), want);
      EXPECT_EQ(lmp::nonzero(x).shape(), Shape({kept.size(), shape.ndim()}));
      const Tensor counted = lmp::arange(0, static_cast<std::int64_t>(values.size()))
                                 .astype(DataType::Float32)
                                 .reshape(shape);
      EXPECT_EQ(lmp::masked_select(counted, x != 0).to_vector<float>(), kept);
    }
}

// ---- The same bits on any number of threads ----

TEST(Movement, IsTheSameOnAnyNumberOfThreads) {
  lmp::tensor::Generator generator(5);
  const Tensor x = lmp::randn(generator, 0, 1, {300, 500}), long_row = x.reshape({-1});
  const auto index = [&](int axis) { return places(x.shape(), x.shape().dim(axis)); };
  const auto results = [&] {
    std::vector<Tensor> out;
    for (int axis : {0, 1}) {
      const lmp::Variable v(x, true);
      lmp::index_select(v, axis, places({2000}, x.shape().dim(axis)))
          .backward(lmp::randn(generator, 0, 1, axis == 0 ? Shape{2000, 500} : Shape{300, 2000}));
      generator = lmp::tensor::Generator(5);
      out.insert(
          out.end(),
          {v.grad(), lmp::gather(x, axis, index(axis)), lmp::scatter_add(x, axis, index(axis), x),
           lmp::scatter(x, axis, index(axis), x), lmp::argsort(x, axis).astype(DataType::Float32)});
    }
    out.push_back(lmp::sort(long_row).first);
    out.push_back(lmp::nonzero(x > 0).astype(DataType::Float32));
    out.push_back(lmp::masked_select(x, x > 0));
    out.push_back(lmp::repeat(x, {2, 3}));
    out.push_back(lmp::pad(x, {{1, 2}, {3, 4}}, 5));
    return out;
  };
  const int before = lmp::get_num_threads();
  lmp::set_num_threads(1);
  generator = lmp::tensor::Generator(5);
  const std::vector<Tensor> one = results();
  for (int threads : {2, 3, 8}) {
    lmp::set_num_threads(threads);
    const std::vector<Tensor> many = results();
    for (std::size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(lmp::array_equal(many[i], one[i])) << "result " << i << " on " << threads;
  }
  lmp::set_num_threads(before);
}

// ---- Joining, repeating and making ----

TEST(Repeat, IsCatAlongEachAxis) {
  const Tensor x = numbers({2, 3, 1, 2}, DataType::Float32);
  const auto check = [&](const Tensor& of, const lmp::tensor::IntList& counts) {
    Tensor want = of;
    while (static_cast<std::size_t>(want.ndim()) < counts.size()) want = want.expand_dims(0);
    for (std::size_t d = 0; d < counts.size(); ++d)
      want = counts[d] == 0
                 ? want.narrow(static_cast<int>(d), 0, 0)
                 : lmp::cat(std::vector<Tensor>(static_cast<std::size_t>(counts[d]), want),
                            static_cast<int>(d));
    const Tensor got = lmp::repeat(of, counts);
    expect_same(got, want, "repeat");
    EXPECT_TRUE(got.is_contiguous());
    EXPECT_FALSE(got.shares_storage(of));
  };
  check(x, {1, 1, 1, 1});
  check(x, {2, 3, 4, 2});
  check(x, {3, 1, 1, 2, 1, 5});
  check(x, {2, 2, 2, 2, 2, 2, 2, 2});
  check(x, {2, 0, 1, 3});
  check(x.transpose(), {2, 1, 3, 1});
  check(Tensor({1.0f}, {1}), {3});
  check(Tensor({1.0f}, {}), {2, 2});
}

TEST(Pad, SurroundsTheBlock) {
  const Tensor x = numbers({3, 4, 5}, DataType::Int32).transpose(0, 2);
  const Tensor out = lmp::pad(x, {{1, 2}, {0, 3}, {4, 0}}, -7);
  ASSERT_EQ(out.shape(), Shape({8, 7, 7}));
  expect_same(out.narrow(0, 1, 5).narrow(1, 0, 4).narrow(2, 4, 3), x.contiguous(), "inside");
  EXPECT_EQ(lmp::sum(out == -7).item(), 8 * 7 * 7 - 3 * 4 * 5);
}

TEST(Sizes, NearTwoToThe63AreExactOrRefused) {
  const Tensor x = numbers({3, 4}, DataType::Float32);
  for (std::int64_t offset : {kMin, kMin + 1, kMax, std::int64_t{4}, std::int64_t{-3}})
    EXPECT_EQ(lmp::diagonal(x, offset).shape(), Shape({0}));
  EXPECT_EQ(lmp::diagonal(x, -2).shape(), Shape({1}));
  EXPECT_EQ(lmp::arange(kMin, kMax, kMax).to_vector<std::int64_t>(), (Ints{kMin, -1, kMax - 1}));
  EXPECT_EQ(lmp::arange(kMax, kMin, kMin).to_vector<std::int64_t>(), (Ints{kMax, -1}));
  EXPECT_EQ(lmp::arange(kMax - 1, kMax).to_vector<std::int64_t>(), (Ints{kMax - 1}));
  EXPECT_THROW(lmp::arange(kMin, kMax), lmp::ShapeError);
  EXPECT_THROW(lmp::arange(std::int64_t{0}, kMax), lmp::ShapeError);
  EXPECT_THROW(lmp::pad(x, {{kMax, 0}, {0, 0}}), lmp::ShapeError);
  EXPECT_THROW(lmp::pad(x, {{1, kMax}, {0, 0}}), lmp::ShapeError);
  EXPECT_THROW(lmp::pad(x, {{kMax / 4, 0}, {kMax / 4, 0}}), lmp::ShapeError);
  EXPECT_THROW(lmp::repeat(x, {kMax, 1}), lmp::ShapeError);
  EXPECT_THROW(lmp::repeat(x, {kMax / 4, kMax / 4}), lmp::ShapeError);
  EXPECT_THROW(lmp::repeat(x, {0, -1}), lmp::ValueError);
  EXPECT_THROW(lmp::split(x, std::vector<std::int64_t>{kMax, kMax, 5}, 0), lmp::ShapeError);
  EXPECT_EQ(lmp::chunk(x, kMax, 0).size(), 3u);
  const Tensor wide = lmp::broadcast_to(lmp::ones({1}), {kMax});
  EXPECT_TRUE(contains(message_of<lmp::ShapeError>([&] {
                         lmp::cat({wide, wide}, 0);
                       }),
                       "cat: the sizes"));
  EXPECT_THROW(lmp::permutation(kMax), lmp::ShapeError);
}

TEST(Pieces, MakeTheSameAsTheWhole) {
  const std::int64_t n = 200001;
  const Ints all = lmp::arange(5, 5 + 3 * n, 3).to_vector<std::int64_t>();
  ASSERT_EQ(all.size(), static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(all[static_cast<std::size_t>(i)], 5 + 3 * i);
  const Doubles floats =
      lmp::arange(0.5, 0.5 + static_cast<double>(n), 1, lmp::DeviceType::CPU, DataType::Float64)
          .to_vector<double>();
  const Doubles even =
      lmp::linspace(0, static_cast<double>(n - 1), n, lmp::DeviceType::CPU, DataType::Float64)
          .to_vector<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(floats[static_cast<std::size_t>(i)], 0.5 + static_cast<double>(i));
    ASSERT_NEAR(even[static_cast<std::size_t>(i)], static_cast<double>(i), 1e-9);
  }
  lmp::tensor::Generator a(7), b(7);
  const Ints whole = lmp::randint(a, -1000, 1000, {n}).to_vector<std::int64_t>();
  Ints parts;
  for (std::int64_t size : {std::int64_t{65536}, std::int64_t{100}, n - 65636}) {
    const Ints some = lmp::randint(b, -1000, 1000, {size}).to_vector<std::int64_t>();
    parts.insert(parts.end(), some.begin(), some.end());
  }
  EXPECT_EQ(whole, parts);
}

TEST(Einsum, RefusesTheDiagonalOfUnequalSizes) {
  for (const Shape& shape : {Shape{1, 3}, Shape{3, 1}, Shape{2, 3}}) {
    EXPECT_THROW(lmp::einsum("ii->i", {lmp::ones(shape)}), lmp::ShapeError);
    EXPECT_THROW(lmp::einsum("ii,i", {lmp::ones(shape), lmp::ones({3})}), lmp::ShapeError);
  }
  EXPECT_EQ(lmp::einsum("ii", {lmp::ones({3, 3})}).item(), 3);
}

}  // namespace
