// What guards switch on and off, what AnomalyGuard says, and what passes do to memory and to each
// other.

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <thread>

#include "graph_support.hpp"
#include "lamppp/tensor/random.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::leaf;
using testing::live_bytes;
using testing::message_of;
using testing::on_threads;
using testing::scalar_leaf;
using testing::values;
using Values = std::vector<double>;
using Variables = std::vector<Variable>;

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Oops : std::runtime_error {
  Oops() : std::runtime_error("oops") {}
};

// ---- Modes ----

enum class Mode { NoGrad, EnableGrad, Inference };
struct State {
  bool grad, inference;
  bool operator==(const State&) const = default;
};
State after(State before, Mode mode) {
  if (mode == Mode::NoGrad) return {false, before.inference};
  if (mode == Mode::EnableGrad) return {!before.inference, before.inference};
  return {false, true};
}
State now() { return {is_grad_enabled(), is_inference_mode()}; }

template <class F>
void inside(Mode mode, F&& f) {
  if (mode == Mode::NoGrad) {
    const NoGradGuard guard;
    f();
  } else if (mode == Mode::EnableGrad) {
    const EnableGradGuard guard;
    f();
  } else {
    const InferenceModeGuard guard;
    f();
  }
}

TEST(Guards, NestInEveryOrderAlsoAcrossExceptions) {
  const Variable x = leaf({1, 2});
  const std::function<void(State, int)> nest = [&](State state, int depth) {
    ASSERT_EQ(now(), state);
    ASSERT_EQ((x * x).requires_grad(), state.grad);
    if (depth == 0) throw Oops();
    for (const Mode mode : {Mode::NoGrad, Mode::EnableGrad, Mode::Inference}) {
      EXPECT_THROW(inside(mode, [&] { nest(after(state, mode), depth - 1); }), Oops);
      ASSERT_EQ(now(), state);
      inside(mode, [&] { ASSERT_EQ(now(), after(state, mode)); });
      ASSERT_EQ(now(), state);
    }
    throw Oops();
  };
  EXPECT_THROW(nest({true, false}, 4), Oops);
  EXPECT_EQ(now(), (State{true, false}));
}

TEST(Guards, AreAThreadsOwn) {
  const InferenceModeGuard inference;
  const NoGradGuard off;
  const AnomalyGuard anomaly;
  const Variable x = leaf({0});
  std::thread([&] {
    EXPECT_EQ(now(), (State{true, false}));
    sum(log(x)).backward();  // no anomaly here
    EXPECT_EQ(x.grad().item(), kInf);
    const NoGradGuard own;
  }).join();
  EXPECT_EQ(now(), (State{false, true}));
}

TEST(Guards, InferenceModeRefusesDerivatives) {
  const Variable x = leaf({1, 2}), y = sum(x * x);
  const auto f = [](const Variable& v) { return sum(v * v); };
  const auto pullback = vjp(f, x);
  for (int again = 0; again < 2; ++again) {
    const InferenceModeGuard guard;
    const EnableGradGuard changes_nothing;
    const auto refused = [](const auto& call, const char* name) {
      const std::string message = message_of<AutogradError>(call);
      EXPECT_TRUE(contains(message, name) && contains(message, "InferenceModeGuard")) << message;
    };
    refused([&] { y.backward(); }, "backward");
    refused([&] { grad({y}, {x}); }, "grad");
    refused([&] { grad({y}, {x}, {.create_graph = true}); }, "grad");
    refused([&] { value_and_grad(f)(x); }, "value_and_grad");
    refused([&] { vjp(f, x); }, "vjp");
    refused([&] { pullback(Variable(lmp::ones({}))); }, "grad");
    refused([&] { jacobian(f)(x); }, "jacobian");
    refused([&] { hessian(f)(x); }, "hessian");
    refused([&] { hvp(f, x, x); }, "hvp");
    EXPECT_FALSE(f(x).requires_grad());
    EXPECT_EQ(f(x).item(), 5);
    EXPECT_EQ(values(vmap([](const Variable& v) { return v * v; })(x)), (Values{1, 4}));
  }
  // Afterwards all of it works, on what was computed before and on what was computed inside.
  y.backward();
  EXPECT_EQ(values(x.grad()), (Values{2, 4}));
  Variable inside;
  {
    const InferenceModeGuard guard;
    inside = x * 2;
    Variable z = inside;
    z += x;  // in place: nothing is recorded
    EXPECT_EQ(values(inside), (Values{3, 6}));
  }
  EXPECT_EQ(values(grad({sum(x * inside)}, {x})[0]), (Values{3, 6}));
}

