// Hooks on gradients, on nodes and on what the graph saves: what they see, what they change, and
// what stays where they throw.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <latch>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "graph_support.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::expect_linear;
using testing::leaf;
using testing::live_bytes;
using testing::message_of;
using testing::on_small_stack;
using testing::on_threads;
using testing::scalar_leaf;
using testing::values;
using Values = std::vector<double>;
using Variables = std::vector<Variable>;

struct Oops : std::runtime_error {
  Oops() : std::runtime_error("oops") {}
};

// ---- Gradient hooks ----

TEST(Hooks, SeeGradientsOfLeavesAndResults) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  const Variable y = x * w, z = sum(y * y);
  std::vector<std::pair<std::string, Values>> seen;
  x.register_hook([&](const Variable& g) { seen.emplace_back("x", values(g)); });
  y.register_hook([&](const Tensor& g) { seen.emplace_back("y", values(g)); });
  z.register_hook([&](const Tensor& g) { seen.emplace_back("z", values(g)); });
  z.backward();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0], (std::pair<std::string, Values>{"z", {1}}));
  EXPECT_EQ(seen[1], (std::pair<std::string, Values>{"y", {6, 16}}));
  EXPECT_EQ(seen[2], (std::pair<std::string, Values>{"x", {18, 64}}));
  EXPECT_EQ(values(x.grad()), (Values{18, 64}));
  EXPECT_EQ(values(w.grad()), (Values{6, 32}));
}

TEST(Hooks, RunInOrderEachOnWhatTheOneBeforeReturned) {
  const Variable x = leaf({1, 2});
  std::vector<Values> seen;
  x.register_hook([&](const Tensor& g) {
    seen.push_back(values(g));
    return g + 1;
  });
  x.register_hook([&](const Variable& g) { seen.push_back(values(g)); });
  x.register_hook([&](const Variable& g) {
    seen.push_back(values(g));
    return g * 10;
  });
  x.register_hook([&](const Tensor& g) -> Variable {
    seen.push_back(values(g));
    return {};
  });
  sum(x * 3).backward();
  EXPECT_EQ(seen, (std::vector<Values>{{3, 3}, {4, 4}, {4, 4}, {40, 40}}));
  EXPECT_EQ(values(x.grad()), (Values{40, 40}));
  sum(x * 3).backward();  // of this pass alone, not of the sum
  EXPECT_EQ(seen[4], (Values{3, 3}));
  EXPECT_EQ(values(x.grad()), (Values{80, 80}));
}

TEST(Hooks, ReplaceWhatGoesOnBackwards) {
  const Variable x = leaf({1, 2}), y = x * x;
  y.register_hook([](const Tensor& g) { return g * 100; });
  sum(y * 3).backward();
  EXPECT_EQ(values(x.grad()), (Values{600, 1200}));
  EXPECT_EQ(values(y.grad()), (Values{300, 300}));  // what a result keeps is what went on
}

TEST(Hooks, SeeCompleteGradientsOnce) {
  const Variable x = leaf({1, 2}), y = x * 2;
  Variable z = y * 1;
  for (int i = 2; i <= 4; ++i) z = z + y * i + sum(y) * 0;
  int calls = 0, leaf_calls = 0;
  y.register_hook([&](const Tensor& g) {
    ++calls;
    EXPECT_EQ(values(g), (Values{10, 10}));
  });
  x.register_hook([&](const Tensor& g) {
    ++leaf_calls;
    EXPECT_EQ(values(g), (Values{21, 21}));
  });
  sum(z + x).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(leaf_calls, 1);
}

TEST(Hooks, GradReturnsWhatHooksMadeOfIt) {
  const Variable x = leaf({1, 2}), y = x * x, z = sum(y * 3);
  x.register_hook([](const Tensor& g) { return g + 0.5; });
  y.register_hook([](const Tensor& g) { return g * 2; });
  z.register_hook([](const Tensor& g) { return g * 5; });
  const Variables g = grad({z}, {x, y, z}, {.retain_graph = true});
  EXPECT_EQ(values(g[2]), (Values{5}));
  EXPECT_EQ(values(g[1]), (Values{30, 30}));
  EXPECT_EQ(values(g[0]), (Values{60.5, 120.5}));
  EXPECT_FALSE(x.has_grad());
  // The same where nothing behind y is asked for, and where it is captured twice.
  const Variables again = grad({z}, {y, y});
  EXPECT_EQ(values(again[0]), (Values{30, 30}));
  EXPECT_EQ(values(again[1]), (Values{30, 30}));
}

TEST(Hooks, OfNodesThatAPassDoesNotVisitStayQuiet) {
  const Variable x = leaf({1}), w = leaf({2}), y = x * 2, z = w * 3;
  int calls = 0;
  for (const Variable& v : {w, z}) v.register_hook([&](const Tensor&) { ++calls; });
  EXPECT_EQ(grad({y + z}, {x}, {.retain_graph = true})[0].item(), 2);
  EXPECT_EQ(calls, 0);
  y.backward();
  EXPECT_EQ(calls, 0);
}

