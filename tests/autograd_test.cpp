// What a Variable promises: leaves and results, accumulation, passes, grad(), version counters,
// gradcheck.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "autograd_support.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::leaf;
using testing::message_of;
using testing::values;
using Values = std::vector<double>;

TEST(Autograd, LeavesAndResults) {
  const Variable x = leaf({1, 2});
  EXPECT_TRUE(x.is_leaf());
  EXPECT_TRUE(x.requires_grad());
  EXPECT_EQ(x.grad_fn(), nullptr);
  EXPECT_FALSE(x.has_grad());
  EXPECT_EQ(values(x.grad()), (Values{0, 0}));

  const Variable y = x * 3;
  EXPECT_FALSE(y.is_leaf());
  EXPECT_TRUE(y.requires_grad());
  ASSERT_NE(y.grad_fn(), nullptr);
  EXPECT_STREQ(autograd::name_of(*y.grad_fn()), "mul");
  EXPECT_EQ(values(y.grad()), (Values{0, 0}));

  const Variable plain(Tensor({1.0, 2.0}, {2}));
  EXPECT_FALSE(plain.requires_grad());
  EXPECT_FALSE((plain * plain).requires_grad());
  EXPECT_TRUE((plain * x).requires_grad());
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { plain.grad(); }), "Variable(tensor, true)"));
}

TEST(Autograd, AResultThatIsHeldKeepsItsGradient) {
  const Variable x = leaf({1, 2});
  Variable b = exp(x), held;
  {
    const Variable c = b * 2;
    held = c * c;
  }
  sum(held).backward();
  EXPECT_TRUE(b.has_grad());
  EXPECT_EQ(values(held.grad()), (Values{1, 1}));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_DOUBLE_EQ(values(b.grad())[i], 8 * b.index({i}));
    EXPECT_DOUBLE_EQ(values(x.grad())[i], 8 * b.index({i}) * b.index({i}));
  }
  b.zero_grad();
  EXPECT_FALSE(b.has_grad());
  EXPECT_TRUE(x.has_grad());
}

TEST(Autograd, CopiesShareValueAndGradient) {
  const Variable x = leaf({1, 2});
  const Variable copy = x;
  (copy * copy).backward();
  EXPECT_EQ(values(x.grad()), (Values{2, 4}));
  copy.zero_grad();
  EXPECT_FALSE(x.has_grad());
}

TEST(Autograd, GradientsAccumulateUntilZeroGrad) {
  const Variable x = leaf({1, 2, 3});
  for (int i = 1; i <= 4; ++i) {
    (x * i).backward();
    EXPECT_EQ(values(x.grad()), Values(3, i * (i + 1) / 2));
  }
  x.zero_grad();
  EXPECT_EQ(values(x.grad()), (Values{0, 0, 0}));
  (x * x).backward();
  EXPECT_EQ(values(x.grad()), (Values{2, 4, 6}));
}

TEST(Autograd, ZeroGradDetachesNothing) {
  const Variable x = leaf({3});
  const Variable y = x * x;
  x.zero_grad();
  y.zero_grad();
  EXPECT_TRUE(x.requires_grad());
  EXPECT_NE(y.grad_fn(), nullptr);
  y.backward();
  EXPECT_EQ(values(x.grad()), (Values{6}));
  x.zero_grad();
  (x * 2).backward();
  EXPECT_EQ(values(x.grad()), (Values{2}));
}

TEST(Autograd, SharedNodesCountOnceAPath) {
  // A second backward through nodes that two results share.
  const Variable x = leaf({2});
  const Variable shared = x * x, a = shared * 3, b = shared * shared;
  a.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(values(x.grad()), (Values{12}));
  b.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(values(x.grad()), (Values{12 + 32}));
  a.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(values(x.grad()), (Values{12 + 32 + 12}));
  EXPECT_EQ(values(shared.grad()), (Values{3}));
}

TEST(Autograd, ASecondPassNeedsRetainGraph) {
  const Variable x = leaf({2});
  const Variable y = exp(x * x);
  y.backward(BackwardOptions{.retain_graph = true});
  const double first = x.grad().item();
  y.backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 2 * first);
  const std::string message = message_of<AutogradError>([&] { y.backward(); });
  EXPECT_TRUE(contains(message, "exp") && contains(message, "retain_graph")) << message;
  EXPECT_DOUBLE_EQ(x.grad().item(), 2 * first);
  // So does a new result over a part that was released.
  const Variable z = x * x;
  z.backward();
  EXPECT_THROW((z + x).backward(), AutogradError);
  EXPECT_THROW(grad({z}, {x}), AutogradError);
  // Also where the gradient itself needs nothing that was saved.
  const Variable s = sum(x + 1);
  s.backward();
  EXPECT_THROW(s.backward(), AutogradError);
}

