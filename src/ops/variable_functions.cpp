#include <algorithm>
#include <cstdlib>

#include "lamppp/autograd/ops.hpp"
#include "ops/composites.hpp"
#include "ops/einsum.hpp"
#include "ops/linalg.hpp"
#include "ops/pointwise_run.hpp"
#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::autograd {

using namespace tensor::detail;
using table::BroadcastTo;
using table::HeldIndex;
using table::Over;
using table::Reshape;
using table::View;
using table::ViewSpec;
using tensor::is_floating;
using tensor::is_integer;
using tensor::type_upcast;

inline namespace ops {

namespace {
Variable apply_list(const table::Cat& op, const std::vector<Variable>& list) {
  return intercept(StructuredOp<table::Cat, kList>(op), pointers(list));
}
std::pair<Variable, Tensor> sorted(const table::ArgSort& op, const Variable& x) {
  const Tensor order = apply(op, x).data();
  return {gather(x, op.axis, order), order};
}
// In any lane, under vmap.
bool holds_anywhere(const Variable& condition) {
  return tensor::any(plain_value(condition)).item() != 0;
}
}  // namespace

#define LMP_T Variable
#define LMP_SITE_PARAMETER , CallSite site
#define LMP_CALLED const CallScope scope(site);
#include "ops/functions.inc"
#undef LMP_CALLED
#undef LMP_SITE_PARAMETER
#undef LMP_T

Tensor argsort(const Variable& x, int axis, bool descending) {
  const int a = checked_axis("argsort", x, axis);
  return apply(table::ArgSort{a, descending, x.shape().dim(a)}, x).data();
}
Tensor one_hot(const Variable& labels, std::int64_t classes) {
  check_operand("one_hot", labels);
  return apply(table::OneHot{classes}, labels).data();
}

}  // namespace ops

#define LMP_T Variable
#define LMP_OPS ops
#define LMP_SITE_PARAMETER , CallSite site
#define LMP_ONLY_SITE_PARAMETER CallSite site
#define LMP_SITE_ARGUMENT , site
#define LMP_LOCATED(T) Located<T>
#define LMP_VALUE(located) located.value
#define LMP_SITE_OF(located) , located.site
#include "ops/members.inc"
#undef LMP_SITE_OF
#undef LMP_VALUE
#undef LMP_LOCATED
#undef LMP_SITE_ARGUMENT
#undef LMP_ONLY_SITE_PARAMETER
#undef LMP_SITE_PARAMETER
#undef LMP_OPS
#undef LMP_T

}  // namespace lmp::autograd