TEST(Guards, ALeafMadeInsideIsALeafOutside) {
  Variable x;
  {
    const NoGradGuard guard;
    x = leaf({1, 2});
    EXPECT_TRUE(x.requires_grad());
  }
  (x * 3).backward();
  EXPECT_EQ(values(x.grad()), (Values{3, 3}));
}

TEST(Guards, GradOfNoGradPartsIsThatOfConstants) {
  const Variable x = leaf({2});
  Variable c;
  {
    const NoGradGuard off;
    c = x * x;
    const EnableGradGuard on;
    EXPECT_EQ(grad({x * x}, {x})[0].item(), 4);
  }
  EXPECT_EQ(grad({x * c}, {x})[0].item(), 4);
  // A pass may run where nothing is recorded, and create a graph nevertheless.
  const Variable y = x * x * x;
  const NoGradGuard off;
  const Variable g = grad({y}, {x}, {.create_graph = true})[0];
  EXPECT_TRUE(g.requires_grad());
  EXPECT_EQ(grad({g}, {x})[0].item(), 12);
  EXPECT_FALSE(is_grad_enabled());
}

// ---- AnomalyGuard ----

/// What the pass says, which is to name all of `parts`.
template <class F>
void expect_anomaly(F&& f, const std::vector<std::string>& parts) {
  const std::string message = message_of<AutogradError>(f);
  EXPECT_TRUE(contains(message, "anomaly")) << message;
  for (const std::string& part : parts) {
    EXPECT_TRUE(contains(message, part)) << part << " is not in: " << message;
  }
}

std::string line_of(int line) { return "guards_test.cpp:" + std::to_string(line) + ","; }

TEST(Anomaly, NamesFunctionLineElementAndValue) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 2, 0, 3}, {2, 2}), z = leaf({0, 0, 0}), n = leaf({-1, 4});
  {
    const Variable y = log(x);
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); },
                   {"'log'", line_of(line), "operand 0", "is inf", "(1, 0)", "(2, 2)"});
  }
  {
    const Variable y = sqrt(z * z);  // 1 / 0 times 0 in the product below
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'sqrt'", line_of(line), "is inf", "(0)"});
  }
  {
    const Variable y = sqrt(n);
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'sqrt'", line_of(line), "is nan", "(0)"});
  }
  {
    const Variable y = -log(x);
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'log'", line_of(line), "is -inf"});
  }
  EXPECT_FALSE(x.has_grad() || z.has_grad() || n.has_grad());
}

TEST(Anomaly, NamesTheLinesOfOperators) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 0}), one = leaf({1, 1});
  const Tensor t = x.data();
  const Tensor inf = lmp::full({2}, kInf, DeviceType::CPU, DataType::Float64);
  const auto check = [](const Variable& y, int line, const char* name) {
    expect_anomaly([&] { sum(y).backward(); }, {std::string("'") + name + "'", line_of(line)});
  };
  // clang-format off
  check(one / x, __LINE__, "div");
  check(one / t, __LINE__, "div");
  check(t / x, __LINE__, "div");
  check(1.0 / x, __LINE__, "div");
  check(one / 0.0, __LINE__, "div");
  check(x * inf, __LINE__, "mul");
  check(inf * x, __LINE__, "mul");
  check(x * kInf, __LINE__, "mul");
  check(kInf * x, __LINE__, "mul");
  check(x * Variable(inf), __LINE__, "mul");
  check((-x) / x, __LINE__, "div");
  // Of + and - the gradient is as finite as what arrives: what arrives at the next one is not.
  const Variable a = x + one; const int add = __LINE__;
  const Variable b = a - 1.0; const int subtract = __LINE__;
  const Variable c = -b; const int negate = __LINE__;
  // clang-format on
  for (const auto& [v, line, name] :
       {std::tuple(a, add, "add"), {b, subtract, "sub"}, {c, negate, "neg"}})
    expect_anomaly([&, v = v] { v.backward({.gradient = inf, .retain_graph = true}); },
                   {std::string("'") + name + "'", line_of(line), "starts from"});
}

