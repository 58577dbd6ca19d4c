#include "ops/pointwise_run.hpp"

#include <cmath>
#include <limits>

#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"

namespace lmp::tensor {
inline namespace ops {

using detail::concat;
using detail::Operand;
using lmp::table::OpId;
using lmp::table::PointwiseOp;
using lmp::table::Promote;

bool number_fits(Number number, DataType type) noexcept {
  if (!is_integer(type) || number.kind() == Number::Kind::Float) return true;
  const std::int64_t v = number.integer();
  switch (type) {
    case DataType::UInt8:
      return v >= 0 && v <= 255;
    case DataType::Int8:
      return v >= -128 && v <= 127;
    case DataType::Int16:
      return v >= -32768 && v <= 32767;
    case DataType::Int32:
      return v >= std::numeric_limits<std::int32_t>::min() &&
             v <= std::numeric_limits<std::int32_t>::max();
    default:
      return true;
  }
}

void check_number_fits(const char* op, Number number, DataType type) {
  if (!number_fits(number, type))
    throw ValueError(concat(op, ": ", number.integer(), " does not fit ", type,
                            "; convert the tensor with astype() first"));
}

void check_number_held(const char* op, Number number, DataType type) {
  check_number_fits(op, number, type);
  if (!is_integer(type) || number.kind() != Number::Kind::Float) return;
  const double v = number.to_double();
  if (v != std::trunc(v) || !(v >= -0x1p63 && v < 0x1p63) ||
      !number_fits(static_cast<std::int64_t>(v), type))
    throw ValueError(concat(op, ": ", type, " does not hold ", v, "; ask for a floating type"));
}

namespace {

struct Plan {
  DataType compute;
  DataType result;
  Shape shape;
  Device device;
};

bool is_condition(const PointwiseOp& op, int i) { return op.info.condition >> i & 1; }

DataType promoted(const PointwiseOp& op, const Operand* in, int count) {
  DataType type = DataType::Bool;
  bool any_tensor = false;
  for (int i = 0; i < count; ++i) {
    if (!in[i].tensor || is_condition(op, i)) continue;
    type = any_tensor ? type_upcast(type, in[i].tensor->type()) : in[i].tensor->type();
    any_tensor = true;
  }
  for (int i = 0; i < count; ++i)
    if (!in[i].tensor) type = type_upcast(type, in[i].number);
  for (int i = 0; i < count; ++i) {
    if (in[i].tensor || op.info.promote == Promote::Float || number_fits(in[i].number, type))
      continue;
    // A comparison has an answer for any two integers.
    if (op.info.promote != Promote::Compare) check_number_fits(op.info.name, in[i].number, type);
    type = DataType::Int64;
  }
  return type;
}

Plan make_plan(const PointwiseOp& op, const Operand* in, int count) {
  Plan plan{};
  const Tensor* first = nullptr;
  for (int i = 0; i < count; ++i) {
    const Tensor* t = in[i].tensor;
    if (!t) continue;
    detail::check_defined(op.info.name, *t);
    if (is_condition(op, i) && t->type() != DataType::Bool)
      throw TypeError(concat(op.info.name, ": the condition is ", t->type(),
                             ", it has to be Bool; compare with 0 (x != 0) or use astype(Bool)"));
    if (first) {
      detail::check_same_device(op.info.name, *first, *t);
      plan.shape = detail::broadcast_shapes(op.info.name, plan.shape, t->shape());
    } else {
      first = t;
      plan.shape = t->shape();
      plan.device = t->device();
    }
  }
  plan.compute = promoted(op, in, count);
  if (op.info.promote == Promote::Float && !is_floating(plan.compute))
    plan.compute = DataType::Float32;
  if (plan.compute == DataType::Bool && !op.info.takes_bool)
    throw TypeError(concat(op.info.name,
                           ": not defined for Bool; convert with astype(Int64), or use ",
                           "logical_not and logical_xor"));
  plan.result = op.info.promote == Promote::Compare ? DataType::Bool : plan.compute;
  return plan;
}

// What integers cannot answer is an error, not a number. Kernels that run later report it, so that
// nothing has to wait for them.
void check_integer_operands(OpId op, const Plan& plan, const Operand* in) {
  if (is_floating(plan.compute) || (op != OpId::Remainder && op != OpId::Pow)) return;
  if (in[1].tensor && detail::runs_later(plan.device)) return;
  const bool power = op == OpId::Pow;
  const bool bad = in[1].tensor
                       ? (power ? any(lt(*in[1].tensor, 0)) : any(eq(*in[1].tensor, 0))).item() != 0
                       : (power ? in[1].number.integer() < 0 : in[1].number.integer() == 0);
  if (bad) throw ValueError(power ? detail::kNegativePower : detail::kDivisionByZero);
}

}  // namespace

Tensor pointwise(OpId id, const Operand* in, int count) {
  const PointwiseOp& op = lmp::table::pointwise_op(id);
  // The everyday case decides in a few comparisons: one type, one shape, one device.
  const Tensor* a = in[0].tensor;
  const Tensor* b = count == 2 ? in[1].tensor : a;
  if (count == 2 && a && !b && a->is_contiguous() && is_floating(a->type())) {
    const DataType result = op.info.promote == Promote::Compare ? DataType::Bool : a->type();
    Tensor out = detail::allocate(a->shape(), result, a->device());
    detail::backend(a->device()).forward(id, a->type(), out, in, count);
    return out;
  }
  if (count <= 2 && a && b && a->is_contiguous() && b->is_contiguous() && a->type() == b->type() &&
      is_floating(a->type()) && a->shape() == b->shape() && a->device() == b->device()) [[likely]] {
    const DataType result = op.info.promote == Promote::Compare ? DataType::Bool : a->type();
    Tensor out = detail::allocate(a->shape(), result, a->device());
    detail::backend(a->device()).forward(id, a->type(), out, in, count);
    return out;
  }
  const Plan plan = make_plan(op, in, count);
  check_integer_operands(id, plan, in);
  Tensor out = detail::allocate(plan.shape, plan.result, plan.device);
  detail::backend(plan.device).forward(id, plan.compute, out, in, count);
  return out;
}

void pointwise_into(OpId id, const char* name, const Tensor& x, const Operand* in, int count) {
  const Plan plan = make_plan(lmp::table::pointwise_op(id), in, count);
  const auto category = [](DataType t) { return is_floating(t) ? 2 : is_integer(t) ? 1 : 0; };
  if (category(plan.result) > category(x.type()))
    throw TypeError(concat(name, ": the result is ", plan.result, " and cannot be written into ",
                           x.type(), "; use the op that makes a new tensor, or astype() first"));
  check_integer_operands(id, plan, in);
  if (plan.result != x.type()) {
    x.copy(pointwise(id, in, count));
    return;
  }
  TensorAccess::bump_version(x);
  detail::backend(plan.device).forward(id, plan.compute, x, in, count);
}

#define LMP_UNARY(function, Op)        \
  Tensor function(const Tensor& x) {   \
    const Operand in[1] = {x};         \
    return pointwise(OpId::Op, in, 1); \
  }
#define LMP_BINARY(function, Op)                      \
  Tensor function(const Tensor& a, const Tensor& b) { \
    const Operand in[2] = {a, b};                     \
    return pointwise(OpId::Op, in, 2);                \
  }                                                   \
  Tensor function(const Tensor& a, Number b) {        \
    const Operand in[2] = {a, b};                     \
    return pointwise(OpId::Op, in, 2);                \
  }                                                   \
  Tensor function(Number a, const Tensor& b) {        \
    const Operand in[2] = {a, b};                     \
    return pointwise(OpId::Op, in, 2);                \
  }
#include "lamppp/tensor/pointwise.def"

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const Operand in[3] = {condition, a, b};
  return pointwise(OpId::Where, in, 3);
}
Tensor where(const Tensor& condition, const Tensor& a, Number b) {
  const Operand in[3] = {condition, a, b};
  return pointwise(OpId::Where, in, 3);
}
Tensor where(const Tensor& condition, Number a, const Tensor& b) {
  const Operand in[3] = {condition, a, b};
  return pointwise(OpId::Where, in, 3);
}
Tensor where(const Tensor& condition, Number a, Number b) {
  const Operand in[3] = {condition, a, b};
  return pointwise(OpId::Where, in, 3);
}
Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high) {
  const Operand in[3] = {x, low, high};
  return pointwise(OpId::Clamp, in, 3);
}
Tensor clamp(const Tensor& x, std::optional<Number> low, std::optional<Number> high) {
  const auto [from, to] = clamp_bounds(x, low, high);
  const Operand in[3] = {x, from, to};
  return pointwise(OpId::Clamp, in, 3);
}

std::pair<Number, Number> clamp_bounds(const Tensor& x, std::optional<Number> low,
                                       std::optional<Number> high) {
  if (!low && !high) throw ValueError("clamp: both bounds are open; give one");
  const DataType type = type_upcast(x.type(), low ? *low : *high);
  if (is_floating(type)) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    return {low.value_or(-kInfinity), high.value_or(kInfinity)};
  }
  const auto limits = [&]() -> std::pair<Number, Number> {
    switch (type) {
      case DataType::Bool:
        return {false, true};
      case DataType::UInt8:
        return {0, 255};
      case DataType::Int8:
        return {-128, 127};
      case DataType::Int16:
        return {-32768, 32767};
      case DataType::Int32:
        return {INT32_MIN, INT32_MAX};
      default:
        return {INT64_MIN, INT64_MAX};
    }
  }();
  return {low.value_or(limits.first), high.value_or(limits.second)};
}

}  // namespace ops
}  // namespace lmp::tensor
