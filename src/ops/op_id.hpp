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

enum class Reduction : int { Sum, Prod, Max, Min, kCount };
inline constexpr int kReductions = static_cast<int>(Reduction::kCount);

}  // namespace lmp::table