TEST(Hooks, AreDifferentiatedUnderCreateGraph) {
  const Variable x = leaf({2, 3});
  HookHandle square = x.register_hook([](const Variable& g) { return g * g; });
  const Variable g = grad({sum(x * x)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(g), (Values{16, 36}));  // (2 x)^2
  square.remove();
  EXPECT_EQ(values(grad({sum(g)}, {x})[0]), (Values{16, 24}));  // 8 x

  const Variable y = x * x;
  y.register_hook([x](const Variable& in) { return in * x; });
  const Variable first = grad({sum(y * 3)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(first), (Values{24, 54}));  // 6 x^2
  const Variable second = grad({sum(first)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(second), (Values{24, 36}));  // 12 x
  EXPECT_EQ(values(grad({sum(second)}, {x})[0]), (Values{12, 12}));

  // A hook of Tensors gives a constant.
  const Variable z = x * x;
  z.register_hook([](const Tensor& in) { return in * 2; });
  const Variable of_tensors = grad({sum(z * z)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(of_tensors), (Values{64, 216}));                      // 2 * 2 z * 2 x
  EXPECT_EQ(values(grad({sum(of_tensors)}, {x})[0]), (Values{32, 72}));  // 4 z fixed, times 2
}

TEST(Hooks, OutsideCreateGraphTheGradientIsAValue) {
  const Variable x = leaf({2});
  bool required = true;
  x.register_hook([&](const Variable& g) { required = g.requires_grad(); });
  (x * x).backward();
  EXPECT_FALSE(required);
  // What a hook computes with Variables that require a gradient comes out as its value.
  x.register_hook([&x](const Variable& g) { return g * x; });
  x.zero_grad();
  const Variable g = grad({x * x}, {x})[0];
  EXPECT_EQ(g.item(), 8);
  EXPECT_FALSE(g.requires_grad());
}

TEST(Hooks, ReturnValuesAreCast) {
  const Variable x = leaf({1, 2}, {2}, DataType::Float32);
  x.register_hook([](const Tensor& g) { return g.astype(DataType::Float64) * 3; });
  x.register_hook([](const Variable& g) {
    EXPECT_EQ(g.type(), DataType::Float32);
    return Tensor(Values{7, 8}, {2}, DeviceType::CPU, DataType::Int64);
  });
  sum(x).backward();
  EXPECT_EQ(x.grad().type(), DataType::Float32);
  EXPECT_EQ(values(x.grad()), (Values{7, 8}));
}

TEST(Hooks, AnotherShapeIsAnError) {
  const Variable x = leaf({1, 2}), y = x * x;
  y.register_hook([](const Tensor& g) { return sum(g); });
  const std::string message = message_of<ShapeError>([&] { sum(y).backward(); });
  EXPECT_TRUE(contains(message, "a hook of 'mul'")) << message;
  EXPECT_TRUE(contains(message, "shape ()") && contains(message, "shape (2)")) << message;
  EXPECT_FALSE(x.has_grad());
  x.register_hook([](const Tensor&) { return lmp::ones({2, 1}); });
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { sum(x * 2).backward(); }), "'leaf'"));
}

TEST(Hooks, NeedAGradient) {
  EXPECT_TRUE(contains(message_of<AutogradError>(
                           [] { Variable(lmp::ones({2})).register_hook([](const Tensor&) {}); }),
                       "register_hook"));
  EXPECT_TRUE(
      contains(message_of<AutogradError>([] {
                 Variable(lmp::ones({2})).register_post_accumulate_hook([](const Tensor&) {});
               }),
               "register_post_accumulate_hook"));
  const Variable x = leaf({1});
  EXPECT_TRUE(contains(message_of<AutogradError>(
                           [&] { (x * 2).register_post_accumulate_hook([](const Tensor&) {}); }),
                       "'mul'"));
  const NoGradGuard guard;
  EXPECT_THROW((x * 2).register_hook([](const Tensor&) {}), AutogradError);
}

TEST(Hooks, MayKeepAGradientWhichStaysAsItIs) {
  // Later additions into the same buffer must not show in what a hook has kept, nor may what a
  // hook returned be written into.
  const Variable x = leaf({1, 2}), y = x * 1;
  Tensor of_y, of_x, given = lmp::full({2}, 5.0, DeviceType::CPU, DataType::Float64);
  y.register_hook([&](const Tensor& g) { of_y = g; });
  x.register_hook([&](const Tensor& g) {
    of_x = g;
    return given;
  });
  sum(neg(y) + y * 3).backward();
  sum(y.detach() * x).backward();
  EXPECT_EQ(values(of_y), (Values{2, 2}));
  EXPECT_EQ(values(of_x), (Values{1, 2}));
  EXPECT_EQ(values(given), (Values{5, 5}));
  EXPECT_EQ(values(x.grad()), (Values{10, 10}));
  given.fill(0);
  EXPECT_EQ(values(x.grad()), (Values{10, 10}));
}

TEST(Hooks, AGivenTensorIsNotWrittenIntoAtResultsEither) {
  const Variable x = leaf({1, 2});
  const Tensor given = lmp::full({2}, 5.0, DeviceType::CPU, DataType::Float64);
  // y's gradient goes on into x unchanged (add), where the other path's is added to it.
  const Variable y = x + 0.0;
  y.register_hook([&](const Tensor&) { return given; });
  sum(y + sin(x) * 0 + x).backward();
  EXPECT_EQ(values(x.grad()), (Values{6, 6}));
  EXPECT_EQ(values(given), (Values{5, 5}));
}

TEST(Hooks, AreRemoved) {
  const Variable x = leaf({1});
  int a = 0, b = 0;
  HookHandle first = x.register_hook([&](const Tensor&) { ++a; });
  HookHandle second = x.register_hook([&](const Tensor&) { ++b; });
  HookHandle copy = first;
  x.backward();
  copy.remove();
  x.backward();
  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 2);
  first.remove();  // already gone
  copy.remove();
  copy.remove();
  x.backward();
  EXPECT_EQ(b, 3);
  second.remove();
  x.backward();
  EXPECT_EQ(b, 3);
  HookHandle().remove();
  // A handle that goes away removes nothing.
  {
    const HookHandle gone = x.register_hook([&](const Tensor&) { ++a; });
  }
  x.backward();
  EXPECT_EQ(a, 2);
}

TEST(Hooks, AreRemovedAfterTheirVariableIsGone) {
  HookHandle of_leaf, of_result;
  {
    const Variable x = leaf({1}), y = x * 2;
    of_leaf = x.register_hook([](const Tensor&) {});
    of_result = y.register_hook([](const Tensor&) {});
  }
  of_leaf.remove();
  of_result.remove();
}

