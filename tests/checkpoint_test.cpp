// Regions whose saved tensors are computed again: the same gradients to the last bit, less memory,
// the same random stream, and errors where the second call is another one.

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <thread>
#include <tuple>

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

struct Oops : std::runtime_error {
  Oops() : std::runtime_error("oops") {}
};

Variable random_leaf(Generator& g, const Shape& shape) {
  return Variable(testing::uniform(g, shape), true);
}

// The bits of the gradients of sum(f()) at `inputs`.
template <class F>
std::vector<Values> gradients(const Variables& inputs, F&& f) {
  std::vector<Values> out;
  for (const Variable& g : grad({sum(f())}, inputs)) out.push_back(values(g));
  return out;
}

TEST(Checkpoint, GradientsAreThePlainOnesToTheLastBit) {
  Generator g(1);
  const Variable x = random_leaf(g, {5, 4}), w = random_leaf(g, {4, 4}), b = random_leaf(g, {4});
  const Variables all{x, w, b};
  const auto layer = [&](const Variable& in) { return tanh(matmul(in, w) + b) * sin(in); };
  int calls = 0;
  const auto counted = [&](const Variable& in) {
    ++calls;
    return layer(in);
  };
  const auto plain = gradients(all, [&] { return layer(layer(layer(x))); });
  const auto found = gradients(
      all, [&] { return checkpoint(counted, checkpoint(counted, checkpoint(counted, x))); });
  EXPECT_EQ(calls, 6);
  EXPECT_EQ(found, plain);
  // backward accumulates the same.
  sum(checkpoint(counted, x)).backward();
  EXPECT_EQ(values(w.grad()), gradients({w}, [&] { return layer(x); })[0]);
}

TEST(Checkpoint, SeveralInputsOfEveryKind) {
  Generator g(2);
  const Variable x = random_leaf(g, {3}), y = random_leaf(g, {3}), z = random_leaf(g, {3});
  const Tensor t = testing::uniform(g, {3});
  const auto f = [](const Variables& list, const std::tuple<Variable, Variable>& pair,
                    const Variable& tensor, int n, const std::string& name) {
    EXPECT_EQ(name, "name");
    return std::tuple(exp(list[0]) * list[1], std::get<0>(pair) * std::get<1>(pair) * n,
                      Variables{tensor * list[0], list[1] / tensor});
  };
  const auto total = [](const auto& out) {
    const auto& [a, b, list] = out;
    return a + b * b + list[0] * list[1];
  };
  const auto plain = gradients({x, y, z}, [&] {
    return total(f({x, y}, std::tuple(z, x), Variable(t), 3, "name"));
  });
  const auto found = gradients({x, y, z}, [&] {
    return total(checkpoint(f, Variables{x, y}, std::tuple(z, x), t, 3, std::string("name")));
  });
  EXPECT_EQ(found, plain);
  // A part of the results alone.
  const auto part = gradients({z}, [&] {
    return std::get<1>(checkpoint(f, Variables{x, y}, std::tuple(z, x), t, 3, std::string("name")));
  });
  EXPECT_EQ(part, gradients({z}, [&] { return z * x * 3; }));
}

TEST(Checkpoint, ResultsThatAreInputsOrConstants) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  const auto [same, captured, fixed, integer] = checkpoint(
      [&](const Variable& v) { return std::tuple(v, w, Variable(lmp::ones({2})), argmax(v * w)); },
      x);
  EXPECT_FALSE(fixed.requires_grad() || integer.requires_grad());
  EXPECT_EQ(integer.item(), 1);
  sum(same * captured * fixed).backward();
  EXPECT_EQ(values(x.grad()), (Values{3, 4}));
  EXPECT_EQ(values(w.grad()), (Values{1, 2}));
  // Nothing at all.
  EXPECT_EQ(values(checkpoint([&] { return w * w; })), (Values{9, 16}));
  EXPECT_EQ(gradients({w}, [&] { return checkpoint([&] { return w * w; }); })[0], (Values{6, 8}));
}