TEST(Anomaly, NamesTheLinesOfAssignmentsMembersAndIndices) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 0}), one = leaf({1, 1});
  {
    Variable y = one * 1.0;
    y /= x;
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'div'", line_of(line), "operand"});
  }
  {
    Variable y = one * 1.0;
    y *= kInf;
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'mul'", line_of(line)});
  }
  {
    Variable y = one * 1.0;
    y /= x.data();
    const int line = __LINE__ - 1;
    expect_anomaly([&] { sum(y).backward(); }, {"'div'", line_of(line)});
  }
  const auto starts = [&](const Variable& y, int line) {
    const Tensor seed = lmp::full(y.shape(), kInf, DeviceType::CPU, y.type());
    expect_anomaly([&] { y.backward(seed); }, {line_of(line), "starts from", "is inf"});
  };
  const Variable m = leaf({1, 2, 3, 4}, {2, 2});
  // clang-format off
  starts(x.sum(), __LINE__);
  starts(x[1], __LINE__);
  starts(m.reshape({4}), __LINE__);
  starts(m.transpose(), __LINE__);
  starts(m.slice(1, 0, 1), __LINE__);
  starts(x[Tensor(Values{1}, {1}, DeviceType::CPU, DataType::Int64)], __LINE__);
  starts(x[x.data() > 0.5], __LINE__);
  starts(x.astype(DataType::Float32), __LINE__);
  Variable y = one * 1.0;
  y += x; const int plus = __LINE__;
  starts(y, plus);
  y = one * 1.0;
  y -= 1.0; const int minus = __LINE__;
  starts(y, minus);
  // clang-format on
}

TEST(Anomaly, CompositionsCarryTheLineOfTheirCall) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 1, 2, 3}, {2, 2}), w = leaf({kInf, 1, 1, 1}, {2, 2});
  const auto check = [](const Variable& y, int line) {
    const Tensor seed = lmp::full(y.shape(), kInf, DeviceType::CPU, y.type());
    expect_anomaly([&] { y.backward({.gradient = seed, .retain_graph = true}); }, {line_of(line)});
  };
  // clang-format off
  check(mean(x), __LINE__);
  check(x.mean(), __LINE__);
  check(var(x), __LINE__);
  check(x.std({1}), __LINE__);
  check(matmul(x, w), __LINE__);
  check(einsum("ij,jk->ki", {x, w}), __LINE__);
  check(logsumexp(x, {1}), __LINE__);
  check(softmax(x, 1), __LINE__);
  check(norm(x), __LINE__);
  const Variable flat = leaf({5, 5, 5}), ratio = flat.sum() / flat.var(); const int line = __LINE__;
  // clang-format on
  expect_anomaly([&] { ratio.backward(); }, {line_of(line)});
  const Variable product = matmul(x, w);
  const int of_matmul = __LINE__ - 1;
  expect_anomaly([&] { sum(product).backward(); }, {"matmul", line_of(of_matmul), "operand 0"});
}

TEST(Anomaly, NamesTheFirstBadOperationOfAPass) {
  const AnomalyGuard guard;
  const Variable x = leaf({0, 1});
  const Variable a = x * x;
  const Variable b = sqrt(a);
  const int line = __LINE__ - 1;
  const Variable c = exp(b) * 3, d = sum(c * c);
  expect_anomaly([&] { d.backward(); }, {"'sqrt'", line_of(line), "is inf"});
  // With the guard's look at results alone nothing would be found: they are finite.
  EXPECT_EQ(values(b), (Values{0, 1}));
}

TEST(Anomaly, SumsAndCastsThatOverflowAreFound) {
  const AnomalyGuard guard;
  const Variable x = leaf({1}, {1}, DataType::Float32);
  const Tensor big = lmp::full({4}, 3e38, DeviceType::CPU, DataType::Float32);
  const Variable y = x * big;
  const int line = __LINE__ - 1;
  // Four finite gradients, and their sum for the operand that was broadcast.
  expect_anomaly([&] { sum(y).backward(); }, {"'mul'", line_of(line), "operand 0", "is inf"});
  const Variable z = x * lmp::full({1}, 1e300, DeviceType::CPU, DataType::Float64);
  const int cast = __LINE__ - 1;
  expect_anomaly([&] { sum(z).backward(); }, {"'mul'", line_of(cast), "operand 0", "is inf"});
  EXPECT_FALSE(x.has_grad());
}