TEST(Hooks, OutliveTheHandleAsLongAsTheGraphDoes) {
  int calls = 0;
  const auto counted = std::make_shared<int>(0);
  const Variable x = leaf({1});
  Variable z;
  {
    const Variable y = x * 2;
    y.register_hook([&calls, counted](const Tensor&) { ++calls; });
    z = y * 3;
  }
  EXPECT_EQ(counted.use_count(), 2);
  z.backward();
  EXPECT_EQ(calls, 1);
  z = Variable();
  EXPECT_EQ(counted.use_count(), 1);
}

TEST(Hooks, RemoveFreesTheHook) {
  const auto counted = std::make_shared<int>(0);
  const Variable x = leaf({1});
  HookHandle h = x.register_hook([counted](const Tensor&) {});
  EXPECT_EQ(counted.use_count(), 2);
  h.remove();
  EXPECT_EQ(counted.use_count(), 1);
}

TEST(Hooks, MayRemoveAndAddInsideAHook) {
  const Variable x = leaf({1}), y = x * 2;
  std::string log;
  HookHandle self, other, of_x;
  self = y.register_hook([&](const Tensor&) {
    log += 's';
    self.remove();
    other.remove();  // of this node: it still runs this once
    of_x.remove();   // of a node that is yet to come: it does not
    y.register_hook([&](const Tensor&) { log += 'n'; });  // from the next pass on
    x.register_hook([&](const Tensor&) { log += 'X'; });  // of a node yet to come: at once
  });
  other = y.register_hook([&](const Tensor&) { log += 'o'; });
  of_x = x.register_hook([&](const Tensor&) { log += 'x'; });
  y.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(log, "soX");
  log.clear();
  y.backward();
  EXPECT_EQ(log, "nX");
}

TEST(Hooks, MayRunPassesOfTheirOwn) {
  // Over another graph, over the same graph, and to any depth.
  const Variable x = leaf({3}), y = x * x, z = y * x;
  int depth = 0;
  Values inner;
  HookHandle handle;
  handle = y.register_hook([&](const Variable& g) {
    if (depth == 3) return g;
    ++depth;
    inner.push_back(grad({z}, {x}, {.retain_graph = true})[0].item());
    const Variable w = leaf({2});
    (w * w).backward();
    EXPECT_EQ(w.grad().item(), 4);
    --depth;
    return g * 1;
  });
  z.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(x.grad().item(), 27);
  for (double v : inner) EXPECT_EQ(v, 27);
  EXPECT_EQ(inner.size(), 3u);
  EXPECT_EQ(depth, 0);
}

TEST(Hooks, ThatThrowLeaveOldOrCompleteGradients) {
  const std::int64_t start = live_bytes();
  {
    const Variable a = leaf({1, 2}), b = leaf({3, 4});
    const Values old{0.5, 0.5};
    for (int where = 0; where < 5; ++where) {
      for (const Variable& v : {a, b}) {
        v.zero_grad();
        v.incr_grad(lmp::full({2}, 0.5));
      }
      std::vector<Variable> all{a, b};
      all.push_back(a * b);
      all.push_back(sin(all[2]) + a);
      all.push_back(sum(all[3] * all[2]));
      int calls = 0;
      HookHandle h = all[static_cast<std::size_t>(where)].register_hook([&](const Tensor&) {
        if (++calls == 1) throw Oops();
      });
      EXPECT_THROW(all[4].backward(), Oops);
      const Variable c = leaf({1, 2}), d = leaf({3, 4}), m = c * d;
      for (const Variable& v : {c, d}) v.incr_grad(lmp::full({2}, 0.5));
      sum((sin(m) + c) * m).backward();
      EXPECT_TRUE(values(a.grad()) == old || values(a.grad()) == values(c.grad())) << where;
      EXPECT_TRUE(values(b.grad()) == old || values(b.grad()) == values(d.grad())) << where;
      if (where < 2) {
        EXPECT_EQ(values(all[static_cast<std::size_t>(where)].grad()), old);
      }
      if (where < 4) {  // what was behind the hook's node is consumed
        EXPECT_TRUE(contains(message_of<AutogradError>([&] { all[4].backward(); }), "released"));
      }
      h.remove();
      for (const Variable& v : {a, b}) {
        v.zero_grad();
        v.incr_grad(lmp::full({2}, 0.5));
      }
      const Variable n = a * b;
      sum((sin(n) + a) * n).backward();
      EXPECT_EQ(values(a.grad()), values(c.grad()));
      EXPECT_EQ(values(b.grad()), values(d.grad()));
    }
  }
  EXPECT_EQ(live_bytes(), start);
}

TEST(Hooks, ThatThrowWithRetainGraphLeaveTheGraphUsable) {
  const Variable x = leaf({2});
  const Variable y = exp(x * x), z = y * y;
  bool fail = true;
  y.register_hook([&](const Tensor&) {
    if (fail) throw Oops();
  });
  EXPECT_THROW(z.backward(BackwardOptions{.retain_graph = true}), Oops);
  EXPECT_THROW(grad({z}, {x}, {.create_graph = true}), Oops);
  EXPECT_FALSE(x.has_grad());
  fail = false;
  z.backward();
  EXPECT_NEAR(x.grad().item(), 8 * std::exp(8.0), 1e-8);
}

// ---- Post-accumulate hooks ----

