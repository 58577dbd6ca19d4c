#include <gtest/gtest.h>

#include <iomanip>
#include <limits>
#include <sstream>
#include <string>

#include "lamppp/tensor/core.hpp"
#include "tensor/format.hpp"

// Where NumPy prints the same tensor, the text is NumPy's (2.4, floatmode='maxprec_equal',
// legacy='2.2', zeros for the digits that an element does not need) with "1." written as "1.0".
namespace {

using namespace lmp::tensor;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

std::string floats(const std::vector<float>& values) {
  return text(Tensor(values, {values.size()}));
}

std::string doubles(const std::vector<double>& values) {
  const std::string printed = text(Tensor(values, {values.size()}));
  const std::string type = " Float64 (" + std::to_string(values.size()) + ")";
  EXPECT_TRUE(printed.ends_with(type)) << printed;
  return printed.substr(0, printed.size() - type.size());
}

TEST(Printing, FloatsGetTheDecimalsThatTheColumnNeeds) {
  EXPECT_EQ(floats({4}), "[4.0]");
  EXPECT_EQ(floats({1, 2.5, 3}), "[1.0 2.5 3.0]");
  EXPECT_EQ(floats({0.1f, 0.25f, 1.0f / 3}), "[0.10000000 0.25000000 0.33333334]");
  EXPECT_EQ(floats({-0.0f, 0}), "[-0.0  0.0]");
  EXPECT_EQ(doubles({1.0 / 3, 2.0 / 3}), "[0.33333333 0.66666667]");
  EXPECT_EQ(doubles({12345678, 1e5}), "[12345678.0   100000.0]");
  EXPECT_EQ(text(Tensor({-1.0f, 10.0f, 100.0f}, {1, 3})), "[[ -1.0  10.0 100.0]]");
}

TEST(Printing, ExponentsWhereNumPyUsesThem) {
  EXPECT_EQ(floats({1e8f, 1}), "[1.0e+08 1.0e+00]");
  EXPECT_EQ(floats({1e-5f, 1}), "[1.0e-05 1.0e+00]");
  EXPECT_EQ(floats({0.001f, 1.5f}), "[1.0e-03 1.5e+00]");
  EXPECT_EQ(doubles({0.001, 1}), "[0.001 1.000]");
  EXPECT_EQ(doubles({0.002, 2}), "[0.002 2.000]");
  EXPECT_EQ(doubles({1e100, -1e5, 0}), "[ 1.0e+100 -1.0e+005  0.0e+000]");
}

TEST(Printing, NonFinite) {
  EXPECT_EQ(doubles({kNan, 1, kInf}), "[nan 1.0 inf]");
  EXPECT_EQ(doubles({-kInf, 0.5, kNan}), "[-inf  0.5  nan]");
  EXPECT_EQ(doubles({kNan, kNan}), "[nan nan]");
  EXPECT_EQ(doubles({1e-5, kNan}), "[1.0e-05     nan]");
}

TEST(Printing, ZeroDimensionalShowsEveryDigit) {
  const auto scalar = [](float value) { return text(full({}, value)); };
  EXPECT_EQ(scalar(4), "4.0");
  EXPECT_EQ(scalar(0.1f), "0.1");
  EXPECT_EQ(scalar(1.0f / 3), "0.33333334");
  EXPECT_EQ(scalar(1e-5f), "1.0e-05");
  EXPECT_EQ(scalar(1e10f), "10000000000.0");
  EXPECT_EQ(scalar(1e16f), "1.0e+16");
  EXPECT_EQ(scalar(123456789.0f), "123456792.0");
  EXPECT_EQ(scalar(-0.0f), "-0.0");
  EXPECT_EQ(text(full({}, kNan)), "nan");
  EXPECT_EQ(text(full({}, -kInf)), "-inf");
  EXPECT_EQ(text(Tensor({1.0 / 3}, {1}).reshape(Shape{})), "0.3333333333333333 Float64 ()");
  EXPECT_EQ(text(full({}, 7)), "7 Int64 ()");
  EXPECT_EQ(text(full({}, true)), "True Bool ()");
}

TEST(Printing, TypeAndShapeFollowWhatIsNotFloat32) {
  EXPECT_EQ(text(Tensor({1, 2, 3}, {3})), "[1 2 3] Int32 (3)");
  EXPECT_EQ(text(Tensor({1, -20, 300, 4}, {2, 2})), "[[  1 -20]\n [300   4]] Int32 (2, 2)");
  EXPECT_EQ(text(Tensor({std::numeric_limits<std::int64_t>::min(), std::int64_t{0}}, {2})),
            "[-9223372036854775808                    0] Int64 (2)");
  EXPECT_EQ(text(Tensor({true, false, false, true}, {2, 2})),
            "[[ True False]\n [False  True]] Bool (2, 2)");
  EXPECT_EQ(text(Tensor({true}, {1})), "[ True] Bool (1)");
  EXPECT_EQ(text(Tensor(std::vector<unsigned char>{0, 255}, {2})), "[  0 255] UInt8 (2)");
  EXPECT_EQ(text(Tensor({0.1f, 0.5f}, {2}, DeviceType::CPU, DataType::Float16)),
            "[0.1 0.5] Float16 (2)");
  EXPECT_EQ(text(Tensor({0.1f, 1.0f / 3}, {2}, DeviceType::CPU, DataType::BFloat16)),
            "[0.100 0.334] BFloat16 (2)");
  EXPECT_EQ(text(Tensor({0.1f, 1.0f / 3, 65504.0f}, {3}, DeviceType::CPU, DataType::Float16)),
            "[1.000e-01 3.333e-01 6.550e+04] Float16 (3)");
}

TEST(Printing, EmptyAndUndefined) {
  EXPECT_EQ(text(Tensor()), "<undefined>");
  EXPECT_EQ(text(zeros({0})), "[]");
  EXPECT_EQ(text(zeros({0, 3})), "[] Float32 (0, 3)");
  EXPECT_EQ(text(zeros({0}, DeviceType::CPU, DataType::Int64)), "[] Int64 (0)");
}

TEST(Printing, Nested) {
  EXPECT_EQ(text(Tensor({1.0f, 2.5f, -3.0f, 4.0f}, {2, 2})), "[[ 1.0  2.5]\n [-3.0  4.0]]");
  EXPECT_EQ(text(arange(3).reshape({3, 1})), "[[0]\n [1]\n [2]] Int64 (3, 1)");
  EXPECT_EQ(text(arange(12).reshape({2, 3, 2})), R"([[[ 0  1]
  [ 2  3]
  [ 4  5]]

 [[ 6  7]
  [ 8  9]
  [10 11]]] Int64 (2, 3, 2))");
  EXPECT_EQ(text(arange(8).astype(DataType::Float32).reshape({2, 2, 2, 1}) * 0.5), R"([[[[0.0]
   [0.5]]

  [[1.0]
   [1.5]]]


 [[[2.0]
   [2.5]]

  [[3.0]
   [3.5]]]])");
}