TEST(Checkpoint, Nested) {
  Generator g(3);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  int calls[3] = {};
  const auto inner = [&](const Variable& v) {
    ++calls[0];
    return sin(v * w) * v;
  };
  const auto middle = [&](const Variable& v) {
    ++calls[1];
    Variable y = v;
    for (int i = 0; i < 3; ++i) y = checkpoint(inner, exp(y) * 0.1);
    return y;
  };
  const auto outer = [&](const Variable& v) {
    ++calls[2];
    Variable y = v;
    for (int i = 0; i < 2; ++i) y = checkpoint(middle, y + w);
    return y * y;
  };
  const auto plain = gradients({x, w}, [&] {
    Variable y = x;
    for (int i = 0; i < 2; ++i) {
      y = y + w;
      for (int k = 0; k < 3; ++k) {
        const Variable e = exp(y) * 0.1;
        y = sin(e * w) * e;
      }
    }
    return y * y;
  });
  EXPECT_EQ(gradients({x, w}, [&] { return checkpoint(outer, x); }), plain);
  // Twice outer; middle in each of these, and once more to be differentiated; inner likewise.
  EXPECT_EQ(calls[2], 2);
  EXPECT_EQ(calls[1], 6);
  EXPECT_EQ(calls[0], 24);
}

TEST(Checkpoint, SecondDerivatives) {
  Generator g(4);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  const auto f = [&](const Variable& v) { return exp(sin(v) * w) / (v * v + 1); };
  const auto run = [&](bool checked) {
    const auto layer = [&](const Variable& v) { return checked ? checkpoint(f, v) : f(v); };
    std::vector<Values> out;
    Variable y = layer(layer(x));
    for (int order = 0; order < 3; ++order) {
      const Variables d = grad({sum(y)}, {x, w}, {.create_graph = true});
      out.push_back(values(d[0]));
      out.push_back(values(d[1]));
      y = d[0] * d[1];
    }
    return out;
  };
  EXPECT_EQ(run(true), run(false));
  const auto checked = gradcheck([&](const Variables& in) { return checkpoint(f, in[0]); }, {x, w});
  EXPECT_TRUE(checked) << checked.report;
}

TEST(Checkpoint, GradInsideTheFunction) {
  // The function computes a gradient itself: a pass over a part of the region while it runs.
  Generator g(14);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  const auto f = [&](const Variable& v) {
    const Variable u = exp(v * w) * v;
    const Variable d = grad({sum(u)}, {v}, {.create_graph = true})[0];
    return square(d) * u;
  };
  // The input has to require a gradient and be a node of its own for f.
  const auto plain = gradients({x, w}, [&] { return f(x * 1); });
  EXPECT_EQ(gradients({x, w}, [&] { return checkpoint(f, x * 1); }), plain);
  const auto penalty = [&](const Variable& v) {
    return square(value_and_grad([&](const Variable& u) { return sum(exp(u * w)); })(v).gradient);
  };
  EXPECT_EQ(gradients({x, w}, [&] { return checkpoint(penalty, x); }),
            gradients({x, w}, [&] { return penalty(x); }));
}

TEST(Checkpoint, RetainGraphTwice) {
  Generator g(5);
  const Variable x = random_leaf(g, {4});
  int calls = 0;
  const auto f = [&](const Variable& v) {
    ++calls;
    return exp(sin(v) * v);
  };
  const Variable y = sum(checkpoint(f, x));
  std::vector<Values> found;
  for (int i = 0; i < 3; ++i) {
    x.zero_grad();
    y.backward(BackwardOptions{.retain_graph = i < 2});
    found.push_back(values(x.grad()));
  }
  EXPECT_EQ(calls, 4);
  for (const Values& v : found) EXPECT_EQ(v, gradients({x}, [&] { return f(x); })[0]);
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { y.backward(); }), "released"));
}

