#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "autograd_support.hpp"
#include "lamppp/lamppp.hpp"
#include "sweep.hpp"

// Plain numbers as operands: a number takes part by its category alone, is exact, and is refused
// where an integer type cannot hold it.
namespace {

using lmp::DataType, lmp::Tensor, lmp::Variable;
using lmp::tensor::is_floating, lmp::tensor::is_integer;
using lmp::tensor::Number;
using sweep::kTypes, sweep::read, sweep::Wide;

constexpr DataType kIntegers[] = {DataType::UInt8, DataType::Int8, DataType::Int16, DataType::Int32,
                                  DataType::Int64};
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Tensor tensor(DataType type, const std::vector<Wide>& values) {
  return sweep::dense(type, {values.size()}, values);
}
Tensor extremes(DataType type) {
  if (is_floating(type)) return tensor(type, {-kInf, -2, 0, 3, kInf});
  return tensor(type, {sweep::lowest(type), 0, 1, sweep::highest(type)});
}

/// The result has this type and exactly these elements.
void expect(const Tensor& got, DataType type, const std::vector<Wide>& values) {
  EXPECT_EQ(got.type(), type);
  EXPECT_EQ(read(got), values);
}

template <class F>
void expect_value_error(F f, const std::string& op, const std::string& number, DataType type) {
  try {
    f();
    ADD_FAILURE() << op << ": " << number << " was accepted for " << type;
  } catch (const lmp::ValueError& e) {
    const std::string text = e.what();
    for (const std::string& part : {op, number, std::string(name_of(type))})
      EXPECT_NE(text.find(part), std::string::npos) << text << " does not say " << part;
  }
}

TEST(NumberRules, ANumberOfTheSameCategoryNeverWidens) {
  for (DataType type : kIntegers) {
    const Tensor t = tensor(type, {1, 2, 3});
    expect(t * 2, type, {2, 4, 6});
    expect(2 * t, type, {2, 4, 6});
    expect(t * std::size_t{2}, type, {2, 4, 6});
    expect(t * std::int64_t{2}, type, {2, 4, 6});
    expect(t + true, type, {2, 3, 4});
  }
  for (DataType type : kTypes) {
    if (!is_floating(type)) continue;
    const Tensor t = tensor(type, {1, 2, -3});
    for (const Tensor& doubled : {t * 2, 2 * t, t * 2.0, 2.0 * t, t * 2.0f, t * 2u, t + t})
      expect(doubled, type, {2, 4, -6});
    expect(t + true, type, {2, 3, -2});
  }
  expect(tensor(DataType::Bool, {0, 1}) * true, DataType::Bool, {0, 1});
}

TEST(NumberRules, ANumberOfAHigherCategoryDecides) {
  for (DataType type : kIntegers) {
    const Tensor t = tensor(type, {1, 2, 3});
    expect(t * 0.5, DataType::Float32, {0.5, 1, 1.5});
    expect(0.5f * t, DataType::Float32, {0.5, 1, 1.5});
    expect(t * 2.0, DataType::Float32, {2, 4, 6});
    expect(t / 2, DataType::Float32, {0.5, 1, 1.5});
    expect(3 / t, DataType::Float32, {3, 1.5, 1});
    expect(lmp::pow(t, 0.0), DataType::Float32, {1, 1, 1});
  }
  const Tensor b = tensor(DataType::Bool, {0, 1});
  expect(b * 2, DataType::Int64, {0, 2});
  expect(5 - b, DataType::Int64, {5, 4});
  expect(b * 0.5, DataType::Float32, {0, 0.5});
  EXPECT_THROW(b - true, lmp::TypeError);
}

TEST(NumberRules, IntegersKeepAllTheirBits) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max(),
                         kOdd = (std::int64_t{1} << 53) + 1;
  const Tensor t = tensor(DataType::Int64, {kOdd, -kOdd, kMax});
  expect(t + 0, DataType::Int64, {kOdd, -kOdd, kMax});
  expect(t - kOdd, DataType::Int64, {0, Wide{-2} * kOdd, kMax - kOdd});
  expect(lmp::maximum(t, kMax - 1), DataType::Int64, {kMax - 1, kMax - 1, kMax});
  expect(t == kOdd, DataType::Bool, {1, 0, 0});
  expect(t > kOdd - 1, DataType::Bool, {1, 0, 1});
  expect(t < kMax, DataType::Bool, {1, 1, 0});
  expect(lmp::full({1}, kMax), DataType::Int64, {kMax});
  expect(lmp::where(t > 0, t, kOdd + 1), DataType::Int64, {kOdd, kOdd + 1, kMax});
  EXPECT_EQ(lmp::full({}, kOdd).item<std::int64_t>(), kOdd);
  EXPECT_THROW(t + (std::uint64_t{1} << 63), lmp::ValueError);
  expect(t + ((std::uint64_t{1} << 63) - 1) * 0, DataType::Int64, {kOdd, -kOdd, kMax});
}

