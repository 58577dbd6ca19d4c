// Linear algebra against plain elimination in long double: values in every layout and type, batches
// and broadcasting, what is empty, what is refused; and the tangents of the ops.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "autograd_support.hpp"
#include "ops/linalg.hpp"
#include "tensor/format.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::leaf;
using testing::message_of;
using testing::uniform;
using testing::values;
using Values = std::vector<double>;

constexpr double kInf = std::numeric_limits<double>::infinity();
const double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Matrices whose diagonal dominates.
Tensor regular(Generator& generator, const Shape& shape) {
  const auto n = static_cast<std::int64_t>(shape.back());
  return uniform(generator, shape, -1, 1) + 1.5 * std::sqrt(static_cast<double>(n)) *
                                                lmp::eye(n, n, DeviceType::CPU, DataType::Float64);
}

Tensor positive(Generator& generator, const Shape& shape) {
  const Tensor x = uniform(generator, shape, -1, 1);
  const auto n = static_cast<std::int64_t>(shape.back());
  return matmul(x, x.transpose()) + lmp::eye(n, n, DeviceType::CPU, DataType::Float64);
}

/// Row-major n by n and n by k, by Gauss-Jordan elimination; also the determinant.
struct Plain {
  std::vector<long double> x;
  long double det = 1;
};

Plain eliminate(const Tensor& a, const Tensor& b) {
  const std::size_t n = a.shape()[0], k = b.shape()[1];
  const Values from = values(a), right = values(b);
  std::vector<long double> m(from.begin(), from.end());
  Plain out{{right.begin(), right.end()}, 1};
  for (std::size_t c = 0; c < n; ++c) {
    std::size_t pivot = c;
    for (std::size_t r = c; r < n; ++r)
      if (std::abs(m[r * n + c]) > std::abs(m[pivot * n + c])) pivot = r;
    if (pivot != c) {
      out.det = -out.det;
      for (std::size_t j = 0; j < n; ++j) std::swap(m[c * n + j], m[pivot * n + j]);
      for (std::size_t j = 0; j < k; ++j) std::swap(out.x[c * k + j], out.x[pivot * k + j]);
    }
    const long double p = m[c * n + c];
    out.det *= p;
    for (std::size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const long double factor = m[r * n + c] / p;
      for (std::size_t j = c; j < n; ++j) m[r * n + j] -= factor * m[c * n + j];
      for (std::size_t j = 0; j < k; ++j) out.x[r * k + j] -= factor * out.x[c * k + j];
    }
  }
  for (std::size_t r = 0; r < n; ++r)
    for (std::size_t j = 0; j < k; ++j) out.x[r * k + j] /= m[r * n + r];
  return out;
}

void expect_near(const Tensor& found, const std::vector<long double>& expected, double epsilon) {
  const Values f = values(found);
  ASSERT_EQ(f.size(), expected.size());
  for (std::size_t i = 0; i < f.size(); ++i)
    ASSERT_NEAR(f[i], static_cast<double>(expected[i]),
                epsilon * (1 + std::abs(static_cast<double>(expected[i]))))
        << "element " << i;
}

// Sizes around the blocks of the factorizations.
const std::int64_t kSizes[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 47, 64, 100, 131};

