// Functions with a gradient of one's own: as operations of graphs, at every order, inside
// transforms, and where they are wrong.

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
using testing::expect_linear;
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

Variable constant(const Values& v) {
  return Variable(Tensor(v, {v.size()}, DeviceType::CPU, DataType::Float64));
}

// ---- Functions to test with ----

struct Product {  // of Tensors, saves its operands
  static constexpr const char* name = "product";
  Tensor forward(FunctionContext& context, const Tensor& a, const Tensor& b) {
    context.save_for_backward({a, b});
    return a * b;
  }
  Variables backward(FunctionContext& context, const Variable& g) {
    return {g * context.saved()[1], g * context.saved()[0]};
  }
};

struct Exponential {  // saves its result
  static constexpr const char* name = "exponential";
  Variable forward(FunctionContext& context, const Variable& x) {
    const Variable y = exp(x);
    context.save_for_backward({y});
    return y;
  }
  Variables backward(FunctionContext& context, const Variable& g) {
    return {g * context.saved()[0]};
  }
};

struct Power {  // with an attribute
  static constexpr const char* name = "power";
  int exponent;
  Variable forward(FunctionContext& context, const Variable& x) const {
    context.save_for_backward({x});
    return pow(x, exponent);
  }
  Variables backward(FunctionContext& context, const Variable& g) const {
    return {g * exponent * pow(context.saved()[0], exponent - 1)};
  }
};

struct SinCos {  // a pair of results
  static constexpr const char* name = "sincos";
  std::pair<Variable, Variable> forward(FunctionContext& context, const Variable& x) {
    const Variable s = sin(x), c = cos(x);
    context.save_for_backward({s, c});
    return {s, c};
  }
  Variables backward(FunctionContext& context, const Variables& g) {
    return {g[0] * context.saved()[1] - g[1] * context.saved()[0]};
  }
};

struct Rounded {  // straight through
  static constexpr const char* name = "rounded";
  Variable forward(FunctionContext&, const Variable& x) { return round(x); }
  Variables backward(FunctionContext&, const Variable& g) { return {g}; }
};

struct RoundedOfTensors {
  static constexpr const char* name = "rounded of tensors";
  Tensor forward(FunctionContext&, const Tensor& x) { return round(x); }
  Variables backward(FunctionContext&, const Variable& g) { return {g}; }
};

struct BackwardOfTensors {
  static constexpr const char* name = "backward of tensors";
  Tensor forward(FunctionContext& context, const Tensor& x) {
    context.save_for_backward({x});
    return x * x;
  }
  std::vector<Tensor> backward(FunctionContext& context, const Tensor& g) {
    return {g * 2 * context.saved()[0].data()};
  }
};

// What the test hands in, for everything that needs one of its own.
template <class Forward, class Backward>
struct Made {
  static constexpr const char* name = "made";
  Forward f;
  Backward b;
  auto forward(FunctionContext& context, const Variable& x) { return f(context, x); }
  auto backward(FunctionContext& context, const Variable& g) requires(
      std::is_invocable_v<Backward&, FunctionContext&, const Variable&>) {
    return b(context, g);
  }
  auto backward(FunctionContext& context, const Variables& g) requires(
      std::is_invocable_v<Backward&, FunctionContext&, const Variables&>) {
    return b(context, g);
  }
};
template <class Forward, class Backward>
Made(Forward, Backward) -> Made<Forward, Backward>;

// ---- Values and first derivatives ----

TEST(Function, OfTensors) {
  const Variable a = leaf({1, 2}), b = leaf({3, 4});
  const Variable y = apply(Product{}, a, b);
  EXPECT_EQ(values(y), (Values{3, 8}));
  ASSERT_NE(y.grad_fn(), nullptr);
  EXPECT_STREQ(name_of(*y.grad_fn()), "product");
  sum(y * 2).backward();
  EXPECT_EQ(values(a.grad()), (Values{6, 8}));
  EXPECT_EQ(values(b.grad()), (Values{2, 4}));
  // Operands may be Tensors; without any gradient there is no graph.
  EXPECT_EQ(values(grad({sum(apply(Product{}, a, b.data()))}, {a})[0]), (Values{3, 4}));
  EXPECT_FALSE(apply(Product{}, a.data(), b.data()).requires_grad());
  const NoGradGuard guard;
  EXPECT_FALSE(apply(Product{}, a, b).requires_grad());
}

TEST(Function, NamesWithoutAName) {
  struct Local {
    Tensor forward(FunctionContext&, const Tensor& x) { return x * 1; }
    Variables backward(FunctionContext&, const Variable& g) { return {g, g}; }
  };
  const Variable y = apply(Local{}, leaf({1}));
  EXPECT_TRUE(contains(name_of(*y.grad_fn()), "Local")) << name_of(*y.grad_fn());
  EXPECT_FALSE(contains(name_of(*y.grad_fn()), "N3lmp")) << name_of(*y.grad_fn());
  EXPECT_TRUE(contains(message_of<ValueError>([&] { y.backward(); }), "Local"));
}

struct Many {  // any number of operands and results: k-th result is k + 1 times the sum
  static constexpr const char* name = "many";
  std::size_t results;
  Variables forward(FunctionContext& context, const Variables& x) const {
    Variable total = x[0];
    for (std::size_t i = 1; i < x.size(); ++i) total = total + x[i];
    Variables out;
    for (std::size_t k = 0; k < results; ++k) out.push_back(total * static_cast<double>(k + 1));
    operands = x.size();
    (void)context;
    return out;
  }
  Variables backward(FunctionContext&, const Variables& g) const {
    Variable total = g[0];
    for (std::size_t k = 1; k < g.size(); ++k) total = total + g[k] * static_cast<double>(k + 1);
    return Variables(operands, total);
  }
  mutable std::size_t operands = 0;
};

TEST(Function, ListsOfOperandsAndResults) {
  const Variables x{leaf({1, 2}), leaf({3, 4}), leaf({5, 6})};
  const Variables y = apply(Many{3}, x);
  ASSERT_EQ(y.size(), 3u);
  EXPECT_EQ(values(y[2]), (Values{27, 36}));
  EXPECT_STREQ(name_of(*y[2].grad_fn()), "many[2]");
  sum(y[0] + y[2] * 10).backward();
  for (const Variable& v : x) EXPECT_EQ(values(v.grad()), (Values{31, 31}));
  // One result in a list is a list.
  Variables list{x[0]};
  EXPECT_EQ(apply(Many{2}, list).size(), 2u);
  const Variables one = apply(Many{1}, Variables{x[0]});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(values(grad({sum(one[0] * 7)}, {x[0]})[0]), (Values{7, 7}));
}