TEST(Autograd, MemoryFallsDuringBackward) {
  const Variable x(lmp::ones({1000}), true);
  const std::int64_t before = testing::live_bytes();
  Variable y = x;
  for (int i = 0; i < 50; ++i) y = exp(y * 1e-3);
  EXPECT_GT(testing::live_bytes() - before, 50 * 4000);
  const Variable loss = sum(y);
  y = Variable();
  loss.backward();
  EXPECT_LT(testing::live_bytes() - before, 2 * 4000 + 50 * 1024);  // the nodes stay with the loss
}

TEST(Autograd, Seeds) {
  const Variable x = leaf({1, 2, 3});
  const Variable y = x * x;
  const auto keep = [](const Tensor& seed) {
    return BackwardOptions{.gradient = seed, .retain_graph = true};
  };
  const Tensor seed({1.0, 0.5, -1.0}, {3});
  y.backward(keep(seed));
  EXPECT_EQ(values(x.grad()), (Values{2, 2, -6}));
  EXPECT_EQ(values(seed), (Values{1, 0.5, -1}));
  x.zero_grad();
  y.backward(keep(seed.astype(DataType::Float32)));
  EXPECT_EQ(x.grad().type(), DataType::Float64);
  EXPECT_EQ(values(x.grad()), (Values{2, 2, -6}));

  x.zero_grad();
  const std::string message = message_of<ShapeError>([&] { y.backward(Tensor({1.0}, {1})); });
  EXPECT_TRUE(contains(message, "(1)") && contains(message, "(3)")) << message;
  EXPECT_THROW(y.backward(Tensor()), Error);
  EXPECT_FALSE(x.has_grad());
  y.backward(seed);
  EXPECT_EQ(values(x.grad()), (Values{2, 2, -6}));
  // A seed that is a view keeps its values too, and is not taken over.
  const Tensor one = lmp::ones({1}, DeviceType::CPU, DataType::Float64);
  x.zero_grad();
  (x + 1).backward(one.expand({3}));
  x.grad().fill(7);
  EXPECT_EQ(one.item(), 1);
}

TEST(Autograd, BackwardOfALeaf) {
  const Variable x = leaf({1, 2});
  x.backward();
  x.backward(Tensor({1.0, 2.0}, {2}));
  EXPECT_EQ(values(x.grad()), (Values{2, 3}));
}

TEST(Autograd, NothingRequiresAGradient) {
  const Variable plain(Tensor({1.0f}, {1}));
  EXPECT_THROW(plain.backward(), AutogradError);
  EXPECT_THROW((plain * 2).backward(), AutogradError);
  EXPECT_THROW(plain.incr_grad(Tensor({1.0f}, {1})), AutogradError);
  EXPECT_THROW(grad({plain}, {plain}), AutogradError);
  plain.zero_grad();
  EXPECT_FALSE(plain.has_grad());
  for (const DataType type : {DataType::Bool, DataType::Int8, DataType::Int64})
    EXPECT_THROW(Variable(lmp::ones({2}, DeviceType::CPU, type), true), TypeError) << type;
}

TEST(Autograd, NoGradGuardNests) {
  const Variable x = leaf({2});
  EXPECT_TRUE(is_grad_enabled());
  {
    const NoGradGuard outer;
    EXPECT_FALSE(is_grad_enabled());
    { const NoGradGuard inner; }
    EXPECT_FALSE(is_grad_enabled());
    const Variable y = x * x;
    EXPECT_FALSE(y.requires_grad());
    EXPECT_EQ(y.grad_fn(), nullptr);
    EXPECT_TRUE(x.requires_grad());
    EXPECT_TRUE(leaf({1}).requires_grad());
  }
  EXPECT_TRUE(is_grad_enabled());
  EXPECT_TRUE((x * x).requires_grad());
  // A pass that was recorded before runs inside it.
  const Variable y = x * x;
  const NoGradGuard guard;
  y.backward();
  EXPECT_EQ(values(x.grad()), (Values{4}));
}

TEST(Autograd, NoGradGuardEndsWithAnException) {
  try {
    const NoGradGuard guard;
    throw 1;
  } catch (int) {
  }
  EXPECT_TRUE(is_grad_enabled());
}