TEST(LinearAlgebra, AgreesWithElimination) {
  Generator generator(11);
  for (const std::int64_t n : kSizes) {
    SCOPED_TRACE(n);
    const Tensor unit = lmp::eye(n, n, DeviceType::CPU, DataType::Float64);
    // The rows in another order make it pivot.
    const Tensor a = lmp::roll(regular(generator, {n, n}), n / 2, 0);
    const Tensor b = uniform(generator, {n, 3});
    const Plain plain = eliminate(a, b), inverse = eliminate(a, unit);
    expect_near(lmp::solve(a, b), plain.x, 1e-12);
    expect_near(lmp::inv(a), inverse.x, 1e-12);
    EXPECT_NEAR(lmp::det(a).item() / static_cast<double>(plain.det), 1, 1e-12);
    const auto [sign, log] = lmp::slogdet(a);
    EXPECT_EQ(sign.item(), plain.det > 0 ? 1 : -1);
    EXPECT_NEAR(log.item(), static_cast<double>(std::log(std::abs(plain.det))), 1e-11);

    const Tensor s = positive(generator, {n, n}), l = lmp::cholesky(s);
    EXPECT_TRUE(lmp::allclose(lmp::matmul(l, l.transpose()), s, 1e-12, 1e-12));
    EXPECT_TRUE(lmp::array_equal(lmp::tril(l), l));
    EXPECT_TRUE(lmp::all(l.diagonal() > 0).item() != 0);

    for (const auto& [type, epsilon] : {std::pair{DataType::Float32, 2e-4}}) {
      const Tensor x = a.astype(type), y = b.astype(type);
      expect_near(lmp::solve(x, y), plain.x, epsilon);
      expect_near(lmp::inv(x), inverse.x, epsilon);
      EXPECT_TRUE(lmp::allclose(lmp::cholesky(s.astype(type)), l.astype(type), epsilon, epsilon));
      EXPECT_NEAR(lmp::slogdet(x).second.item(), log.item(), epsilon * static_cast<double>(n));
      for (const Tensor& t : {lmp::solve(x, y), lmp::inv(x), lmp::det(x), lmp::slogdet(x).first,
                              lmp::cholesky(s.astype(type))})
        EXPECT_EQ(t.type(), type);
      EXPECT_EQ(lmp::solve(x, b).type(), DataType::Float64);
      EXPECT_EQ(lmp::solve(a, y).type(), DataType::Float64);
    }
  }
}

TEST(LinearAlgebra, KnownValues) {
  const Tensor a({4.0, 2.0, 2.0, 3.0}, {2, 2});
  EXPECT_NEAR(lmp::det(a).item(), 8, 1e-14);
  EXPECT_TRUE(lmp::allclose(lmp::inv(a), Tensor({0.375, -0.25, -0.25, 0.5}, {2, 2}), 1e-15, 0));
  EXPECT_TRUE(lmp::allclose(lmp::solve(a, Tensor({8.0, 8.0}, {2})), Tensor({1.0, 2.0}, {2})));
  EXPECT_TRUE(lmp::allclose(lmp::cholesky(a), Tensor({2.0, 0.0, 1.0, std::sqrt(2.0)}, {2, 2})));
  // A permutation is a sign.
  const Tensor p({0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0}, {3, 3});
  EXPECT_EQ(lmp::det(p).item(), 1);
  EXPECT_EQ(lmp::det(p.flip({0})).item(), -1);
  EXPECT_EQ(lmp::slogdet(p.flip({0})).first.item(), -1);
  EXPECT_EQ(lmp::slogdet(p).second.item(), 0);
  // Where det leaves the range, and a product that leaves Float32's on the way only.
  const Tensor large = 1e10 * lmp::eye(40, 40, DeviceType::CPU, DataType::Float64);
  EXPECT_EQ(lmp::det(large).item(), kInf);
  EXPECT_NEAR(lmp::slogdet(large).second.item(), 400 * std::log(10.0), 1e-9);
  Tensor wide = lmp::eye(6);
  wide.diagonal().copy(Tensor({1e20, 1e20, 1e-20, 1e-20, 1e-3, 2.0}, {6}));
  EXPECT_NEAR(lmp::det(wide).item(), 2e-3, 1e-8);
  // The upper triangle is not read.
  const Tensor lower({4.0, kNaN, 2.0, 3.0}, {2, 2});
  EXPECT_TRUE(lmp::array_equal(lmp::cholesky(lower), lmp::cholesky(a)));
}

TEST(LinearAlgebra, Batches) {
  Generator generator(12);
  const Tensor a = regular(generator, {2, 3, 4, 4}), s = positive(generator, {2, 3, 4, 4});
  const Tensor inverse = lmp::inv(a), det = lmp::det(a), l = lmp::cholesky(s);
  const auto [sign, log] = lmp::slogdet(a);
  EXPECT_EQ(det.shape(), Shape({2, 3}));
  EXPECT_EQ(sign.shape(), Shape({2, 3}));
  EXPECT_EQ(log.shape(), Shape({2, 3}));
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      EXPECT_TRUE(lmp::array_equal(inverse[i][j], lmp::inv(a[i][j])));
      EXPECT_TRUE(lmp::array_equal(det[i][j], lmp::det(a[i][j])));
      EXPECT_TRUE(lmp::array_equal(sign[i][j], lmp::slogdet(a[i][j]).first));
      EXPECT_TRUE(lmp::array_equal(log[i][j], lmp::slogdet(a[i][j]).second));
      EXPECT_TRUE(lmp::array_equal(l[i][j], lmp::cholesky(s[i][j])));
    }
  }
}