TEST(Checkpoint, PassesOverAPart) {
  Generator g(6);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  const auto f = [&](const Variable& v) { return std::pair(exp(v), sin(v * w) * w); };
  const auto [a, b] = checkpoint(f, x);
  EXPECT_EQ(values(grad({sum(b)}, {w}, {.retain_graph = true})[0]),
            gradients({w}, [&] { return f(x).second; })[0]);
  EXPECT_EQ(values(grad({sum(a)}, {x}, {.retain_graph = true})[0]), values(exp(x)));
  EXPECT_EQ(values(grad({sum(a + b)}, {x})[0]), gradients({x}, [&] {
              const auto y = f(x);
              return y.first + y.second;
            })[0]);
}

// ---- Random numbers ----

TEST(Checkpoint, RandomNumbersRepeatAndTheStreamGoesOnAsWithout) {
  Generator g(7);
  const Variable x = random_leaf(g, {33}), w = random_leaf(g, {33});
  const auto f = [&](const Variable& v) {
    return dropout(tanh(dropout(v * w, 0.3)), 0.5) +
           Variable(lmp::randn(0, 1, {33}, DeviceType::CPU, DataType::Float64)) * v;
  };
  const auto run = [&](bool checked) {
    const auto layer = [&](const Variable& v) { return checked ? checkpoint(f, v) : f(v); };
    manual_seed(42);
    lmp::rand({3});
    std::vector<Values> out;
    const Variable y = layer(layer(x));
    out.push_back({static_cast<double>(default_generator().offset())});
    const Tensor between = lmp::rand({5});
    out.push_back(values(between));
    for (const Variable& d : grad({sum(y)}, {x, w})) out.push_back(values(d));
    out.push_back(values(lmp::rand({5})));  // the pass has drawn nothing
    out.push_back({static_cast<double>(default_generator().offset()),
                   static_cast<double>(default_generator().seed())});
    return out;
  };
  EXPECT_EQ(run(true), run(false));
}

TEST(Checkpoint, NestedRandomNumbers) {
  Generator g(8);
  const Variable x = random_leaf(g, {9});
  const auto inner = [](const Variable& v) { return dropout(v * v, 0.5); };
  const auto run = [&](bool checked) {
    manual_seed(5);
    const auto outer = [&](const Variable& v) {
      Variable y = dropout(v, 0.2);
      for (int i = 0; i < 3; ++i) y = dropout(checked ? checkpoint(inner, y) : inner(y), 0.1);
      return y;
    };
    auto out = gradients({x}, [&] { return checked ? checkpoint(outer, x) : outer(x); });
    out.push_back(values(lmp::rand({2})));
    return out;
  };
  EXPECT_EQ(run(true), run(false));
}

// ---- Memory ----

TEST(Checkpoint, MemoryOfADeepChain) {
  constexpr std::int64_t kUnit = 1 << 16;
  constexpr int kLayers = 16, kSteps = 8;
  const Variable x(lmp::ones({kUnit / 4}), true);
  std::int64_t peak = 0, before = 0;
  const auto sample = [&] { peak = std::max(peak, live_bytes() - before); };
  const auto block = [](const Variable& v) {
    Variable y = v;
    for (int i = 0; i < kSteps; ++i) y = sin(y);
    return y;
  };
  struct Measured {
    std::int64_t forward, backward;
    Values gradient;
  };
  const auto run = [&](bool checked) {
    x.zero_grad();
    peak = 0;
    before = live_bytes();
    Variable y = x;
    for (int i = 0; i < kLayers; ++i) {
      y = checked ? checkpoint(block, y) : block(y);
      // A look from inside the pass, where a layer begins and ends.
      y.register_hook([&](const Tensor&) { sample(); });
    }
    const Variable total = sum(y);
    y = Variable();
    const std::int64_t forward = live_bytes() - before;
    HookHandle h = x.register_hook([&](const Tensor&) { sample(); });
    total.backward();
    h.remove();
    return Measured{forward, peak, values(x.grad())};
  };
  const Measured plain = run(false), checked = run(true);
  EXPECT_EQ(checked.gradient, plain.gradient);
  EXPECT_GE(plain.forward, (kLayers * kSteps - 1) * kUnit);
  EXPECT_LE(checked.forward, (kLayers + 2) * kUnit);
  EXPECT_GE(plain.backward, (kLayers * kSteps - 1) * kUnit);
  // Inputs of the layers, what one saves, and some gradients.
  EXPECT_LE(checked.backward, (kLayers + kSteps + 6) * kUnit);
}

