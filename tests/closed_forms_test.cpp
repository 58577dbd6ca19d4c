// jvp, vjp, jacobian, hessian and hvp of functions whose derivatives are written by hand.

#include <cctype>
#include <string>

#include "transforms_support.hpp"

namespace lmp {
namespace {

using testing::expect_near;
using testing::Function;
using testing::uniform;
using testing::Values;
using testing::values;
using testing::vector_of;

Shape joined(const Shape& a, const Shape& b) {
  IntList sizes(a);
  for (std::size_t n : b) sizes.push_back(static_cast<std::int64_t>(n));
  return Shape(sizes);
}

/// A function of n numbers with its value, its Jacobian by rows and, where it has one value, its
/// Hessian, each written by hand.
struct Closed {
  const char* name;
  Shape shape;
  Function f;
  std::vector<Values> points;
  std::function<Values(const Values&)> value, jacobian, hessian;
};

Values by_element(const Values& x, double (*f)(double)) {
  Values out;
  for (double v : x) out.push_back(f(v));
  return out;
}
double total(const Values& x) {
  double s = 0;
  for (double v : x) s += v;
  return s;
}
/// An n x n (or m x n) matrix from its entries.
Values matrix(std::size_t m, std::size_t n,
              const std::function<double(std::size_t, std::size_t)>& entry) {
  Values out;
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < n; ++j) out.push_back(entry(i, j));
  return out;
}
Values diagonal_of(const Values& d) {
  return matrix(d.size(), d.size(),
                [&](std::size_t i, std::size_t j) { return i == j ? d[i] : 0; });
}
Values softmax_of(const Values& x) {
  Values p = by_element(x, [](double v) { return std::exp(v); });
  const double s = total(p);
  for (double& v : p) v /= s;
  return p;
}
Values inverse_2x2(const Values& a) {
  const double d = a[0] * a[3] - a[1] * a[2];
  return {a[3] / d, -a[1] / d, -a[2] / d, a[0] / d};
}
double phi(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
double big_phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigma(double x) { return 1 / (1 + std::exp(-x)); }
double delta(std::size_t i, std::size_t j) { return i == j ? 1 : 0; }

const Values kQuadratic = {2, -1, 0.5, 3, 1, -2, 0.25, 4, -3};
const Values kLeft = {1, -2, 0.5, 3}, kRight = {2, 1, -1, 0.5, 3, -2};
const Values kCenters = {1, 2, -1, 0.5, 3, -2};
const Values kTargets = {1, 0, 0.3};
const Values kWeights = {1, -2, 0.5, 0.3, 2, 1, -1, 0.7, 0.1, 0.4, -0.6, 1.5};

std::vector<Closed> closed_forms() {
  const std::vector<Values> three = {{0.5, -1.5, 2}, {1, 1.25, -0.75}, {-2, 0.1, 0.3}};
  const std::vector<Values> two = {{0.5, -1.5}, {1, 1.25}, {-2, 0.3}};
  std::vector<Closed> all;
  all.push_back({"quadratic form",
                 {3},
                 [](const Variable& x) {
                   return lmp::dot(x, lmp::matmul(vector_of(kQuadratic, {3, 3}), x));
                 },
                 three,
                 [](const Values& x) {
                   double s = 0;
                   for (std::size_t i = 0; i < 9; ++i) s += kQuadratic[i] * x[i / 3] * x[i % 3];
                   return Values{s};
                 },
                 [](const Values& x) {
                   Values g(3);
                   for (std::size_t i = 0; i < 3; ++i)
                     for (std::size_t j = 0; j < 3; ++j)
                       g[i] += (kQuadratic[3 * i + j] + kQuadratic[3 * j + i]) * x[j];
                   return g;
                 },
                 [](const Values&) {
                   return matrix(3, 3, [](std::size_t i, std::size_t j) {
                     return kQuadratic[3 * i + j] + kQuadratic[3 * j + i];
                   });
                 }});
  all.push_back(
      {"Rosenbrock",
       {2},
       [](const Variable& x) {
         return lmp::square(1 - x[0]) + 100 * lmp::square(x[1] - x[0] * x[0]);
       },
       two,
       [](const Values& x) {
         const double a = 1 - x[0], b = x[1] - x[0] * x[0];
         return Values{a * a + 100 * b * b};
       },
       [](const Values& x) {
         const double b = x[1] - x[0] * x[0];
         return Values{-2 * (1 - x[0]) - 400 * x[0] * b, 200 * b};
       },
       [](const Values& x) {
         return Values{2 - 400 * x[1] + 1200 * x[0] * x[0], -400 * x[0], -400 * x[0], 200};
       }});
  const auto covariance = [](const Values& x) {
    const Values p = softmax_of(x);
    return matrix(x.size(), x.size(),
                  [&](std::size_t i, std::size_t j) { return p[i] * (delta(i, j) - p[j]); });
  };
  all.push_back({"softmax",
                 {3},
                 [](const Variable& x) { return lmp::softmax(x); },
                 three,
                 softmax_of,
                 covariance,
                 nullptr});
  all.push_back({"logsumexp",
                 {3},
                 [](const Variable& x) { return lmp::logsumexp(x); },
                 three,
                 [](const Values& x) {
                   return Values{
                       std::log(total(by_element(x, [](double v) { return std::exp(v); })))};
                 },
                 softmax_of,
                 covariance});
  all.push_back(
      {"norm",
       {3},
       [](const Variable& x) { return lmp::norm(x); },
       three,
       [](const Values& x) { return Values{std::sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])}; },
       [](const Values& x) {
         const double r = std::sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
         return Values{x[0] / r, x[1] / r, x[2] / r};
       },
       [](const Values& x) {
         const double r = std::sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
         return matrix(3, 3, [&](std::size_t i, std::size_t j) {
           return (delta(i, j) - x[i] * x[j] / (r * r)) / r;
         });
       }});
  const std::vector<Values> matrices = {{2, 0.5, -1, 3}, {1, 2, 3, 4.5}, {-1, 0.2, 0.4, 2}};
  all.push_back({"A^-1 b",
                 {2, 2},
                 [](const Variable& a) {
                   return lmp::solve(a, vector_of({1, -2}));
                 },
                 matrices,
                 [](const Values& a) {
                   const Values inv = inverse_2x2(a);
                   return Values{inv[0] - 2 * inv[1], inv[2] - 2 * inv[3]};
                 },
                 [](const Values& a) {
                   const Values inv = inverse_2x2(a);
                   const double y[] = {inv[0] - 2 * inv[1], inv[2] - 2 * inv[3]};
                   return matrix(2, 4, [&](std::size_t i, std::size_t jk) {
                     return -inv[2 * i + jk / 2] * y[jk % 2];
                   });
                 },
                 nullptr});
  all.push_back({"inverse",
                 {2, 2},
                 [](const Variable& a) { return lmp::inv(a); },
                 matrices,
                 inverse_2x2,
                 [](const Values& a) {
                   const Values inv = inverse_2x2(a);
                   return matrix(4, 4, [&](std::size_t ij, std::size_t kl) {
                     return -inv[ij / 2 * 2 + kl / 2] * inv[kl % 2 * 2 + ij % 2];
                   });
                 },
                 nullptr});
  all.push_back(
      {"det",
       {2, 2},
       [](const Variable& a) { return lmp::det(a); },
       matrices,
       [](const Values& a) { return Values{a[0] * a[3] - a[1] * a[2]}; },
       [](const Values& a) {
         return Values{a[3], -a[2], -a[1], a[0]};
       },
       [](const Values&) { return Values{0, 0, 0, 1, 0, 0, -1, 0, 0, -1, 0, 0, 1, 0, 0, 0}; }});
  all.push_back(
      {"log det",
       {2, 2},
       [](const Variable& a) { return lmp::slogdet(a).second; },
       matrices,
       [](const Values& a) { return Values{std::log(std::abs(a[0] * a[3] - a[1] * a[2]))}; },
       [](const Values& a) {
         const Values inv = inverse_2x2(a);
         return Values{inv[0], inv[2], inv[1], inv[3]};
       },
       [](const Values& a) {
         const Values inv = inverse_2x2(a);
         return matrix(4, 4, [&](std::size_t ij, std::size_t kl) {
           return -inv[ij % 2 * 2 + kl / 2] * inv[kl % 2 * 2 + ij / 2];
         });
       }});
  all.push_back(
      {"Cholesky",
       {3},
       [](const Variable& x) {
         return lmp::cholesky(lmp::reshape(lmp::take(x, {Tensor({0, 1, 1, 2}, {4})}), {2, 2}));
       },
       {{4, 1, 3}, {2, -0.5, 1}},
       [](const Values& x) {
         const double l = std::sqrt(x[0]);
         return Values{l, 0, x[1] / l, std::sqrt(x[2] - x[1] * x[1] / x[0])};
       },
       [](const Values& x) {
         const double l = std::sqrt(x[0]), s = std::sqrt(x[2] - x[1] * x[1] / x[0]);
         return Values{0.5 / l,
                       0,
                       0,
                       0,
                       0,
                       0,
                       -0.5 * x[1] / (l * l * l),
                       1 / l,
                       0,
                       x[1] * x[1] / (x[0] * x[0]) / (2 * s),
                       -x[1] / x[0] / s,
                       0.5 / s};
       },
       nullptr});
  all.push_back({"outer product",
                 {3},
                 [](const Variable& x) { return lmp::outer(x, x * x); },
                 three,
                 [](const Values& x) {
                   return matrix(3, 3,
                                 [&](std::size_t i, std::size_t j) { return x[i] * x[j] * x[j]; });
                 },
                 [](const Values& x) {
                   return matrix(9, 3, [&](std::size_t ij, std::size_t k) {
                     const std::size_t i = ij / 3, j = ij % 3;
                     return delta(i, k) * x[j] * x[j] + x[i] * 2 * x[j] * delta(j, k);
                   });
                 },
                 nullptr});
  all.push_back({"polynomial",
                 {3},
                 [](const Variable& x) { return lmp::sum(lmp::pow(x, 4) - 3 * x * x + x); },
                 {{0.5, -1.5, 0}, {1, 2, 3}},
                 [](const Values& x) {
                   return Values{total(
                       by_element(x, [](double v) { return v * v * v * v - 3 * v * v + v; }))};
                 },
                 [](const Values& x) {
                   return by_element(x, [](double v) { return 4 * v * v * v - 6 * v + 1; });
                 },
                 [](const Values& x) {
                   return diagonal_of(by_element(x, [](double v) { return 12 * v * v - 6; }));
                 }});
  all.push_back(
      {"exp(sin)",
       {3},
       [](const Variable& x) { return lmp::sum(lmp::exp(lmp::sin(x))); },
       three,
       [](const Values& x) {
         return Values{total(by_element(x, [](double v) { return std::exp(std::sin(v)); }))};
       },
       [](const Values& x) {
         return by_element(x, [](double v) { return std::cos(v) * std::exp(std::sin(v)); });
       },
       [](const Values& x) {
         return diagonal_of(by_element(x, [](double v) {
           return (std::cos(v) * std::cos(v) - std::sin(v)) * std::exp(std::sin(v));
         }));
       }});
  all.push_back({"atan2",
                 {2},
                 [](const Variable& x) { return lmp::atan2(x[0], x[1]); },
                 two,
                 [](const Values& x) { return Values{std::atan2(x[0], x[1])}; },
                 [](const Values& x) {
                   const double r = x[0] * x[0] + x[1] * x[1];
                   return Values{x[1] / r, -x[0] / r};
                 },
                 [](const Values& x) {
                   const double r = x[0] * x[0] + x[1] * x[1], rr = r * r;
                   const double mixed = (x[0] * x[0] - x[1] * x[1]) / rr;
                   return Values{-2 * x[0] * x[1] / rr, mixed, mixed, 2 * x[0] * x[1] / rr};
                 }});
  all.push_back(
      {"matmul chain",
       {2, 3},
       [](const Variable& x) {
         return lmp::matmul(lmp::matmul(vector_of(kLeft, {2, 2}), x), vector_of(kRight, {3, 2}));
       },
       {{1, 2, 3, -4, 5, 0.5}},
       [](const Values& x) {
         return matrix(2, 2, [&](std::size_t i, std::size_t l) {
           double s = 0;
           for (std::size_t j = 0; j < 2; ++j)
             for (std::size_t k = 0; k < 3; ++k)
               s += kLeft[2 * i + j] * x[3 * j + k] * kRight[2 * k + l];
           return s;
         });
       },
       [](const Values&) {
         return matrix(4, 6, [](std::size_t il, std::size_t jk) {
           return kLeft[il / 2 * 2 + jk / 3] * kRight[jk % 3 * 2 + il % 2];
         });
       },
       nullptr});
  all.push_back({"cumsum",
                 {3},
                 [](const Variable& x) { return lmp::cumsum(x * x, 0); },
                 three,
                 [](const Values& x) {
                   return Values{x[0] * x[0], x[0] * x[0] + x[1] * x[1],
                                 x[0] * x[0] + x[1] * x[1] + x[2] * x[2]};
                 },
                 [](const Values& x) {
                   return matrix(
                       3, 3, [&](std::size_t i, std::size_t j) { return j <= i ? 2 * x[j] : 0; });
                 },
                 nullptr});
  all.push_back(
      {"prod",
       {3},
       [](const Variable& x) { return lmp::prod(x); },
       {{0.5, -1.5, 2}, {0, 2, 3}, {0, 0, 5}},
       [](const Values& x) { return Values{x[0] * x[1] * x[2]}; },
       [](const Values& x) {
         return Values{x[1] * x[2], x[0] * x[2], x[0] * x[1]};
       },
       [](const Values& x) { return Values{0, x[2], x[1], x[2], 0, x[0], x[1], x[0], 0}; }});
  all.push_back({"gelu",
                 {3},
                 [](const Variable& x) { return lmp::sum(lmp::gelu(x)); },
                 three,
                 [](const Values& x) {
                   return Values{total(by_element(x, [](double v) { return v * big_phi(v); }))};
                 },
                 [](const Values& x) {
                   return by_element(x, [](double v) { return big_phi(v) + v * phi(v); });
                 },
                 [](const Values& x) {
                   return diagonal_of(by_element(x, [](double v) { return phi(v) * (2 - v * v); }));
                 }});
  all.push_back({"distances",
                 {2},
                 [](const Variable& x) {
                   return lmp::norm(x - vector_of(kCenters, {3, 2}), {1}, false);
                 },
                 two,
                 [](const Values& x) {
                   Values d;
                   for (std::size_t i = 0; i < 3; ++i)
                     d.push_back(std::hypot(x[0] - kCenters[2 * i], x[1] - kCenters[2 * i + 1]));
                   return d;
                 },
                 [](const Values& x) {
                   return matrix(3, 2, [&](std::size_t i, std::size_t j) {
                     return (x[j] - kCenters[2 * i + j]) /
                            std::hypot(x[0] - kCenters[2 * i], x[1] - kCenters[2 * i + 1]);
                   });
                 },
                 nullptr});
  all.push_back({"look-up",
                 {3},
                 [](const Variable& x) {
                   return lmp::square(lmp::gather(x, 0, Tensor({2, 0}, {2}))).sum() *
                          lmp::index_select(x, 0, Tensor({1, 1, 0, 2}, {4}));
                 },
                 three,
                 [](const Values& x) {
                   const double s = x[2] * x[2] + x[0] * x[0];
                   return Values{s * x[1], s * x[1], s * x[0], s * x[2]};
                 },
                 [](const Values& x) {
                   const double s = x[2] * x[2] + x[0] * x[0];
                   const std::size_t at[] = {1, 1, 0, 2};
                   return matrix(4, 3, [&](std::size_t i, std::size_t j) {
                     return s * delta(at[i], j) + (j == 1 ? 0 : 2 * x[j] * x[at[i]]);
                   });
                 },
                 nullptr});
  all.push_back(
      {"sigmoid cross entropy",
       {3},
       [](const Variable& x) { return lmp::sum(lmp::softplus(x) - vector_of(kTargets) * x); },
       three,
       [](const Values& x) {
         double s = 0;
         for (std::size_t i = 0; i < 3; ++i) s += std::log1p(std::exp(x[i])) - kTargets[i] * x[i];
         return Values{s};
       },
       [](const Values& x) {
         Values g = by_element(x, sigma);
         for (std::size_t i = 0; i < 3; ++i) g[i] -= kTargets[i];
         return g;
       },
       [](const Values& x) {
         return diagonal_of(by_element(x, [](double v) { return sigma(v) * (1 - sigma(v)); }));
       }});
  all.push_back({"cross entropy",
                 {3},
                 [](const Variable& x) { return -lmp::log_softmax(x)[1]; },
                 three,
                 [](const Values& x) { return Values{-std::log(softmax_of(x)[1])}; },
                 [](const Values& x) {
                   Values p = softmax_of(x);
                   p[1] -= 1;
                   return p;
                 },
                 covariance});
  all.push_back({"powers of a number",
                 {},
                 [](const Variable& x) {
                   return lmp::stack({0 * x + 1, x, x * x, lmp::pow(x, 3)});
                 },
                 {{0.5}, {-2}},
                 [](const Values& x) {
                   return Values{1, x[0], x[0] * x[0], x[0] * x[0] * x[0]};
                 },
                 [](const Values& x) {
                   return Values{0, 1, 2 * x[0], 3 * x[0] * x[0]};
                 },
                 nullptr});
  all.push_back({"variance",
                 {3},
                 [](const Variable& x) { return lmp::var(x); },
                 three,
                 [](const Values& x) {
                   const double m = total(x) / 3;
                   double s = 0;
                   for (double v : x) s += (v - m) * (v - m);
                   return Values{s / 2};
                 },
                 [](const Values& x) {
                   Values g = x;
                   for (double& v : g) v -= total(x) / 3;
                   return g;
                 },
                 [](const Values&) {
                   return matrix(
                       3, 3, [](std::size_t i, std::size_t j) { return delta(i, j) - 1.0 / 3; });
                 }});
  all.push_back({"vector field",
                 {3},
                 [](const Variable& x) { return x / (1 + lmp::dot(x, x)); },
                 three,
                 [](const Values& x) {
                   const double s = 1 + x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
                   return Values{x[0] / s, x[1] / s, x[2] / s};
                 },
                 [](const Values& x) {
                   const double s = 1 + x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
                   return matrix(3, 3, [&](std::size_t i, std::size_t j) {
                     return delta(i, j) / s - 2 * x[i] * x[j] / (s * s);
                   });
                 },
                 nullptr});
  all.push_back({"dense layer",
                 {3},
                 [](const Variable& x) {
                   return lmp::tanh(lmp::matmul(vector_of(kWeights, {4, 3}), x));
                 },
                 three,
                 [](const Values& x) {
                   Values y;
                   for (std::size_t i = 0; i < 4; ++i)
                     y.push_back(std::tanh(kWeights[3 * i] * x[0] + kWeights[3 * i + 1] * x[1] +
                                           kWeights[3 * i + 2] * x[2]));
                   return y;
                 },
                 [](const Values& x) {
                   return matrix(4, 3, [&](std::size_t i, std::size_t j) {
                     const double y =
                         std::tanh(kWeights[3 * i] * x[0] + kWeights[3 * i + 1] * x[1] +
                                   kWeights[3 * i + 2] * x[2]);
                     return (1 - y * y) * kWeights[3 * i + j];
                   });
                 },
                 nullptr});
  all.push_back({"largest",
                 {3},
                 [](const Variable& x) { return lmp::max(x) * lmp::sort(x).first[1]; },
                 three,
                 [](const Values& x) {
                   Values s = x;
                   std::sort(s.begin(), s.end());
                   return Values{s[2] * s[1]};
                 },
                 [](const Values& x) {
                   Values s = x;
                   std::sort(s.begin(), s.end());
                   Values g;
                   for (double v : x) g.push_back(v == s[2] ? s[1] : v == s[1] ? s[2] : 0);
                   return g;
                 },
                 [](const Values& x) {
                   Values s = x;
                   std::sort(s.begin(), s.end());
                   return matrix(3, 3, [&](std::size_t i, std::size_t j) {
                     return i != j && x[i] != s[0] && x[j] != s[0] ? 1 : 0;
                   });
                 }});
  return all;
}