TEST(Anomaly, GradientsThatOverflowWhereTheyMeetAreFound) {
  const AnomalyGuard guard;
  const Variable x = leaf({1}), big(lmp::full({1}, 1.5e308, DeviceType::CPU, DataType::Float64));
  const Variable y = x * 1.0;
  const int line = __LINE__ - 1;
  expect_anomaly([&] { (y * big + y * big).backward(); },
                 {"the sum of", "'mul'", line_of(line), "is inf"});
  expect_anomaly([&] { grad({x * big + x * big}, {x}, {.create_graph = true}); },
                 {"the sum of", "'leaf'", "is inf"});
  EXPECT_FALSE(x.has_grad());
}

TEST(Anomaly, GraphsBuiltOutsideOfTheGuard) {
  const Variable x = leaf({0, 1});
  const Variable y = sum(log(x));
  const AnomalyGuard guard;
  const std::string message = message_of<AutogradError>([&] { y.backward(); });
  EXPECT_TRUE(contains(message, "'log'") && contains(message, "inf")) << message;
  EXPECT_TRUE(contains(message, "line is not known")) << message;
  EXPECT_FALSE(contains(message, "guards_test")) << message;
}

TEST(Anomaly, SecondDerivativesCarryTheLineOfTheOperation) {
  const AnomalyGuard guard;
  const Variable x = leaf({0, 1});
  const Variable y = pow(x, 1.5);
  const int line = __LINE__ - 1;
  const Variable g = grad({sum(y)}, {x}, {.create_graph = true})[0];  // 1.5 sqrt(x)
  EXPECT_EQ(values(g), (Values{0, 1.5}));
  expect_anomaly([&] { sum(g).backward(); }, {line_of(line), "inf", "(0)"});
  // In one pass that creates a graph, too.
  expect_anomaly([&] { grad({sum(log(x))}, {x}, {.create_graph = true}); },
                 {"'log'", line_of(__LINE__ - 1)});
}

TEST(Anomaly, FunctionsOfOnesOwn) {
  struct Bad {
    double factor;
    Tensor forward(FunctionContext&, const Tensor& x) { return x * 1; }
    Variables backward(FunctionContext&, const Variable& g) { return {g * factor}; }
  };
  const AnomalyGuard guard;
  const Variable x = leaf({1, 2});
  expect_anomaly([&] { sum(apply(Bad{NAN}, x)).backward(); }, {"Bad", "operand 0", "is nan"});
  sum(apply(Bad{2}, x)).backward();
  EXPECT_EQ(values(x.grad()), (Values{2, 2}));
  // What is not known is not called something else.
  const std::string message =
      message_of<AutogradError>([&] { sum(apply(Bad{NAN}, x)).backward(); });
  EXPECT_FALSE(contains(message, "called outside")) << message;
}

TEST(Anomaly, Seeds) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 2});
  const Variable y = x * 2;
  const int line = __LINE__ - 1;
  const Tensor seed(Values{1, NAN}, {2}, DeviceType::CPU, DataType::Float64);
  expect_anomaly([&] { y.backward({.gradient = seed, .retain_graph = true}); },
                 {"starts from", "'mul'", line_of(line), "is nan", "(1)"});
  expect_anomaly([&] { grad({y}, {x}, {.grad_outputs = {Variable(seed)}}); },
                 {"starts from", "'mul'"});
  expect_anomaly([&] { x.backward(seed); }, {"'leaf'"});
}

TEST(Anomaly, WhatHooksReturnIsLookedAt) {
  const AnomalyGuard guard;
  const Variable x = leaf({1, 2});
  const Variable y = x * 2, z = exp(y);
  HookHandle h = y.register_hook([](const Tensor& g) { return g / 0.0; });
  expect_anomaly([&] { sum(z).backward(BackwardOptions{.retain_graph = true}); },
                 {"hook", "'mul'", "is inf"});
  h.remove();
  h = register_node_hook(
      *z.grad_fn(), [](const Variables& in, const Variable&) { return Variables{in[0] * NAN}; });
  expect_anomaly([&] { sum(z).backward(BackwardOptions{.retain_graph = true}); },
                 {"hook", "'exp'", "is nan"});
  h.remove();
  h = x.register_hook([](const Tensor& g) { return g * NAN; });
  expect_anomaly([&] { sum(z).backward(); }, {"hook", "'leaf'", "is nan"});
  EXPECT_FALSE(x.has_grad());
}

