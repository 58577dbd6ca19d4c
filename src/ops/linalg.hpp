#pragma once

#include <span>

#include "autograd/record.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/ops.hpp"

/// Linear algebra: ops like those of structured.hpp. Operands are (..., n, n) in Float32 or
/// Float64, checked by the functions that users call.
namespace lmp::table {

/// a^-1 b. Operands of at least 2 dimensions and one type; batches broadcast, so a leading axis may
/// be added only where their ranks are equal.
struct Solve {
  static constexpr unsigned saves = 1 | autograd::kSavesResult;
  static constexpr const char* name = "solve";
  static constexpr bool leading_batch = true;
  tensor::Tensor forward(const tensor::Tensor& a, const tensor::Tensor& b) const;
  template <class V>
  void vjp(const autograd::Saves<V>& s, const V& g) const {
    const V gb = solve(transpose(s.input(0)), g);
    if (s.pass.wants(0)) s.pass.add(0, matmul(-gb, transpose(s.result())));
    if (s.pass.wants(1)) s.pass.add(1, gb);
  }
  autograd::Variable jvp(std::span<const autograd::Variable> x, const autograd::Variable& y,
                         std::span<const autograd::Variable> t) const;
};

struct Inverse {
  static constexpr unsigned saves = autograd::kSavesResult;
  const char* name = "inv";  // or of the op whose gradient it is for
  static constexpr bool leading_batch = true;
  tensor::Tensor forward(const tensor::Tensor& a) const;
  template <class V>
  void vjp(const autograd::Saves<V>& s, const V& g) const {
    const V t = transpose(s.result());
    s.pass.add(0, -matmul(matmul(t, g), t));
  }
  autograd::Variable jvp(std::span<const autograd::Variable> x, const autograd::Variable& y,
                         std::span<const autograd::Variable> t) const;
};

/// The lower triangle with its diagonal halved: the Phi of Murray, arXiv:1602.07527.
template <class V>
V half_triangle(const V& x) {
  return 0.5 * (tril(x) + tril(x, -1));
}

/// Reads the lower triangle and takes the upper one for its mirror: gradients are symmetric, and of
/// a tangent the symmetric part counts.
struct Cholesky {
  static constexpr unsigned saves = autograd::kSavesResult;
  static constexpr const char* name = "cholesky";
  static constexpr bool leading_batch = true;
  tensor::Tensor forward(const tensor::Tensor& a) const;
  template <class V>
  void vjp(const autograd::Saves<V>& s, const V& g) const {
    const V l = s.result(), t = transpose(l);
    const V left = solve(t, half_triangle(matmul(t, g)));
    const V x = solve(t, transpose(left));
    s.pass.add(0, 0.5 * (x + transpose(x)));
  }
  autograd::Variable jvp(std::span<const autograd::Variable> x, const autograd::Variable& y,
                         std::span<const autograd::Variable> t) const;
};

/// A number for each matrix, to multiply matrices by.
template <class V>
V by_matrix(const V& x) {
  return expand_dims(expand_dims(x, -1), -1);
}

struct Determinant {
  static constexpr unsigned saves = 1 | autograd::kSavesResult;
  static constexpr const char* name = "det";
  static constexpr bool leading_batch = true;
  tensor::Tensor forward(const tensor::Tensor& a) const;
  template <class V>
  void vjp(const autograd::Saves<V>& s, const V& g) const {
    const V inverse = apply(Inverse{name}, s.input(0));
    s.pass.add(0, by_matrix(g * s.result()) * transpose(inverse));
  }
  autograd::Variable jvp(std::span<const autograd::Variable> x, const autograd::Variable& y,
                         std::span<const autograd::Variable> t) const;
};

/// The sign of the determinant, which has no gradient, and the logarithm of its size: (..., 2).
struct LogDeterminant {
  static constexpr unsigned saves = 1;
  static constexpr const char* name = "slogdet";
  static constexpr bool leading_batch = true;
  tensor::Tensor forward(const tensor::Tensor& a) const;
  template <class V>
  void vjp(const autograd::Saves<V>& s, const V& g) const {
    const V inverse = apply(Inverse{name}, s.input(0));
    s.pass.add(0, by_matrix(select(g, -1, 1)) * transpose(inverse));
  }
  autograd::Variable jvp(std::span<const autograd::Variable> x, const autograd::Variable& y,
                         std::span<const autograd::Variable> t) const;
};

}  // namespace lmp::table