TEST(LinearAlgebra, SolveBroadcasts) {
  Generator generator(13);
  const std::pair<Shape, Shape> shapes[] = {{{4, 4}, {4, 2}},
                                            {{3, 4, 4}, {4, 2}},
                                            {{4, 4}, {3, 4, 2}},
                                            {{3, 4, 4}, {3, 4, 2}},
                                            {{2, 1, 4, 4}, {3, 4, 1}},
                                            {{1, 3, 4, 4}, {2, 1, 4, 5}},
                                            {{3, 4, 4}, {4}},
                                            {{4, 4}, {4}},
                                            {{2, 1, 3, 4, 4}, {1, 5, 1, 4, 2}},
                                            {{2, 2}, {700, 2, 1}},
                                            {{2, 1, 3, 3}, {300, 3, 4}},
                                            {{2, 2}, {2, 1500}}};
  for (const auto& [left, right] : shapes) {
    const Tensor a = regular(generator, left), b = uniform(generator, right);
    const Tensor x = lmp::solve(a, b);
    const bool vector = right.ndim() == 1;
    EXPECT_EQ(x.shape(), lmp::matmul(a, b).shape()) << left << right;
    const Tensor product =
        vector ? lmp::matmul(a, x.expand_dims(-1)).squeeze(-1) : lmp::matmul(a, x);
    EXPECT_TRUE(lmp::allclose(product, lmp::broadcast_to(b, x.shape()), 1e-12, 1e-12))
        << left << right;
  }
  // A matrix repeated by a stride of 0 is factored once, too.
  const Tensor a = regular(generator, {1, 3, 3}), b = uniform(generator, {5, 3, 2});
  EXPECT_TRUE(lmp::array_equal(lmp::solve(lmp::expand(a, {5, 3, 3}), b), lmp::solve(a, b)));
}

TEST(LinearAlgebra, AnyLayout) {
  Generator generator(14);
  const Tensor a = positive(generator, {2, 3, 5, 5}), b = uniform(generator, {2, 3, 5, 4});
  const auto laid_out = [](const Tensor& x, int layout) -> Tensor {
    switch (layout) {
      case 0:
        return x.transpose().clone().transpose();
      case 1:
        return x.permute({3, 1, 0, 2}).clone().permute({2, 1, 3, 0});
      case 2:
        return x.flip({}).clone().flip({});
      default:
        return lmp::repeat(x.expand_dims(-1), {1, 1, 1, 1, 2}).select(-1, 1);
    }
  };
  for (int layout = 0; layout < 4; ++layout) {
    const Tensor v = laid_out(a, layout), w = laid_out(b, layout);
    ASSERT_FALSE(v.is_contiguous());
    EXPECT_TRUE(lmp::array_equal(lmp::solve(v, w), lmp::solve(a, b))) << layout;
    EXPECT_TRUE(lmp::array_equal(lmp::inv(v), lmp::inv(a))) << layout;
    EXPECT_TRUE(lmp::array_equal(lmp::cholesky(v), lmp::cholesky(a))) << layout;
    EXPECT_TRUE(lmp::array_equal(lmp::det(v), lmp::det(a))) << layout;
    EXPECT_TRUE(lmp::array_equal(lmp::slogdet(v).second, lmp::slogdet(a).second)) << layout;
    EXPECT_TRUE(lmp::solve(v, w).is_contiguous());
  }
}