TEST(Checkpoint, NestedMemory) {
  // Of 8 x 8 layers in regions of regions some 16 are alive at once.
  constexpr std::int64_t kUnit = 1 << 14;
  const Variable x(lmp::ones({kUnit / 4}), true);
  const std::int64_t before = live_bytes();
  std::int64_t peak = 0;
  const auto layer = [&](const Variable& v) {
    Variable y = v;
    for (int i = 0; i < 4; ++i) y = cos(y);
    if (y.requires_grad())
      y.register_hook([&](const Tensor&) { peak = std::max(peak, live_bytes() - before); });
    return y;
  };
  const auto block = [&](const Variable& v) {
    Variable y = v;
    for (int i = 0; i < 8; ++i) y = checkpoint(layer, y);
    return y;
  };
  Variable y = x;
  for (int i = 0; i < 8; ++i) y = checkpoint(block, y);
  sum(y).backward();
  EXPECT_GT(peak, 0);
  EXPECT_LE(peak, 32 * kUnit);
}

TEST(Checkpoint, LeavesNothingBehind) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  const auto f = [&](const Variable& v) { return exp(sin(v * w)); };
  (x * w).backward();
  x.zero_grad();
  w.zero_grad();
  const std::int64_t before = live_bytes();
  for (int i = 0; i < 20; ++i) {
    checkpoint(f, x);
    const Variable y = sum(checkpoint(f, checkpoint(f, x)));
    if (i % 3 == 0) grad({y}, {w}, {.retain_graph = true});
    if (i % 2) y.backward(BackwardOptions{.retain_graph = i % 4 == 1});
    x.zero_grad();
    w.zero_grad();
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(Checkpoint, LongChainsOnASmallStack) {
  testing::expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x;
        for (int i = 0; i < n; ++i)
          y = checkpoint([](const Variable& v) { return sin(v) + 0.5; }, y);
        y.backward();
        EXPECT_TRUE(x.has_grad());
      },
      20000);
  // Destroyed only: each region owns, by what its function captured, all that is before it.
  testing::expect_linear(
      [](int n) {
        Variable y = scalar_leaf(1.0);
        for (int i = 0; i < n; ++i)
          y = checkpoint([y](const Variable& v) { return sin(v) * y; }, scalar_leaf(2.0));
      },
      40000);
}

// ---- Errors ----

TEST(Checkpoint, ExceptionsOfTheFunction) {
  const std::int64_t start = live_bytes();
  {
    const Variable x = leaf({1, 2});
    int calls = 0, fail_at = 1;
    const auto f = [&](const Variable& v) {
      const Variable y = exp(v);
      const Variable noise = Variable(lmp::rand({2}, DeviceType::CPU, DataType::Float64));
      if (++calls == fail_at) throw Oops();
      return y * y * noise;
    };
    EXPECT_THROW(checkpoint(f, x), Oops);
    EXPECT_TRUE(is_grad_enabled());
    EXPECT_TRUE((x * x).requires_grad());
    fail_at = 3;
    manual_seed(9);
    const Variable y = sum(checkpoint(f, x));
    const std::uint64_t offset = default_generator().offset();
    {
      const NoGradGuard guard;
      EXPECT_THROW(y.backward(BackwardOptions{.retain_graph = true}), Oops);
      EXPECT_FALSE(is_grad_enabled());
    }
    EXPECT_EQ(default_generator().offset(), offset);
    EXPECT_FALSE(x.has_grad());
    y.backward();
    manual_seed(9);
    fail_at = 0;
    EXPECT_EQ(values(x.grad()), gradients({x}, [&] { return f(x); })[0]);
  }
  EXPECT_EQ(live_bytes(), start);
}