TEST(PostAccumulateHooks, StepInsideThePass) {
  const auto model = [](const Variable& w, const Variable& b, const Tensor& x) {
    return mean(square(matmul(tanh(matmul(Variable(x), w)), b)));
  };
  Generator g(3);
  const Tensor w0 = testing::uniform(g, {4, 5}), b0 = testing::uniform(g, {5, 1}),
               x = testing::uniform(g, {7, 4});
  Variable w(w0.clone(), true), b(b0.clone(), true);
  const Variable plain_w(w0.clone(), true), plain_b(b0.clone(), true);
  int steps = 0;
  for (const Variable& v : {w, b})
    v.register_post_accumulate_hook([&](const Variable& p) {
      EXPECT_TRUE(p.is_leaf() && p.requires_grad() && p.has_grad());
      p.data() -= 0.1 * p.grad();
      p.zero_grad();
      ++steps;
    });
  for (int i = 0; i < 5; ++i) {
    model(w, b, x).backward();
    EXPECT_FALSE(w.has_grad() || b.has_grad());
    model(plain_w, plain_b, x).backward();
    for (const Variable& v : {plain_w, plain_b}) {
      v.data() -= 0.1 * v.grad();
      v.zero_grad();
    }
  }
  EXPECT_EQ(steps, 10);
  EXPECT_EQ(values(w), values(plain_w));
  EXPECT_EQ(values(b), values(plain_b));
}

TEST(PostAccumulateHooks, SeeTheSumOfAllPassesAndNothingElse) {
  const Variable x = leaf({1});
  std::vector<double> seen;
  x.register_post_accumulate_hook([&](const Variable& v) { seen.push_back(v.grad().item()); });
  x.register_hook([](const Tensor& g) { return g * 2; });
  (x * 3).backward();
  (x * 4 + x).backward();
  EXPECT_EQ(seen, (Values{6, 16}));
  EXPECT_EQ(grad({x * 3}, {x})[0].item(), 6);  // accumulates nothing
  x.incr_grad(lmp::ones({1}));
  EXPECT_EQ(seen.size(), 2u);
}

TEST(PostAccumulateHooks, ThatThrowLeaveTheCompleteGradient) {
  const Variable x = leaf({1}), w = leaf({2});
  HookHandle h = x.register_post_accumulate_hook([](const Variable&) { throw Oops(); });
  EXPECT_THROW((x * w + x).backward(), Oops);
  EXPECT_EQ(x.grad().item(), 3);
  h.remove();
  (x * w + x).backward();
  EXPECT_EQ(x.grad().item(), 6);
}

TEST(PostAccumulateHooks, WorkOnALeafWhoseVariableIsGone) {
  double seen = 0;
  Variable y;
  {
    const Variable x = leaf({1});
    x.register_post_accumulate_hook([&](const Variable& v) { seen = v.grad().item() + v.item(); });
    y = x * 5;
  }
  y.backward();
  EXPECT_EQ(seen, 6);
}

TEST(PostAccumulateHooks, AStepDoesNotSpoilAGraphThatIsKept) {
  const Variable x = leaf({2}), y = x * x;
  HookHandle h = x.register_post_accumulate_hook([](const Variable& v) { v.data() -= 1; });
  y.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(x.grad().item(), 4);
  h.remove();
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { y.backward(); }), "mul"));
}

// ---- Node hooks ----

TEST(NodeHooks, SeeOperandGradientsAndTheResults) {
  const Variable a = leaf({1, 2, 3}, {1, 3}), b = leaf({4, 5}, {2, 1}), y = a * b;
  int calls = 0;
  register_node_hook(*y.grad_fn(), [&](const Variables& in, const Variable& g) {
    ++calls;
    ASSERT_EQ(in.size(), 2u);
    EXPECT_EQ(in[0].shape(), Shape({1, 3}));  // summed back already
    EXPECT_EQ(values(in[0]), (Values{18, 18, 18}));
    EXPECT_EQ(values(in[1]), (Values{12, 12}));
    EXPECT_EQ(g.shape(), Shape({2, 3}));
    EXPECT_EQ(values(g), Values(6, 2));
  });
  sum(y * 2).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(values(a.grad()), (Values{18, 18, 18}));
  EXPECT_EQ(values(b.grad()), (Values{12, 12}));
}

TEST(NodeHooks, ReplaceSomeOrAll) {
  const Variable a = leaf({1}), b = leaf({2}), y = a * b;
  HookHandle first = register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable&) {
    return Variables{in[0] * 10, {}};
  });
  register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable& g) -> Variables {
    EXPECT_EQ(g.item(), 3);
    return {in[0] + 1, in[1] + 1};
  });
  (y * 3).backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(a.grad().item(), 61);
  EXPECT_EQ(b.grad().item(), 4);
  first.remove();
  a.zero_grad();
  (y * 3).backward();
  EXPECT_EQ(a.grad().item(), 7);
}

TEST(NodeHooks, OperandsWithoutAGradientAreUndefined) {
  const Variable a = leaf({1});
  const Variable y = a * lmp::full({1}, 5.0, DeviceType::CPU, DataType::Float64);
  int calls = 0;
  register_node_hook(*y.grad_fn(), [&](const Variables& in, const Variable&) {
    ++calls;
    ASSERT_EQ(in.size(), 2u);
    EXPECT_TRUE(in[0].defined());
    EXPECT_FALSE(in[1].defined());
  });
  HookHandle bad = register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable& g) {
    return Variables{in[0], g};
  });
  const std::string message =
      message_of<ValueError>([&] { y.backward(BackwardOptions{.retain_graph = true}); });
  EXPECT_TRUE(contains(message, "'mul'") && contains(message, "operand 1")) << message;
  bad.remove();
  y.backward();
  EXPECT_EQ(a.grad().item(), 5);
  EXPECT_EQ(calls, 2);
}