struct Triple {  // a tuple of Tensors
  static constexpr const char* name = "triple";
  std::tuple<Tensor, Tensor, Tensor> forward(FunctionContext&, const Tensor& x) {
    return {x * 1, x * 2, sum(x)};
  }
  Variables backward(FunctionContext&, const Variables& g) { return {g[0] + g[1] * 2 + g[2]}; }
};

TEST(Function, TuplesOfTensors) {
  const Variable x = leaf({1, 2});
  const Variables y = apply(Triple{}, x);
  EXPECT_EQ(values(y[2]), (Values{3}));
  (sum(y[1]) * 10 + y[2] * 100).backward();  // y[0] gets zeros
  EXPECT_EQ(values(x.grad()), (Values{120, 120}));
}

TEST(Function, ZerosArriveForUnusedResults) {
  const Variable x = leaf({1, 2});
  int calls = 0;
  const Made f{[](FunctionContext&, const Variable& v) {
                 return Variables{v * 1, sum(v).astype(DataType::Float32)};
               },
               [&](FunctionContext&, const Variables& g) {
                 ++calls;
                 EXPECT_EQ(g.size(), 2u);
                 EXPECT_TRUE(g[0].defined() && g[1].defined());
                 EXPECT_EQ(g[0].shape(), Shape({2}));
                 EXPECT_EQ(g[1].shape(), Shape({}));
                 EXPECT_EQ(g[1].type(), DataType::Float32);
                 EXPECT_EQ(values(g[0]), (Values{0, 0}));
                 EXPECT_EQ(g[1].item(), 3);
                 return Variables{broadcast_to(g[1], {2})};
               }};
  const Variables y = apply(f, x);
  (y[1] * 3).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(values(x.grad()), (Values{3, 3}));
  EXPECT_EQ(x.grad().type(), DataType::Float64);  // cast back
}

TEST(Function, RunsOnceAfterAllGradientsAreThere) {
  const Variable x = leaf({0.5});
  int calls = 0;
  const Made f{[](FunctionContext&, const Variable& v) {
                 return Variables{v * 1, v * 2, v * 3};
               },
               [&](FunctionContext&, const Variables& g) {
                 ++calls;
                 return Variables{g[0] + g[1] * 2 + g[2] * 3};
               }};
  const Variables y = apply(f, x);
  // Diamonds from several results, at different depths.
  Variable z = y[0];
  for (int i = 0; i < 5; ++i) z = z + y[static_cast<std::size_t>(i) % 3] * y[0];
  z = z + y[2];
  const Variables all = grad({z}, {x, y[0], y[1], y[2]}, {.retain_graph = true});
  EXPECT_EQ(calls, 1);
  const double v = 0.5;  // z = x + 2 x^2 + 2 * 2 x^2 + 3 x^2 + 3 x
  EXPECT_NEAR(all[0].item(), 1 + 2 * 9 * v + 3, 1e-12);
  EXPECT_NEAR(all[1].item(), 1 + 2 * 2 * v + 2 * 2 * v + 3 * v, 1e-12);
  EXPECT_NEAR(all[2].item(), 2 * v, 1e-12);
  EXPECT_NEAR(all[3].item(), v + 1, 1e-12);
  // A subset of the results alone does not run the function.
  EXPECT_NEAR(grad({z}, {y[1]}, {.retain_graph = true})[0].item(), 2 * v, 1e-12);
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(grad({y[0]}, {y[1]}, {.retain_graph = true, .allow_unused = true})[0].defined());
  // Twice with retain_graph, then for good.
  for (int i = 0; i < 3; ++i) z.backward(BackwardOptions{.retain_graph = i < 2});
  EXPECT_NEAR(x.grad().item(), 3 * (4 + 18 * v), 1e-12);
  EXPECT_EQ(calls, 4);
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { z.backward(); }), "released"));
}

TEST(Function, ResultsAreCapturedWithHooks) {
  const Variable x = leaf({1});
  const Variables y = apply(SinCos{}, x);
  y[1].register_hook([](const Tensor& g) { return g * 100; });
  const Variables g = grad({y[0] + y[1]}, {y[1], x});
  EXPECT_EQ(g[0].item(), 100);
  EXPECT_NEAR(g[1].item(), std::cos(1) - 100 * std::sin(1), 1e-12);
}

TEST(Function, NodeHooksSeeTheGradientsOfOperands) {
  const Variable a = leaf({1, 2}), b = leaf({3, 4}), y = apply(Product{}, a, b);
  register_node_hook(*y.grad_fn(), [](const Variables& in, const Variable& g) {
    EXPECT_EQ(values(g), (Values{1, 1}));
    EXPECT_EQ(values(in[1]), (Values{1, 2}));
    return Variables{in[0] * 10, {}};
  });
  sum(y).backward();
  EXPECT_EQ(values(a.grad()), (Values{30, 40}));
  EXPECT_EQ(values(b.grad()), (Values{1, 2}));
}

TEST(Function, NodeHooksOfOneResultOfSeveral) {
  const Variable x = leaf({1});
  const Variables y = apply(SinCos{}, x);
  register_node_hook(*y[0].grad_fn(), [](const Variables& in, const Variable& g) {
    EXPECT_EQ(in.size(), 1u);
    EXPECT_TRUE(in[0].defined());
    EXPECT_EQ(g.item(), 2);
    return Variables{in[0] * 10};
  });
  (y[0] * 2 + y[1]).backward();
  EXPECT_NEAR(x.grad().item(), 20 * std::cos(1) - std::sin(1), 1e-12);
}