class ClosedForms : public ::testing::TestWithParam<Closed> {
 protected:
  /// jacobian() takes the way that is cheaper; both by hand.
  static Variable forward(const Function& f, const Variable& x) {
    const auto n = static_cast<std::int64_t>(x.numel());
    const Tensor directions = lmp::eye(n, n, DeviceType::CPU, DataType::Float64)
                                  .reshape(IntList(joined({x.numel()}, x.shape())));
    const Variable columns =
        vmap([&](const Variable& t) { return jvp(f, x, t).tangent; }, 0, -1)(directions);
    return lmp::reshape(columns, IntList(joined(f(x).shape(), x.shape())));
  }
  static Variable reverse(const Function& f, const Variable& x) {
    const auto pullback = vjp(f, x);
    const auto m = static_cast<std::int64_t>(pullback.value.numel());
    const Tensor seeds =
        lmp::eye(m, m, DeviceType::CPU, DataType::Float64)
            .reshape(IntList(joined({pullback.value.numel()}, pullback.value.shape())));
    return lmp::reshape(vmap(pullback)(seeds), IntList(joined(f(x).shape(), x.shape())));
  }
};

TEST_P(ClosedForms, FirstOrder) {
  const Closed& c = GetParam();
  Generator generator(3);
  for (const Values& point : c.points) {
    const Variable x = vector_of(point, c.shape);
    const Values value = c.value(point), by_hand = c.jacobian(point);
    const std::size_t m = value.size(), n = point.size();
    ASSERT_EQ(by_hand.size(), m * n);
    const Variable t(uniform(generator, c.shape)), y = c.f(x);
    expect_near(values(y), value);
    const Variable g(uniform(generator, y.shape()));
    Values jt(m), gj(n);
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        jt[i] += by_hand[i * n + j] * values(t)[j];
        gj[j] += by_hand[i * n + j] * values(g)[i];
      }
    const auto [along_value, along] = jvp(c.f, x, t);
    expect_near(values(along_value), value);
    EXPECT_EQ(along.shape(), y.shape());
    expect_near(values(along), jt);
    const auto pullback = vjp(c.f, x);
    expect_near(values(pullback.value), value);
    expect_near(values(pullback(g)), gj);
    expect_near(values(pullback(2 * g)), values(2 * vector_of(gj)));
    for (const Variable& j : {jacobian(c.f)(x), forward(c.f, x), reverse(c.f, x)}) {
      EXPECT_EQ(j.shape(), joined(y.shape(), x.shape()));
      expect_near(values(j), by_hand);
    }
    // The other way inside jacobian: with more values than arguments, and with fewer.
    const Function more = [&](const Variable& at) {
      return lmp::cat({lmp::reshape(c.f(at), {-1}), Variable(lmp::zeros({n + 1}))});
    };
    const Variable longer = jacobian(more)(x).narrow(0, 0, static_cast<std::int64_t>(m));
    expect_near(values(longer), by_hand);
    const Function fewer = [&](const Variable& at) {
      return c.f(lmp::reshape(at.narrow(0, 0, static_cast<std::int64_t>(n)), IntList(c.shape)));
    };
    const Variable wide =
        jacobian(fewer)(lmp::cat({lmp::reshape(x, {-1}), Variable(lmp::zeros({m + 1}))}));
    expect_near(values(wide.narrow(-1, 0, static_cast<std::int64_t>(n))), by_hand);
    if (m == 1 && y.ndim() == 0) {
      const auto [v, gradient] = value_and_grad(c.f)(x);
      expect_near(values(v), value);
      EXPECT_EQ(gradient.shape(), x.shape());
      expect_near(values(gradient), by_hand);
    }
  }
}