TEST(NodeHooks, WrongCountsShapesAndLeaves) {
  const Variable a = leaf({1, 2}), b = leaf({2, 3}), y = a * b;
  HookHandle h = register_node_hook(
      *y.grad_fn(), [](const Variables& in, const Variable&) { return Variables{in[0]}; });
  std::string message =
      message_of<ValueError>([&] { sum(y).backward(BackwardOptions{.retain_graph = true}); });
  EXPECT_TRUE(contains(message, "1 gradients for 2 operands") && contains(message, "'mul'"))
      << message;
  h.remove();
  h = register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable&) {
    return Variables{in[0], sum(in[1])};
  });
  message = message_of<ShapeError>([&] { y.backward(BackwardOptions{.retain_graph = true}); });
  EXPECT_TRUE(contains(message, "a node hook of 'mul'")) << message;
  h.remove();
  y.backward();
  EXPECT_EQ(values(a.grad()), (Values{2, 3}));
  EXPECT_EQ(a.grad_fn(), nullptr);
}

TEST(NodeHooks, OfListsAndOfSecondDerivatives) {
  const Variable a = leaf({1}), b = leaf({2, 3}), all = cat({a, b, a});
  register_node_hook(*all.grad_fn(), [](const Variables& in, const Variable&) {
    return Variables{in[0] * 100, {}, in[2] * in[2]};
  });
  const Variables g = grad({sum(all * all)}, {a, b}, {.create_graph = true});
  EXPECT_EQ(values(g[0]), (Values{204}));  // 200 a + 4 a^2
  EXPECT_EQ(values(g[1]), (Values{4, 6}));
  // y = a^2 with dy = r: the first operand gets r a r instead of r a.
  const Variable y = a * a;
  register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable& r) {
    return Variables{in[0] * r, {}};
  });
  const Variable first = grad({y * y}, {a}, {.create_graph = true})[0];  // r^2 a + r a, r = 2 y
  EXPECT_EQ(first.item(), 6);
  // r^2 + r, and through r, where y's node (and its hook) gets (2 r a + a) 2 = 10: 100 + 10.
  EXPECT_EQ(grad({first}, {a})[0].item(), 116);
}

TEST(NodeHooks, GradientsThatWereKeptStayAsTheyAre) {
  const Variable x = leaf({1, 2}), y = x + 0.0, z = neg(x);
  Variable kept;
  register_node_hook(*y.grad_fn(), [&](const Variables& in, const Variable&) { kept = in[0]; });
  register_node_hook(*z.grad_fn(), [&](const Variables& in, const Variable&) {
    return Variables{kept.defined() ? kept : in[0]};
  });
  sum(z * 1 + y * 3).backward();
  sum(x * 2).backward();
  EXPECT_EQ(values(kept), (Values{3, 3}));
}

TEST(NodeHooks, ThatThrow) {
  const std::int64_t start = live_bytes();
  {
    const Variable x = leaf({1, 2}), y = x * x;
    HookHandle h =
        register_node_hook(*y.grad_fn(), [](const Variables&, const Variable&) { throw Oops(); });
    EXPECT_THROW(sum(y * 2).backward(BackwardOptions{.retain_graph = true}), Oops);
    EXPECT_FALSE(x.has_grad());
    h.remove();
    sum(y * 2).backward();
    EXPECT_EQ(values(x.grad()), (Values{4, 8}));
  }
  EXPECT_EQ(live_bytes(), start);
}

// ---- Many hooks ----

TEST(Hooks, ClosuresThatOwnALongChainAreDestroyedWithoutRecursion) {
  expect_linear(
      [](int n) {
        Variable x = scalar_leaf(1.0);
        for (int i = 0; i < n; ++i) {
          Variable next = scalar_leaf(2.0);
          next.register_hook([x](const Variable& g) { return g * x; });
          x = next;
        }
        (x * 2.0).backward();
        EXPECT_EQ(x.grad().item(), n == 0 ? 2 : 4);
      },
      100000);
}

TEST(Hooks, ClosuresOfEveryKindThatOwnALongChain) {
  expect_linear(
      [](int n) {
        Variable x = scalar_leaf(1.0);
        for (int i = 0; i < n; ++i) {
          const Variable a = scalar_leaf(2.0);
          a.register_post_accumulate_hook([x](const Variable&) {});
          const Variable y = a * a;
          register_node_hook(*y.grad_fn(), [a](const Variables&, const Variable&) {});
          const SavedTensorHooksGuard guard(
              [y](const Tensor& t) { return std::pair(t, y); },
              [](const std::pair<Tensor, Variable>& p) { return p.first; });
          x = y * y;
        }
      },
      50000);
}

TEST(Hooks, RemovingTheFirstOfALongChain) {
  on_small_stack([] {
    const std::int64_t before = live_bytes();
    Variable x = scalar_leaf(1.0);
    HookHandle last;
    for (int i = 0; i < 100000; ++i) {
      Variable next = scalar_leaf(2.0);
      last = next.register_hook([x](const Variable&) {});
      x = next;
    }
    last.remove();
    x = Variable();
    EXPECT_EQ(live_bytes(), before);
  });
}

TEST(Hooks, AChainWithAHookOnEveryNode) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x;
        int calls = 0;
        for (int i = 0; i < n; ++i) {
          y = y * 1.0;
          y.register_hook([&](const Tensor& g) { calls += g.item() == 1; });
        }
        y.backward();
        EXPECT_EQ(calls, n);
      },
      100000);
}