TEST(Function, NeedsInputGrad) {
  std::vector<bool> forward, backward;
  struct F {
    std::vector<bool>*forward_needs, *backward_needs;
    Tensor forward(FunctionContext& c, const Tensor& a, const Tensor& b, const Tensor& d) {
      *forward_needs = {c.needs_input_grad(0), c.needs_input_grad(1), c.needs_input_grad(2),
                        c.needs_input_grad(3)};
      return a + b + d;
    }
    Variables backward(FunctionContext& c, const Variable& g) {
      *backward_needs = {c.needs_input_grad(0), c.needs_input_grad(1), c.needs_input_grad(2),
                         c.needs_input_grad(3)};
      return {g, lmp::ones({9}), g};  // the middle one is not asked for, so not looked at
    }
  };
  const Variable a = leaf({1}), d = leaf({2});
  const Variable y = apply(F{&forward, &backward}, a, lmp::ones({1}), d);
  EXPECT_EQ(forward, (std::vector<bool>{true, false, true, false}));
  y.backward();
  EXPECT_EQ(backward, (std::vector<bool>{true, false, true, false}));
  const NoGradGuard guard;
  apply(F{&forward, &backward}, a, lmp::ones({1}), d);
  EXPECT_EQ(forward, std::vector<bool>(4));
}

TEST(Function, ForwardRunsWithoutRecordingAndBackwardOnlyUnderCreateGraph) {
  const Variable x = leaf({2}), w = leaf({3});
  std::vector<bool> recording;
  const Made f{[&](FunctionContext& c, const Variable& v) {
                 EXPECT_FALSE(is_grad_enabled());
                 EXPECT_FALSE(v.requires_grad());
                 EXPECT_FALSE((v * w).requires_grad());
                 c.save_for_backward({v});
                 return v * w;
               },
               [&](FunctionContext& c, const Variable& g) {
                 recording.push_back(is_grad_enabled());
                 EXPECT_EQ(c.saved()[0].requires_grad(), is_grad_enabled());
                 return Variables{g * w};
               }};
  const Variable y = apply(f, x);
  EXPECT_TRUE(is_grad_enabled());
  y.backward(BackwardOptions{.retain_graph = true});
  EXPECT_TRUE(is_grad_enabled());
  const Variable g = grad({y}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(recording, (std::vector<bool>{false, true}));
  g.backward();  // w is captured: its gradient comes from backward's graph
  EXPECT_EQ(w.grad().item(), 1);
}

TEST(Function, MarkNonDifferentiable) {
  const Variable x = leaf({3, 1, 2});
  const Made f{[](FunctionContext& c, const Variable& v) {
                 const Variable s = sort(v).first, r = v * 2;
                 c.mark_non_differentiable({r});
                 return Variables{s, r};
               },
               [](FunctionContext&, const Variables& g) {
                 EXPECT_EQ(values(g[1]), (Values{0, 0, 0}));
                 return Variables{g[0]};
               }};
  const Variables y = apply(f, x);
  EXPECT_TRUE(y[0].requires_grad());
  EXPECT_FALSE(y[1].requires_grad());
  sum(y[0] * 2 + y[1]).backward();
  EXPECT_EQ(values(x.grad()), (Values{2, 2, 2}));
}

TEST(Function, IntegerResultsHaveNoGradient) {
  const Variable x = leaf({3, 1, 2});
  const Made f{[](FunctionContext&, const Variable& v) {
                 return Variables{argmax(v), max(v)};
               },
               [](FunctionContext&, const Variables& g) {
                 EXPECT_EQ(g[0].type(), DataType::Int64);
                 return Variables{broadcast_to(g[1], {3})};
               }};
  const Variables y = apply(f, x);
  EXPECT_EQ(y[0].item(), 0);
  EXPECT_FALSE(y[0].requires_grad());
  y[1].backward();
  EXPECT_EQ(values(x.grad()), (Values{1, 1, 1}));
}

TEST(Function, UndefinedGradientsAreNone) {
  const Variable a = leaf({1}), b = leaf({2});
  struct F {
    Tensor forward(FunctionContext&, const Tensor& x, const Tensor& y) { return x * y; }
    Variables backward(FunctionContext&, const Variable& g) { return {{}, g}; }
  };
  const Variable y = apply(F{}, a, b);
  y.backward(BackwardOptions{.retain_graph = true});
  EXPECT_FALSE(a.has_grad());
  EXPECT_EQ(b.grad().item(), 1);
  EXPECT_FALSE(grad({y}, {a}, {.retain_graph = true, .allow_unused = true})[0].defined());
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { grad({y}, {a}); }), "input 0"));
}

TEST(Function, GradientsAreCastButNeverBroadcast) {
  const Variable x = leaf({1, 2}, {2}, DataType::Float32);
  const auto with = [&](const Variable& gradient) {
    return apply(
        Made{[](FunctionContext&, const Variable& v) { return v * 1; },
             [gradient](FunctionContext&, const Variable&) { return Variables{gradient}; }},
        x);
  };
  with(constant({5, 6})).backward();
  EXPECT_EQ(x.grad().type(), DataType::Float32);
  EXPECT_EQ(values(x.grad()), (Values{5, 6}));
  const std::string message = message_of<ShapeError>([&] { with(constant({5})).backward(); });
  EXPECT_TRUE(contains(message, "'made'") && contains(message, "operand 0") &&
              contains(message, "(1)") && contains(message, "(2)"))
      << message;
}

TEST(Function, WrongCounts) {
  const Variable x = leaf({1});
  const auto with = [&](std::size_t n) {
    return apply(Made{[](FunctionContext&, const Variable& v) { return v * 1; },
                      [n](FunctionContext&, const Variable& g) { return Variables(n, g); }},
                 x);
  };
  for (std::size_t n : {0u, 2u}) {
    const std::string message = message_of<ValueError>([&] { with(n).backward(); });
    EXPECT_TRUE(contains(message, "'made'") && contains(message, std::to_string(n)) &&
                contains(message, "1 operands"))
        << message;
  }
  const auto returns = [&](const Variables& results) {
    return message_of<ValueError>([&] {
      apply(Made{[&](FunctionContext&, const Variable&) { return results; },
                 [](FunctionContext&, const Variables& g) { return g; }},
            x);
    });
  };
  EXPECT_TRUE(contains(returns({}), "'made'"));
  EXPECT_TRUE(contains(returns({x, {}}), "'made'"));
  EXPECT_TRUE(contains(message_of<ValueError>([&] {
                         apply(
                             Made{[&](FunctionContext& c, const Variable& v) {
                                    c.save_for_backward({v, {}});
                                    return v * 1;
                                  },
                                  [](FunctionContext&, const Variable& g) { return Variables{g}; }},
                             x);
                       }),
                       "'made'"));
  EXPECT_THROW(apply(Product{}, x, Variable()), std::exception);
}

