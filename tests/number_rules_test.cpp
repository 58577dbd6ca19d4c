// What plain numbers do to types and values, and what integers cannot answer.

#include <gtest/gtest.h>

#include "lamppp/lamppp.hpp"

namespace {

using lmp::DataType;
using lmp::Tensor;

constexpr DataType kTypes[] = {
    DataType::Bool,  DataType::UInt8,   DataType::Int8,     DataType::Int16,   DataType::Int32,
    DataType::Int64, DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64};

TEST(NumberRules, IntegersWithoutAnAnswerThrow) {
  const Tensor x({1, 2}, {2}), zero({1, 0}, {2}), negative({1, -1}, {2});
  EXPECT_THROW(lmp::remainder(x, zero), lmp::ValueError);
  EXPECT_THROW(lmp::remainder(x, 0), lmp::ValueError);
  EXPECT_THROW(lmp::pow(x, negative), lmp::ValueError);
  EXPECT_THROW(lmp::pow(x, -1), lmp::ValueError);
  EXPECT_EQ(lmp::pow(x, 10).to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, 1024}));
}

TEST(NumberRules, NumbersKeepTheTensorsCategory) {
  const Tensor i({1, 2, 3}, {3}), f = i.astype(DataType::Float32), h = i.astype(DataType::Float16);
  EXPECT_EQ((i * 2).type(), DataType::Int32);
  EXPECT_EQ((i * 0.5).type(), DataType::Float32);
  EXPECT_EQ((i * 0.5).to_vector<float>(), (std::vector<float>{0.5f, 1, 1.5f}));
  EXPECT_EQ((f * 2).type(), DataType::Float32);
  EXPECT_EQ((2.0 * h).type(), DataType::Float16);
  EXPECT_EQ((i / 2).type(), DataType::Float32);
  EXPECT_EQ((i == 2).to_vector<bool>(), (std::vector<bool>{false, true, false}));
  EXPECT_EQ((2 == i).to_vector<bool>(), (std::vector<bool>{false, true, false}));
  EXPECT_EQ((2 < i).to_vector<bool>(), (std::vector<bool>{false, false, true}));
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  EXPECT_EQ((lmp::full({1}, large) + 2).item<std::int64_t>(), large + 2);
  EXPECT_EQ((lmp::full({1}, true) + 1).type(), DataType::Int64);
  EXPECT_EQ((lmp::full({1}, true) + lmp::full({1}, true)).type(), DataType::Bool);
}

TEST(NumberRules, NumbersThatDoNotFitThrow) {
  const Tensor u8 = lmp::full({2}, 1, lmp::DeviceType::CPU, DataType::UInt8);
  EXPECT_THROW(u8 + 256, lmp::ValueError);
  EXPECT_THROW(u8 * -1, lmp::ValueError);
  EXPECT_THROW(u8 + (~0ULL), lmp::ValueError);
  EXPECT_EQ((u8 < 300).to_vector<bool>(), (std::vector<bool>{true, true}));
  EXPECT_EQ((u8 == -1).to_vector<bool>(), (std::vector<bool>{false, false}));
}

TEST(NumberRules, ClampWithOneSideOpen) {
  for (DataType type : kTypes) {
    if (type == DataType::Bool) continue;
    const Tensor x({1, 5, 9}, {3}, lmp::DeviceType::CPU, type);
    EXPECT_EQ(lmp::clamp(x, 3, std::nullopt).to_vector<double>(), (std::vector<double>{3, 5, 9}));
    EXPECT_EQ(lmp::clamp(x, std::nullopt, 6).to_vector<double>(), (std::vector<double>{1, 5, 6}));
    EXPECT_EQ(lmp::clamp(x, 3, 6).type(), type);
  }
  EXPECT_THROW(lmp::clamp(lmp::ones({2}), std::nullopt, std::nullopt), lmp::ValueError);
}

TEST(NumberRules, WhereTakesNumbers) {
  const Tensor mask(std::vector<bool>{true, false}, {2}), x({1.5f, 2.5f}, {2});
  EXPECT_EQ(lmp::where(mask, x, 0).to_vector<float>(), (std::vector<float>{1.5f, 0}));
  EXPECT_EQ(lmp::where(mask, 7, x).to_vector<float>(), (std::vector<float>{7, 2.5f}));
  EXPECT_EQ(lmp::where(mask, 1, 2).type(), DataType::Int64);
  EXPECT_THROW(lmp::where(x, x, x), lmp::TypeError);
}

TEST(NumberRules, TypesPromoteByCategory) {
  using lmp::tensor::type_upcast;
  EXPECT_EQ(type_upcast(DataType::UInt8, DataType::Int8), DataType::Int16);
  EXPECT_EQ(type_upcast(DataType::Float16, DataType::BFloat16), DataType::Float32);
  EXPECT_EQ(type_upcast(DataType::Int64, DataType::Float16), DataType::Float16);
  EXPECT_EQ(type_upcast(DataType::Bool, DataType::UInt8), DataType::UInt8);
  for (DataType a : kTypes)
    for (DataType b2 : kTypes) EXPECT_EQ(type_upcast(a, b2), type_upcast(b2, a));
}

}  // namespace