TEST(HooksThreads, RegisteredAndRemovedWhilePassesRun) {
  const Variable x = leaf({1, 2}), y = x * x, z = sum(y * y);
  std::atomic<int> calls{0}, passes{0};
  std::atomic<bool> done{false};
  // The first hooks are there before the passes begin, and stay until one has ended: the scheduler
  // may run all passes in one go.
  std::latch hooked(1);
  std::thread busy([&] {
    std::vector<HookHandle> handles;
    const auto add = [&] {
      handles.push_back(y.register_hook([&](const Tensor&) { ++calls; }));
      handles.push_back(x.register_hook([&](const Variable& g) { return g * 1; }));
      handles.push_back(register_node_hook(
          *y.grad_fn(), [&](const Variables& in, const Variable&) { return in; }));
    };
    add();
    hooked.count_down();
    while (passes == 0) std::this_thread::yield();
    while (!done) {
      add();
      if (handles.size() > 6) {
        for (HookHandle& h : handles) h.remove();
        handles.clear();
      }
      std::this_thread::yield();
    }
  });
  on_threads(3, [&](int) {
    hooked.wait();
    for (int i = 0; i < 300; ++i) {
      EXPECT_EQ(values(grad({z}, {x}, {.retain_graph = true})[0]), (Values{4, 32}));
      z.backward(BackwardOptions{.retain_graph = true});
      passes += 2;
    }
  });
  done = true;
  busy.join();
  EXPECT_EQ(values(x.grad()), (Values{4 * 900, 32 * 900}));
  EXPECT_GT(calls, 0);
}

TEST(HooksThreads, PostAccumulateHooksOfASharedLeaf) {
  // Every pass's hook runs after its own gradient is in.
  const Variable x = leaf({1});
  std::atomic<int> calls{0};
  x.register_post_accumulate_hook([&](const Variable& v) {
    ++calls;
    EXPECT_GE(v.grad().item(), 1);
  });
  on_threads(4, [&](int) {
    for (int i = 0; i < 200; ++i) (x * 1).backward();
  });
  EXPECT_EQ(calls, 800);
  EXPECT_EQ(x.grad().item(), 800);
}

// ---- Saved-tensor hooks ----

TEST(SavedTensorHooks, SeeWhatEachOperationSavesInOrder) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  std::vector<Values> packed;
  std::vector<int> unpacked;
  Variable y;
  {
    const SavedTensorHooksGuard guard(
        [&](const Tensor& t) {
          packed.push_back(values(t));
          return std::pair(static_cast<int>(packed.size()) - 1, t.clone());
        },
        [&](const std::pair<int, Tensor>& kept) {
          unpacked.push_back(kept.first);
          return kept.second;
        });
    y = sqrt(x * w + 5.0);
  }
  // mul: both operands; add: nothing; sqrt: its result.
  EXPECT_EQ(packed, (std::vector<Values>{{1, 2}, {3, 4}, {std::sqrt(8.0), std::sqrt(13.0)}}));
  EXPECT_TRUE(unpacked.empty());
  sum(y).backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(unpacked, (std::vector<int>{2, 0, 1}));
  unpacked.clear();
  sum(y).backward();
  EXPECT_EQ(unpacked, (std::vector<int>{2, 0, 1}));
  EXPECT_EQ(packed.size(), 3u);
  EXPECT_DOUBLE_EQ(values(x.grad())[0], 3 / std::sqrt(8.0));
  EXPECT_DOUBLE_EQ(values(w.grad())[1], 2 / std::sqrt(13.0));
}

TEST(SavedTensorHooks, OnlyWhatIsRecordedIsPacked) {
  const Variable x = leaf({1, 2}), c(lmp::ones({2}));
  int packs = 0;
  const SavedTensorHooksGuard guard(
      [&](const Tensor& t) {
        ++packs;
        return t;
      },
      [](const Tensor& t) { return t; });
  exp(c) * c;
  EXPECT_EQ(packs, 0);
  {
    const NoGradGuard off;
    exp(x);
  }
  EXPECT_EQ(packs, 0);
  (x > 1) * x.detach();
  EXPECT_EQ(packs, 0);
  exp(x);
  EXPECT_EQ(packs, 1);
}

TEST(SavedTensorHooks, MayKeepASmallerType) {
  Generator g(4);
  const Variable x(testing::uniform(g, {50}), true);
  const Variable plain(x.data(), true);
  Variable y;
  {
    const SavedTensorHooksGuard guard([](const Tensor& t) { return t.astype(DataType::BFloat16); },
                                      [](const Tensor& t) { return t.astype(DataType::Float64); });
    y = sum(x * x * x);
  }
  y.backward();
  sum(plain * plain * plain).backward();
  EXPECT_TRUE(allclose(x.grad(), plain.grad(), 0.02, 1e-3));
  EXPECT_FALSE(array_equal(x.grad(), plain.grad()));
}

TEST(SavedTensorHooks, MayKeepANumberOfARowInAStore) {
  std::vector<Values> store;
  const Variable x = leaf({1, 2, 3}, {3});
  x.backward();
  x.zero_grad();
  const std::int64_t before = live_bytes();
  Variable y;
  {
    const SavedTensorHooksGuard guard(
        [&](const Tensor& t) {
          store.push_back(values(t));
          return store.size() - 1;
        },
        [&](std::size_t i) {
          return Tensor(store[i], {store[i].size()}, DeviceType::CPU, DataType::Float64);
        });
    y = exp(sin(x) * x);
  }
  EXPECT_EQ(store.size(), 4u);
  sum(y).backward();
  for (std::size_t i = 0; i < 3; ++i) {
    const double v = static_cast<double>(i) + 1;
    EXPECT_NEAR(values(x.grad())[i], std::exp(v * std::sin(v)) * (std::sin(v) + v * std::cos(v)),
                1e-12);
  }
  y = Variable();
  x.zero_grad();
  EXPECT_EQ(live_bytes(), before);
}

TEST(SavedTensorHooks, NestAndTheInnermostPacks) {
  const Variable x = leaf({1, 2});
  std::string log;
  const auto guard_of = [&](char name) {
    return SavedTensorHooksGuard(
        [&log, name](const Tensor& t) {
          log += name;
          return t;
        },
        [&log, name](const Tensor& t) {
          log += static_cast<char>(name - 'a' + 'A');
          return t;
        });
  };
  Variable y = exp(x);
  {
    const auto outer = guard_of('a');
    y = exp(y);
    try {
      const auto inner = guard_of('b');
      y = exp(y);
      throw Oops();
    } catch (const Oops&) {
    }
    y = exp(y);
  }
  y = exp(y);
  EXPECT_EQ(log, "aba");
  sum(y * 0.0).backward();
  EXPECT_EQ(log, "abaABA");
}