TEST(Function, SavedValuesOfEveryKind) {
  const Variable x = leaf({1, 2});
  const Made f{[](FunctionContext& c, const Variable& v) {
                 const Variable between = v * 3, y = between * between;
                 c.save_for_backward({v, between, y, Variable(lmp::full({1}, 7.0))});
                 return y;
               },
               [](FunctionContext& c, const Variable& g) {
                 EXPECT_EQ(c.saved().size(), 4u);
                 EXPECT_EQ(values(c.saved()[0]), (Values{1, 2}));
                 EXPECT_EQ(values(c.saved()[1]), (Values{3, 6}));
                 EXPECT_EQ(values(c.saved()[2]), (Values{9, 36}));
                 EXPECT_EQ(values(c.saved()[3]), (Values{7}));
                 return Variables{g * c.saved()[1] * 6};
               }};
  sum(apply(f, x)).backward();
  EXPECT_EQ(values(x.grad()), (Values{18, 36}));
}

TEST(Function, ChangedSavedValuesAreErrorsThatNameIt) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  const Variable y = apply(Product{}, x, w);
  w.data() += 1;
  std::string message = message_of<AutogradError>([&] { sum(y).backward(); });
  EXPECT_TRUE(contains(message, "product") && contains(message, "in place")) << message;
  const Variable e = apply(Exponential{}, x);
  e.data() += 1;
  message = message_of<AutogradError>([&] { sum(e).backward(); });
  EXPECT_TRUE(contains(message, "exponential")) << message;
  Tensor extra = lmp::ones({2});
  const Variable z =
      apply(Made{[&](FunctionContext& c, const Variable& v) {
                   c.save_for_backward({extra});
                   return v * 1;
                 },
                 [](FunctionContext& c, const Variable& g) { return Variables{g * c.saved()[0]}; }},
            x);
  extra += 1;
  message = message_of<AutogradError>([&] { sum(z).backward(); });
  EXPECT_TRUE(contains(message, "made")) << message;
  EXPECT_FALSE(x.has_grad());
}

TEST(Function, SavedValuesMeetSavedTensorHooks) {
  const Variable x = leaf({1, 2}), w = leaf({3, 4});
  int packs = 0;
  Variable y;
  {
    const SavedTensorHooksGuard guard(
        [&](const Tensor& t) {
          ++packs;
          return values(t);
        },
        [](const Values& v) { return Tensor(v, {v.size()}, DeviceType::CPU, DataType::Float64); });
    y = sum(apply(Exponential{}, apply(Product{}, x, w) * 0.1));
  }
  EXPECT_EQ(packs, 3);
  const Variable g = grad({y}, {x}, {.create_graph = true})[0];
  const Variable plain = grad({sum(exp(x * w * 0.1))}, {x}, {.create_graph = true})[0];
  EXPECT_TRUE(allclose(g, plain));
  EXPECT_TRUE(allclose(grad({sum(g)}, {w})[0], grad({sum(plain)}, {w})[0]));
}

TEST(Function, ResultsThatAliasOperands) {
  const Variable x = leaf({1, 2, 3, 4}, {2, 2});
  const Made itself{[](FunctionContext&, const Variable& v) { return v; },
                    [](FunctionContext&, const Variable& g) { return Variables{g * 10}; }};
  const Variable y = apply(itself, x);
  EXPECT_TRUE(y.data().shares_storage(x.data()));
  EXPECT_TRUE(y.requires_grad());
  EXPECT_FALSE(y.is_leaf());
  sum(y * y).backward();
  EXPECT_EQ(values(x.grad()), (Values{20, 40, 60, 80}));
  const Made view{[](FunctionContext&, const Variable& v) { return v[1]; },
                  [](FunctionContext&, const Variable& g) {
                    return Variables{stack({g * 0, g * 5})};
                  }};
  const Variable z = apply(view, x);
  EXPECT_EQ(values(grad({sum(z)}, {x})[0]), (Values{0, 0, 5, 5}));
  // Without a graph, too; and both results the operand.
  EXPECT_EQ(values(apply(itself, x.data())), values(x));
  const Variables both =
      apply(Made{[](FunctionContext&, const Variable& v) {
                   return Variables{v, v};
                 },
                 [](FunctionContext&, const Variables& g) { return Variables{g[0] + g[1] * 100}; }},
            x);
  EXPECT_EQ(values(grad({sum(both[0] * 2 + both[1])}, {x})[0]), Values(4, 102));
}

TEST(Function, GradientsAreNobodysBuffer) {
  // backward returns the same tensor for both operands, a tensor of its own, and a saved one.
  Tensor own = lmp::full({2}, 3.0, DeviceType::CPU, DataType::Float64);
  struct F {
    Tensor own;
    Tensor forward(FunctionContext& c, const Tensor& a, const Tensor& b, const Tensor& d) {
      c.save_for_backward({d});
      return a + b + d;
    }
    Variables backward(FunctionContext& c, const Variable&) { return {own, own, c.saved()[0]}; }
  };
  const Variable a = leaf({1, 2}), b = leaf({1, 2}), d = leaf({7, 8});
  const Variable y = apply(F{own}, a * 1, b + 0.0, d + 0.0);
  sum(y + a + b * 2 + d).backward();
  sum(a + b + d).backward();
  EXPECT_EQ(values(own), (Values{3, 3}));
  EXPECT_EQ(values(d), (Values{7, 8}));
  EXPECT_EQ(values(a.grad()), (Values{5, 5}));
  EXPECT_EQ(values(b.grad()), (Values{6, 6}));
  EXPECT_EQ(values(d.grad()), (Values{9, 10}));
}

TEST(Function, Exceptions) {
  const std::int64_t start = live_bytes();
  {
    const Variable x = leaf({1, 2});
    bool fail = true;
    const Made f{[&](FunctionContext& c, const Variable& v) {
                   c.save_for_backward({v, v * 2});
                   if (fail) throw Oops();
                   return v * 2;
                 },
                 [&](FunctionContext&, const Variable& g) {
                   if (fail) throw Oops();
                   return Variables{g * 2};
                 }};
    EXPECT_THROW(apply(f, x), Oops);
    EXPECT_TRUE(is_grad_enabled());
    fail = false;
    const Variable y = sum(apply(f, x * 1));
    fail = true;
    EXPECT_THROW(y.backward(BackwardOptions{.retain_graph = true}), Oops);
    EXPECT_THROW(grad({y}, {x}, {.create_graph = true}), Oops);
    EXPECT_TRUE(is_grad_enabled());
    EXPECT_FALSE(x.has_grad());
    EXPECT_THROW(jvp([&](const Variable& v) { return apply(f, v); }, x, x), Oops);
    EXPECT_THROW(vmap([&](const Variable& v) { return apply(f, v); })(x), Oops);
    fail = false;
    y.backward();
    EXPECT_EQ(values(x.grad()), (Values{2, 2}));
  }
  EXPECT_EQ(live_bytes(), start);
}