TEST(LinearAlgebra, OfNothing) {
  for (const Shape& shape : {Shape{0, 0}, Shape{3, 0, 0}}) {
    const Variable a(lmp::zeros(shape), true);
    EXPECT_EQ(lmp::inv(a).shape(), shape);
    EXPECT_EQ(lmp::cholesky(a).shape(), shape);
    const std::size_t batch = shape.ndim() == 2 ? 1 : 3;
    EXPECT_EQ(values(lmp::det(a)), Values(batch, 1));
    EXPECT_EQ(lmp::det(a).ndim(), shape.ndim() - 2);
    const auto [sign, log] = lmp::slogdet(a);
    EXPECT_EQ(values(sign), Values(batch, 1));
    EXPECT_EQ(values(log), Values(batch, 0));
    (sum(lmp::det(a)) + sum(log) + sum(lmp::inv(a)) + sum(lmp::cholesky(a))).backward();
    EXPECT_EQ(a.grad().shape(), shape);
  }
  EXPECT_EQ(lmp::solve(lmp::zeros({0, 0}), lmp::zeros({0, 3})).shape(), Shape({0, 3}));
  EXPECT_EQ(lmp::solve(lmp::zeros({2, 0, 0}), lmp::zeros({0})).shape(), Shape({2, 0}));
  EXPECT_EQ(lmp::solve(lmp::eye(2), lmp::zeros({2, 0})).shape(), Shape({2, 0}));
  EXPECT_EQ(lmp::inv(lmp::zeros({0, 2, 2})).shape(), Shape({0, 2, 2}));
  EXPECT_EQ(lmp::det(lmp::zeros({0, 2, 2})).shape(), Shape({0}));
  EXPECT_EQ(lmp::slogdet(lmp::zeros({0, 2, 2})).second.shape(), Shape({0}));
  EXPECT_EQ(lmp::solve(lmp::zeros({0, 2, 2}), lmp::ones({2, 1})).shape(), Shape({0, 2, 1}));
  const Variable a(lmp::eye(2), true), b(lmp::zeros({2, 0}), true);
  sum(lmp::solve(a, b)).backward();
  EXPECT_EQ(values(a.grad()), Values(4, 0));
}

/// What every function says to an argument, but for its name.
template <class E>
void expect_refused(const Tensor& a, const std::string& message) {
  const std::pair<std::string, std::function<void()>> calls[] = {
      {"solve", [&] { lmp::solve(a, a); }},
      {"inv", [&] { lmp::inv(a); }},
      {"cholesky", [&] { lmp::cholesky(Variable(a)); }},
      {"det", [&] { lmp::det(a); }},
      {"slogdet", [&] { lmp::slogdet(Variable(a)); }}};
  for (const auto& [name, call] : calls) EXPECT_EQ(message_of<E>(call), name + message);
}

TEST(LinearAlgebraErrors, ShapesAndTypes) {
  const auto not_square = [](const char* shape) {
    return std::string(": shape ") + shape +
           " is not (..., n, n); it takes a square matrix or a batch of them";
  };
  expect_refused<ShapeError>(lmp::zeros({}), not_square("()"));
  expect_refused<ShapeError>(lmp::zeros({3}), not_square("(3)"));
  expect_refused<ShapeError>(lmp::zeros({2, 3}), not_square("(2, 3)"));
  expect_refused<ShapeError>(lmp::zeros({2, 2, 3}), not_square("(2, 2, 3)"));
  for (const DataType type :
       {DataType::Bool, DataType::Int32, DataType::Int64, DataType::Float16, DataType::BFloat16})
    expect_refused<TypeError>(
        lmp::zeros({2, 2}, DeviceType::CPU, type),
        tensor::detail::concat(": not defined for ", type, "; convert with astype(Float64)"));
  expect_refused<Error>(Tensor(),
                        ": undefined tensor (default-constructed or moved from); assign one first");

  const Tensor a = lmp::eye(3);
  EXPECT_EQ(message_of<TypeError>([&] { lmp::solve(a, lmp::arange(3)); }),
            "solve: not defined for Int64; convert with astype(Float64)");
  EXPECT_EQ(message_of<ShapeError>([&] {
              lmp::solve(a, lmp::zeros({2, 3}));
            }),
            "solve: shapes (3, 3) and (2, 3) do not fit; with a first of (..., 3, 3) the second "
            "has to be (..., 3, k), or a vector of 3");
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { lmp::solve(a, lmp::zeros({2})); }), "(2)"));
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { lmp::solve(a, lmp::zeros({})); }), "()"));
  EXPECT_TRUE(contains(message_of<ShapeError>([&] {
                         lmp::solve(lmp::zeros({2, 3, 3}), lmp::zeros({4, 3, 1}));
                       }),
                       "solve: shapes (2) and (4) do not broadcast"));
}