TEST(SavedTensorHooks, PackAndUnpackAreNotRecordedNorPacked) {
  const Variable x = leaf({1, 2});
  int packs = 0;
  const auto check = [&] {
    EXPECT_FALSE(is_grad_enabled());
    const Variable z = exp(x) * x;  // would pack without end
    EXPECT_FALSE(z.requires_grad());
  };
  const SavedTensorHooksGuard guard(
      [&](const Tensor& t) {
        ++packs;
        check();
        return t;
      },
      [&](const Tensor& t) {
        check();
        return t;
      });
  const Variable y = exp(x);
  EXPECT_EQ(packs, 1);
  sum(y).backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(packs, 1);
  grad({sum(y)}, {x}, {.create_graph = true});
}

TEST(SavedTensorHooks, WhatIsKeptAsItIsStaysProtected) {
  const auto same = [](const Tensor& t) { return t; };
  const Variable x = leaf({1, 2});
  Variable y, z;
  {
    const SavedTensorHooksGuard guard(same, same);
    y = x * x;
  }
  x.data() += 1;
  const std::string message = message_of<AutogradError>([&] { sum(y).backward(); });
  EXPECT_TRUE(contains(message, "changed in place")) << message;
  EXPECT_TRUE(contains(message, "mul")) << message;
  // A view of it too; a copy is what it is.
  {
    const SavedTensorHooksGuard guard(
        [](const Tensor& t) {
          return t.reshape({1, 2});
        },
        [](const Tensor& t) { return t.reshape({2}); });
    z = x * x;
  }
  x.data() += 1;
  EXPECT_THROW(sum(z).backward(), AutogradError);
  {
    const SavedTensorHooksGuard guard([](const Tensor& t) { return t.clone(); }, same);
    z = x * x;
  }
  x.data() += 1;
  sum(z).backward();
  EXPECT_EQ(values(x.grad()), (Values{6, 8}));
}

TEST(SavedTensorHooks, WrongTensorsAreErrorsThatNameTheOperation) {
  const Variable x = leaf({1, 2});
  const auto returns = [&](const Tensor& made) {
    const SavedTensorHooksGuard guard([](const Tensor&) { return 0; },
                                      [made](int) { return made; });
    const Variable y = exp(x);
    return message_of<AutogradError>([&] { sum(y).backward(); });
  };
  std::string message = returns(lmp::ones({3}, DeviceType::CPU, DataType::Float64));
  EXPECT_TRUE(contains(message, "'exp'") && contains(message, "(3)") && contains(message, "(2)"))
      << message;
  message = returns(lmp::ones({2}, DeviceType::CPU, DataType::Float32));
  EXPECT_TRUE(contains(message, "'exp'") && contains(message, "Float32")) << message;
  message = returns(Tensor());
  EXPECT_TRUE(contains(message, "'exp'") && contains(message, "nothing")) << message;
  EXPECT_FALSE(x.has_grad());
}

TEST(SavedTensorHooks, ExceptionsInPackAndUnpack) {
  const std::int64_t start = live_bytes();
  {
    const Variable x = leaf({1, 2});
    int packs = 0, unpacks = 0;
    Variable y;
    {
      const SavedTensorHooksGuard guard(
          [&](const Tensor& t) {
            if (++packs == 2) throw Oops();  // the second operand of mul
            return t.clone();
          },
          [&](const Tensor& t) {
            if (++unpacks == 2) throw Oops();
            return t;
          });
      const std::int64_t before = live_bytes();
      EXPECT_THROW(x * x, Oops);
      EXPECT_EQ(live_bytes(), before);
      EXPECT_TRUE(is_grad_enabled());
      y = x * x;
    }
    EXPECT_EQ(packs, 4);
    const Variable z = sum(y);
    EXPECT_THROW(z.backward(BackwardOptions{.retain_graph = true}), Oops);
    EXPECT_FALSE(x.has_grad());
    z.backward(BackwardOptions{.retain_graph = true});
    EXPECT_EQ(values(x.grad()), (Values{2, 4}));
    unpacks = 1;
    EXPECT_THROW(z.backward(), Oops);
    EXPECT_THROW(z.backward(), AutogradError);
    EXPECT_EQ(values(x.grad()), (Values{2, 4}));
  }
  EXPECT_EQ(live_bytes(), start);
}

TEST(SavedTensorHooks, HigherDerivatives) {
  // Through doubles in a vector: nothing of what is kept is connected to anything.
  const auto function = [](const Variable& x) { return sum(exp(x * x) * sin(x) / (x + 4)); };
  const auto derivatives = [&](bool hooked) {
    std::vector<Values> out;
    const Variable x = leaf({0.3, -0.7, 0.9});
    const auto run = [&] {
      Variable y = function(x);
      for (int order = 0; order < 3; ++order) {
        y = grad({sum(y)}, {x}, {.create_graph = true})[0];
        out.push_back(values(y));
      }
    };
    if (hooked) {
      const SavedTensorHooksGuard guard(
          [](const Tensor& t) { return std::pair(t.shape(), values(t)); },
          [](const std::pair<Shape, Values>& kept) {
            return Tensor(kept.second, kept.first, DeviceType::CPU, DataType::Float64);
          });
      run();
    } else {
      run();
    }
    return out;
  };
  EXPECT_EQ(derivatives(true), derivatives(false));
}

