#pragma once

#include <optional>
#include <utility>

#include "ops/op_id.hpp"
#include "ops/op_info.hpp"
#include "tensor/backend.hpp"

namespace lmp::table {

/// What the library has to know of a pointwise op at run time; all of it follows from its struct.
struct PointwiseOp {
  OpInfo info;
  int arity;
  bool differentiable;
  /// By the mask of operands that want a gradient: what the backward pass reads, bit i for operand
  /// i, bit 3 for the result.
  unsigned char reads[8];
  /// Bit i: operand i's gradient is the incoming one as it is, so no kernel runs for it.
  unsigned char passes;
};

const PointwiseOp& pointwise_op(OpId op) noexcept;

}  // namespace lmp::table

namespace lmp::tensor {
inline namespace ops {

/// out = op(operands), new.
Tensor pointwise(lmp::table::OpId op, const detail::Operand* operands, int count);
/// x = op(operands), into x's memory; x is one of them or shares nothing with them.
void pointwise_into(lmp::table::OpId op, const char* name, const Tensor& x,
                    const detail::Operand* operands, int count);
/// Throws ValueError where an integer is outside an integer type; floats are cast to one.
void check_number_fits(const char* op, Number number, DataType type);
/// The same, also where an integer type does not have a float.
void check_number_held(const char* op, Number number, DataType type);
bool number_fits(Number number, DataType type) noexcept;
/// Both bounds of a clamp of x, an open one as the limit of the type that it is computed in.
std::pair<Number, Number> clamp_bounds(const Tensor& x, std::optional<Number> low,
                                       std::optional<Number> high);

}  // namespace ops
}  // namespace lmp::tensor
