#include <algorithm>
#include <cstdlib>

#include "lamppp/autograd/ops.hpp"
#include "ops/einsum.hpp"
#include "ops/linalg.hpp"
#include "ops/pointwise_run.hpp"
#include "ops/structured.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"

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
  std::vector<Tensor> values;
  std::vector<const Variable*> inputs;
  for (const Variable& v : list) {
    values.push_back(v.data());
    inputs.push_back(&v);
  }
  return record(op, op.forward(values), inputs);
}
}  // namespace

#define LMP_T Variable
#include "ops/functions.inc"
#undef LMP_T

}  // namespace ops

#define LMP_T Variable
#define LMP_OPS ops
#include "ops/members.inc"
#undef LMP_OPS
#undef LMP_T

}  // namespace lmp::autograd