// ---- Higher derivatives ----

TEST(Function, SecondAndThirdDerivatives) {
  const auto derivatives = [](const auto& f) {
    const Variable x = leaf({0.5, 1.5});
    std::vector<Values> out;
    Variable y = f(x);
    for (int order = 0; order < 3; ++order) {
      y = grad({sum(y)}, {x}, {.create_graph = true})[0];
      out.push_back(values(y));
    }
    return out;
  };
  const auto near = [](const std::vector<Values>& a, const std::vector<Values>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      for (std::size_t k = 0; k < a[i].size(); ++k) EXPECT_NEAR(a[i][k], b[i][k], 1e-11) << i;
  };
  near(derivatives([](const Variable& x) { return apply(Exponential{}, x * x); }),
       derivatives([](const Variable& x) { return exp(x * x); }));
  near(derivatives([](const Variable& x) { return apply(Power{5}, sin(x)); }),
       derivatives([](const Variable& x) { return pow(sin(x), 5); }));
  near(derivatives([](const Variable& x) { return apply(Product{}, x, apply(Product{}, x, x)); }),
       derivatives([](const Variable& x) { return x * (x * x); }));
  near(derivatives([](const Variable& x) {
         const Variables y = apply(SinCos{}, x * 2);
         return y[0] * y[1] * y[1];
       }),
       derivatives([](const Variable& x) { return sin(x * 2) * square(cos(x * 2)); }));
}

TEST(Function, Gradcheck) {
  Generator g(5);
  const Variable a(testing::uniform(g, {3}), true), b(testing::uniform(g, {3}), true);
  const auto f = [](const Variables& in) {
    const Variables s = apply(SinCos{}, in[0]);
    return apply(Product{}, s[0], apply(Exponential{}, in[1])) * s[1] + apply(Power{3}, in[1]);
  };
  const auto first = gradcheck(f, {a, b});
  EXPECT_TRUE(first) << first.report;
  const auto second = gradcheck(
      [&](const Variables& in) {
        const Variables d = grad({sum(f(in))}, in, {.create_graph = true});
        return d[0] * d[1];
      },
      {a, b});
  EXPECT_TRUE(second) << second.report;
  EXPECT_FALSE(gradcheck([](const Variables& in) { return apply(Rounded{}, in[0]); }, {a}));
}

TEST(Function, OperandsOfOneValueAreToldApart) {
  // x, and x without its gradient: the same memory, but no derivative flows through the second.
  const Variable x = leaf({3});
  const auto second = [&](const Variable& a, const Variable& b) {
    const Variable first = grad({apply(Product{}, a, b)}, {x}, {.create_graph = true})[0];
    if (!first.requires_grad()) return 0.0;
    return grad({first}, {x}, {.allow_unused = true})[0].item();
  };
  EXPECT_EQ(second(x, x), 2);
  EXPECT_EQ(second(x, x.detach()), 0);
  EXPECT_EQ(second(x.detach(), x), 0);
  // Of two values of one memory each has its own.
  const Variable y = x.reshape({1, 1}).reshape({1}), z = apply(Product{}, x, y);
  const Variable by_x = grad({z}, {x}, {.create_graph = true})[0];  // y + x
  EXPECT_EQ(by_x.item(), 6);
  const Variable by_y = grad({z}, {y}, {.create_graph = true})[0];  // x
  EXPECT_FALSE(grad({by_y}, {y}, {.retain_graph = true, .allow_unused = true})[0].defined());
  EXPECT_EQ(grad({by_y}, {x})[0].item(), 1);
}

TEST(Function, BackwardOfTensorsIsOfFirstOrder) {
  const Variable x = leaf({1, 2});
  const Variable y = sum(apply(BackwardOfTensors{}, x));
  y.backward(BackwardOptions{.retain_graph = true});
  EXPECT_EQ(values(x.grad()), (Values{2, 4}));
  const auto expect_refused = [](const auto& call) {
    const std::string message = message_of<AutogradError>(call);
    EXPECT_TRUE(contains(message, "'backward of tensors'") && contains(message, "Variables"))
        << message;
  };
  const auto f = [](const Variable& v) { return sum(apply(BackwardOfTensors{}, v)); };
  expect_refused([&] { grad({y}, {x}, {.create_graph = true}); });
  expect_refused([&] { jvp(f, x, x); });
  expect_refused([&] { hessian(f)(x); });
  expect_refused(
      [&] { jacobian([](const Variable& v) { return apply(BackwardOfTensors{}, v); })(x); });
  EXPECT_EQ(values(value_and_grad(f)(Variable(x.data())).gradient), (Values{2, 4}));
}

// ---- Inside transforms ----

template <class F>
void check_straight_through(F f) {
  const Values at{0.4, 1.6, -2.3};
  const Variable x = constant(at), t = constant({1, 10, 100});
  const auto one = [&](const Variable& v) { return apply(f, v); };
  const auto total = [&](const Variable& v) { return sum(square(apply(f, v))); };

  const auto [value, tangent] = jvp(one, x, t);
  EXPECT_EQ(values(value), (Values{0, 2, -2}));
  EXPECT_EQ(values(tangent), (Values{1, 10, 100}));
  EXPECT_EQ(values(value_and_grad(total)(x).gradient), (Values{0, 4, -4}));
  EXPECT_EQ(values(hvp(total, x, t)), (Values{2, 20, 200}));
  EXPECT_EQ(values(hessian(total)(x)), (Values{2, 0, 0, 0, 2, 0, 0, 0, 2}));
  EXPECT_EQ(values(jacobian(one)(x)), (Values{1, 0, 0, 0, 1, 0, 0, 0, 1}));
  EXPECT_EQ(values(jacobian([&](const Variable& v) {
              return cat({one(v), one(v)});
            })(x)),
            (Values{1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1}));
  // The gradient of a derivative along t; x^2 in front, so that there is something to see.
  const auto along = [&](const Variable& v) {
    return sum(square(jvp([&](const Variable& u) { return one(u * u); }, v, t).tangent));
  };
  // tangent 2 x t, squared and summed: 8 x t^2
  const Values g = values(value_and_grad(along)(x).gradient);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_NEAR(g[i], 8 * at[i] * std::pow(100.0, static_cast<double>(i)), 1e-9);
  const Variable leaf_x(x.data(), true);
  along(leaf_x).backward();
  EXPECT_EQ(values(leaf_x.grad()), g);
  // jvp of jvp.
  const auto twice = [&](const Variable& v) {
    return jvp([&](const Variable& u) { return square(one(u)); }, v, t).tangent;
  };
  EXPECT_EQ(values(jvp(twice, x, t).tangent), (Values{2, 200, 20000}));
}