TEST(SavedTensorHooks, OfStructuredOperations) {
  Generator g(8);
  const Variable a(testing::uniform(g, {3, 4}), true), b(testing::uniform(g, {4, 2}), true);
  const auto function = [&] {
    const Variable m = matmul(a, b);
    return sum(logsumexp(m, {1}) * max(cat({m, m * m}, 1), {1}) + prod(m, {1}) +
               sum(a.slice(1, 0, 2) * m, {1}));
  };
  const Variables expected = grad({function()}, {a, b});
  int packs = 0;
  const SavedTensorHooksGuard guard(
      [&](const Tensor& t) {
        ++packs;
        return t.clone();
      },
      [](const Tensor& t) { return t.clone(); });
  const Variables found = grad({function()}, {a, b});
  EXPECT_GT(packs, 5);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(array_equal(found[i], expected[i]));
}

TEST(SavedTensorHooks, MemoryFallsByWhatPackSaves) {
  constexpr std::size_t kBytes = 1 << 18;
  const Variable x(lmp::ones({kBytes / 4}), true);
  const auto chain = [&] {
    Variable y = x;
    for (int i = 0; i < 16; ++i) y = sin(y);
    return y;
  };
  const std::int64_t before = live_bytes();
  std::int64_t plain = 0, half = 0, none = 0;
  {
    const Variable y = chain();
    plain = live_bytes() - before;
  }
  {
    const SavedTensorHooksGuard guard([](const Tensor& t) { return t.astype(DataType::BFloat16); },
                                      [](const Tensor& t) { return t.astype(DataType::Float32); });
    const Variable y = chain();
    half = live_bytes() - before;
  }
  {
    const SavedTensorHooksGuard guard([](const Tensor&) { return 0; },
                                      [](int) { return lmp::ones({kBytes / 4}); });
    const Variable y = chain();
    none = live_bytes() - before;
  }
  EXPECT_EQ(live_bytes(), before);
  const auto unit = static_cast<std::int64_t>(kBytes);
  EXPECT_GE(plain, 16 * unit);
  EXPECT_LE(half, 9 * unit + unit / 2);  // 16 halves and the result
  EXPECT_LE(none, unit + unit / 2);
}

TEST(SavedTensorHooks, NothingOfATransformIsPacked) {
  const Variable x = leaf({1, 2, 3});
  int packs = 0;
  const SavedTensorHooksGuard guard(
      [&](const Tensor& t) {
        ++packs;
        return t;
      },
      [](const Tensor& t) { return t; });
  const auto cube = [](const Variable& v) { return v * v * v; };
  const auto total = [&](const Variable& v) { return sum(cube(v)); };
  const Variable c(x.data());
  EXPECT_EQ(values(jvp(cube, c, Variable(lmp::ones({3}))).tangent), (Values{3, 12, 27}));
  EXPECT_EQ(values(vmap(cube)(c)), (Values{1, 8, 27}));
  EXPECT_EQ(values(vmap(value_and_grad(cube))(c).gradient), (Values{3, 12, 27}));
  EXPECT_EQ(values(hvp(total, c, Variable(lmp::ones({3})))), (Values{6, 12, 18}));
  EXPECT_EQ(packs, 0);
  // Outside of them it goes on as before: also for graphs that a transform's result is part of.
  EXPECT_EQ(values(grad({sum(vmap(cube)(x))}, {x})[0]), (Values{3, 12, 27}));
  EXPECT_EQ(values(value_and_grad(total)(c).gradient), (Values{3, 12, 27}));
  EXPECT_GT(packs, 0);
}

TEST(SavedTensorHooks, TheGraphOutlivesTheGuard) {
  const auto counted = std::make_shared<int>(0);
  const Variable x = leaf({1, 2});
  Variable y;
  {
    const SavedTensorHooksGuard guard([counted](const Tensor& t) { return t.clone(); },
                                      [counted](const Tensor& t) { return t; });
    y = exp(x);
  }
  EXPECT_GT(counted.use_count(), 1);
  sum(y).backward();
  EXPECT_NEAR(values(x.grad())[1], std::exp(2.0), 1e-12);
  EXPECT_EQ(counted.use_count(), 1);  // released with what was saved
}

TEST(SavedTensorHooksThreads, GuardsAreAThreadsOwn) {
  const Variable x = leaf({1, 2});
  int packs = 0;
  const SavedTensorHooksGuard guard(
      [&](const Tensor& t) {
        ++packs;
        return t;
      },
      [](const Tensor& t) { return t; });
  std::thread([&] { exp(x); }).join();
  EXPECT_EQ(packs, 0);
  std::array<int, 4> counts{};
  on_threads(4, [&](int t) {
    int& mine = counts[static_cast<std::size_t>(t)];
    const SavedTensorHooksGuard own(
        [&mine](const Tensor& saved) {
          ++mine;
          return saved.clone();
        },
        [](const Tensor& kept) { return kept; });
    for (int i = 0; i < 100; ++i)
      EXPECT_EQ(values(grad({sum(x * x * x)}, {x})[0]), (Values{3, 12}));
  });
  EXPECT_EQ(counts, (std::array<int, 4>{400, 400, 400, 400}));
  EXPECT_EQ(packs, 0);
}

TEST(SavedTensorHooksThreads, PassesUnpackAGraphAtOnce) {
  const Variable x = leaf({1, 2});
  Variable y;
  {
    const SavedTensorHooksGuard guard(
        [](const Tensor& t) { return values(t); },
        [](const Values& v) { return Tensor(v, {v.size()}, DeviceType::CPU, DataType::Float64); });
    y = sum(x * x * x);
  }
  on_threads(4, [&](int) {
    for (int i = 0; i < 100; ++i)
      EXPECT_EQ(values(grad({y}, {x}, {.retain_graph = true})[0]), (Values{3, 12}));
  });
}

}  // namespace
}  // namespace lmp