TEST(LinearAlgebraErrors, Singular) {
  const Tensor singular({1.0, 2.0, 2.0, 4.0}, {2, 2}), good({1.0, 2.0, 3.0, 4.0}, {2, 2});
  const Tensor b({1.0, 2.0}, {2});
  const std::string why =
      " is singular, so it has no inverse; look for rows that depend on each other, or add a small "
      "multiple of eye(2)";
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::inv(singular); }),
            "inv: the matrix of shape (2, 2)" + why);
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::solve(singular, b); }),
            "solve: the matrix of shape (2, 2)" + why);
  // One exception for all of them, derived from Error.
  EXPECT_THROW(lmp::inv(lmp::zeros({1, 1})), Error);

  const Tensor batch =
      lmp::stack({good, good, good, good, singular, singular}).reshape({2, 3, 2, 2});
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::inv(batch); }),
            "inv: matrix (1, 1) of the batch of shape (2, 3, 2, 2)" + why);
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::solve(batch, b); }),
            "solve: matrix (1, 1) of the batch of shape (2, 3, 2, 2)" + why);
  // Of its own batch, wherever that is broadcast to.
  const Tensor column = lmp::stack({good, singular}).reshape({2, 1, 2, 2});
  EXPECT_EQ(message_of<LinAlgError>([&] {
              lmp::solve(column, lmp::ones({7, 3, 2, 1}).select(0, 0));
            }),
            "solve: matrix (1, 0) of the batch of shape (2, 1, 2, 2)" + why);

  EXPECT_EQ(lmp::det(singular).item(), 0);
  EXPECT_FALSE(std::signbit(lmp::det(-lmp::zeros({3, 3})).item()));
  const auto [sign, log] = lmp::slogdet(singular);
  EXPECT_EQ(sign.item(), 0);
  EXPECT_EQ(log.item(), -kInf);
  const Variable v(singular, true);
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::det(v).backward(); }),
            "det: the matrix of shape (2, 2)" + why);
  EXPECT_EQ(message_of<LinAlgError>([&] { lmp::slogdet(v).second.backward(); }),
            "slogdet: the matrix of shape (2, 2)" + why);
}

TEST(LinearAlgebraErrors, NotPositiveDefinite) {
  Tensor a = lmp::eye(40, 40, DeviceType::CPU, DataType::Float64);
  for (const std::int64_t bad : {0, 1, 20, 39}) {
    Tensor x = a.clone();
    x.diagonal().narrow(0, bad, 1).fill(-1);
    EXPECT_EQ(message_of<LinAlgError>([&] { lmp::cholesky(x); }),
              "cholesky: the matrix of shape (40, 40) is not positive definite, its leading minor "
              "of order " +
                  std::to_string(bad + 1) +
                  " is not positive; check that it is symmetric, or add a small multiple of "
                  "eye(40)");
  }
  const Tensor batch = lmp::stack({lmp::eye(2), Tensor({1.0f, 2.0f, 2.0f, 1.0f}, {2, 2})});
  EXPECT_TRUE(contains(message_of<LinAlgError>([&] { lmp::cholesky(batch); }),
                       "cholesky: matrix (1) of the batch of shape (2, 2, 2) is not positive "
                       "definite, its leading minor of order 2"));
}