TEST(FunctionTransforms, StraightThrough) { check_straight_through(Rounded{}); }
TEST(FunctionTransforms, StraightThroughOfTensors) { check_straight_through(RoundedOfTensors{}); }

TEST(FunctionTransforms, StraightThroughInLanes) {
  const Variable x = constant({0.4, 1.6, -2.3});
  const auto one = [](const Variable& v) { return apply(Rounded{}, v); };
  EXPECT_EQ(values(vmap(one)(x)), (Values{0, 2, -2}));
  const auto [value, gradient] =
      vmap(value_and_grad([&](const Variable& v) { return square(one(v)); }))(x);
  EXPECT_EQ(values(value), (Values{0, 4, 4}));
  EXPECT_EQ(values(gradient), (Values{0, 4, -4}));
  EXPECT_EQ(values(vmap([&](const Variable& v) { return jvp(one, v, v).tangent; })(x)), values(x));
  EXPECT_EQ(
      values(vmap([&](const Variable& v) {
        return value_and_grad([&](const Variable& u) {
                 return value_and_grad([&](const Variable& w) { return square(one(w)) * w; })(u)
                     .gradient;
               })(v)
            .gradient;
      })(x)),
      // d/dw (r^2 w) = 2 r w + r^2, d/dw of it = 2 w + 2 r + 2 r
      (Values{0.8, 3.2 + 8, -4.6 - 8}));
}

TEST(FunctionTransforms, DifferentiatedFromOutsideOfVmap) {
  // What the operations inside forward have for derivatives must not come through.
  const Variable x = leaf({0.4, 1.6, -2.3});
  const auto lanes = vmap([](const Variable& v) { return apply(Rounded{}, v); });
  EXPECT_EQ(values(grad({sum(lanes(x) * constant({1, 2, 3}))}, {x})[0]), (Values{1, 2, 3}));
  EXPECT_EQ(values(jvp(lanes, constant({0.4, 1.6, -2.3}), constant({1, 2, 3})).tangent),
            (Values{1, 2, 3}));
  const auto total = [&](const Variable& v) { return sum(square(lanes(v))); };
  EXPECT_EQ(values(hessian(total)(constant({0.4, 1.6}))), (Values{2, 0, 0, 2}));
  const auto nested = vmap(vmap([](const Variable& v) { return apply(Rounded{}, v); }));
  const Variable m = leaf({0.4, 1.6, -2.3, 7.1}, {2, 2});
  EXPECT_EQ(values(grad({sum(nested(m) * m.detach())}, {m})[0]), (Values{0.4, 1.6, -2.3, 7.1}));
}

struct Scaled {  // its own derivative: ten times the right one
  static constexpr const char* name = "scaled";
  std::pair<Variable, Variable> forward(FunctionContext& c, const Variable& x, const Variable& w) {
    const Variable y = x * w;
    c.save_for_backward({x, w, y});
    return {y, x * 1};
  }
  Variables backward(FunctionContext& c, const Variables& g) {
    return {g[0] * c.saved()[1] * 10 + g[1], g[0] * c.saved()[0] * 10};
  }
};

TEST(FunctionTransforms, LanesWithOperandsThatAreTheSameInAll) {
  const Variable x = leaf({1, 2, 3, 4}, {2, 2}), w = leaf({5, 6});
  const auto f = vmap(
      [&](const Variable& v, const Variable& u) {
        const Variables y = apply(Scaled{}, v, u);
        return y[0] + y[1];
      },
      {0, std::nullopt});
  const Variable y = f(x, w);
  EXPECT_EQ(values(y), (Values{6, 14, 18, 28}));
  const Variables g = grad({sum(y)}, {x, w}, {.create_graph = true});
  EXPECT_EQ(values(g[0]), (Values{51, 61, 51, 61}));
  EXPECT_EQ(values(g[1]), (Values{40, 60}));
  // And again: d(sum of 10 w + 1 over lanes)/dw = 20.
  EXPECT_EQ(values(grad({sum(g[0])}, {w})[0]), (Values{20, 20}));
  // A captured parameter is the same in all lanes, too.
  const Variable z = vmap([&](const Variable& v) { return apply(Scaled{}, v, w)[0]; })(x.data());
  EXPECT_EQ(values(grad({sum(z)}, {w})[0]), (Values{40, 60}));
}