TEST(NumberRules, HalvesMeetANumberInFloat) {
  for (DataType type : {DataType::Float16, DataType::BFloat16}) {
    const Wide product = sweep::round_to(type, 3.0f * 0.1f);
    expect(tensor(type, {3}) * 0.1, type, {product});
    expect(0.1 * tensor(type, {3}), type, {product});
  }
  expect(tensor(DataType::Float32, {0}) + 16777217, DataType::Float32, {16777216});
  expect(tensor(DataType::Float64, {0}) + 16777217, DataType::Float64, {16777217});
}

TEST(NumberRules, AnIntegerThatDoesNotFitIsRefused) {
  for (DataType type : kIntegers) {
    if (type == DataType::Int64) continue;
    const Tensor t = tensor(type, {1, 2});
    const auto low = static_cast<std::int64_t>(sweep::lowest(type)),
               high = static_cast<std::int64_t>(sweep::highest(type));
    EXPECT_EQ((t + low).type(), type);
    EXPECT_EQ((high * t).type(), type);
    for (const std::int64_t n : {low - 1, high + 1, std::int64_t{1} << 40}) {
      const std::string text = std::to_string(n);
      expect_value_error([&] { t + n; }, "add", text, type);
      expect_value_error([&] { n - t; }, "sub", text, type);
      expect_value_error([&] { lmp::maximum(t, n); }, "maximum", text, type);
      expect_value_error([&] { lmp::where(t > 1, t, n); }, "where", text, type);
      expect_value_error([&] { lmp::clamp(t, std::nullopt, n); }, "clamp", text, type);
      expect_value_error([&] { lmp::full({1}, n, lmp::DeviceType::CPU, type); }, "full", text,
                         type);
      EXPECT_THROW(t.fill(n), lmp::ValueError) << type << ' ' << n;
      EXPECT_THROW(t *= n, lmp::ValueError) << type << ' ' << n;
    }
    expect(t, type, {1, 2});
  }
}

TEST(NumberRules, AComparisonHasAnAnswerForAnyInteger) {
  for (DataType type : kIntegers) {
    if (type == DataType::Int64) continue;
    const Tensor t = extremes(type);
    for (const std::int64_t side : {-1, 1}) {
      const auto end =
          static_cast<std::int64_t>(side < 0 ? sweep::lowest(type) : sweep::highest(type));
      for (const std::int64_t n : {end + side, side * (std::int64_t{1} << 40)}) {
        const std::vector<Wide> less(4, side > 0), greater(4, side < 0), none(4, 0), every(4, 1);
        expect(t < n, DataType::Bool, less);
        expect(t <= n, DataType::Bool, less);
        expect(t > n, DataType::Bool, greater);
        expect(t >= n, DataType::Bool, greater);
        expect(t == n, DataType::Bool, none);
        expect(t != n, DataType::Bool, every);
        expect(n < t, DataType::Bool, greater);
        expect(n >= t, DataType::Bool, less);
        expect(n == t, DataType::Bool, none);
      }
    }
  }
  expect(tensor(DataType::Bool, {0, 1}) < 2, DataType::Bool, {1, 1});
  expect(tensor(DataType::Int32, {2, 3}) > 2.5, DataType::Bool, {0, 1});
  expect(tensor(DataType::UInt8, {2, 3}) > -kInf, DataType::Bool, {1, 1});
}

