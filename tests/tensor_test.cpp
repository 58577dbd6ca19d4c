#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "autograd_support.hpp"
#include "lamppp/lamppp.hpp"
#include "tensor/backend.hpp"

namespace {

using lmp::DataType;
using lmp::DeviceType;
using lmp::Shape;
using lmp::Tensor;
using lmp::testing::message_of;
using Floats = std::vector<float>;
using Ints = std::vector<std::int64_t>;

Tensor counted(std::initializer_list<lmp::tensor::Dim> shape) {
  return lmp::arange(0, static_cast<std::int64_t>(Shape(shape).numel()))
      .astype(DataType::Float32)
      .reshape(Shape(shape));
}

// ---- Construction ----

TEST(Construction, FromData) {
  const Tensor a(std::vector<float>{1, 2, 3, 4}, {2, 2});
  EXPECT_EQ(a.type(), DataType::Float32);
  EXPECT_EQ(a.to_vector<float>(), (Floats{1, 2, 3, 4}));
  EXPECT_EQ(Tensor({1, 2}, {2}).type(), DataType::Int32);
  EXPECT_EQ(Tensor({1.0}, {1}).type(), DataType::Float64);
  EXPECT_EQ(Tensor(std::vector<bool>{true, false}, {2}).type(), DataType::Bool);
  EXPECT_EQ(Tensor(std::vector<bool>{true, false}, {2}).to_vector<bool>(),
            (std::vector<bool>{true, false}));
  const Floats values = {1, 2, 3};
  EXPECT_EQ(
      Tensor(std::span(values), {3}, DeviceType::CPU, DataType::Int64).to_vector<std::int64_t>(),
      (Ints{1, 2, 3}));
  EXPECT_EQ(Tensor(std::vector<std::vector<float>>{{1, 2}, {3, 4}}).shape(), (Shape{2, 2}));
  EXPECT_EQ(Tensor(std::vector<std::vector<std::vector<int>>>{{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}})
                .shape(),
            (Shape{2, 2, 2}));
  EXPECT_THROW(Tensor(std::vector<std::vector<float>>{{1, 2}, {3}}), lmp::ShapeError);
  EXPECT_THROW(Tensor({1, 2, 3}, {2, 2}), lmp::ShapeError);
  const int n = 2;
  const std::size_t m = 1;
  EXPECT_EQ(Tensor({1, 2}, {n, m}).shape(), (Shape{2, 1}));
}

template <class T>
concept TakesTwoBracedLists = requires {
  T({{1, 2}, {3, 4}});
};
static_assert(!TakesTwoBracedLists<Tensor>,
              "Tensor({{1, 2}, {3, 4}}) would read as data {1, 2}, shape {3, 4}");
template <class T>
concept AssignableToView = requires(T x) {
  lmp::select(x, 0, 1) = x;
};
static_assert(!AssignableToView<Tensor> && !AssignableToView<lmp::Variable>);
static_assert(!std::is_convertible_v<lmp::Device, DeviceType> &&
              std::is_convertible_v<DeviceType, lmp::Device>);
static_assert(std::is_same_v<lmp::Scalar, double>);
static_assert(!std::is_convertible_v<lmp::Variable, Tensor> &&
              std::is_convertible_v<Tensor, lmp::Variable>);

TEST(Construction, Filled) {
  EXPECT_EQ(lmp::zeros({2, 2}).sum().item(), 0);
  EXPECT_EQ(lmp::ones({3}).to_vector<float>(), (Floats{1, 1, 1}));
  EXPECT_EQ(lmp::full({2}, 7).type(), DataType::Int64);
  EXPECT_EQ(lmp::full({}, 2.5).item(), 2.5);
  EXPECT_EQ(lmp::full({}, 2.5).ndim(), 0);
  EXPECT_EQ(lmp::arange(5).to_vector<std::int64_t>(), (Ints{0, 1, 2, 3, 4}));
  EXPECT_EQ(lmp::arange(5, 0, -2).to_vector<std::int64_t>(), (Ints{5, 3, 1}));
  EXPECT_EQ(lmp::arange(0, 1, 0.25).to_vector<float>(), (Floats{0, 0.25f, 0.5f, 0.75f}));
  EXPECT_EQ(lmp::arange(0).numel(), 0u);
  EXPECT_THROW(lmp::arange(0, 5, 0), lmp::ValueError);
  EXPECT_EQ(lmp::linspace(0, 1, 5).to_vector<float>(), (Floats{0, 0.25f, 0.5f, 0.75f, 1}));
  EXPECT_EQ(lmp::eye(2, 3).to_vector<float>(), (Floats{1, 0, 0, 0, 1, 0}));
  const Tensor x = counted({2, 3});
  EXPECT_EQ(lmp::zeros_like(x).shape(), x.shape());
  EXPECT_EQ(lmp::full_like(x, 3).to_vector<float>(), Floats(6, 3));
}

TEST(Construction, FromBlobRunsItsDeleterOnce) {
  float data[4] = {1, 2, 3, 4};
  int freed = 0;
  {
    Tensor view;
    {
      const Tensor x = Tensor::from_blob(data, {2, 2}, DataType::Float32, [&](void*) { ++freed; });
      view = x.transpose();
      x.fill(9);
    }
    EXPECT_EQ(freed, 0);
    EXPECT_EQ(view.to_vector<float>(), Floats(4, 9));
  }
  EXPECT_EQ(freed, 1);
  EXPECT_EQ(data[3], 9);
  const Tensor strided = Tensor::from_blob(data, {2}, {2}, DataType::Float32, [](void*) {});
  EXPECT_EQ(strided.strides()[0], 2);
}

TEST(Construction, SizesThatOverflowThrow) {
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_THROW(lmp::zeros({huge, huge}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({huge, huge, 0}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({0, huge, huge}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({std::int64_t{1} << 61}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({-1}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({1, 1, 1, 1, 1, 1, 1, 1, 1}), lmp::ShapeError);
  EXPECT_THROW(lmp::zeros({std::int64_t{1} << 50}), lmp::OutOfMemoryError);
}

// ---- Access ----

TEST(Access, ReadsElements) {
  const Tensor x = counted({2, 3});
  EXPECT_EQ(x.index({1, 2}), 5);
  EXPECT_EQ(x.index({-1, -3}), 3);
  EXPECT_THROW(x.index({2, 0}), lmp::IndexError);
  EXPECT_THROW(x.index({0}), lmp::IndexError);
  EXPECT_THROW(x.item(), lmp::ShapeError);
  EXPECT_EQ(x[1][2].item(), 5);
}

TEST(Access, RawDataChecksTheType) {
  const Tensor x = counted({2});
  EXPECT_EQ(x.data<float>()[1], 1);
  EXPECT_EQ(x.data(), x.data<float>());
  const std::string message = message_of<lmp::TypeError>([&] { x.data<double>(); });
  EXPECT_NE(message.find("Float32"), std::string::npos) << message;
  EXPECT_NE(message.find("astype"), std::string::npos) << message;
  EXPECT_THROW(x[0].item<int>(), lmp::TypeError);
  EXPECT_EQ(lmp::full({}, (std::int64_t{1} << 60) + 1).item<std::int64_t>(),
            (std::int64_t{1} << 60) + 1);
}

TEST(Access, ConvertsInLogicalOrder) {
  EXPECT_EQ(counted({2, 3}).transpose().to_vector<int>(), (std::vector<int>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(Tensor({-1.9f, 2.9f, 300.0f, NAN}, {4}).to_vector<std::int8_t>(),
            (std::vector<std::int8_t>{-1, 2, 127, 0}));
  EXPECT_EQ(Tensor({257, -1}, {2}).to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{1, 255}));
  EXPECT_EQ(Tensor({0.0f, 0.5f}, {2}).to_vector<bool>(), (std::vector<bool>{false, true}));
}

// ---- Views and writing in place ----

TEST(Views, ShareMemoryAndOutliveTheirBase) {
  Tensor row;
  {
    const Tensor x = counted({3, 4});
    row = x.transpose().select(0, 1);
    EXPECT_TRUE(row.shares_storage(x));
    x.fill(5);
  }
  EXPECT_EQ(row.to_vector<float>(), Floats(3, 5));
}

TEST(Views, WritesReachTheBase) {
  const Tensor x = lmp::zeros({3, 4});
  x.select(0, 1).fill(2);
  x.slice(1, std::nullopt, std::nullopt, 2) += 1;
  x.diagonal().copy(lmp::full({3}, 9.0));
  lmp::flip(x, {0})[0] *= lmp::arange(4);
  EXPECT_EQ(x.to_vector<float>(), (Floats{9, 0, 1, 0, 3, 9, 3, 2, 0, 0, 18, 0}));
}

TEST(Views, ReshapeCopiesOnlyWhereItMust) {
  const Tensor x = counted({2, 3, 4});
  EXPECT_TRUE(x.reshape({6, -1}).shares_storage(x));
  EXPECT_TRUE(x.transpose(0, 1).reshape({3, 2, 2, 2}).shares_storage(x));
  EXPECT_FALSE(x.transpose(0, 1).reshape({6, 4}).shares_storage(x));
  EXPECT_EQ(x.transpose(0, 1).reshape({6, 4}).index({1, 0}), 12);
  EXPECT_TRUE(x.slice(2, 0, 2).reshape({6, 2}).shares_storage(x));
  EXPECT_THROW(x.reshape({5, -1}), lmp::ShapeError);
  EXPECT_THROW(x.reshape({-1, -1}), lmp::ShapeError);
  EXPECT_EQ(lmp::zeros({0, 3}).reshape({3, 0}).shape(), (Shape{3, 0}));
}

TEST(InPlace, OverlappingOperandsAreCopiedFirst) {
  const Tensor x = counted({6});
  x.slice(0, 1, std::nullopt) += x.slice(0, std::nullopt, -1);
  EXPECT_EQ(x.to_vector<float>(), (Floats{0, 1, 3, 5, 7, 9}));
  const Tensor y = counted({2, 2});
  y.copy(y.transpose());
  EXPECT_EQ(y.to_vector<float>(), (Floats{0, 2, 1, 3}));
  x += x;
  EXPECT_EQ(x.index({5}), 18);
}

TEST(InPlace, KeepsTheTypeOrThrows) {
  const Tensor i = lmp::arange(3), f = lmp::ones({3});
  EXPECT_THROW(i += 0.5, lmp::TypeError);
  EXPECT_THROW(i /= 2, lmp::TypeError);
  i += 2;
  EXPECT_EQ(i.to_vector<std::int64_t>(), (Ints{2, 3, 4}));
  f += lmp::ones({3}, DeviceType::CPU, DataType::Float64);
  EXPECT_EQ(f.type(), DataType::Float32);
  EXPECT_EQ(f.index({0}), 2);
  EXPECT_THROW(f += lmp::ones({2, 3}), lmp::ShapeError);
  EXPECT_THROW(lmp::ones({1}).broadcast_to({4}) += 1, lmp::ShapeError);
  EXPECT_THROW(lmp::ones({1}).broadcast_to({4}).fill(1), lmp::ShapeError);
  EXPECT_THROW(f.copy(lmp::ones({2})), lmp::ShapeError);
  EXPECT_EQ(f.to_vector<float>(), Floats(3, 2)) << "a failed write left something behind";
}

TEST(InPlace, CountsVersions) {
  const Tensor x = lmp::ones({4});
  const std::uint32_t before = x.version();
  x.narrow(0, 1, 2) += 1;
  EXPECT_GT(x.version(), before);
}

// ---- Undefined tensors ----

TEST(Undefined, EveryOperationThrows) {
  const Tensor none;
  Tensor moved = lmp::ones({2});
  const Tensor taken = std::move(moved);
  const std::vector<std::function<void(const Tensor&)>> operations = {
      [](const Tensor& x) { x + x; },
      [](const Tensor& x) { x + 1; },
      [](const Tensor& x) { 1 - x; },
      [](const Tensor& x) { lmp::exp(x); },
      [](const Tensor& x) { x + lmp::ones({2}); },
      [](const Tensor& x) { lmp::where(x, x, x); },
      [](const Tensor& x) { lmp::sum(x); },
      [](const Tensor& x) { lmp::sum(x, 0); },
      [](const Tensor& x) { lmp::max(x); },
      [](const Tensor& x) { lmp::argmax(x); },
      [](const Tensor& x) { lmp::argmax(x, 0); },
      [](const Tensor& x) { lmp::softmax(x); },
      [](const Tensor& x) { lmp::matmul(x, x); },
      [](const Tensor& x) { lmp::reshape(x, {1}); },
      [](const Tensor& x) { x.transpose(); },
      [](const Tensor& x) { x.clone(); },
      [](const Tensor& x) { x.contiguous(); },
      [](const Tensor& x) { x.astype(DataType::Int32); },
      [](const Tensor& x) { x.to(DeviceType::CPU); },
      [](const Tensor& x) { x.fill(1); },
      [](const Tensor& x) { x.copy(lmp::ones({1})); },
      [](const Tensor& x) { lmp::ones({1}).copy(x); },
      [](const Tensor& x) { x += 1; },
      [](const Tensor& x) { lmp::ones({1}) += x; },
      [](const Tensor& x) { x.item(); },
      [](const Tensor& x) { x.index({}); },
      [](const Tensor& x) { x.data<float>(); },
      [](const Tensor& x) { x.to_vector<float>(); },
      [](const Tensor& x) { x[0]; },
      [](const Tensor& x) { lmp::ones({2})[x]; },
      [](const Tensor& x) {
        lmp::cat({x, x});
      },
      [](const Tensor& x) {
        lmp::stack({x, x});
      },
      [](const Tensor& x) { lmp::einsum("i->", {x}); },
      [](const Tensor& x) { lmp::index_select(lmp::ones({2}), 0, x); },
      [](const Tensor& x) { lmp::sort(x); },
      [](const Tensor& x) { lmp::nonzero(x); },
      [](const Tensor& x) { lmp::tril(x); },
      [](const Tensor& x) { lmp::zeros_like(x); },
      [](const Tensor& x) { lmp::allclose(x, x); },
      [](const Tensor& x) { lmp::pad(x, {}); },
      [](const Tensor& x) { lmp::expand_dims(x, 0); },
      [](const Tensor& x) { lmp::squeeze(x); },
      [](const Tensor& x) { lmp::broadcast_to(x, {2}); },
      [](const Tensor& x) { lmp::flatten(x); },
      [](const Tensor& x) { lmp::one_hot(x, 2); },
      [](const Tensor& x) { lmp::clamp(x, 0, 1); },
      [](const Tensor& x) { lmp::Variable(x, true); }};
  for (std::size_t i = 0; i < operations.size(); ++i) {
    EXPECT_THROW(operations[i](none), lmp::Error) << "operation " << i;
    EXPECT_THROW(operations[i](moved), lmp::Error)
        << "operation " << i << " on a moved-from tensor";
  }
  EXPECT_EQ(none.numel(), 0u);
  EXPECT_FALSE(moved.defined());
  EXPECT_TRUE(taken.defined());
}

// ---- Errors ----

TEST(Errors, NameTheOpTheShapesAndTheRemedy) {
  const Tensor x = lmp::ones({2, 3});
  const std::pair<std::function<void()>, std::vector<const char*>> cases[] = {
      {[&] { x + lmp::ones({4}); }, {"add", "(2, 3)", "(4)"}},
      {[&] { lmp::sum(x, 2); }, {"sum", "axis 2", "2 dimensions"}},
      {[&] {
         lmp::sum(x, {0, -2});
       },
       {"sum", "twice"}},
      {[&] { lmp::matmul(x, x); }, {"matmul", "(2, 3)"}},
      {[&] { lmp::select(x, 0, 5); }, {"select", "5", "size 2"}},
      {[&] { lmp::index_select(x, 1, lmp::full({1}, 3)); }, {"index_select", "3", "size 3"}},
      {[&] {
         lmp::gather(x, 0, lmp::full({1, 1}, -3));
       },
       {"gather", "-3"}},
      {[&] { lmp::max(lmp::zeros({0})); }, {"max", "(0)"}},
      {[&] { lmp::transpose(lmp::ones({3})); }, {"transpose", "(3)"}},
      {[&] {
         lmp::cat({x, lmp::ones({2})});
       },
       {"cat", "(2, 3)", "(2)"}},
      {[&] { lmp::topk(x, 4); }, {"topk", "4"}},
      {[&] { lmp::one_hot(lmp::full({1}, 9), 3); }, {"one_hot", "3"}},
      {[&] { x.to(DeviceType::CUDA); }, {"CUDA", "CPU"}},
      {[&] { lmp::matmul(x == x, x.transpose() == x.transpose()); }, {"matmul", "Bool"}},
      {[&] { -(x == x); }, {"neg", "Bool"}},
      {[&] { lmp::einsum("ij,j", {x}); }, {"einsum", "operands"}},
      {[&] { lmp::einsum("ijk->i", {x}); }, {"einsum", "ijk"}},
      {[&] { lmp::slice(x, 0, 0, 1, 0); }, {"slice", "step"}},
      {[&] { lmp::rand({2}, DeviceType::CPU, DataType::Int32); }, {"rand", "Int32"}},
  };
  for (const auto& [f, words] : cases) {
    const std::string message = message_of<lmp::Error>(f);
    for (const char* word : words)
      EXPECT_NE(message.find(word), std::string::npos) << "\"" << message << "\" lacks " << word;
  }
}

// ---- Reductions ----

TEST(Reduce, OfNothingIsTheIdentityOrAnError) {
  const Tensor none = lmp::zeros({0, 3});
  EXPECT_EQ(lmp::sum(none).item(), 0);
  EXPECT_EQ(lmp::prod(none, 0).to_vector<float>(), Floats(3, 1));
  EXPECT_TRUE(std::isnan(lmp::mean(none).item()));
  EXPECT_EQ(lmp::all(none).item(), 1);
  EXPECT_EQ(lmp::any(none).item(), 0);
  EXPECT_EQ(lmp::logsumexp(none, 0).index({0, 0}), -INFINITY);
  EXPECT_THROW(lmp::max(none), lmp::ShapeError);
  EXPECT_THROW(lmp::argmin(none, 0), lmp::ShapeError);
  EXPECT_EQ(lmp::max(none, 1).shape(), (Shape{0, 1}));
  EXPECT_TRUE(std::isnan(lmp::var(lmp::ones({1})).item()));
}

TEST(Reduce, NanWinsAndTheFirstTieIsFound) {
  const Tensor x({1.0f, NAN, 3.0f, NAN}, {4});
  EXPECT_TRUE(std::isnan(lmp::max(x).item()));
  EXPECT_TRUE(std::isnan(lmp::min(x).item()));
  EXPECT_EQ(lmp::argmax(x).item(), 1);
  EXPECT_EQ(lmp::argmin(x).item(), 1);
  EXPECT_EQ(lmp::argmax(Tensor({1, 5, 5}, {3})).item(), 1);
  const Tensor columns = lmp::full({3, 2000}, NAN);
  EXPECT_TRUE(lmp::all(lmp::isnan(lmp::max(columns, 0))).item() != 0);
}

TEST(Reduce, SumsKeepTheirDigits) {
  EXPECT_EQ(lmp::sum(lmp::ones({(1 << 25) + 4})).item(), (1 << 25) + 4);
  EXPECT_EQ(lmp::sum(lmp::ones({(1 << 20) + 1, 17}), 0).index({0, 3}), (1 << 20) + 1);
  EXPECT_EQ(lmp::sum(lmp::ones({4096}, DeviceType::CPU, DataType::Float16)).item(), 4096);
  EXPECT_EQ(lmp::sum(lmp::full({300}, 127, DeviceType::CPU, DataType::Int8)).item<std::int64_t>(),
            38100);
  EXPECT_EQ(lmp::sum(lmp::full({300}, true)).item<std::int64_t>(), 300);
  EXPECT_NEAR(lmp::sum(lmp::full({1 << 22}, 0.1)).item(), (1 << 22) * static_cast<double>(0.1f),
              0.5);
}

TEST(Reduce, LargeOnesAgreeWithPlainLoops) {
  lmp::manual_seed(3);
  const Tensor x = lmp::randn(0, 1, {70, 33, 45}, DeviceType::CPU, DataType::Float64);
  const std::vector<double> v = x.to_vector<double>();
  for (int axis = 0; axis < 3; ++axis) {
    const Tensor total = lmp::sum(x, axis), top = lmp::max(x, axis);
    const std::size_t n = x.shape()[static_cast<std::size_t>(axis)];
    const std::size_t inner = axis == 0 ? 33 * 45 : axis == 1 ? 45 : 1;
    const auto sums = total.to_vector<double>(), tops = top.to_vector<double>();
    for (std::size_t o = 0; o < sums.size(); ++o) {
      const std::size_t base = o / inner * inner * n + o % inner;
      double s = 0, m = -INFINITY;
      for (std::size_t i = 0; i < n; ++i) {
        s += v[base + i * inner];
        m = std::max(m, v[base + i * inner]);
      }
      ASSERT_NEAR(sums[o], s, 1e-10);
      ASSERT_EQ(tops[o], m);
    }
  }
}

// ---- The same bits on any number of threads ----

TEST(Threads, DoNotChangeABit) {
  lmp::tensor::Generator generator(5);
  const auto random = [&](std::initializer_list<lmp::tensor::Dim> shape) {
    return lmp::randn(generator, 0, 1, Shape(shape));
  };
  const Tensor wide = random({300, 1111}), tall = random({70000, 7}), cube = random({40, 50, 60});
  const std::pair<Tensor, Tensor> products[] = {
      {random({64, 4096}), random({4096, 64})},
      {random({16, 100000}), random({100000, 16})},
      {random({1, 1024}), random({1024, 1024})},
      {random({1000, 1}), random({1, 1030})},
      {random({4096, 64}).transpose(), random({4096, 64})},
      {random({100, 3000}), random({100, 3000}).transpose()},
      {random({128, 784}), random({784, 512})}};
  const auto results = [&] {
    std::vector<Tensor> out;
    for (const Tensor& x : {wide, tall, cube, cube.transpose()}) {
      for (int axis : {0, -1}) {
        out.push_back(lmp::sum(x, axis));
        out.push_back(lmp::var(x, axis));
        out.push_back(lmp::softmax(x, axis));
        out.push_back(lmp::argmax(x, axis).astype(DataType::Float64));
        out.push_back(lmp::cumsum(x, axis));
      }
      out.push_back(lmp::sum(x));
      out.push_back(lmp::prod(x));
      out.push_back(lmp::exp(x) * x + lmp::sin(x));
    }
    for (const auto& [a, b] : products) out.push_back(lmp::matmul(a, b));
    lmp::tensor::Generator fresh(11);
    out.push_back(lmp::randn(fresh, 0, 1, {100001}));
    return out;
  };
  const int before = lmp::get_num_threads();
  lmp::set_num_threads(1);
  const std::vector<Tensor> one = results();
  for (int threads : {2, 3, 8}) {
    lmp::set_num_threads(threads);
    const std::vector<Tensor> many = results();
    for (std::size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(lmp::allclose(many[i], one[i], 0, 0, true))
          << "result " << i << " on " << threads << " threads";
  }
  lmp::set_num_threads(before);
}

// ---- Random numbers ----

TEST(Random, PhiloxGivesThePublishedWords) {
  // Philox4x32-10 of counter 0, key 0, from the known answers of Salmon et al.'s Random123.
  std::uint32_t words[8];
  lmp::tensor::detail::backend(DeviceType::CPU).random_words(words, 2, 0, 0);
  EXPECT_EQ(words[0], 0x6627e8d5u);
  EXPECT_EQ(words[1], 0xe169c58du);
  EXPECT_EQ(words[2], 0xbc57ac4cu);
  EXPECT_EQ(words[3], 0x9b00dbd8u);
}

TEST(Random, RepeatsFromASeed) {
  lmp::manual_seed(42);
  const Tensor a = lmp::rand({1000}), b = lmp::rand({1000});
  lmp::manual_seed(42);
  EXPECT_TRUE(lmp::array_equal(a, lmp::rand({1000})));
  EXPECT_TRUE(lmp::array_equal(b, lmp::rand({1000})));
  EXPECT_FALSE(lmp::array_equal(a, b));
  lmp::Generator one(42);
  EXPECT_TRUE(lmp::array_equal(a, lmp::rand(one, {1000})));
  one.set_offset(0);
  // Element i does not depend on how many are drawn.
  EXPECT_TRUE(lmp::array_equal(a.narrow(0, 0, 10), lmp::rand(one, {10})));
}

TEST(Random, HasTheRightDistribution) {
  lmp::Generator g(1);
  for (DataType type :
       {DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64}) {
    const Tensor u = lmp::rand(g, {200000}, DeviceType::CPU, type).astype(DataType::Float64);
    EXPECT_GE(lmp::min(u).item(), 0);
    EXPECT_LT(lmp::max(u).item(), 1);
    EXPECT_NEAR(lmp::mean(u).item(), 0.5, 0.005);
    EXPECT_NEAR(lmp::var(u).item(), 1.0 / 12, 0.002);
    const Tensor n = lmp::randn(g, 3, 2, {200000}, DeviceType::CPU, type).astype(DataType::Float64);
    EXPECT_NEAR(lmp::mean(n).item(), 3, 0.03);
    EXPECT_NEAR(lmp::std(n).item(), 2, 0.03);
    EXPECT_TRUE(lmp::all(lmp::isfinite(n)).item() != 0);
  }
  const Tensor i = lmp::randint(g, -3, 4, {70000});
  EXPECT_EQ(lmp::min(i).item(), -3);
  EXPECT_EQ(lmp::max(i).item(), 3);
  EXPECT_NEAR(lmp::mean(i).item(), 0, 0.05);
  EXPECT_NEAR(lmp::mean(lmp::bernoulli(g, 0.3, {100000})).item(), 0.3, 0.01);
  EXPECT_TRUE(lmp::array_equal(lmp::sort(lmp::permutation(g, 1000)).first, lmp::arange(1000)));
  EXPECT_FALSE(lmp::array_equal(lmp::permutation(g, 1000), lmp::arange(1000)));
  EXPECT_THROW(lmp::randint(g, 3, 3, {2}), lmp::ValueError);
  EXPECT_THROW(lmp::bernoulli(1.5, {2}), lmp::ValueError);
}

// ---- Beyond 2^31 elements ----

TEST(Large, MoreElementsThan32BitsCount) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "2 GiB under a sanitizer";
#endif
  const std::int64_t n = (std::int64_t{1} << 31) + 8;
  const Tensor x = lmp::zeros({n}, DeviceType::CPU, DataType::UInt8);
  x.narrow(0, n - 4, 4).fill(3);
  EXPECT_EQ(x.numel(), static_cast<std::size_t>(n));
  EXPECT_EQ(x.index({n - 1}), 3);
  EXPECT_EQ(lmp::argmax(x).item<std::int64_t>(), n - 4);
  EXPECT_EQ(x.slice(0, n - 6, std::nullopt).to_vector<int>(), (std::vector<int>{0, 0, 3, 3, 3, 3}));
}

TEST(FromBlob, WhatItRefusesStaysTheCallers) {
  float data[4] = {};
  int freed = 0;
  const auto count = [owned = std::make_shared<int>(1), &freed](void*) { ++freed; };
  EXPECT_THROW(Tensor::from_blob(data, {2, 2}, {1}, DataType::Float32, count), lmp::ShapeError);
  EXPECT_THROW(Tensor::from_blob(nullptr, {2, 2}, DataType::Float32, count), lmp::ValueError);
  EXPECT_EQ(freed, 0);
}

TEST(Tensor, FlattenOfANumberTakesItsOneAxis) {
  EXPECT_EQ(lmp::flatten(lmp::full({}, 1), 0, -1).shape(), Shape({1}));
  EXPECT_THROW(lmp::flatten(lmp::full({}, 1), 5, -9), lmp::IndexError);
}

TEST(Tensor, MeansOfLargeIntegersDoNotWrapAround) {
  const Tensor times = lmp::full({6}, std::int64_t{1700000000000000000});
  EXPECT_EQ(lmp::mean(times).item(), static_cast<double>(1.7e18F));
}

}  // namespace