TEST(FunctionTransforms, LanesDifferentiatedFromOutsideInEveryWay) {
  const Variable x = leaf({1, 2, 3}), p = constant({1, 2, 3});
  // A result that does not depend on the lane, an integer, and one without a gradient.
  const Made f{[](FunctionContext& c, const Variable& v) {
                 const Variable half = v * 0.5, same(lmp::ones({}));
                 c.mark_non_differentiable({half});
                 c.save_for_backward({v, same, half});
                 return Variables{v * v, same, v.astype(DataType::Int64), half};
               },
               [](FunctionContext& c, const Variables& g) {
                 return Variables{g[0] * c.saved()[0] * 20 + g[1] * 100 +
                                  c.saved()[1].astype(DataType::Float64) * 1000 + c.saved()[2] * 0};
               }};
  const auto lanes = vmap([&](const Variable& v) {
    const Variables y = apply(f, v);
    return std::tuple(y[0], y[1], y[2], y[3]);
  });
  const auto [y, same, integer, half] = lanes(x);
  EXPECT_EQ(values(y), (Values{1, 4, 9}));
  EXPECT_EQ(values(same), (Values{1, 1, 1}));
  EXPECT_EQ(values(integer), (Values{1, 2, 3}));
  EXPECT_EQ(values(half), (Values{0.5, 1, 1.5}));
  EXPECT_TRUE(y.requires_grad() && same.requires_grad());
  EXPECT_FALSE(integer.requires_grad() || half.requires_grad());
  EXPECT_EQ(values(grad({sum(y) + sum(same)}, {x})[0]), (Values{1120, 1140, 1160}));

  // An attribute that is one lane's own, inside the vmap that it is of.
  struct Offset {
    Variable by;
    Variable forward(FunctionContext&, const Variable& v) { return v + by; }
    Variables backward(FunctionContext&, const Variable& g) { return {g * 7}; }
  };
  const auto offset = [&](const Variable& a, const Variable& b) {
    return vmap([](const Variable& v, const Variable& by) { return apply(Offset{by}, v); })(a, b);
  };
  EXPECT_EQ(values(offset(x, p)), (Values{2, 4, 6}));
  EXPECT_EQ(values(grad({sum(offset(x, p))}, {x})[0]), (Values{7, 7, 7}));

  // The errors of backward are those of outside.
  const auto wrong = [&](const Variables& made) {
    const Variable z = vmap([&](const Variable& v) {
      return apply(Made{[](FunctionContext&, const Variable& u) { return u * 1; },
                        [made](FunctionContext&, const Variable&) { return made; }},
                   v);
    })(x);
    sum(z).backward();
  };
  EXPECT_TRUE(contains(message_of<ValueError>([&] { wrong({p, p}); }), "2 gradients for 1"));
  EXPECT_TRUE(contains(message_of<ShapeError>([&] { wrong({p}); }), "'made'"));
  struct OfTensors {
    Variable forward(FunctionContext&, const Variable& v) { return v * 1; }
    std::vector<Tensor> backward(FunctionContext&, const Tensor& g) { return {g}; }
  };
  const Variable z = vmap([](const Variable& v) { return apply(OfTensors{}, v); })(x);
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { sum(z).backward(); }), "OfTensors"));

  // To the second order, with respect to the inputs and to what is the same in all lanes.
  const auto square_of = [](const Variable& v) { return apply(Power{2}, v); };
  const auto total = [&](const Variable& v) { return sum(vmap(square_of)(v) * v); };
  EXPECT_EQ(values(hessian(total)(p)), (Values{6, 0, 0, 0, 12, 0, 0, 0, 18}));
  const Variable g = grad({total(x)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(g), (Values{3, 12, 27}));
  EXPECT_EQ(values(grad({sum(g)}, {x})[0]), (Values{6, 12, 18}));
}

TEST(FunctionTransforms, ForwardOfTensorsHasNoRuleForVmap) {
  const Variable x = constant({0.4, 1.6});
  const auto one = [](const Variable& v) { return apply(RoundedOfTensors{}, v); };
  for (int which = 0; which < 3; ++which) {
    const std::string message = message_of<AutogradError>([&] {
      if (which == 0) vmap(one)(x);
      if (which == 1) vmap(value_and_grad(one))(x);
      if (which == 2) vmap([&](const Variable& v) { return jvp(one, v, v).tangent; })(x);
    });
    EXPECT_TRUE(contains(message, "'rounded of tensors'") && contains(message, "vmap"))
        << which << ": " << message;
  }
  // Where lanes do not differ there is nothing to it.
  EXPECT_EQ(values(vmap([&](const Variable& v) { return v + one(constant({1.7})); })(x)),
            (Values{2.4, 3.6}));
}

TEST(FunctionTransforms, AgreeWithTheOperationsTheyAreMadeOf) {
  const Variable x = constant({0.3, 0.8, 1.1}), t = constant({1, -2, 0.5});
  const auto mine = [](const Variable& v) {
    const Variables s = apply(SinCos{}, v);
    return sum(apply(Power{3}, s[0]) * apply(Exponential{}, s[1]));
  };
  const auto plain = [](const Variable& v) { return sum(pow(sin(v), 3) * exp(cos(v))); };
  EXPECT_TRUE(allclose(hessian(mine)(x), hessian(plain)(x), 1e-12, 1e-12));
  EXPECT_TRUE(allclose(hvp(mine, x, t), hvp(plain, x, t), 1e-12, 1e-12));
  EXPECT_TRUE(allclose(jvp(mine, x, t).tangent, jvp(plain, x, t).tangent, 1e-12, 1e-12));
  EXPECT_TRUE(allclose(vmap(value_and_grad(mine))(x).gradient,
                       vmap(value_and_grad(plain))(x).gradient, 1e-12, 1e-12));
  EXPECT_TRUE(allclose(vmap(hessian(mine))(x), vmap(hessian(plain))(x), 1e-12, 1e-12));
  const auto third = [&](const auto& f) {
    return jvp([&](const Variable& v) { return hvp(f, v, t); }, x, t).tangent;
  };
  EXPECT_TRUE(allclose(third(mine), third(plain), 1e-11, 1e-11));
  // Differentiated with respect to what lies outside of the transform.
  const Variable w = leaf({0.3, 0.8, 1.1});
  const auto outside = [&](const auto& f) {
    return grad({sum(hvp([&](const Variable& v) { return f(v * w); }, x, t))}, {w})[0];
  };
  EXPECT_TRUE(allclose(outside(mine), outside(plain), 1e-11, 1e-11));
}

TEST(FunctionTransforms, ValuesOfOneMemoryAreToldApartInsideToo) {
  const auto f = [](const Variable& v) { return sum(apply(Product{}, v, v.detach())); };
  const Variable x = constant({3, 4}), t = constant({1, 10});
  EXPECT_EQ(values(value_and_grad(f)(x).gradient), (Values{3, 4}));
  EXPECT_EQ(values(hessian(f)(x)), (Values{0, 0, 0, 0}));
  EXPECT_EQ(values(hvp(f, x, t)), (Values{0, 0}));
  const auto g = [](const Variable& v) { return sum(apply(Product{}, v, v)); };
  EXPECT_EQ(values(hessian(g)(x)), (Values{2, 0, 0, 2}));
}