TEST(Autograd, Detach) {
  const Variable x = leaf({2, 3});
  const Variable y = x * x, d = y.detach();
  EXPECT_FALSE(d.requires_grad());
  EXPECT_TRUE(d.data().shares_storage(y.data()));
  (x * d).backward();
  EXPECT_EQ(values(x.grad()), (Values{4, 9}));
  EXPECT_NE(y.grad_fn(), nullptr);
}

TEST(Autograd, RequiresGrad) {
  Variable x(Tensor({1.0, 2.0}, {2}));
  const Variable before = x * x;
  x.requires_grad_();
  EXPECT_TRUE(x.requires_grad());
  (before + x).backward();
  EXPECT_EQ(values(x.grad()), (Values{1, 1}));
  x.requires_grad_(true);
  EXPECT_TRUE(x.has_grad());  // nothing changed
  Variable y = x * x;
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { y.requires_grad_(false); }), "detach"));
  y.requires_grad_(true);
  EXPECT_FALSE(y.is_leaf());
  x.requires_grad_(false);
  EXPECT_FALSE(x.requires_grad());
  Variable integers(Tensor({1, 2}, {2}));
  EXPECT_THROW(integers.requires_grad_(), TypeError);
  EXPECT_NO_THROW(integers.requires_grad_(false));
}

TEST(Autograd, IncrGrad) {
  const Variable x = leaf({1, 2});
  const Tensor g({3.0, 4.0}, {2});
  x.incr_grad(g);
  EXPECT_TRUE(x.has_grad());
  x.incr_grad(g);
  EXPECT_EQ(values(x.grad()), (Values{6, 8}));
  EXPECT_EQ(values(g), (Values{3, 4}));
  x.incr_grad(Tensor({1.0f, 1.0f}, {2}));
  EXPECT_EQ(x.grad().type(), DataType::Float64);
  x.incr_grad(Tensor({1, 1}, {2}));
  EXPECT_EQ(values(x.grad()), (Values{8, 10}));
  for (const Tensor& wrong :
       {Tensor({1.0}, {1}), Tensor({1.0, 2.0}, {2, 1}), lmp::zeros({3}), lmp::zeros({})})
    EXPECT_THROW(x.incr_grad(wrong), ShapeError);
  EXPECT_THROW(x.incr_grad(Tensor()), Error);
  EXPECT_EQ(values(x.grad()), (Values{8, 10}));
  (x * 1).backward();
  EXPECT_EQ(values(x.grad()), (Values{9, 11}));
}

TEST(Autograd, AHeldGradientStaysAsItIs) {
  const Variable x = leaf({1, 2}), y = leaf({5, 6});
  (x * y).backward();
  const Tensor first = x.grad(), view = y.grad().narrow(0, 0, 1);
  (x * y).backward();
  x.incr_grad(Tensor({1.0, 1.0}, {2}));
  EXPECT_EQ(values(first), (Values{5, 6}));
  EXPECT_EQ(values(view), (Values{1}));
  EXPECT_EQ(values(x.grad()), (Values{11, 13}));
  x.zero_grad();
  EXPECT_EQ(values(first), (Values{5, 6}));
  // Two leaves that get the same incoming gradient do not share one buffer.
  const Variable a = leaf({0, 0}), b = leaf({0, 0});
  (a + b).backward();
  EXPECT_FALSE(a.grad().shares_storage(b.grad()));
  a.grad().fill(9);
  EXPECT_EQ(values(b.grad()), (Values{1, 1}));
  (a + b).backward();
  EXPECT_EQ(values(b.grad()), (Values{2, 2}));
}

TEST(Autograd, IntermediateGradientsStayAsTheyAre) {
  // Long ones are added up in another place than short ones.
  for (const std::size_t n : {std::size_t{2}, std::size_t{10000}}) {
    const Variable x(lmp::ones({n}), true);
    const Variable m = x * 2;
    const Variable early = reshape(m, {1, n}), squares = m * m, cubes = m * m * m,
                   late = reshape(m, {n, 1});
    (sum(early) + sum(squares) + sum(cubes) + sum(late * late)).backward();
    EXPECT_TRUE(array_equal(early.grad(), lmp::ones({1, n})));
    EXPECT_TRUE(array_equal(late.grad(), lmp::full({n, 1}, 4.0)));
    EXPECT_TRUE(array_equal(squares.grad(), lmp::ones({n})));
    EXPECT_TRUE(array_equal(m.grad(), lmp::full({n}, 21.0)));
    EXPECT_TRUE(array_equal(x.grad(), lmp::full({n}, 42.0)));
  }
}

