#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "autograd_support.hpp"

/// What the tests of jvp, vjp, jacobian, hessian, hvp and vmap share.
namespace lmp::testing {

using Values = std::vector<double>;
using Function = std::function<Variable(const Variable&)>;

inline Variable vector_of(const Values& data, const Shape& shape) {
  return Variable(Tensor(data, shape, DeviceType::CPU, DataType::Float64));
}
inline Variable vector_of(const Values& data) { return vector_of(data, {data.size()}); }
inline Variable scalar(double value) { return vector_of({value}, {}); }

inline void expect_near(const Values& actual, const Values& expected, double tolerance = 1e-10) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i])))
        << "element " << i;
}
inline void expect_near(const Variable& actual, const Variable& expected,
                        double tolerance = 1e-10) {
  ASSERT_EQ(actual.shape(), expected.shape());
  expect_near(values(actual), values(expected), tolerance);
}

}  // namespace lmp::testing
