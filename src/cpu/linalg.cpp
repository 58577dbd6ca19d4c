#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/backend.hpp"
#include "cpu/scratch.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/iteration.hpp"
#include "tensor/parallel.hpp"

// Eigen is templates and inline functions: weak symbols, of which a linker keeps one copy. In a
// namespace of our own they never meet those of a program that uses Eigen too, maybe of another
// version or compiled with other flags. Without asserts, since callers have checked; without the
// caches of the machine at hand, since the blocks that follow from them change the last bits.
#define Eigen lmp_private_eigen
#define EIGEN_MPL2_ONLY
#define EIGEN_DONT_PARALLELIZE
#define EIGEN_NO_CPUID
#ifndef EIGEN_NO_DEBUG
#define EIGEN_NO_DEBUG
#endif
#include <Eigen/Cholesky>
#include <Eigen/LU>

namespace lmp::cpu {
namespace {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::BadMatrix;
using tensor::detail::RunWalker;
using Index = std::int64_t;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;  // columns are dense
template <class T>
using Map = Eigen::Map<Matrix<T>, Eigen::AlignedMax>;
template <class T>
using Lu = Eigen::PartialPivLU<Eigen::Ref<Matrix<T>>>;

template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

/// Batch axes that are walked together.
struct Walk {
  IntList sizes;
  Index count = 1;
  void push_back(Index size) {
    sizes.push_back(size);
    count *= size;
  }
  Index offset(const IntList& strides, Index i) const {
    return RunWalker(sizes.begin(), strides.begin(), static_cast<int>(sizes.size()), i).offset();
  }
};

Shape leading(const Tensor& x) {
  IntList sizes;
  for (int d = 0; d < x.ndim() - 2; ++d) sizes.push_back(x.shape().dim(d));
  return Shape(sizes);
}

Index stride(const Tensor& x, int axis) { return x.strides()[static_cast<std::size_t>(axis)]; }

IntList leading_strides(const Tensor& x) {
  IntList strides;
  for (int d = 0; d < x.ndim() - 2; ++d) strides.push_back(stride(x, d));
  return strides;
}

/// The matrices of a tensor's last two axes.
template <class T>
struct Matrices {
  explicit Matrices(const Tensor& x)
      : data(static_cast<T*>(x.data())),
        rows(x.shape().dim(x.ndim() - 2)),
        cols(x.shape().dim(x.ndim() - 1)),
        row(stride(x, x.ndim() - 2)),
        col(stride(x, x.ndim() - 1)),
        strides(leading_strides(x)) {
    for (std::size_t size : leading(x)) walk.push_back(static_cast<Index>(size));
  }
  T* at(Index i) const { return data + walk.offset(strides, i); }