TEST(NumberRules, OperatorsTakeANumberOnEitherSide) {
  for (DataType type : kTypes) {
    if (type == DataType::Bool) continue;
    const Tensor t = tensor(type, {1, 2, 3});
    expect(2 == t, DataType::Bool, {0, 1, 0});
    expect(2 != t, DataType::Bool, {1, 0, 1});
    expect(2 > t, DataType::Bool, {1, 0, 0});
    expect(2 >= t, DataType::Bool, {1, 1, 0});
    expect(2 < t, DataType::Bool, {0, 0, 1});
    expect(2 <= t, DataType::Bool, {0, 1, 1});
    expect(5 - t, type, {4, 3, 2});
    expect(lmp::pow(2, t), type, {2, 4, 8});
    expect(lmp::pow(t, 2), type, {1, 4, 9});
    expect(lmp::remainder(5, t), type, {0, 1, 2});
  }
  const Variable v(tensor(DataType::Float32, {1, 2, 3}), true);
  expect((2 == v).data(), DataType::Bool, {0, 1, 0});
  EXPECT_FALSE((2 == v).requires_grad());
  expect((2 * v).data(), DataType::Float32, {2, 4, 6});
  expect((2.0 - v).data(), DataType::Float32, {1, 0, -1});
}

TEST(NumberRules, ClampLeavesEitherSideOpen) {
  for (DataType type : kTypes) {
    const Tensor t = extremes(type);
    const bool same = type != DataType::Bool;  // Bool with an integer is Int64
    const DataType result = same ? type : DataType::Int64;
    std::vector<Wide> raised = read(t), lowered = raised;
    for (Wide& v : raised) v = std::max<Wide>(v, 1);
    for (Wide& v : lowered) v = std::min<Wide>(v, 1);
    expect(lmp::clamp(t, 1), result, raised);
    expect(lmp::clamp(t, 1, std::nullopt), result, raised);
    expect(lmp::clamp(t, std::nullopt, 1), result, lowered);
    expect(lmp::clamp(t, 0, 1).astype(DataType::Float64), DataType::Float64, [&] {
      for (Wide& v : lowered) v = std::max<Wide>(v, 0);
      return lowered;
    }());
    EXPECT_THROW(lmp::clamp(t, std::nullopt), lmp::ValueError);
  }
  const Tensor b = tensor(DataType::Bool, {0, 1});
  expect(lmp::clamp(b, true), DataType::Bool, {1, 1});
  expect(lmp::clamp(b, std::nullopt, false), DataType::Bool, {0, 0});
  const Tensor i = tensor(DataType::Int32, {-3, 0, 3});
  expect(lmp::clamp(i, -0.5), DataType::Float32, {-0.5, 0, 3});
  expect(lmp::clamp(i, 0, 1.5), DataType::Float32, {0, 0, 1.5});
  expect(lmp::clamp(i, std::nullopt, 1.5), DataType::Float32, {-3, 0, 1.5});
  expect(lmp::clamp(i, 5, 1), DataType::Int32, {1, 1, 1});
}

TEST(NumberRules, NanPassesThroughClampFromEverywhere) {
  for (DataType type :
       {DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64}) {
    const Tensor one = tensor(type, {1}), nan = tensor(type, {kNan});
    for (const Tensor& t :
         {lmp::clamp(nan, 0, 1), lmp::clamp(nan, 0), lmp::clamp(nan, std::nullopt, 0),
          lmp::clamp(one, kNan), lmp::clamp(one, std::nullopt, kNan), lmp::clamp(one, nan, one),
          lmp::clamp(one, one, nan)})
      EXPECT_TRUE(std::isnan(t.item())) << type;
  }
}