TEST(Checkpoint, UndefinedResultsAreErrorsThatNameIt) {
  const std::int64_t before = live_bytes();
  const std::string message = message_of<Error>([] {
    checkpoint([](const Variable& x) { return std::pair(x * x, Variable()); }, leaf({1}));
  });
  EXPECT_TRUE(contains(message, "checkpoint: undefined")) << message;
  EXPECT_EQ(live_bytes(), before);
}

void expect_refused(const Variable& y) {
  const std::string message = message_of<AutogradError>([&] { sum(y).backward(); });
  EXPECT_TRUE(contains(message, "checkpoint")) << message;
}

TEST(Checkpoint, ChangedInputsAreErrors) {
  const Variable x = leaf({1, 2});
  const Tensor t = lmp::ones({2}, DeviceType::CPU, DataType::Float64);
  const auto f = [](const Variable& v, const Variable& u) { return exp(v * 2) * u; };
  Variable y = checkpoint(f, x, t);
  x.data() += 1;
  expect_refused(y);
  y = checkpoint(f, x, t);
  t.fill(2);
  expect_refused(y);
  y = checkpoint(f, x, t);
  sum(y).backward();
  EXPECT_FALSE(x.grad().numel() == 0);
}

TEST(Checkpoint, ChangedCapturesAreErrors) {
  Generator g(10);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  const Tensor t = testing::uniform(g, {4});
  Variable y = checkpoint([&](const Variable& v) { return v * w; }, x);
  w.data() += 1;
  expect_refused(y);
  y = checkpoint([&](const Variable& v) { return exp(v * Variable(t)); }, x);
  t.fill(0.5);
  expect_refused(y);
  double factor = 2;
  y = checkpoint([&](const Variable& v) { return sin(v) * factor; }, x);
  factor = 3;
  expect_refused(y);
  Generator own(3);
  y = checkpoint(
      [&](const Variable& v) {
        return v * Variable(lmp::rand(own, {4}, DeviceType::CPU, DataType::Float64));
      },
      x);
  expect_refused(y);
  int calls = 0;
  y = checkpoint([&](const Variable& v) { return calls++ ? sin(sin(v)) : sin(v); }, x);
  expect_refused(y);
  EXPECT_FALSE(x.has_grad());
}

TEST(Checkpoint, ChangesThatTheResultDoesNotShowAreErrorsToo) {
  // The result is zero with either w, the gradient is not.
  const Variable x = leaf({0, 0}), w = leaf({3, 4});
  Variable y = checkpoint([&](const Variable& v) { return v * (w * 2); }, x);
  w.data() += 1;
  expect_refused(y);
  double factor = 2;
  y = checkpoint([&](const Variable& v) { return v * (w * factor); }, x);
  factor = 3;
  expect_refused(y);
}

TEST(Checkpoint, SavedValuesThatTheFunctionChanges) {
  const Variable x = leaf({1, 2});
  const auto f = [](const Variable& v) {
    const Variable h = v * 3, y = h * h;
    h.data() += 1;
    return y;
  };
  EXPECT_THROW(sum(f(x)).backward(), AutogradError);
  EXPECT_THROW(sum(checkpoint(f, x)).backward(), AutogradError);
  // The result belongs to the caller, who may change it: what was saved is computed anew.
  const Variable y = checkpoint([](const Variable& v) { return exp(v); }, x);
  y.data() += 100;
  sum(y).backward();
  EXPECT_EQ(values(x.grad()), values(exp(x)));
}

// ---- Where it is just the call ----

TEST(Checkpoint, IsJustTheCallWhereNothingIsRecorded) {
  const Variable x = leaf({1, 2});
  int calls = 0;
  const auto f = [&](const Variable& v) {
    ++calls;
    return exp(v) * v;
  };
  {
    const NoGradGuard guard;
    EXPECT_FALSE(checkpoint(f, x).requires_grad());
  }
  {
    const InferenceModeGuard guard;
    EXPECT_FALSE(checkpoint(f, x).requires_grad());
  }
  EXPECT_FALSE(checkpoint(f, x.data()).requires_grad());
  EXPECT_EQ(calls, 3);
}