TEST(Printing, LinesBreakAt75Characters) {
  EXPECT_EQ(text(arange(24).astype(DataType::Float32) * 1.5),
            R"([ 0.0  1.5  3.0  4.5  6.0  7.5  9.0 10.5 12.0 13.5 15.0 16.5 18.0 19.5
 21.0 22.5 24.0 25.5 27.0 28.5 30.0 31.5 33.0 34.5])");
  EXPECT_EQ(text(arange(40)),
            R"([ 0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19 20 21 22 23
 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39] Int64 (40))");
  EXPECT_EQ(text((arange(36).astype(DataType::Float32) / 7).reshape({2, 18})),
            R"([[0.00000000 0.14285715 0.28571430 0.42857143 0.57142860 0.71428573
  0.85714287 1.00000000 1.14285720 1.28571430 1.42857150 1.57142850
  1.71428570 1.85714280 2.00000000 2.14285700 2.28571440 2.42857150]
 [2.57142850 2.71428560 2.85714300 3.00000000 3.14285700 3.28571440
  3.42857150 3.57142850 3.71428560 3.85714300 4.00000000 4.14285700
  4.28571400 4.42857100 4.57142900 4.71428600 4.85714300 5.00000000]])");
  EXPECT_EQ(text(remainder(arange(30), 2) == 0),
            R"([ True False  True False  True False  True False  True False  True False
  True False  True False  True False  True False  True False  True False
  True False  True False  True False] Bool (30))");
}