  T* data;
  Index rows, cols, row, col;
  IntList strides;
  Walk walk;
};

template <class T>
Scratch scratch_for(Index count) {
  return Scratch(static_cast<std::size_t>(count) * sizeof(T));
}

/// Matrices for a thread at a time, from what one costs: by sizes alone.
Index chunk_of(Index cost) {
  constexpr Index kWork = Index{1} << 15;
  return std::max(Index{1}, kWork / std::max(Index{1}, cost));
}

/// Copies into dense columns; true where there is a NaN.
template <class T>
bool load(T* to, const Matrices<T>& m, const T* from) {
  bool nan = false;
  for (Index i = 0; i < m.rows; ++i) {
    for (Index j = 0; j < m.cols; ++j) {
      const T v = from[i * m.row + j * m.col];
      nan |= std::isnan(v);
      to[i + j * m.rows] = v;
    }
  }
  return nan;
}

template <class T>
bool is_singular(const Lu<T>& lu) {
  for (Index i = 0; i < lu.rows(); ++i)
    if (lu.matrixLU()(i, i) == 0) return true;
  return false;
}

/// x = U^-1 L^-1 x, of rows that are permuted already.
template <class T>
void substitute(const Lu<T>& lu, T* x, Index cols) {
  Map<T> right(x, lu.rows(), cols);
  lu.matrixLU().template triangularView<Eigen::UnitLower>().solveInPlace(right);
  lu.matrixLU().template triangularView<Eigen::Upper>().solveInPlace(right);
}

/// The first bad one, the same on any number of threads: an exception from a chunk would be the
/// first in time.
BadMatrix first_bad(const std::vector<Index>& orders) {
  for (std::size_t i = 0; i < orders.size(); ++i)
    if (orders[i] != 0) return {static_cast<Index>(i), orders[i]};
  return {};
}

std::vector<Index> orders_for(Index count) {
  return std::vector<Index>(static_cast<std::size_t>(count));
}

template <class T>
BadMatrix solve_as(const Tensor& out, const Tensor& a, const Tensor& b) {
  const Matrices<T> to(out), left(a), right(b);
  const Shape batch = leading(out), a_batch = leading(a);
  const IntList a_strides = tensor::detail::broadcast_strides(a_batch, left.strides, batch);
  const IntList b_strides = tensor::detail::broadcast_strides(leading(b), right.strides, batch);
  const IntList places =
      tensor::detail::broadcast_strides(a_batch, tensor::detail::dense_strides(a_batch), batch);
  // A matrix is factored once for all right sides that it is broadcast to.
  Walk own, shared;
  IntList own_to, own_left, own_right, own_place, shared_to, shared_right;
  for (std::size_t d = 0; d < batch.size(); ++d) {
    if (a_strides[d] != 0) {
      own.push_back(static_cast<Index>(batch[d]));
      own_to.push_back(to.strides[d]);
      own_left.push_back(a_strides[d]);
      own_right.push_back(b_strides[d]);
      own_place.push_back(places[d]);
    } else {
      shared.push_back(static_cast<Index>(batch[d]));
      shared_to.push_back(to.strides[d]);
      shared_right.push_back(b_strides[d]);
    }
  }
  const Index n = to.rows, k = to.cols;
  constexpr Index kColumns = 512;
  const Index together = std::clamp(kColumns / k, Index{1}, shared.count);
  std::vector<Index> orders = orders_for(own.count);
  const auto run = [&](Index begin, Index end) {
    const Scratch factors = scratch_for<T>(n * n), sides = scratch_for<T>(n * k * together);
    T* const x = static_cast<T*>(sides.data());
    for (Index i = begin; i < end; ++i) {
      const bool nan =
          load(static_cast<T*>(factors.data()), left, left.data + own.offset(own_left, i));
      Map<T> matrix(static_cast<T*>(factors.data()), n, n);
      if (nan) matrix.setIdentity();
      const Lu<T> lu(matrix);
      if (is_singular(lu)) {
        orders[static_cast<std::size_t>(i)] = n;
        continue;
      }
      const auto& place = lu.permutationP().indices();
      for (Index first = 0; first < shared.count; first += together) {
        const Index count = std::min(together, shared.count - first);
        for (Index s = 0; s < count; ++s) {
          const T* from =
              right.data + own.offset(own_right, i) + shared.offset(shared_right, first + s);
          for (Index r = 0; r < n; ++r)
            for (Index c = 0; c < k; ++c)
              x[place[r] + (s * k + c) * n] = nan ? kNaN<T> : from[r * right.row + c * right.col];
        }
        substitute(lu, x, count * k);
        for (Index s = 0; s < count; ++s) {
          T* const result = to.data + own.offset(own_to, i) + shared.offset(shared_to, first + s);
          for (Index r = 0; r < n; ++r)
            for (Index c = 0; c < k; ++c) result[r * k + c] = x[r + (s * k + c) * n];
        }
      }
    }
  };
  tensor::detail::parallel_for(own.count, chunk_of(n * n * (n + k * shared.count)), run);
  BadMatrix bad = first_bad(orders);
  if (bad.index >= 0) bad.index = own.offset(own_place, bad.index);
  return bad;
}

template <class T>
BadMatrix inverse_as(const Tensor& out, const Tensor& a) {
  const Matrices<T> to(out), from(a);
  const Index n = to.rows;
  std::vector<Index> orders = orders_for(from.walk.count);
  const auto run = [&](Index begin, Index end) {
    const Scratch factors = scratch_for<T>(n * n), sides = scratch_for<T>(n * n);
    T* const x = static_cast<T*>(sides.data());
    for (Index i = begin; i < end; ++i) {
      T* const result = to.at(i);
      if (load(static_cast<T*>(factors.data()), from, from.at(i))) {
        std::fill_n(result, n * n, kNaN<T>);
        continue;
      }
      Map<T> matrix(static_cast<T*>(factors.data()), n, n);
      const Lu<T> lu(matrix);
      if (is_singular(lu)) {
        orders[static_cast<std::size_t>(i)] = n;
        continue;
      }
      std::fill_n(x, n * n, T(0));
      for (Index r = 0; r < n; ++r) x[lu.permutationP().indices()[r] + r * n] = 1;
      substitute(lu, x, n);
      for (Index r = 0; r < n; ++r)
        for (Index c = 0; c < n; ++c) result[r * n + c] = x[r + c * n];
    }
  };
  tensor::detail::parallel_for(from.walk.count, chunk_of(2 * n * n * n), run);
  return first_bad(orders);
}

template <class T>
BadMatrix cholesky_as(const Tensor& out, const Tensor& a) {
  const Matrices<T> to(out), from(a);
  const Index n = to.rows;
  std::vector<Index> orders = orders_for(from.walk.count);
  const auto run = [&](Index begin, Index end) {
    const Scratch memory = scratch_for<T>(n * n);
    T* const x = static_cast<T*>(memory.data());
    Map<T> matrix(x, n, n);
    for (Index i = begin; i < end; ++i) {
      const T* const source = from.at(i);
      T* const result = to.at(i);
      bool nan = false;
      for (Index r = 0; r < n; ++r) {
        for (Index c = 0; c < n; ++c) {
          const T v = c <= r ? source[r * from.row + c * from.col] : T(0);
          nan |= std::isnan(v);
          x[r + c * n] = v;
        }
      }
      // What LLT calls; it alone says where it stopped.
      const Index failed =
          nan ? -1 : Eigen::internal::llt_inplace<T, Eigen::Lower>::blocked(matrix);
      if (failed >= 0) {
        orders[static_cast<std::size_t>(i)] = failed + 1;
        continue;
      }
      for (Index r = 0; r < n; ++r)
        for (Index c = 0; c < n; ++c)
          result[r * n + c] = c > r ? T(0) : nan ? kNaN<T> : x[r + c * n];
    }
  };
  tensor::detail::parallel_for(from.walk.count, chunk_of(n * n * n / 2), run);
  return first_bad(orders);
}

template <class T>
void determinant_as(bool log, const Tensor& out, const Tensor& a) {
  const Matrices<T> from(a);
  const Index n = from.rows;
  T* const to = static_cast<T*>(out.data());
  // In double: the product of a Float32 matrix may leave float's range on the way.
  const auto finish = [&](Index i, const Lu<T>* lu) {
    double sign = lu ? static_cast<double>(lu->permutationP().determinant()) : kNaN<double>;
    double size = log ? 0 : 1;
    for (Index d = 0; lu && d < n; ++d) {
      const auto pivot = static_cast<double>(lu->matrixLU()(d, d));
      sign *= pivot < 0 ? -1 : pivot > 0 ? 1 : pivot;
      size = log ? size + std::log(std::abs(pivot)) : size * std::abs(pivot);
    }
    if (log) {
      to[2 * i] = static_cast<T>(sign + 0.0);  // no -0
      to[2 * i + 1] = static_cast<T>(lu ? size : sign);
    } else {
      to[i] = static_cast<T>(sign * size + 0.0);
    }
  };
  const auto run = [&](Index begin, Index end) {
    const Scratch factors = scratch_for<T>(n * n);
    for (Index i = begin; i < end; ++i) {
      if (load(static_cast<T*>(factors.data()), from, from.at(i))) {
        finish(i, nullptr);
        continue;
      }
      Map<T> matrix(static_cast<T*>(factors.data()), n, n);
      const Lu<T> lu(matrix);
      finish(i, &lu);
    }
  };
  tensor::detail::parallel_for(from.walk.count, chunk_of(n * n * n), run);
}

/// Runs f with a zero of the type.
template <class F>
auto by_type(DataType type, F&& f) {
  return type == DataType::Float64 ? f(double{}) : f(float{});
}

}  // namespace

BadMatrix solve(const Tensor& out, const Tensor& a, const Tensor& b) {
  return by_type(out.type(), [&](auto zero) { return solve_as<decltype(zero)>(out, a, b); });
}

BadMatrix inverse(const Tensor& out, const Tensor& a) {
  return by_type(out.type(), [&](auto zero) { return inverse_as<decltype(zero)>(out, a); });
}

BadMatrix cholesky(const Tensor& out, const Tensor& a) {
  return by_type(out.type(), [&](auto zero) { return cholesky_as<decltype(zero)>(out, a); });
}

void determinant(bool log, const Tensor& out, const Tensor& a) {
  by_type(out.type(), [&](auto zero) { determinant_as<decltype(zero)>(log, out, a); });
}

}  // namespace lmp::cpu