TEST(Checkpoint, InsideAndAroundTransforms) {
  Generator g(11);
  const Variable x(testing::uniform(g, {3})), t(testing::uniform(g, {3})), w = random_leaf(g, {3});
  const auto plain = [&](const Variable& v) { return exp(sin(v) * w) * v; };
  const auto checked = [&](const Variable& v) { return checkpoint(plain, v); };
  const auto total = [](const auto& f) { return [f](const Variable& v) { return sum(f(v)); }; };
  const auto same = [](const Variable& a, const Variable& b) { EXPECT_EQ(values(a), values(b)); };
  same(jvp(checked, x, t).tangent, jvp(plain, x, t).tangent);
  same(vmap(checked)(stack({x, t})), vmap(plain)(stack({x, t})));
  same(value_and_grad(total(checked))(x).gradient, value_and_grad(total(plain))(x).gradient);
  same(hessian(total(checked))(x), hessian(total(plain))(x));
  same(hvp(total(checked), x, t), hvp(total(plain), x, t));
  same(jacobian(checked)(x), jacobian(plain)(x));
  same(vmap(value_and_grad(total(checked)))(stack({x, t})).gradient,
       vmap(value_and_grad(total(plain)))(stack({x, t})).gradient);
  const auto pullback = vjp(checked, x);
  same(pullback(t), vjp(plain, x)(t));
  same(pullback(x), vjp(plain, x)(x));
  // A region around transforms.
  const auto around = [&](const auto& f) {
    return [&, f](const Variable& v) { return hvp(total(f), v, t) * jvp(f, v, t).tangent; };
  };
  EXPECT_EQ(gradients({w}, [&] { return checkpoint(around(plain), x); }),
            gradients({w}, [&] { return around(plain)(x); }));
}

TEST(Checkpoint, UnderSavedTensorHooksOfAUser) {
  Generator g(12);
  const Variable x = random_leaf(g, {4}), w = random_leaf(g, {4});
  const auto f = [&](const Variable& v) { return exp(sin(v * w)); };
  const auto plain = gradients({x, w}, [&] { return f(f(x)) * x; });
  int packs = 0, unpacks = 0;
  Variable y;
  {
    const SavedTensorHooksGuard guard(
        [&](const Tensor& t) {
          ++packs;
          return values(t);
        },
        [&](const Values& v) {
          ++unpacks;
          return Tensor(v, {v.size()}, DeviceType::CPU, DataType::Float64);
        });
    y = checkpoint(f, checkpoint(f, x)) * x;
  }
  EXPECT_EQ(packs, 4);  // the inputs of the regions, and what the product outside saves
  const Variables d = grad({sum(y)}, {x, w});
  EXPECT_EQ(unpacks, 4);
  EXPECT_EQ(values(d[0]), plain[0]);
  EXPECT_EQ(values(d[1]), plain[1]);
  // Hooks inside the region are the region's own affair.
  int inside = 0;
  const auto own = [&](const Variable& v) {
    const SavedTensorHooksGuard guard(
        [&](const Tensor& t) {
          ++inside;
          return t.clone();
        },
        [](const Tensor& t) { return t; });
    return f(v);
  };
  EXPECT_EQ(gradients({x, w}, [&] { return checkpoint(own, x); }),
            gradients({x, w}, [&] { return f(x); }));
  EXPECT_EQ(inside, 4);
}