TEST_P(ClosedForms, SecondOrder) {
  const Closed& c = GetParam();
  if (!c.hessian) return;  // more than one value
  Generator generator(5);
  for (const Values& point : c.points) {
    const Variable x = vector_of(point, c.shape), t(uniform(generator, c.shape));
    const Values by_hand = c.hessian(point);
    const std::size_t n = point.size();
    Values ht(n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) ht[i] += by_hand[i * n + j] * values(t)[j];
    const Function gradient = [&](const Variable& at) { return value_and_grad(c.f)(at).gradient; };
    EXPECT_EQ(hessian(c.f)(x).shape(), joined(c.shape, c.shape));
    for (const Variable& h : {hessian(c.f)(x), jacobian(gradient)(x), forward(gradient, x),
                              reverse(gradient, x), jacobian(jacobian(c.f))(x),
                              forward([&](const Variable& at) { return forward(c.f, at); }, x),
                              reverse([&](const Variable& at) { return forward(c.f, at); }, x),
                              forward([&](const Variable& at) { return reverse(c.f, at); }, x)})
      expect_near(values(h), by_hand);
    expect_near(values(hvp(c.f, x, t)), ht);
    EXPECT_EQ(hvp(c.f, x, t).shape(), c.shape);
  }
}

std::string closed_name(const ::testing::TestParamInfo<Closed>& info) {
  std::string name = info.param.name;
  for (char& ch : name)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Transforms, ClosedForms, ::testing::ValuesIn(closed_forms()), closed_name);

}  // namespace
}  // namespace lmp