TEST(LinearAlgebra, NaNStaysInItsMatrix) {
  const Tensor one({2.0, 1.0, 1.0, 3.0}, {2, 2});
  Tensor nan = one.clone();
  nan[1][0].fill(kNaN);
  // Where elimination alone would meet a pivot of 0 first.
  Tensor zero = lmp::zeros({2, 2}, DeviceType::CPU, DataType::Float64);
  zero[0][1].fill(kNaN);
  const Tensor batch = lmp::stack({one, nan, one});
  const auto check = [&](const Tensor& found, const Tensor& expected) {
    EXPECT_TRUE(lmp::array_equal(found[0], expected));
    EXPECT_TRUE(lmp::array_equal(found[2], expected));
    EXPECT_NE(lmp::all(lmp::isnan(found[1])).item(), 0);
  };
  check(lmp::inv(batch), lmp::inv(one));
  check(lmp::det(batch), lmp::det(one));
  check(lmp::slogdet(batch).first, lmp::slogdet(one).first);
  check(lmp::slogdet(batch).second, lmp::slogdet(one).second);
  check(lmp::solve(batch, lmp::ones({2, 3})), lmp::solve(one, lmp::ones({2, 3})));
  const Tensor l = lmp::cholesky(batch);
  EXPECT_TRUE(lmp::array_equal(l[2], lmp::cholesky(one)));
  EXPECT_EQ(values(lmp::isnan(l[1])), (Values{1, 0, 1, 1}));
  EXPECT_NE(lmp::all(lmp::isnan(lmp::inv(zero))).item(), 0);
  EXPECT_TRUE(std::isnan(lmp::det(zero).item()));
  // A NaN on the right stays in its column.
  Tensor b = lmp::ones({2, 3}, DeviceType::CPU, DataType::Float64);
  b[0][1].fill(kNaN);
  EXPECT_EQ(values(lmp::isnan(lmp::solve(one, b))), (Values{0, 1, 0, 0, 1, 0}));
  // No crash with infinities, whatever the numbers.
  Tensor infinite = lmp::full({20, 20}, kInf, DeviceType::CPU, DataType::Float64);
  lmp::det(infinite);
  lmp::cholesky(infinite);
  lmp::inv(infinite);
}

class Threads {
 public:
  explicit Threads(int count) { set_num_threads(count); }
  ~Threads() { set_num_threads(before_); }

 private:
  int before_ = get_num_threads();
};

TEST(LinearAlgebra, SameBitsOnAnyNumberOfThreads) {
  Generator generator(15);
  for (const auto& [shape, columns] :
       {std::pair{Shape{3000, 3, 3}, 2}, {Shape{40, 33, 33}, 5}, {Shape{2, 150, 150}, 40}}) {
    const Tensor a = positive(generator, shape);
    const Tensor b = uniform(generator, {shape[1], columns});
    std::vector<std::vector<Values>> found;
    for (const int threads : {1, 2, 3, 8}) {
      const Threads guard(threads);
      const auto [sign, log] = lmp::slogdet(a);
      found.push_back({values(lmp::solve(a, b)), values(lmp::solve(a[0], a)), values(lmp::inv(a)),
                       values(lmp::cholesky(a)), values(lmp::det(a)), values(sign), values(log)});
      EXPECT_EQ(found.back(), found.front()) << threads;
    }
  }
  // The first bad matrix is named, not the first that a thread came to.
  Tensor a = lmp::repeat(lmp::eye(3), {5000, 1, 1});
  for (const std::int64_t bad : {1234, 1235, 4000, 4999}) a[bad].fill(0);
  for (const int threads : {1, 2, 3, 8}) {
    const Threads guard(threads);
    for (const std::string& message :
         {message_of<LinAlgError>([&] { lmp::inv(a); }),
          message_of<LinAlgError>([&] { lmp::cholesky(a); }),
          message_of<LinAlgError>([&] { lmp::solve(a, lmp::ones({3})); })})
      EXPECT_TRUE(contains(message, "matrix (1234) of the batch")) << message;
  }
}

// ---- Gradients; the sweep of gradcheck_sweep_test.cpp has the differences ----

TEST(LinearAlgebraGradients, Types) {
  const Variable a = leaf({2, 1, 1, 3}, {2, 2}, DataType::Float32), b = leaf({1, 2});
  const Variable x = lmp::solve(a, b);
  EXPECT_EQ(x.type(), DataType::Float64);
  x.backward();
  EXPECT_EQ(a.grad().type(), DataType::Float32);
  EXPECT_EQ(a.grad().shape(), a.shape());
  EXPECT_EQ(b.grad().shape(), b.shape());
  const auto [sign, log] = lmp::slogdet(a);
  EXPECT_FALSE(sign.requires_grad());
  EXPECT_TRUE(log.requires_grad());
}

TEST(LinearAlgebraGradients, CholeskyIsSymmetric) {
  Generator generator(16);
  const Variable a(positive(generator, {2, 4, 4}), true);
  lmp::cholesky(a).backward(uniform(generator, {2, 4, 4}));
  EXPECT_TRUE(lmp::array_equal(a.grad(), a.grad().transpose()));
}