TEST(Anomaly, ResultsAreTheSame) {
  Generator g(3);
  const Variable x(testing::uniform(g, {4, 3}), true), w(testing::uniform(g, {3, 5}), true);
  const auto run = [&] {
    std::vector<Values> out;
    const Variable h = matmul(x, w), y = mean(var(softmax(h, 1), {0}) * sum(exp(h), {0}));
    const Variables first = grad({y}, {x, w}, {.create_graph = true});
    for (const Variable& v : first) out.push_back(values(v));
    for (const Variable& v : grad({sum(first[0]) * sum(first[1])}, {x, w}))
      out.push_back(values(v));
    const auto f = [&](const Variable& v) { return sum(tanh(matmul(v, w))); };
    out.push_back(values(hvp(f, Variable(x.data()), Variable(x.data()))));
    x.zero_grad();
    const Variable again = matmul(x, w);
    mean(again * again).backward();
    out.push_back(values(x.grad()));
    return out;
  };
  const auto plain = run();
  const AnomalyGuard outer;
  EXPECT_EQ(run(), plain);
  {
    const AnomalyGuard inner;
    EXPECT_EQ(run(), plain);
  }
  // The outer one still looks.
  const Variable z = leaf({0});
  EXPECT_THROW(log(z).backward(), AutogradError);
}

TEST(Anomaly, EndsWithTheLastGuardAlsoAcrossExceptions) {
  const Variable z = leaf({0});
  try {
    const AnomalyGuard guard;
    log(z).backward();
    FAIL();
  } catch (const AutogradError&) {
  }
  log(z).backward();
  EXPECT_EQ(z.grad().item(), kInf);
}

TEST(Anomaly, InsideTransforms) {
  const AnomalyGuard guard;
  const Variable x(lmp::zeros({2}, DeviceType::CPU, DataType::Float64));
  const auto f = [](const Variable& v) { return sum(sqrt(v)); };
  expect_anomaly([&] { value_and_grad(f)(x); }, {"'sqrt'", "is inf"});
  expect_anomaly([&] { vmap(value_and_grad(f))(stack({x + 1, x})); }, {"'sqrt'", "is inf"});
  EXPECT_EQ(values(value_and_grad(f)(x + 0.25).gradient), (Values{1, 1}));
  // A gradient that is finite with a tangent that is not.
  const auto root = [](const Variable& v) { return sum(pow(v, 1.5)); };
  EXPECT_EQ(values(value_and_grad(root)(x).gradient), (Values{0, 0}));
  expect_anomaly([&] { hvp(root, x, lmp::ones({2})); }, {"'pow'", "is inf"});
}

// ---- Passes ----

TEST(PassThreads, WithoutRetainGraphExactlyOneWins) {
  for (int round = 0; round < 100; ++round) {
    const Variable x = leaf({1, 2});
    Variable y = x;
    for (int i = 0; i < 10; ++i) y = sin(y) * x;
    y = sum(y);
    std::atomic<int> wins{0};
    on_threads(4, [&](int t) {
      try {
        if (t % 2 == 0) {
          y.backward();
        } else {
          grad({y}, {x});
        }
        ++wins;
      } catch (const AutogradError& error) {
        const std::string what = error.what();
        EXPECT_TRUE(contains(what, "retain_graph") && contains(what, "'sum'")) << what;
      }
    });
    EXPECT_EQ(wins, 1);
    if (!x.has_grad()) continue;
    const Variable w = leaf({1, 2});
    Variable z = w;
    for (int i = 0; i < 10; ++i) z = sin(z) * w;
    sum(z).backward();
    EXPECT_EQ(values(x.grad()), values(w.grad()));
  }
}

TEST(PassThreads, ASharedPartWithoutRetainGraphIsNeverGarbage) {
  // Passes that meet in the middle of a graph: each gives the whole gradient or the error.
  int wins_of_all = 0;
  for (int round = 0; round < 100; ++round) {
    const Variable x = leaf({3, 2});
    Variable shared = x;
    for (int i = 0; i < 5; ++i) shared = shared * x;  // x^6
    std::vector<Variable> own;
    for (int t = 0; t < 4; ++t) {
      Variable y = shared * (t + 1.0);
      for (int i = 0; i < round % 5; ++i) y = y * 1.0;
      own.push_back(y);
    }
    std::atomic<int> wins{0};
    on_threads(4, [&](int t) {
      try {
        const Variable g = grad({own[static_cast<std::size_t>(t)]}, {x})[0];
        EXPECT_EQ(values(g), (Values{6 * 243 * (t + 1.0), 6 * 32 * (t + 1.0)}));
        ++wins;
      } catch (const AutogradError& error) {
        EXPECT_TRUE(contains(error.what(), "retain_graph")) << error.what();
      }
    });
    EXPECT_LE(wins, 1);
    wins_of_all += wins;
    EXPECT_THROW(grad({shared}, {x}), AutogradError);
  }
  EXPECT_GE(wins_of_all, 90);
}