TEST(Printing, SummarisedAboveAThousand) {
  EXPECT_EQ(text(arange(1000)).find("..."), std::string::npos);
  EXPECT_EQ(text(arange(1001)), "[   0    1    2 ...  998  999 1000] Int64 (1001)");
  EXPECT_EQ(text(arange(1001).astype(DataType::Float32)),
            "[   0.0    1.0    2.0 ...  998.0  999.0 1000.0]");
  EXPECT_EQ(text(arange(2500).reshape({50, 50})), R"([[   0    1    2 ...   47   48   49]
 [  50   51   52 ...   97   98   99]
 [ 100  101  102 ...  147  148  149]
 ...
 [2350 2351 2352 ... 2397 2398 2399]
 [2400 2401 2402 ... 2447 2448 2449]
 [2450 2451 2452 ... 2497 2498 2499]] Int64 (50, 50))");
  EXPECT_EQ(text(arange(2000).reshape({1000, 2})), R"([[   0    1]
 [   2    3]
 [   4    5]
 ...
 [1994 1995]
 [1996 1997]
 [1998 1999]] Int64 (1000, 2))");
  EXPECT_EQ(text(arange(1200).astype(DataType::Float32).reshape({3, 400}) * 12345),
            R"([[0.0000000e+00 1.2345000e+04 2.4690000e+04 ... 4.9009650e+06
  4.9133100e+06 4.9256550e+06]
 [4.9380000e+06 4.9503450e+06 4.9626900e+06 ... 9.8389650e+06
  9.8513100e+06 9.8636550e+06]
 [9.8760000e+06 9.8883450e+06 9.9006900e+06 ... 1.4776965e+07
  1.4789310e+07 1.4801655e+07]])");
  // What is not shown does not widen the columns, and costs nothing.
  Tensor spike = ones({2000});
  spike.select(0, 1000).fill(1e9);
  EXPECT_EQ(text(spike), "[1.0 1.0 1.0 ... 1.0 1.0 1.0]");
  EXPECT_EQ(text(broadcast_to(ones({1, 1}), {1 << 20, 1 << 20})).substr(0, 35),
            "[[1.0 1.0 1.0 ... 1.0 1.0 1.0]\n [1.");
}

TEST(Printing, ViewsPrintInLogicalOrder) {
  const Tensor x = arange(6).reshape({2, 3});
  EXPECT_EQ(text(x.transpose()), "[[0 3]\n [1 4]\n [2 5]] Int64 (3, 2)");
  EXPECT_EQ(text(x.flip({0, 1})), "[[5 4 3]\n [2 1 0]] Int64 (2, 3)");
}

TEST(Printing, TheStreamsFormatDoesNotMatter) {
  std::ostringstream out;
  out << std::setprecision(2) << std::hex << std::showpos << std::setfill('*') << std::setw(40)
      << full({2}, 1.25);
  EXPECT_EQ(out.str(), "[1.25 1.25]");
  EXPECT_EQ(out.precision(), 2);
}

TEST(Printing, SmallThings) {
  EXPECT_EQ(text(DataType::BFloat16), "BFloat16");
  EXPECT_STREQ(name_of(DataType::Bool), "Bool");
  EXPECT_EQ(text(DeviceType::CUDA), "CUDA");
  EXPECT_EQ(text(Device(DeviceType::CPU)), "CPU");
  EXPECT_EQ(text(Device(DeviceType::CUDA, 1)), "CUDA:1");
  EXPECT_EQ(text(Shape{2, 3}), "(2, 3)");
  EXPECT_EQ(text(Shape{}), "()");
  EXPECT_EQ(text(IntList{-1}), "(-1)");
  EXPECT_EQ(detail::concat("add: ", Shape{2}, " and ", DataType::Int8, ' ', 1000000),
            "add: (2) and Int8 1000000");
}

}  // namespace
