// The rules of the public API, one test each, and the behaviours of old that must not come back.
// What the compiler can decide it decides here. Namespaces are opened as user programs do.

#include <gtest/gtest.h>

#include <concepts>
#include <sstream>
#include <type_traits>

#include "autograd_support.hpp"

namespace {

using lmp::testing::contains;
using lmp::testing::leaf;
using lmp::testing::message_of;
using lmp::testing::scalar_leaf;
using lmp::testing::values;
using Values = std::vector<double>;
using enum lmp::DataType;

constexpr lmp::DeviceType kCpu = lmp::DeviceType::CPU;

template <class T>
std::string printed(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

// ---- Names ----

static_assert(std::same_as<lmp::Tensor, lmp::tensor::Tensor>);
static_assert(std::same_as<lmp::DataType, lmp::tensor::DataType>);
static_assert(std::same_as<lmp::DeviceType, lmp::tensor::DeviceType>);
static_assert(std::same_as<lmp::Variable, lmp::autograd::Variable>);
static_assert(std::same_as<lmp::Scalar, double> && std::same_as<lmp::tensor::Scalar, double>);

TEST(Api, OldProgramsFindTheirNames) {
  const lmp::Tensor t = lmp::tensor::ops::exp(lmp::Tensor({0.0f}, {1}));
  const lmp::Variable v = lmp::autograd::ops::exp(lmp::Variable(t));
  EXPECT_EQ(lmp::log(t).item(), 0);
  EXPECT_EQ(lmp::log(lmp::log(v)).item(), 0);
  EXPECT_EQ(lmp::tensor::type_upcast(Int32, Float32), Float32);
  std::vector<lmp::Scalar> scalars = {1, 2};
  scalars[0] += scalars[1] / 2;
  EXPECT_EQ(scalars[0], 2);
  static_assert(std::same_as<decltype(lmp::zeros({1})), lmp::Tensor>);
  static_assert(std::same_as<decltype(lmp::autograd::zeros({1})), lmp::Variable>);
  static_assert(std::same_as<decltype(lmp::rand({1})), lmp::Tensor>);
}

TEST(Api, OpsUnderUsingDirectives) {
  // As overloads they live beside those of <cmath>.
  using namespace lmp;
  const Tensor t({4.0f}, {1});
  EXPECT_EQ(sqrt(t).item(), 2);
  EXPECT_EQ(exp(Variable(t * 0)).item(), 1);
  EXPECT_EQ(std::sqrt(4.0), 2);
}

TEST(Api, ConstructorsOfOld) {
  const lmp::Tensor braced({2.0f}, {1}, kCpu, Float32), like(std::vector<float>{1}, braced.shape());
  const std::vector<std::size_t> sizes = {1, 1};
  EXPECT_EQ(lmp::Tensor(std::vector<int>{3}, sizes, kCpu, Float64).type(), Float64);
  const lmp::Variable v(braced, true), w(like);
  EXPECT_TRUE(v.requires_grad());
  EXPECT_FALSE(w.requires_grad());
  const lmp::Variable r = lmp::autograd::randn(5.0, 0.0, {3}, kCpu, Float64, true);
  EXPECT_EQ(values(r), (Values{5, 5, 5}));
  EXPECT_TRUE(r.requires_grad());
  EXPECT_THROW(lmp::autograd::tensor(std::vector<std::vector<float>>{{1, 2}, {3}}),
               lmp::ShapeError);
}

// ---- Rules ----

TEST(ApiRules, R02_Shapes) {
  const int n = 2;
  const std::size_t m = 3;
  EXPECT_EQ(lmp::zeros({n, 3}).shape(), lmp::zeros({std::size_t{2}, m}).shape());
  EXPECT_EQ(lmp::zeros({n, m}).shape(), (std::vector<int>{2, 3}));
  EXPECT_EQ(lmp::zeros(std::vector<std::int64_t>{2, 3}).shape(), (std::vector<std::size_t>{2, 3}));
  const lmp::Variable v(lmp::zeros({n, m}));
  EXPECT_EQ(lmp::reshape(v, {-1, n}).shape(), (std::vector<int>{3, 2}));
  EXPECT_THROW(lmp::reshape(v, {-1, -1}), lmp::ShapeError);
  std::size_t product = 1;
  for (auto d : lmp::Variable(lmp::zeros({n, m})).data().shape()) product *= d;
  EXPECT_EQ(product, 6u);
  EXPECT_EQ(v.data().flip({1}).strides(), (lmp::IntList{3, -1}));
  EXPECT_EQ(printed(v.shape()), "(2, 3)");
  EXPECT_EQ(printed(Float32), "Float32");
  EXPECT_EQ(printed(v.device()), "CPU");
}

// It must not mean the data {1, 2} in the shape {3, 4}, and so does not compile.
template <class T>
concept TakesNestedBraces = requires {
  T({{1, 2}, {3, 4}});
};
static_assert(!TakesNestedBraces<lmp::Tensor>);

TEST(ApiRules, R03_BracedData) {
  EXPECT_EQ(lmp::Tensor({1, 2}, {2}).type(), Int32);
  EXPECT_EQ(lmp::Tensor({1.0}, {1}).type(), Float64);
  EXPECT_EQ(lmp::Tensor({1.0f}, {1}).type(), Float32);
  const lmp::Tensor matrix(std::vector<std::vector<int>>{{1, 2}, {3, 4}});
  EXPECT_EQ(matrix.shape(), (std::vector<int>{2, 2}));
  EXPECT_EQ(matrix.to_vector<int>(), (std::vector<int>{1, 2, 3, 4}));
  const lmp::Variable nested =
      lmp::autograd::tensor({{1.0f, 2.0f}, {3.0f, 4.0f}}, kCpu, Float32, true);
  EXPECT_EQ(nested.shape(), (std::vector<int>{2, 2}));
  EXPECT_TRUE(nested.requires_grad());
  const std::vector<bool> bits = {true, false};
  EXPECT_EQ(lmp::Tensor(bits, {2}).type(), Bool);
  EXPECT_EQ(lmp::Tensor(bits, {2}).to_vector<bool>(), bits);
}

static_assert(std::convertible_to<lmp::Tensor, lmp::Variable>);
static_assert(!std::convertible_to<lmp::Variable, lmp::Tensor>);
static_assert(!std::constructible_from<lmp::Tensor, lmp::Variable>);

TEST(ApiRules, R04_TensorsBecomeVariables) {
  const lmp::Tensor t({1.0, 2.0}, {2});
  const lmp::Variable v = leaf({3, 4});
  static_assert(std::same_as<decltype(t + v), lmp::Variable>);
  static_assert(std::same_as<decltype(v * t), lmp::Variable>);
  static_assert(std::same_as<decltype(t + t), lmp::Tensor>);
  static_assert(std::same_as<decltype(lmp::matmul(t, v)), lmp::Variable>);
  static_assert(std::same_as<decltype(2 == t), lmp::Tensor>);
  EXPECT_EQ(values(2 == t), (Values{0, 1}));
  EXPECT_EQ(values(1 - v), (Values{-2, -3}));
  EXPECT_EQ(values(2 > t), (Values{1, 0}));
  (t * v).backward();
  EXPECT_EQ(values(v.grad()), (Values{1, 2}));
  EXPECT_EQ(lmp::cat({t, t}).numel(), 4u);
  EXPECT_TRUE(lmp::stack({v, v}).requires_grad());
  EXPECT_TRUE(lmp::cat(std::vector<lmp::Variable>{v, t}).requires_grad());
  EXPECT_EQ(lmp::einsum("i,i->", {t, t}).item(), 5);
  EXPECT_TRUE(lmp::einsum("i,i->", std::vector<lmp::Variable>{v, v}).requires_grad());
}

static_assert(!std::is_assignable_v<lmp::Tensor&&, lmp::Tensor>);
static_assert(!std::is_assignable_v<lmp::Variable&&, lmp::Variable>);
static_assert(std::is_assignable_v<lmp::Tensor&, lmp::Tensor>);
static_assert(std::is_assignable_v<lmp::Variable&, lmp::Variable>);
static_assert(std::is_assignable_v<lmp::Variable&, lmp::Tensor>);

TEST(ApiRules, R05_CopiesShare) {
  const lmp::Tensor t({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2});
  const lmp::Tensor shared = t, separate = t.clone();
  t.fill(7);
  EXPECT_EQ(shared.index({0, 0}), 7);
  EXPECT_EQ(separate.index({0, 0}), 1);
  lmp::select(t, 0, 1).copy(lmp::Tensor({5}, {1}));
  EXPECT_EQ(values(t), (Values{7, 7, 5, 5}));
  EXPECT_THROW(t.copy(lmp::zeros({3})), lmp::ShapeError);
  EXPECT_THROW(t.copy(lmp::zeros({4})), lmp::ShapeError);
  EXPECT_THROW(lmp::select(t, 0, 1).copy(t), lmp::ShapeError);
  EXPECT_EQ(values(t), (Values{7, 7, 5, 5}));
}

TEST(ApiRules, R06_WritingThroughData) {
  const lmp::Variable h(lmp::ones({2}), true);
  const std::uint32_t version = h.data().version();
  h.data().fill(7);
  EXPECT_EQ(values(h), (Values{7, 7}));
  EXPECT_GT(h.data().version(), version);
  const lmp::Variable w = leaf({1, 2});
  (w * w).backward();
  const double lr = 0.5;
  w.data() -= lr * w.grad();
  EXPECT_EQ(values(w), (Values{0, 0}));
  EXPECT_TRUE(w.is_leaf() && w.has_grad());
}

TEST(ApiRules, R07_AddingInPlace) {
  const lmp::Variable x = leaf({1, 2});
  lmp::Variable y = x * 2;
  y += x;
  y *= y;
  y -= 1;
  y /= x;
  EXPECT_EQ(values(y), (Values{8, 17.5}));
  y.backward();  // y = (3x)^2 / x - 1 / x
  EXPECT_EQ(values(x.grad()), (Values{10, 9.25}));

  lmp::Variable parameter = x;
  EXPECT_TRUE(contains(message_of<lmp::AutogradError>([&] { parameter += 1; }), "NoGradGuard"));
  EXPECT_THROW(parameter *= x, lmp::AutogradError);
  EXPECT_EQ(values(x), (Values{1, 2}));
  {
    const lmp::NoGradGuard guard;
    parameter -= 0.5 * parameter;
    parameter += 1;
  }
  EXPECT_EQ(values(x), (Values{1.5, 2}));
  EXPECT_TRUE(x.requires_grad() && x.is_leaf() && x.has_grad());

  lmp::Variable plain(lmp::Tensor({1.0, 1.0}, {2}));
  const lmp::Variable same = plain;
  plain += 1;
  EXPECT_EQ(values(same), (Values{2, 2}));
  plain += x;  // a gradient flows in
  EXPECT_TRUE(plain.requires_grad());
  EXPECT_EQ(values(same), (Values{2, 2}));

  x.copy(lmp::Tensor({8, 9}, {2}));
  EXPECT_EQ(values(x), (Values{8, 9}));
  x.fill(3);
  EXPECT_EQ(values(parameter), (Values{3, 3}));
  lmp::Variable integers(lmp::Tensor({1, 2}, {2}));
  EXPECT_THROW(integers += 0.5, lmp::TypeError);
}

TEST(ApiRules, R08_RawAccess) {
  const lmp::Tensor t({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2});
  static_assert(std::same_as<decltype(t.data()), void*>);
  static_assert(std::same_as<decltype(t.index({0, 0})), lmp::Scalar>);
  EXPECT_EQ(t.data<float>()[1], 2);
  EXPECT_THROW(t.data<double>(), lmp::TypeError);
  EXPECT_EQ(t.transpose().to_vector<int>(), (std::vector<int>{1, 3, 2, 4}));
  EXPECT_THROW(t.index({0}), lmp::IndexError);
  EXPECT_THROW(t.index({0, 2}), lmp::IndexError);
  EXPECT_THROW(t.item(), lmp::ShapeError);
  EXPECT_THROW(lmp::full({}, 1).item<float>(), lmp::TypeError);
  EXPECT_EQ(lmp::full({}, (std::int64_t{1} << 62) + 1).item<std::int64_t>(),
            (std::int64_t{1} << 62) + 1);
}

static_assert(!std::convertible_to<lmp::Variable, bool> &&
              !std::constructible_from<bool, lmp::Variable>);
static_assert(!std::convertible_to<lmp::Tensor, bool> &&
              !std::constructible_from<bool, lmp::Tensor>);

TEST(ApiRules, R09_ComparisonsHaveNoGradient) {
  const lmp::Variable x = leaf({1, 2}), y = leaf({2, 2});
  const lmp::Variable results[] = {x == y,
                                   x != y,
                                   x > y,
                                   x >= y,
                                   x < 2,
                                   2 <= x,
                                   lmp::eq(x, y),
                                   lmp::ne(x, 1),
                                   lmp::gt(x, y),
                                   lmp::ge(x, y),
                                   lmp::lt(x, y),
                                   lmp::le(x, y),
                                   lmp::isnan(x),
                                   lmp::isinf(x),
                                   lmp::isfinite(x),
                                   lmp::logical_not(x),
                                   lmp::any(x),
                                   lmp::all(x, 0)};
  for (const lmp::Variable& v : results) {
    EXPECT_EQ(v.type(), Bool);
    EXPECT_FALSE(v.requires_grad());
    EXPECT_THROW(v.backward(), lmp::AutogradError);
  }
  EXPECT_FALSE(lmp::argmax(x).requires_grad());
  EXPECT_TRUE(lmp::array_equal(x, leaf({1, 2})));
  EXPECT_TRUE(lmp::allclose(x, x + 1e-12));
  // Masks are constants to what is computed with them.
  ((x > 1) * x).backward();
  EXPECT_EQ(values(x.grad()), (Values{0, 1}));
}

template <class T>
concept SumsWithBool = requires(T x) {
  lmp::sum(x, 0, true);
};
static_assert(SumsWithBool<lmp::Tensor> && SumsWithBool<lmp::Variable>);

TEST(ApiRules, R10_Reductions) {
  const lmp::Variable x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_EQ(lmp::sum(x, 0).shape(), (std::vector<int>{1, 3}));
  EXPECT_EQ(lmp::sum(x, 0, false).shape(), (std::vector<int>{3}));
  EXPECT_EQ(lmp::sum(x, {0, 1}).shape(), (std::vector<int>{1, 1}));
  EXPECT_EQ(lmp::max(x, -1).shape(), (std::vector<int>{2, 1}));
  for (const lmp::Variable& v :
       {lmp::sum(x), lmp::max(x), lmp::min(x), lmp::prod(x), lmp::mean(x), lmp::var(x), lmp::std(x),
        lmp::norm(x), lmp::logsumexp(x), lmp::any(x), lmp::all(x)})
    EXPECT_EQ(v.ndim(), 0);
  EXPECT_EQ(lmp::argmax(x, 1).shape(), (std::vector<int>{2}));
  EXPECT_TRUE(lmp::array_equal(lmp::argmax(x, 1) == lmp::Tensor({2, 2}, {2}),
                               lmp::Tensor({true, true}, {2})));
  EXPECT_EQ(lmp::var(x, 1, false, 0).index({0}), 2.0 / 3);
  EXPECT_EQ(lmp::mean(lmp::Tensor({1, 2}, {2})).type(), Float32);
  EXPECT_EQ(lmp::mean(lmp::Tensor({1, 2}, {2})).item(), 1.5);
}

TEST(ApiRules, R11_MembersAndFunctions) {
  const lmp::Variable x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_TRUE(lmp::array_equal(x.transpose().sum(1, false), lmp::sum(lmp::transpose(x), 1, false)));
  EXPECT_EQ(x.astype(Float32).type(), Float32);
  EXPECT_EQ(x.select(0, 1).mean().item(), 5);
  EXPECT_EQ(x.ndim(), 2);
  EXPECT_EQ(x.size(-1), 3u);
  EXPECT_EQ(x.numel(), 6u);
  EXPECT_EQ(x[0][1].item(), 2);
  x.flatten().narrow(0, 1, 2).max().backward();
  EXPECT_EQ(values(x.grad()), (Values{0, 0, 1, 0, 0, 0}));
}

TEST(ApiRules, R12_Defaults) {
  const lmp::Variable v = lmp::autograd::ones({2});
  EXPECT_EQ(v.type(), Float32);
  EXPECT_EQ(v.device(), kCpu);
  EXPECT_FALSE(v.requires_grad());
  EXPECT_EQ(lmp::arange(3).type(), Int64);
  EXPECT_EQ(lmp::full({1}, 3).type(), Int64);
  EXPECT_EQ(lmp::full({}, 2.5).item(), 2.5);
  EXPECT_EQ(lmp::full({}, 2.5).ndim(), 0);
}

TEST(ApiRules, R13_NumbersAndTypes) {
  const lmp::Tensor integers({1, 2}, {2});
  EXPECT_EQ((integers * 2).type(), Int32);
  EXPECT_EQ((integers * 0.5).type(), Float32);
  EXPECT_EQ(values(integers * 0.5), (Values{0.5, 1}));
  EXPECT_EQ((lmp::ones({1}) * 2.0).type(), Float32);
  EXPECT_EQ((integers + lmp::full({}, 1)).type(), Int64);  // 0-d tensors promote like any
  EXPECT_EQ((integers / 2).type(), Float32);
  EXPECT_EQ(lmp::sum(lmp::Tensor({true, true}, {2})).type(), Int64);
  EXPECT_EQ(lmp::sum(lmp::full({3}, 30000, kCpu, Int16)).item(), 90000);
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  EXPECT_EQ((lmp::full({}, large) + 1).item<std::int64_t>(), large + 1);
  const lmp::Variable x = leaf({1, 2});
  EXPECT_EQ((x * integers).type(), Float64);
  (x * integers).backward();
  EXPECT_EQ(values(x.grad()), (Values{1, 2}));
}

TEST(ApiRules, R14_Indexing) {
  const lmp::Variable x = leaf({5, 1, 4, 2}, {4});
  EXPECT_EQ(values(lmp::slice(x, 0, std::nullopt, std::nullopt, -2)), (Values{2, 1}));
  EXPECT_EQ(values(lmp::narrow(x, 0, 1, 2)), (Values{1, 4}));
  const auto [sorted, order] = lmp::sort(x);
  EXPECT_EQ(values(sorted), (Values{1, 2, 4, 5}));
  EXPECT_EQ(order.to_vector<int>(), (std::vector<int>{1, 3, 2, 0}));
  const auto [best, at] = lmp::topk(x, 2);
  EXPECT_EQ(values(best), (Values{5, 4}));
  best.backward();
  EXPECT_EQ(values(x.grad()), (Values{1, 0, 1, 0}));
  EXPECT_EQ(lmp::one_hot(lmp::Tensor({1}, {1}), 3).type(), Int64);
  EXPECT_EQ(lmp::permutation(3).type(), Int64);
  EXPECT_EQ(values(lmp::clamp(x, 2)), (Values{5, 2, 4, 2}));
  EXPECT_EQ(values(lmp::clamp(x, std::nullopt, 3)), (Values{3, 1, 3, 2}));
  EXPECT_EQ(values(lmp::where(x > 3, x, 0)), (Values{5, 0, 4, 0}));
}

TEST(ApiRules, R15_BackwardAndGrad) {
  const lmp::Variable x = leaf({1, 2});
  const lmp::Tensor seed({1.0, 10.0}, {2});
  (x * x).backward();
  (x * x).backward(seed);
  const lmp::Variable y = x * x;
  y.backward({.gradient = seed, .retain_graph = true});
  y.backward({.retain_graph = true});
  EXPECT_EQ(values(x.grad()), (Values{8, 88}));
  const std::vector<lmp::Variable> g = lmp::grad(
      {y}, {x},
      {.grad_outputs = {seed}, .retain_graph = true, .create_graph = true, .allow_unused = true});
  EXPECT_EQ(values(g[0]), (Values{2, 40}));
}

TEST(ApiRules, R16_Printing) {
  EXPECT_EQ(printed(lmp::Tensor({4.0f}, {1})), "[4.0]");
  EXPECT_EQ(printed(lmp::full({}, 4.0f)), "4.0");
  EXPECT_EQ(printed(lmp::Variable(lmp::Tensor({4.0f}, {1}), true)), "[4.0]");
  EXPECT_EQ(printed(lmp::ones({2, 2})), "[[1.0 1.0]\n [1.0 1.0]]");
}

static_assert(std::derived_from<lmp::Error, std::runtime_error>);
static_assert(std::derived_from<lmp::ShapeError, lmp::Error> &&
              std::derived_from<lmp::TypeError, lmp::Error> &&
              std::derived_from<lmp::IndexError, lmp::Error> &&
              std::derived_from<lmp::ValueError, lmp::Error> &&
              std::derived_from<lmp::AutogradError, lmp::Error>);

TEST(ApiRules, R17_Errors) {
  EXPECT_THROW(lmp::zeros({1, 1, 1, 1, 1, 1, 1, 1, 1}), lmp::ShapeError);
  EXPECT_THROW(lmp::expand_dims(lmp::zeros({1, 1, 1, 1, 1, 1, 1, 1}), 0), lmp::ShapeError);
  EXPECT_THROW(lmp::autograd::zeros({1}, kCpu, Int32, true), lmp::TypeError);
  EXPECT_THROW(lmp::Variable(lmp::ones({1})).backward(), lmp::AutogradError);
}

// ---- What must not come back ----

TEST(NeverAgain, DeepChains) {
  lmp::Variable y = scalar_leaf(1.0);
  for (int i = 0; i < 70000; ++i) y = y + 0;
  y.backward();
  y = lmp::Variable();
}

TEST(NeverAgain, GarbageForWrongArguments) {
  const lmp::Variable x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
  for (const int axis : {2, -3, 1000000, INT32_MIN, INT32_MAX}) {
    EXPECT_THROW(lmp::sum(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::max(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::min(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::prod(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::squeeze(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::argmax(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::select(x, axis, 0), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::transpose(x, 0, axis), lmp::IndexError) << axis;
    EXPECT_THROW(lmp::softmax(x, axis), lmp::IndexError) << axis;
    EXPECT_THROW(x.data().size(axis), lmp::IndexError) << axis;
    if (axis != 2 && axis != -3) {
      EXPECT_THROW(lmp::expand_dims(x, axis), lmp::IndexError) << axis;
    }
  }
  for (const std::int64_t index : {std::int64_t{2}, std::int64_t{-3}, INT64_MAX, INT64_MIN}) {
    EXPECT_THROW(x.index({index, 0}), lmp::IndexError) << index;
    EXPECT_THROW(x[index], lmp::IndexError) << index;
    EXPECT_THROW(lmp::index_select(x, 0, lmp::full({1}, index)), lmp::IndexError) << index;
    EXPECT_THROW(lmp::gather(x, 0, lmp::full({1, 1}, index)), lmp::IndexError) << index;
    EXPECT_THROW(lmp::scatter(x, 0, lmp::full({1, 1}, index), leaf({1}, {1, 1})), lmp::IndexError)
        << index;
  }
  EXPECT_THROW(x.copy(lmp::zeros({3, 2})), lmp::ShapeError);
  EXPECT_THROW(x.incr_grad(lmp::zeros({3, 2})), lmp::ShapeError);
  EXPECT_THROW(lmp::matmul(x, x), lmp::ShapeError);
  EXPECT_THROW(x + leaf({1, 2}), lmp::ShapeError);
  const lmp::Variable empty(lmp::zeros({0, 3}), true);
  EXPECT_THROW(lmp::max(empty, 0), lmp::ShapeError);
  EXPECT_THROW(lmp::argmin(empty), lmp::ShapeError);
  EXPECT_EQ(values(lmp::sum(empty, 0)), (Values{0, 0, 0}));
  EXPECT_EQ(values(lmp::prod(empty, 0)), (Values{1, 1, 1}));
  lmp::sum(empty).backward();
  EXPECT_EQ(empty.grad().shape(), empty.shape());
}

TEST(NeverAgain, UndefinedTensors) {
  const lmp::Tensor none;
  EXPECT_FALSE(none.defined());
  EXPECT_EQ(none.numel(), 0u);
  EXPECT_THROW(none + none, lmp::Error);
  EXPECT_THROW(lmp::sum(none), lmp::Error);
  EXPECT_THROW(none.fill(1), lmp::Error);
  EXPECT_THROW(none.clone(), lmp::Error);
  EXPECT_THROW(none.reshape({0}), lmp::Error);
  EXPECT_THROW(none.to_vector<float>(), lmp::Error);
  EXPECT_THROW(none.item(), lmp::Error);
  EXPECT_NO_THROW(printed(none));
}

TEST(NeverAgain, LeaksOfBroadcasts) {
  const lmp::Variable x = leaf({1, 2, 3}), y = leaf({1, 2}, {2, 1});
  (x + y).backward();
  const std::int64_t before = lmp::testing::live_bytes();
  for (int i = 0; i < 100; ++i) (x * y + x).backward();
  EXPECT_EQ(lmp::testing::live_bytes(), before);
}

TEST(NeverAgain, NumbersThatLie) {
  EXPECT_EQ(values(lmp::Tensor({3}, {1}) * 0.5), (Values{1.5}));
  const std::int64_t n = (1 << 24) + 16;
  EXPECT_EQ(lmp::sum(lmp::ones({n})).item(), static_cast<double>(n));
  EXPECT_EQ(lmp::tanh(lmp::Tensor({100.0f}, {1})).item(), 1);
  const lmp::Variable x(lmp::zeros({1}), true);
  (lmp::sqrt(x) * 0).backward();
  EXPECT_TRUE(std::isnan(x.grad().to_vector<float>()[0]));
}

}  // namespace
