#pragma once

#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

using tensor::Activation;
using tensor::CrossEntropyOptions;

inline namespace ops {

#define LMP_T Variable
#define LMP_SITE , CallSite site = CallSite::here()
#define LMP_SITE_ARGUMENT , site
#include "lamppp/tensor/functions.inc"
#undef LMP_SITE_ARGUMENT
#undef LMP_SITE
#undef LMP_T

// A Tensor among the operands becomes a Variable.
#define LMP_OPERATOR(op, function)                                      \
  inline Variable operator op(const Variable& a, Located<Variable> b) { \
    return function(a, b.value, b.site);                                \
  }                                                                     \
  inline Variable operator op(Located<Variable> a, const Tensor& b) {   \
    return function(a.value, Variable(b), a.site);                      \
  }                                                                     \
  inline Variable operator op(Located<Variable> a, Number b) {          \
    return function(a.value, b, a.site);                                \
  }                                                                     \
  inline Variable operator op(Number a, Located<Variable> b) {          \
    return function(a, b.value, b.site);                                \
  }
LMP_OPERATOR(+, add)
LMP_OPERATOR(-, sub)
LMP_OPERATOR(*, mul)
LMP_OPERATOR(/, div)
#undef LMP_OPERATOR
/// neg(x).
inline Variable operator-(Located<Variable> x) { return neg(x.value, x.site); }

/// The Tensor ops that have no gradient take a Variable as its value: argsort, nonzero, one_hot,
/// allclose, array_equal.
LMP_API Tensor argsort(const Variable& x, int axis = -1, bool descending = false);
/// See tensor::ops::nonzero.
inline Tensor nonzero(const Variable& x) { return tensor::nonzero(x.data()); }
/// See tensor::ops::one_hot.
LMP_API Tensor one_hot(const Variable& labels, std::int64_t classes);
/// See tensor::ops::allclose.
inline bool allclose(const Variable& a, const Variable& b, double relative = 1e-5,
                     double absolute = 1e-8, bool equal_nan = false) {
  return tensor::allclose(a.data(), b.data(), relative, absolute, equal_nan);
}
/// See tensor::ops::array_equal.
inline bool array_equal(const Variable& a, const Variable& b) {
  return tensor::array_equal(a.data(), b.data());
}

}  // namespace ops
}  // namespace lmp::autograd