TEST(NumberRules, WhereTakesNumbers) {
  const Tensor c = tensor(DataType::Bool, {1, 0});
  expect(lmp::where(c, 1, 2), DataType::Int64, {1, 2});
  expect(lmp::where(c, true, false), DataType::Bool, {1, 0});
  expect(lmp::where(c, 1, 2.5), DataType::Float32, {1, 2.5});
  expect(lmp::where(c, true, 7), DataType::Int64, {1, 7});
  for (DataType type : kTypes) {
    const Tensor t = tensor(type, {0, 1});
    const DataType with_integer = type == DataType::Bool ? DataType::Int64 : type;
    const DataType with_float = is_floating(type) ? type : DataType::Float32;
    expect(lmp::where(c, t, 2), with_integer, {0, 2});
    expect(lmp::where(c, 2, t), with_integer, {2, 1});
    expect(lmp::where(c, t, 0.5), with_float, {0, 0.5});
    expect(lmp::where(c, 0.5, t), with_float, {0.5, 1});
    expect(lmp::where(c, t, true), type, {0, 1});
  }
}

TEST(NumberRules, InPlaceKeepsTheType) {
  for (DataType type : kTypes) {
    const Tensor t = tensor(type, {1, 1});
    t *= true;
    expect(t, type, {1, 1});
    if (type == DataType::Bool) {
      EXPECT_THROW(t *= 1, lmp::TypeError);
      continue;
    }
    t += 2;
    expect(t, type, {3, 3});
    if (is_floating(type)) {
      t *= 0.5;
      expect(t, type, {1.5, 1.5});
    } else {
      EXPECT_THROW(t += 0.5, lmp::TypeError) << type;
      EXPECT_THROW(t /= 2, lmp::TypeError) << type;
      expect(t, type, {3, 3});
    }
  }
}

TEST(NumberRules, ResultsInFloatTakeAnyInteger) {
  const Tensor x = tensor(DataType::UInt8, {10, 20});
  expect(x / 320, DataType::Float32, {0.03125, 0.0625});
  expect(x / -1, DataType::Float32, {-10, -20});
  EXPECT_THROW(x + 320, lmp::ValueError);
}

TEST(NumberRules, FullAndPadThrowWhereTheTypeDoesNotHoldTheNumber) {
  for (const DataType type : kIntegers) {
    expect(lmp::full({1}, 3.0, {}, type), type, {3});
    for (const double value : {0.5, 1e30, -1e30, kInf, kNan}) {
      EXPECT_THROW(lmp::full({1}, value, {}, type), lmp::ValueError) << type << " " << value;
      EXPECT_THROW(lmp::pad(lmp::zeros({1}, {}, type), {{1, 1}}, value), lmp::ValueError);
    }
  }
  EXPECT_THROW(lmp::full({1}, 300.0, {}, DataType::UInt8), lmp::ValueError);
  EXPECT_THROW(lmp::full({1}, -1.0, {}, DataType::UInt8), lmp::ValueError);
}

TEST(NumberRules, RandintStaysWithinTheType) {
  EXPECT_EQ(lmp::randint(0, 256, {9}, {}, DataType::UInt8).type(), DataType::UInt8);
  const std::uint64_t before = lmp::default_generator().offset();
  EXPECT_THROW(lmp::randint(0, 257, {9}, {}, DataType::UInt8), lmp::ValueError);
  EXPECT_THROW(lmp::randint(-1, 1, {9}, {}, DataType::UInt8), lmp::ValueError);
  EXPECT_THROW(lmp::randint(0, 100000, {9}, {}, DataType::Float16), lmp::ValueError);
  EXPECT_EQ(lmp::default_generator().offset(), before);
}

TEST(NumberRules, ADrawThatThrowsLeavesTheStreamWhereItIs) {
  const std::uint64_t before = lmp::default_generator().offset();
  lmp::empty_cache();
  const lmp::testing::MemoryLeft left(1 << 20);
  EXPECT_THROW(lmp::rand({1 << 22}), lmp::OutOfMemoryError);
  EXPECT_THROW(lmp::randint(0, 9, {1 << 22}), lmp::OutOfMemoryError);
  EXPECT_THROW(lmp::bernoulli(0.5, {1 << 22}), lmp::OutOfMemoryError);
  EXPECT_THROW(lmp::permutation(1 << 22), lmp::OutOfMemoryError);
  EXPECT_EQ(lmp::default_generator().offset(), before);
}

}  // namespace