TEST(Grad, LeavesLeavesAlone) {
  const Variable x = leaf({2}), w = leaf({3});
  const Variable y = x * x * w;
  const auto g = grad({y}, {x, w});
  EXPECT_EQ(values(g[0]), (Values{12}));
  EXPECT_EQ(values(g[1]), (Values{4}));
  EXPECT_FALSE(g[0].requires_grad());
  EXPECT_FALSE(x.has_grad());
  EXPECT_FALSE(w.has_grad());
  EXPECT_THROW(y.backward(), AutogradError);  // released
}

TEST(Grad, OfResultsAndOverlappingInputs) {
  const Variable x = leaf({2});
  const Variable a = x * x, b = exp(a), y = a * b;
  const auto g = grad({y}, {b, a, x, y, x});
  const double e = std::exp(4.0);
  EXPECT_DOUBLE_EQ(g[0].item(), 4);
  EXPECT_DOUBLE_EQ(g[1].item(), e + 4 * e);
  EXPECT_DOUBLE_EQ(g[2].item(), 4 * (e + 4 * e));
  EXPECT_EQ(g[3].item(), 1);
  EXPECT_EQ(g[4].item(), g[2].item());
  EXPECT_FALSE(a.has_grad());
}

TEST(Grad, RunsOnlyWhatLeadsToAnInput) {
  const Variable x = leaf({2}), w = leaf({3});
  const Variable a = x * x, b = w * w;
  b.backward();  // released, and not on the way to x
  EXPECT_EQ(grad({a * 2 + b}, {a})[0].item(), 2);
  const Variable c = x * 5;
  EXPECT_EQ(grad({a + c}, {c}, {.retain_graph = true})[0].item(), 1);
  EXPECT_EQ(grad({a}, {x})[0].item(), 4);
}

TEST(Grad, Options) {
  const Variable x = leaf({1, 2}), unused = leaf({1});
  const Variable y = x * x, z = x * 3;
  const std::string message =
      message_of<AutogradError>([&] { grad({y}, {unused}, {.retain_graph = true}); });
  EXPECT_TRUE(contains(message, "allow_unused")) << message;
  const auto g = grad({y, z}, {x, unused}, {.retain_graph = true, .allow_unused = true});
  EXPECT_EQ(values(g[0]), (Values{5, 7}));
  EXPECT_FALSE(g[1].defined());

  const Tensor seed({1.0, -1.0}, {2});
  EXPECT_EQ(
      values(grad({y, z}, {x}, {.grad_outputs = {seed, Variable()}, .retain_graph = true})[0]),
      (Values{5, -1}));
  EXPECT_EQ(values(grad({y, y}, {x}, {.retain_graph = true})[0]), (Values{4, 8}));
  EXPECT_THROW(grad({y, z}, {x}, {.grad_outputs = {seed}, .retain_graph = true}), ValueError);
  EXPECT_THROW(grad({y}, {x}, {.grad_outputs = {Tensor({1.0}, {1})}, .retain_graph = true}),
               ShapeError);
  EXPECT_THROW(grad({y}, {Variable(seed)}), AutogradError);
  EXPECT_THROW(grad({Variable(seed)}, {x}), AutogradError);
  EXPECT_TRUE(grad({y}, {}, {.retain_graph = true}).empty());
  EXPECT_EQ(values(grad({y}, {x})[0]), (Values{2, 4}));
}

