#pragma once

namespace lmp::table {

/// What type a pointwise op computes in, given the promoted type of its operands, and what it
/// returns.
enum class Promote : unsigned char {
  Common,   // computes in the promoted type and returns it
  Float,    // integers and Bool become Float32
  Compare,  // computes in the promoted type, returns Bool
};

/// Where tests draw an operand from.
struct Domain {
  double low = -4;
  double high = 4;
};

struct OpInfo {
  const char* name;
  const char* formula;
  Promote promote;
  Domain domains[3] = {};
  bool takes_bool = true;
  /// Bit i: operand i is Bool whatever the others are, and has no gradient.
  unsigned condition = 0;
  /// Where not 0: a block of floats of at most this magnitude is handed to `fwd` as Near, for which
  /// its functions have a shorter way; and to `grad` where that takes such functions of x.
  float near = 0;
  bool near_gradient = false;
  /// So little work that memory sets the pace: BFloat16 is best converted on the way, not in a pass
  /// of its own. Comparisons are light without saying so.
  bool light = false;
};

/// Marks an operand without a gradient.
struct None {};

/// Gradients by operand. An aggregate, since device code has no std::tuple.
template <class A, class B = None, class C = None>
struct Grads {
  A a;
  B b = {};
  C c = {};
};
template <class A>
Grads(A) -> Grads<A>;
template <class A, class B>
Grads(A, B) -> Grads<A, B>;
template <class A, class B, class C>
Grads(A, B, C) -> Grads<A, B, C>;

}  // namespace lmp::table
