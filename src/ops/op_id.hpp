#pragma once

namespace lmp::table {

#define LMP_UNARY(function, Op) Op,
#define LMP_BINARY(function, Op) Op,
#define LMP_TERNARY(function, Op) Op,
enum class OpId : int {
#include "lamppp/tensor/pointwise.def"
  kCount
};
inline constexpr int kOpCount = static_cast<int>(OpId::kCount);

/// What a reduction makes of elements x: sums and extremes of them, or with a value w for each
/// result the sum of (x - w)^2, the sum of e^(x - w), w >= x, and how many are equal to w, or with
/// an element w for each x the sum of x * w; or the mean, and the sum of (x - mean)^2.
enum class Reduction : int {
  Sum,
  Prod,
  Max,
  Min,
  Squares,
  Exps,
  Equals,
  Products,
  Mean,
  Deviations,
  kCount
};
inline constexpr int kReductions = static_cast<int>(Reduction::kCount);

/// What is made of elements x (of a result y and its gradient g) and of values a and b for each
/// result of a reduction.
enum class Spread : int {
  Scaled,              // (x - a) * b
  Ties,                // x == a ? b : 0, as a product
  ScaledExp,           // e^(x - a) * b, a >= x
  LessBoth,            // x - a - b
  SoftmaxGradient,     // y * (g - a)
  LogSoftmaxGradient,  // g - e^y * a
  Repeat,              // a
  kCount
};
inline constexpr int kSpreads = static_cast<int>(Spread::kCount);

}  // namespace lmp::table