TEST(Grad, CreateGraph) {
  const Variable x = leaf({2});
  const Variable y = x * x * x;
  const Variable first = grad({y}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(first.item(), 12);
  ASSERT_TRUE(first.requires_grad());
  const Variable second = grad({first}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(second.item(), 12);
  EXPECT_EQ(grad({second}, {x})[0].item(), 6);
  // A gradient penalty reaches the leaf by backward; create_graph keeps the graph of y.
  square(grad({y}, {x}, {.create_graph = true})[0]).backward();
  EXPECT_EQ(values(x.grad()), (Values{2 * 12 * 12}));
  // It records inside NoGradGuard as well, since it was asked to.
  const Variable z = x * x;
  const NoGradGuard guard;
  EXPECT_TRUE(grad({z}, {x}, {.create_graph = true})[0].requires_grad());
  EXPECT_FALSE(is_grad_enabled());
}

TEST(Grad, SeedsCanBeDifferentiated) {
  const Variable x = leaf({3}), v = leaf({5});
  const Variable g = grad({x * x}, {x}, {.grad_outputs = {v}, .create_graph = true})[0];
  EXPECT_EQ(g.item(), 30);
  EXPECT_EQ(grad({g}, {v})[0].item(), 6);
}

// ---- Version counters ----

TEST(Versions, AChangedValueIsAnErrorThatNamesTheOp) {
  const auto expect_error =
      [](const char* op, const std::function<Variable(const Variable&)>& f,
         const std::function<void(const Variable&, const Variable&)>& change) {
        const Variable x = leaf({1, 2});
        const Variable m = x * 1.5, y = f(m);
        change(m, y);
        const std::string message = message_of<AutogradError>([&] { y.backward(); });
        EXPECT_TRUE(contains(message, op) && contains(message, "in place")) << message;
        EXPECT_FALSE(x.has_grad());
      };
  const auto fill_input = [](const Variable& m, const Variable&) { m.fill(3); };
  const auto fill_result = [](const Variable&, const Variable& y) { y.fill(3); };
  expect_error(
      "mul", [](const Variable& m) { return m * m; }, fill_input);
  expect_error(
      "log", [](const Variable& m) { return log(m); }, fill_input);
  expect_error(
      "exp", [](const Variable& m) { return exp(m); }, fill_result);
  expect_error(
      "softmax", [](const Variable& m) { return softmax(m); }, fill_result);
  expect_error(
      "prod", [](const Variable& m) { return prod(m); }, fill_input);
  expect_error(
      "matmul", [](const Variable& m) { return matmul(m, m); }, fill_input);
  expect_error(
      "max", [](const Variable& m) { return max(m); }, fill_result);
  for (const auto& change : std::vector<std::function<void(const Tensor&)>>{
           [](const Tensor& t) { t.fill(1); }, [](const Tensor& t) { t.copy(lmp::zeros({2})); },
           [](const Tensor& t) { t += 1; }, [](const Tensor& t) { t *= t; },
           [](const Tensor& t) { t.narrow(0, 1, 1).fill(1); }, [](const Tensor& t) { t[0] -= 1; },
           [](const Tensor& t) {
             t.reshape({2, 1}).copy(lmp::zeros({1}));
           },
           [](const Tensor& t) { t.flip({0}) /= 2; }})
    expect_error(
        "mul", [](const Variable& m) { return m * m; },
        [&](const Variable& m, const Variable&) { change(m.data()); });
  expect_error(
      "sin", [](const Variable& m) { return sin(m); },
      [](const Variable& m, const Variable&) {
        const NoGradGuard guard;
        Variable handle = m;
        handle += 1;
      });
  expect_error(
      "sin", [](const Variable& m) { return sin(m); },
      [](const Variable& m, const Variable&) { m.detach().copy(lmp::zeros({2})); });
}

TEST(Versions, WhatIsNotNeededMayChange) {
  const Variable x = leaf({1, 2});
  const Variable m = x * 2, y = m + 1, z = exp(y);
  m.fill(0);
  y.fill(0);
  sum(z).backward();
  for (std::size_t i = 0; i < 2; ++i) EXPECT_DOUBLE_EQ(values(x.grad())[i], 2 * z.index({i}));
  // After backward nothing is saved.
  const Variable a = leaf({3});
  (a * a).backward();
  a.data() -= 1;
  EXPECT_EQ(a.item(), 2);
}

TEST(Versions, IndicesAndConditions) {
  const Variable x = leaf({1, 2, 3});
  const Tensor index({0, 2}, {2}, DeviceType::CPU, DataType::Int64), mask({true, false, true}, {3});
  const Variable selected = index_select(x, 0, index), gathered = gather(x, 0, index),
                 where_ = where(Variable(mask), x, 0),
                 source = scatter_add(x, 0, index, leaf({1, 1}));
  index.fill(1);
  mask.fill(true);
  EXPECT_THROW(selected.backward(), AutogradError);
  EXPECT_THROW(gathered.backward(), AutogradError);
  EXPECT_THROW(source.backward(), AutogradError);
  EXPECT_THROW(where_.backward(), AutogradError);
  // An index that had to be converted was copied.
  const Tensor narrow({0, 2}, {2});
  x.zero_grad();
  const Variable y = index_select(x, 0, narrow);
  narrow.fill(1);
  y.backward();
  EXPECT_EQ(values(x.grad()), (Values{1, 0, 1}));
}

TEST(Versions, AlsoInGrad) {
  const Variable x = leaf({2});
  const Variable y = x * x;
  x.data().fill(5);
  EXPECT_THROW(grad({y}, {x}), AutogradError);
  EXPECT_THROW(grad({y}, {x}, {.create_graph = true}), AutogradError);
}

// ---- gradcheck ----

/// A function whose gradient is wrong: part of it goes through detach.
Variable halfway(const Variable& x) { return x * x.detach(); }

TEST(Gradcheck, AcceptsWhatIsRight) {
  EXPECT_TRUE(gradcheck([](const std::vector<Variable>& in) { return sum(exp(in[0]) * in[1]); },
                        {leaf({1, 2}), leaf({3})}));
  // Inputs without a gradient may be of any type.
  EXPECT_TRUE(gradcheck([](const std::vector<Variable>& in) { return in[0] * in[1]; },
                        {leaf({1, 2}), Variable(Tensor({3, 4}, {2}))}));
}

TEST(Gradcheck, CatchesWhatIsWrong) {
  const auto result =
      gradcheck([](const std::vector<Variable>& in) { return in[1] + halfway(in[0]); },
                {leaf({1, 2}), leaf({0, 0})});
  EXPECT_FALSE(result);
  EXPECT_EQ(result.report,
            "gradcheck:\n"
            "  input 0: 2 of 4 entries of the Jacobian are off\n"
            "  worst at output (1) of shape (2), input 0 element (1) of shape (2):\n"
            "    gradient            2\n"
            "    central difference  4\n"
            "    they differ by      2 (50 %); allowed is 0.00401");
  EXPECT_FALSE(gradcheck([](const std::vector<Variable>& in) { return in[0] + in[1].detach(); },
                         {leaf({1}), leaf({1})}));
  EXPECT_FALSE(
      gradcheck([](const std::vector<Variable>& in) { return in[0].detach(); }, {leaf({1})}));
  EXPECT_FALSE(
      gradcheck([](const std::vector<Variable>& in) { return in[0]; }, {Variable(lmp::ones({1}))}));
  EXPECT_FALSE(gradcheck([](const std::vector<Variable>& in) { return sqrt(in[0]); }, {leaf({0})}));
  EXPECT_THROW(gradcheck([](const std::vector<Variable>& in) { return in[0]; },
                         {leaf({1}, {1}, DataType::Float32)}),
               TypeError);
  EXPECT_THROW(gradcheck([](const std::vector<Variable>& in) { return in[0]; }, {leaf({1}) * 2}),
               TypeError);
}

TEST(Gradcheck, ReportsTheWorstOfAll) {
  // Off by 1 %, 10 % and 3 %, each in its own element.
  const auto result = gradcheck(
      [](const std::vector<Variable>& in) {
        const Tensor wrong({0.01, 0.1, 0.03}, {3});
        return in[0] * in[0] + (in[0] - in[0].detach()) * wrong;
      },
      {leaf({1, 2, 3})});
  EXPECT_TRUE(contains(result.report, "3 of 9 entries")) << result.report;
  EXPECT_TRUE(contains(result.report, "output (1) of shape (3), input 0 element (1)"))
      << result.report;
}

TEST(Gradcheck, SecondOrder) {
  const auto cube = [](const std::vector<Variable>& in) { return in[0] * in[0] * in[0]; };
  EXPECT_TRUE(gradgradcheck(cube, {leaf({1, 2})}));
  // The value is cube's, the gradient too, and the gradient's own derivative is lost.
  const auto lost = [](const std::vector<Variable>& in) {
    const Variable x = in[0];
    return x * (3 * square(x.detach())) - 2 * (x * x * x).detach();
  };
  EXPECT_FALSE(gradgradcheck(lost, {leaf({1, 2})}));
  EXPECT_TRUE(gradgradcheck([](const std::vector<Variable>& in) { return in[0] * 2 + in[1]; },
                            {leaf({1, 2}), Variable(lmp::ones({2}))}));
  EXPECT_FALSE(
      gradgradcheck([](const std::vector<Variable>& in) { return in[0].detach(); }, {leaf({1})}));
}

TEST(Gradcheck, LeavesTheInputsAsTheyWere) {
  const Variable x = leaf({1, 2}), strided(Tensor({1.0, 2.0, 3.0, 4.0}, {2, 2}).transpose(), true);
  EXPECT_TRUE(gradcheck([](const std::vector<Variable>& in) { return matmul(in[1], in[0]); },
                        {x, strided}));
  EXPECT_EQ(values(x), (Values{1, 2}));
  EXPECT_EQ(values(strided), (Values{1, 3, 2, 4}));
  EXPECT_FALSE(x.has_grad());
  int calls = 0;
  EXPECT_THROW(gradcheck(
                   [&](const std::vector<Variable>& in) {
                     if (++calls == 3) throw ValueError("stop");
                     return in[0] * 2;
                   },
                   {x}),
               ValueError);
  EXPECT_EQ(values(x), (Values{1, 2}));
}

// ---- Lifetimes ----

TEST(Lifetimes, ViewsOutliveTheirBase) {
  Variable view;
  Variable x;
  {
    x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
    const Variable y = x * 2;
    view = transpose(y)[1].slice(0, std::nullopt, std::nullopt, -1);
  }
  EXPECT_EQ(values(view), (Values{10, 4}));
  (view * view).backward();
  EXPECT_EQ(values(x.grad()), (Values{0, 16, 0, 0, 40, 0}));
  Tensor t;
  {
    const Tensor base({1.0f, 2.0f, 3.0f}, {3});
    t = base.narrow(0, 1, 2);
  }
  t.fill(4);
  EXPECT_EQ(values(t), (Values{4, 4}));
}

TEST(Lifetimes, UndefinedVariablesThrow) {
  Variable moved = leaf({1, 2});
  const Variable taken = std::move(moved);
  EXPECT_EQ(values(taken), (Values{1, 2}));
  const Variable fresh;
  for (const Variable* v : std::initializer_list<const Variable*>{&moved, &fresh}) {
    const Variable& u = *v;
    Variable target = u;
    EXPECT_FALSE(u.defined());
    EXPECT_FALSE(u.requires_grad());
    EXPECT_EQ(u.grad_fn(), nullptr);
    EXPECT_FALSE(u.has_grad());
    EXPECT_EQ(u.numel(), 0u);
    EXPECT_THROW(u + taken, Error);
    EXPECT_THROW(taken * u, Error);
    EXPECT_THROW(u * 2, Error);
    EXPECT_THROW(exp(u), Error);
    EXPECT_THROW(sum(u), Error);
    EXPECT_THROW(matmul(u, taken), Error);
    EXPECT_THROW(reshape(u, {1}), Error);
    EXPECT_THROW(u[0], Error);
    EXPECT_THROW(u[Tensor({0}, {1})], Error);
    EXPECT_THROW(cat({taken, u}), Error);
    EXPECT_THROW(stack({u, u}), Error);
    EXPECT_THROW(dot(u, u), Error);
    EXPECT_THROW(outer(u, u), Error);
    EXPECT_THROW(einsum("i->", {u}), Error);
    EXPECT_THROW(sort(u), Error);
    EXPECT_THROW(u.grad(), AutogradError);
    EXPECT_THROW(u.backward(), AutogradError);
    EXPECT_THROW(u.item(), Error);
    EXPECT_THROW(u.to_vector<double>(), Error);
    EXPECT_THROW(u.fill(1), Error);
    EXPECT_THROW(u.copy(taken), Error);
    EXPECT_THROW(taken.copy(u), Error);
    EXPECT_THROW(target += taken, Error);
    EXPECT_THROW(target.requires_grad_(), Error);
    EXPECT_THROW(Variable(Tensor(), true), Error);
    EXPECT_THROW(grad({u}, {taken}), AutogradError);
    EXPECT_THROW(grad({taken}, {u}), AutogradError);
    u.zero_grad();
    const Variable copy = u;
    EXPECT_FALSE(copy.detach().defined());
  }
  moved = taken * 2;
  EXPECT_EQ(values(moved), (Values{2, 4}));
}

TEST(Lifetimes, SelfAssignment) {
  Variable x = leaf({1, 2});
  Variable& same = x;
  x = same;
  x = std::move(same);
  EXPECT_TRUE(x.requires_grad());
  EXPECT_EQ(values(x), (Values{1, 2}));
  Variable y = x * 2;
  y = y * y;
  y.backward();
  EXPECT_EQ(values(x.grad()), (Values{8, 16}));
}

TEST(Lifetimes, ForeignMemoryIsFreedOnce) {
  int freed = 0;
  double memory[] = {1, 2, 3};
  {
    Variable y;
    {
      const Variable x(Tensor::from_blob(memory, {3}, DataType::Float64, [&](void*) { ++freed; }),
                       true);
      y = sum(x * x);
      y.backward(BackwardOptions{.retain_graph = true});
      EXPECT_EQ(values(x.grad()), (Values{2, 4, 6}));
    }
    EXPECT_EQ(freed, 0);  // y's graph saved it
    y.backward();
    EXPECT_EQ(freed, 1);
  }
  EXPECT_EQ(freed, 1);
}

// The deleter of what a graph saved may itself drop graphs.
TEST(Lifetimes, DeletersThatDropGraphs) {
  double memory[] = {1};
  int freed = 0;
  Variable inner = leaf({1});
  for (int i = 0; i < 1000; ++i) {
    const Tensor foreign = Tensor::from_blob(memory, {1}, DataType::Float64,
                                             [&freed, held = inner * 2](void*) { ++freed; });
    inner = leaf({1}) * Variable(foreign);
  }
  inner = Variable();
  EXPECT_EQ(freed, 1000);
}

Variable& global() {
  static Variable variable;
  return variable;
}

TEST(LifetimesDeathTest, GlobalsAtExit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        global() = leaf({1, 2});
        for (int i = 0; i < 100000; ++i) global() = global() * 1.0;
        thread_local Variable local;
        local = global() + 1;
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(Autograd, PowHasSecondDerivativesWhereTheExponentIsZero) {
  const auto power = [](const std::vector<Variable>& in) { return pow(in[0], in[1]); };
  const Variable a = leaf({2, 0.5}), b = leaf({0, 0});
  const auto result = gradgradcheck(power, {a, b});
  EXPECT_TRUE(result) << result.report;
  const Variable zero = leaf({0});
  EXPECT_EQ(values(grad({pow(zero, leaf({0}))}, {zero})[0]), Values({0}));
}

TEST(Autograd, GradcheckRefusesElementsThatShareMemory) {
  const Variable x(broadcast_to(ones({1}, DeviceType::CPU, DataType::Float64), {3}), true);
  EXPECT_THROW(gradcheck([](const std::vector<Variable>& in) { return in[0] * in[0]; }, {x}),
               ShapeError);
}

TEST(Autograd, EinsumTakesEmptySizes) {
  const Variable a(zeros({0, 3}), true), b(ones({3, 4}), true);
  const Variable y = einsum("ij,jk->ik", {a, b});
  EXPECT_EQ(y.shape(), Shape({0, 4}));
  sum(y).backward();
  EXPECT_EQ(values(b.grad()), Values(12, 0.0));
}

// Intermediate values beyond the range of Float16 whose results are within it; recorded gradients
// and tangents too.
TEST(Autograd, HalvesAreComputedInFloat) {
  const auto half = [](const Tensor& t) { return t.astype(DataType::Float16); };
  const auto check = [&](const std::function<Variable(const Variable&)>& f, const Tensor& at,
                         const Tensor& seed) {
    const Variable wide(at, true), x(half(at), true);
    const Variable expected = f(wide), y = f(x);
    const Values want = values(grad({expected}, {wide}, {.grad_outputs = {Variable(seed)}})[0]);
    const Variable g(half(seed));
    const auto near = [&](const Tensor& got, const Values& right, const char* way) {
      EXPECT_EQ(got.type(), DataType::Float16);
      const Values v = values(got);
      for (std::size_t i = 0; i < v.size(); ++i)
        EXPECT_NEAR(v[i], right[i], 2e-3 * std::abs(right[i]) + 1e-4) << way << " " << i;
    };
    near(grad({y}, {x}, {.grad_outputs = {g}, .retain_graph = true})[0].data(), want, "plain");
    near(grad({y}, {x}, {.grad_outputs = {g}, .create_graph = true})[0].data(), want, "recorded");
    const Tensor along = half(ones(at.shape()));
    near(jvp(f, half(at), along).tangent.data(), values(jvp(f, at, ones(at.shape())).tangent),
         "tangent");
  };
  const Tensor row({300.F, -400.F, 0.F}, {1, 3}), seed({1000.F, 0.F, 0.F}, {1, 3});
  const auto weight = [](const Variable& x) { return Variable(ones({3}).astype(x.type())); };
  check([&](const Variable& x) { return rms_norm(x, weight(x)); }, row, seed);
  check([&](const Variable& x) { return layer_norm(x, weight(x), weight(x)); }, row, seed);
  Tensor turns = full({2000}, 100.0);
  turns.slice(0, 0, std::nullopt, 2).fill(-100);
  check([](const Variable& x) { return lmp::std(x); }, turns, full({}, 1000.0));
  check([](const Variable& x) { return norm(x); }, Tensor({1e-3F, 0.F}, {2}), full({}, 100.0));
  check([](const Variable& x) { return max(x); }, ones({70000}), full({}, 1000.0));
  const Tensor labels = zeros({70000}, DeviceType::CPU, DataType::Int64);
  check([&](const Variable& x) { return cross_entropy(x, labels); }, zeros({70000, 2}),
        full({}, 30000.0));
}

TEST(Autograd, CrossEntropyOfNoRowsHasDerivativesOfZero) {
  const Variable x(Tensor({1.0, 2.0}, {1, 2}), true);
  const Variable y = cross_entropy(x, Tensor({-100}, {1}));
  const Variable g = grad({y}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(g), Values({0, 0}));
  EXPECT_EQ(values(grad({sum(g)}, {x})[0]), Values({0, 0}));
}

}  // namespace
}  // namespace lmp