TEST(PassThreads, AKeepingPassAndALastOne) {
  for (int round = 0; round < 100; ++round) {
    const Variable x = leaf({3, 2}), y = sum(x * x * x);
    std::atomic<int> last{0};
    on_threads(4, [&](int t) {
      for (int i = 0; i < 5; ++i) {
        try {
          const Variable g = grad({y}, {x}, {.retain_graph = t != 0})[0];
          EXPECT_EQ(values(g), (Values{27, 12}));
          if (t == 0) ++last;
        } catch (const AutogradError& error) {
          EXPECT_TRUE(contains(error.what(), "retain_graph")) << error.what();
        }
      }
    });
    EXPECT_LE(last, 1);
  }
}

TEST(Pass, MemoryFallsAllTheWay) {
  constexpr std::int64_t kUnit = 1 << 16;
  constexpr int kNodes = 32;
  const Variable x(lmp::ones({kUnit / 4}), true);
  x.zero_grad();
  std::vector<std::int64_t> curve;
  const std::int64_t before = live_bytes();
  Variable y = x;
  for (int i = 0; i < kNodes; ++i) {
    y = sin(y);
    register_node_hook(*y.grad_fn(), [&](const Variables&, const Variable&) {
      curve.push_back(live_bytes() - before);
    });
  }
  const Variable total = sum(y);
  y = Variable();
  total.backward();
  ASSERT_EQ(curve.size(), static_cast<std::size_t>(kNodes));
  EXPECT_GE(curve[0], (kNodes - 1) * kUnit);
  // The first node's gradient takes the place of what it had saved: the one it came with was a
  // single element, repeated.
  EXPECT_LE(curve[1], curve[0]);
  for (std::size_t i = 2; i < curve.size(); ++i) EXPECT_LE(curve[i], curve[i - 1] - kUnit) << i;
  // A unit with each node, but for the gradients in flight.
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const std::int64_t saved = (kNodes - static_cast<std::int64_t>(i)) * kUnit;
    EXPECT_LE(curve[i], saved + 3 * kUnit) << i;
  }
  EXPECT_LE(live_bytes() - before, 2 * kUnit);  // the gradient of x, and the nodes
}

TEST(Pass, ALoopWithEverythingLeavesNothing) {
  struct Scaled {
    double by;
    Variable forward(FunctionContext& c, const Variable& x) {
      c.save_for_backward({x});
      return x * by;
    }
    Variables backward(FunctionContext&, const Variable& g) { return {g * by}; }
  };
  const Variable w = leaf({0.5, -0.5}), x(lmp::ones({2}, DeviceType::CPU, DataType::Float64));
  int hooked = 0;
  w.register_post_accumulate_hook([](const Variable& v) {
    v.data() -= 0.01 * v.grad();
    v.zero_grad();
  });
  const auto step = [&](int i) {
    HookHandle h = w.register_hook([&](const Tensor& g) {
      ++hooked;
      return g * 0.5;
    });
    const Variable y =
        checkpoint([&](const Variable& v) { return tanh(apply(Scaled{1.5}, v * w)); }, x);
    y.register_hook([](const Tensor&) {});
    register_node_hook(*y.grad_fn(), [y](const Variables& in, const Variable&) {
      return in;
    }).remove();
    const SavedTensorHooksGuard guard([](const Tensor& t) { return t.astype(DataType::Float32); },
                                      [](const Tensor& t) { return t.astype(DataType::Float64); });
    const Variable loss = mean(square(y - 0.25) * y);
    if (i % 5 == 0) grad({loss}, {w}, {.create_graph = true});
    if (i % 7 == 0) {
      const AnomalyGuard anomaly;
      loss.backward();
    } else {
      loss.backward();
    }
    h.remove();
  };
  for (int i = 0; i < 50; ++i) step(i);
  const std::int64_t before = live_bytes();
  for (int i = 0; i < 10000; ++i) step(i);
  EXPECT_EQ(live_bytes(), before);
  EXPECT_EQ(hooked, 12060);
}

}  // namespace
}  // namespace lmp