template <class Op>
concept HasTangent = requires(const Op& op, const Variable& v, std::span<const Variable> s) {
  { op.jvp(s, v, s) } -> std::same_as<Variable>;
  requires Op::leading_batch;
};
static_assert(HasTangent<table::Solve> && HasTangent<table::Inverse> &&
              HasTangent<table::Cholesky> && HasTangent<table::Determinant> &&
              HasTangent<table::LogDeterminant>);

/// op.jvp against a difference of values and against vjp, with and without the tangent of each.
template <class Op>
void check_tangents(const Op& op, const std::vector<Tensor>& at, bool symmetric = false) {
  Generator generator(17);
  const auto value = [&](const std::vector<Tensor>& in) {
    if constexpr (std::is_same_v<Op, table::Solve>)
      return op.forward(in[0], in[1]);
    else
      return op.forward(in[0]);
  };
  const unsigned all = (1u << at.size()) - 1;
  for (unsigned mask = 1; mask <= all; ++mask) {
    constexpr double kStep = 1e-6;
    std::vector<Variable> x, t;
    std::vector<Tensor> above, below;
    for (std::size_t i = 0; i < at.size(); ++i) {
      x.emplace_back(at[i], true);
      t.emplace_back();
      above.push_back(at[i]);
      below.push_back(at[i]);
      if (!(mask >> i & 1)) continue;
      const Tensor tangent = uniform(generator, at[i].shape());
      t.back() = Variable(tangent, true);
      const Tensor moved = symmetric ? 0.5 * (tangent + tangent.transpose()) : tangent;
      above.back() = at[i] + kStep * moved;
      below.back() = at[i] - kStep * moved;
    }
    Variable y;
    if constexpr (std::is_same_v<Op, table::Solve>)
      y = apply(op, x[0], x[1]);
    else
      y = apply(op, x[0]);
    const Variable found = op.jvp(x, y, t);
    EXPECT_EQ(found.shape(), y.shape()) << op.name;
    EXPECT_EQ(found.type(), y.type()) << op.name;
    EXPECT_TRUE(
        lmp::allclose(found.data(), (value(above) - value(below)) / (2 * kStep), 1e-7, 1e-7))
        << op.name << ' ' << mask << '\n'
        << found;
    // <g, jvp(t)> = <vjp(g), t>, and the tangent is differentiable in all that it is made of.
    const Variable g(uniform(generator, y.shape()));
    double expected = 0;
    const std::vector<Variable> gradients =
        grad({y}, x, {.grad_outputs = {g}, .retain_graph = true});
    for (std::size_t i = 0; i < at.size(); ++i)
      if (t[i].defined()) expected += sum(gradients[i].data() * t[i].data()).item();
    EXPECT_NEAR(sum(found * g).item(), expected, 1e-10 * (1 + std::abs(expected))) << op.name;
    std::vector<Variable> sources{x[0]};
    for (const Variable& v : t)
      if (v.defined()) sources.push_back(v);
    EXPECT_EQ(grad({found}, sources).size(), sources.size()) << op.name;
  }
}

TEST(LinearAlgebraGradients, Tangents) {
  Generator generator(18);
  for (const Shape& batch : {Shape{}, Shape{2, 3}}) {
    const auto with = [&](std::initializer_list<std::int64_t> sizes) {
      IntList shape(batch);
      for (std::int64_t n : sizes) shape.push_back(n);
      return Shape(shape);
    };
    const Tensor a = regular(generator, with({4, 4}));
    check_tangents(table::Solve{}, {a, uniform(generator, with({4, 2}))});
    check_tangents(table::Solve{}, {a, uniform(generator, {1, 4, 2})});
    check_tangents(table::Inverse{}, {a});
    check_tangents(table::Determinant{}, {a});
    check_tangents(table::LogDeterminant{}, {a});
    check_tangents(table::Cholesky{}, {positive(generator, with({4, 4}))}, true);
  }
  check_tangents(table::Solve{}, {regular(generator, {3, 3}), uniform(generator, {4, 3, 2})});
}

}  // namespace
}  // namespace lmp