struct Dropout {  // saves what it drew
  static constexpr const char* name = "dropout";
  Variable forward(FunctionContext& context, const Variable& x) {
    const Variable mask(lmp::rand(x.shape(), DeviceType::CPU, DataType::Float64) > 0.5);
    context.save_for_backward({mask.astype(DataType::Float64)});
    return x * mask;
  }
  Variables backward(FunctionContext& context, const Variable& g) {
    return {g * context.saved()[0]};
  }
};

TEST(FunctionTransforms, RandomNumbersOfForwardAndBackwardBelongTogether) {
  const Variable x(lmp::ones({64}, DeviceType::CPU, DataType::Float64));
  // The gradient of (x m)^2 is 2 x m^2, with the m of the value; its derivative along 1 is 2 m^2.
  const auto gradient = [](const Variable& v) {
    return value_and_grad([](const Variable& u) { return sum(square(apply(Dropout{}, u))); })(v)
        .gradient;
  };
  manual_seed(11);
  const auto [value, tangent] = jvp(gradient, x, x);
  const std::uint64_t drawn = default_generator().offset();
  manual_seed(11);
  const Variable plain = gradient(x);
  EXPECT_EQ(values(value), values(plain));
  EXPECT_EQ(values(tangent), values(plain));
  EXPECT_EQ(default_generator().offset(), drawn);
}

// ---- Shapes of graphs, threads ----

TEST(Function, DeepChains) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x;
        for (int i = 0; i < n; ++i) y = apply(Product{}, y, Variable(lmp::ones({})));
        y.backward();
        EXPECT_EQ(x.grad().item(), 1);
      },
      100000);
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(0.0);
        Variable y = x;
        for (int i = 0; i < n; ++i) {
          const Variables s = apply(SinCos{}, y);
          y = s[0] + 0.0 * s[1];
        }
        grad({y}, {x}, {.create_graph = true});
        y = Variable();
      },
      20000);
}

TEST(Function, AttributesThatOwnALongChain) {
  struct Owner {
    Variable other;
    Variable forward(FunctionContext&, const Variable& x) { return x * 1.0; }
    Variables backward(FunctionContext&, const Variable& g) { return {g}; }
  };
  expect_linear(
      [](int n) {
        Variable y = scalar_leaf(1.0);
        for (int i = 0; i < n; ++i) y = apply(Owner{y}, scalar_leaf(2.0));
        y.backward();
      },
      100000);
}

TEST(Function, FanOut) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(2.0), y = apply(Power{2}, x);
        Variable total = y;
        for (int i = 1; i < n; ++i) total = total + apply(Product{}, y, y);
        total.backward();
        EXPECT_EQ(x.grad().item(), 4 + 32.0 * (n - 1));
      },
      50000);
}

TEST(Function, DrawsNothingAndLeavesNothing) {
  const Variable x = leaf({1, 2});
  x.backward();
  x.zero_grad();
  const std::int64_t before = live_bytes();
  for (int i = 0; i < 50; ++i) {
    const Variables y = apply(SinCos{}, apply(Exponential{}, x));
    const Variable g = grad({sum(y[0] * y[1])}, {x}, {.create_graph = true})[0];
    sum(g).backward();
    x.zero_grad();
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(FunctionThreads, OneGraphAndManyGraphs) {
  const Variable x = leaf({0.5, 1});
  const Variables s = apply(SinCos{}, x);
  const Variable shared = sum(s[0] * s[1]);
  const Values expected = values(grad({shared}, {x}, {.retain_graph = true})[0]);
  on_threads(4, [&](int t) {
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(values(grad({shared}, {x}, {.retain_graph = true})[0]), expected);
      const Variable w = scalar_leaf(t + 1.0);
      const Variable y = apply(Power{3}, apply(Product{}, w, w));
      y.backward();
      EXPECT_NEAR(w.grad().item(), 6 * std::pow(t + 1.0, 5), 1e-9);
      const auto h =
          hessian([](const Variable& v) { return sum(apply(Power{3}, v)); })(constant({1.0 + t}));
      EXPECT_NEAR(h.item(), 6 * (t + 1.0), 1e-9);
    }
  });
}

struct SavesMany {
  static constexpr const char* name = "saves_many";
  std::size_t count;
  Variable forward(FunctionContext& context, const Variable& x) {
    context.save_for_backward(std::vector<Variable>(count, x));
    return x * 2;
  }
  Variable backward(FunctionContext& context, const Variable& g) {
    return g * 2 * (context.saved().back() / context.saved().front());
  }
};

TEST(Function, SavesAsManyAsFitAndNoMore) {
  const Variable x(lmp::ones({2}), true);
  sum(apply(SavesMany{65535}, x)).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{2, 2}));
  EXPECT_THROW(apply(SavesMany{65536}, x), ValueError);
}

/// {e^x, 2 x}; the gradient reads the first result.
struct ExpAndTwice {
  Variables forward(FunctionContext& context, const Variable& x) {
    const Variable e = exp(x);
    context.save_for_backward({e});
    return {e, 2 * x};
  }
  Variable backward(FunctionContext& context, const Variables& g) {
    return g[0] * context.saved()[0] + 2 * g[1];
  }
};

TEST(Function, GradientsDependOnTheResultsThatTheyRead) {
  const Variable x = leaf({0.5, -1});
  const Variables y = apply(ExpAndTwice{}, x);
  const Variable g = grad({y[0]}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(grad({sum(g)}, {y[0]}, {.retain_graph = true})[0]), (Values{1, 1}));
  const Values e = values(y[0]);
  EXPECT_EQ(values(grad({sum(g)}, {x}, {.retain_graph = true})[0]), e);
  // Also where the pass did not come through that result, and where nobody holds it any more.
  const Variable h = grad({y[1] * y[1]}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(values(h), (Values{4, -8}));
  Variable total;
  {
    const Variables z = apply(ExpAndTwice{}, x);
    total = z[0] * z[1];
  }
  const Variable first = grad({total}, {x}, {.create_graph = true})[0];
  EXPECT_TRUE(allclose(first, (2 * x + 2) * exp(x), 1e-14));
  EXPECT_TRUE(allclose(grad({sum(first)}, {x})[0], (2 * x + 4) * exp(x), 1e-14));
  int seen = 0;
  y[0].register_hook([&](const Tensor&) { ++seen; });
  grad({sum(g)}, {x});
  EXPECT_EQ(seen, 1);
}

}  // namespace
}  // namespace lmp