TEST(Checkpoint, MeetsHooksAndFunctionsOfOnesOwn) {
  struct Doubled {
    Tensor forward(FunctionContext& c, const Tensor& x) {
      c.save_for_backward({x});
      return x * x;
    }
    Variables backward(FunctionContext& c, const Variable& g) { return {g * c.saved()[0] * 20}; }
  };
  const Variable x = leaf({1, 2});
  int hooked = 0;
  const Variable y = checkpoint(
      [&](const Variable& v) {
        const Variable u = apply(Doubled{}, sin(v));
        u.register_hook([&](const Tensor& g) {
          ++hooked;
          return g * 3;
        });
        return u * 2;
      },
      x);
  sum(y).backward();
  EXPECT_EQ(hooked, 1);  // of the graph that the pass is over, not of the second call's
  for (std::size_t i = 0; i < 2; ++i) {
    const double v = static_cast<double>(i) + 1;
    EXPECT_NEAR(values(x.grad())[i], 2 * 3 * 20 * std::sin(v) * std::cos(v), 1e-12);
  }
}

TEST(Checkpoint, PassesInNoGradModeAndUnderAnomalyGuard) {
  const Variable x = leaf({1, 2});
  const auto f = [](const Variable& v) { return exp(v) * v; };
  const Values expected = gradients({x}, [&] { return f(x); })[0];
  const AnomalyGuard anomaly;
  const Variable y = sum(checkpoint(f, x));
  const NoGradGuard guard;
  y.backward();
  EXPECT_EQ(values(x.grad()), expected);
}

TEST(CheckpointThreads, OneRegionAndManyRegions) {
  Generator g(13);
  const Variable x = random_leaf(g, {16}), w = random_leaf(g, {16});
  const auto f = [&](const Variable& v) { return exp(sin(v * w)) * v; };
  const Values expected = gradients({x}, [&] { return f(f(x)); })[0];
  const Variable shared = sum(checkpoint(f, checkpoint(f, x)));
  on_threads(4, [&](int) {
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(values(grad({shared}, {x}, {.retain_graph = true})[0]), expected);
      EXPECT_EQ(gradients({x}, [&] { return checkpoint(f, checkpoint(f, x)); })[0], expected);
    }
  });
}

TEST(CheckpointThreads, BuiltHereRunThere) {
  manual_seed(3);
  const Variable x = leaf({1, 2, 3, 4});
  const Variable y = sum(checkpoint([](const Variable& v) { return dropout(v * v, 0.5); }, x));
  manual_seed(3);
  const Values expected = gradients({x}, [&] { return dropout(x * x, 0.5); })[0];
  std::thread([&] { y.backward(); }).join();
  EXPECT_EQ(values(x.grad()), expected);
}

TEST(CheckpointThreads, OthersMayDrawBetween) {
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) rand({4});
  });
  const Variable x = leaf({1, 2, 3, 4});
  for (int i = 0; i < 2000; ++i)
    sum(checkpoint([](const Variable& v) { return dropout(dropout(v * v, 0.1) * v, 0.2); }, x))
        .backward();
  stop = true;
  other.join();
}

TEST(Checkpoint, NestedRegionsDrawTheSameAgain) {
  const auto inner = [](const Variable& v) { return dropout(v * v, 0.5); };
  const auto outer = [&](const Variable& v) {
    return dropout(checkpoint(inner, dropout(v * v, 0.5)) * v, 0.5);
  };
  Generator g(5);
  const Variable x = random_leaf(g, {100});
  manual_seed(4);
  const auto expected = gradients({x}, [&] { return outer(x); });
  manual_seed(4);
  EXPECT_EQ(gradients({x}, [&] { return checkpoint(outer, x); }), expected);
}

TEST(Checkpoint, OneElementOfManyThatIsReadOtherwiseIsNoticed) {
  const Variable x(ones({1000}), true);
  std::vector<float> read(1000);
  for (std::size_t i = 0; i < read.size(); ++i) read[i] = static_cast<float>(i);
  Tensor c(read, {1000});
  const Variable y = sum(checkpoint([&](const Variable& v) { return sum(v * c); }, x));
  std::swap(read[1], read[2]);  // their sum is the same
  c = Tensor(read, {1000});
  EXPECT_THROW(y.backward(), AutogradError);
}

}  // namespace
}  // namespace lmp
