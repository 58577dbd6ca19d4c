#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "autograd_support.hpp"

namespace {

using lmp::DataType;
using lmp::Tensor;
using lmp::Variable;
using lmp::optim::Adam;
using lmp::optim::AdamW;
using lmp::optim::SGD;
using lmp::testing::message_of;

// The formulas, one number at a time in double.
struct Reference {
  double p, m = 0, v = 0;
  int t = 0;
  void sgd(double g, double lr, double momentum, double decay, bool nesterov) {
    ++t;
    g += decay * p;
    m = t == 1 ? g : momentum * m + g;
    p -= lr * (nesterov ? g + momentum * m : momentum == 0 ? g : m);
  }
  void adam(double g, double lr, double decay, double decoupled) {
    ++t;
    g += decay * p;
    p *= 1 - lr * decoupled;
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    p -= lr * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
  }
};

void give(const Variable& p, double gradient) {
  p.zero_grad();
  p.incr_grad(lmp::full(p.shape(), gradient));
}

// Ten steps on sum(x^3 / 3 - x), whose gradient is x^2 - 1.
template <class Step, class Expected>
void follows(DataType type, double tolerance, Step step, Expected expected) {
  const std::vector<double> start = {0.3, -0.7, 2.0};
  Variable x(Tensor(start, {3}).astype(type), true);
  std::vector<Reference> reference;
  for (double p : start) reference.push_back({p});
  const auto optimizer = step(x);
  for (int i = 0; i < 10; ++i) {
    lmp::sum(x * x * x / 3 - x).backward();
    optimizer->step();
    optimizer->zero_grad();
    for (Reference& r : reference) expected(r, r.p * r.p - 1);
  }
  for (std::int64_t k = 0; k < 3; ++k)
    EXPECT_NEAR(x.data().index({k}), reference[static_cast<std::size_t>(k)].p, tolerance) << type;
}

TEST(Optim, StepsFollowTheFormulas) {
  for (const auto& [type, tolerance] : {std::pair{DataType::Float64, 1e-14},
                                        {DataType::Float32, 2e-6},
                                        {DataType::BFloat16, 0.06}}) {
    follows(
        type, tolerance,
        [](const Variable& x) {
          return std::make_unique<SGD>(std::vector{x}, lmp::SgdRule{.lr = 0.05});
        },
        [](Reference& r, double g) { r.sgd(g, 0.05, 0, 0, false); });
    for (bool nesterov : {false, true})
      follows(
          type, tolerance,
          [=](const Variable& x) {
            return std::make_unique<SGD>(
                std::vector{x},
                lmp::SgdRule{
                    .lr = 0.05, .momentum = 0.8, .weight_decay = 0.1, .nesterov = nesterov});
          },
          [=](Reference& r, double g) { r.sgd(g, 0.05, 0.8, 0.1, nesterov); });
    follows(
        type, tolerance,
        [](const Variable& x) {
          return std::make_unique<Adam>(std::vector{x},
                                        lmp::AdamRule{.lr = 0.02, .weight_decay = 0.1});
        },
        [](Reference& r, double g) { r.adam(g, 0.02, 0.1, 0); });
    follows(
        type, tolerance,
        [](const Variable& x) {
          return std::make_unique<AdamW>(std::vector{x},
                                         lmp::optim::AdamWOptions{.lr = 0.02, .weight_decay = 0.3});
        },
        [](Reference& r, double g) { r.adam(g, 0.02, 0, 0.3); });
  }
}

TEST(Optim, FindsTheMinimum) {
  const Tensor target({3.0F, -2.0F}, {2});
  const auto distance = [&](auto& optimizer, const Variable& x) {
    for (int i = 0; i < 500; ++i) {
      lmp::sum(lmp::square(x - target)).backward();
      optimizer.step();
      optimizer.zero_grad();
    }
    return lmp::max(lmp::abs(x.data() - target)).item();
  };
  Variable x(lmp::zeros({2}), true), y(lmp::zeros({2}), true);
  SGD sgd({x}, {.lr = 0.05, .momentum = 0.5});
  EXPECT_LT(distance(sgd, x), 1e-5);
  Adam adam({y}, {.lr = 0.05});
  EXPECT_LT(distance(adam, y), 1e-3);
}

TEST(Optim, LeavesOutWhatHasNoGradient) {
  Variable used(lmp::ones({2}), true), unused(lmp::ones({2}), true);
  AdamW adam({used, unused}, {.lr = 0.1, .weight_decay = 0.5});
  lmp::sum(used).backward();
  adam.step();
  EXPECT_EQ(unused.data().index({0}), 1);
  EXPECT_LT(used.data().index({0}), 1);
  EXPECT_FALSE(unused.has_grad());
  EXPECT_EQ(AdamW({used}, {.lr = 0.1}).options().decoupled_decay, 0.01);
  EXPECT_EQ(adam.state().at("0.step").item(), 1);
  EXPECT_EQ(adam.state().at("1.step").item(), 0);
  adam.zero_grad();
  EXPECT_FALSE(used.has_grad());
}

TEST(Optim, AGraphNoticesThatAParameterMoved) {
  Variable w(lmp::ones({2}), true);
  const Variable loss = lmp::sum(w * w);
  SGD sgd({w}, {.lr = 0.1});
  loss.backward({.retain_graph = true});
  sgd.step();
  EXPECT_THROW(loss.backward(), lmp::AutogradError);
}

TEST(Optim, GoesOnFromASavedStateBitForBit) {
  const auto train = [](Adam& adam, const Variable& w, int steps) {
    for (int i = 0; i < steps; ++i) {
      lmp::sum(lmp::exp(w) - w * 2).backward();
      adam.step();
      adam.zero_grad();
    }
  };
  const Tensor start = lmp::linspace(-1, 1, 7).astype(DataType::Float32);
  Variable whole(start.clone(), true), half(start.clone(), true);
  Adam through({whole}, {.lr = 0.1});
  train(through, whole, 9);
  Adam first({half}, {.lr = 0.1});
  train(first, half, 4);
  const auto state = first.state();
  train(first, half, 1);  // the copy does not move on
  Variable rest(start.clone(), true);
  {
    Adam again({rest}, {.lr = 0.1});
    train(again, rest, 4);
  }
  Adam second({rest}, {.lr = 0.1});
  second.load_state(state);
  train(second, rest, 5);
  EXPECT_TRUE(lmp::array_equal(whole.data(), rest.data()));
}

// As PyTorch does: the first momentum is the gradient, whenever that is.
TEST(Optim, AMomentumOfLaterBeginsWithTheGradient) {
  Variable p(lmp::zeros({1}), true);
  SGD sgd({p}, {.lr = 1, .dampening = 0.5});
  give(p, 1);
  sgd.step();
  EXPECT_EQ(p.item(), -1);
  sgd.options().momentum = 0.5;
  sgd.step();
  EXPECT_EQ(p.item(), -2);
  sgd.step();  // 0.5 * 1 + (1 - 0.5) * 1
  EXPECT_EQ(p.item(), -3);
  give(p, 2);
  sgd.step();  // 0.5 * 1 + (1 - 0.5) * 2
  EXPECT_EQ(p.item(), -4.5);

  // A state of an optimiser that had no momentum.
  Variable q(lmp::zeros({1}), true);
  SGD plain({q}, {.lr = 1}), later({q}, {.lr = 1, .momentum = 0.5, .dampening = 0.5});
  give(q, 1);
  plain.step();
  later.load_state(plain.state());
  later.step();
  EXPECT_EQ(q.item(), -2);

  // One that had: it goes on.
  give(q, 4);
  SGD third({q}, {.lr = 1, .momentum = 0.5, .dampening = 0.5});
  third.load_state(later.state());
  third.step();  // 0.5 * 1 + (1 - 0.5) * 4
  EXPECT_EQ(q.item(), -4.5);
}

TEST(Optim, RefusesAStateOfSomethingElse) {
  Variable w(lmp::ones({2}), true);
  SGD sgd({w}, {.momentum = 0.9});
  EXPECT_THROW(sgd.load_state({{"1.step", lmp::full({}, 1)}}), lmp::ValueError);
  EXPECT_THROW(sgd.load_state({{"0.first", lmp::ones({2})}}), lmp::ValueError);
  EXPECT_THROW(sgd.load_state({{"0.momentum", lmp::ones({3})}}), lmp::ShapeError);
  EXPECT_THROW(sgd.load_state({{"0.momentum", lmp::ones({2})}}), lmp::ValueError);
  Adam adam({w});
  lmp::sum(w).backward();
  adam.step();
  const auto state = adam.state();
  for (const char* name : {"0.step", "0.first", "0.second"}) {
    auto part = state;
    part.erase(name);
    EXPECT_THROW(adam.load_state(part), lmp::ValueError) << name;
  }
  EXPECT_EQ(adam.state().at("0.step").item(), 1);
}

TEST(Optim, SaysWhatIsWrong) {
  const Variable leaf(lmp::ones({2}), true), constant(lmp::ones({2}));
  EXPECT_THROW(SGD({}), lmp::ValueError);
  EXPECT_THROW(SGD({leaf, leaf}), lmp::ValueError);
  EXPECT_THROW(SGD({constant}), lmp::AutogradError);
  EXPECT_THROW(SGD({leaf * 2}), lmp::AutogradError);
  try {
    SGD({leaf, constant});
    FAIL();
  } catch (const lmp::AutogradError& error) {
    EXPECT_STREQ(error.what(),
                 "SGD: parameter 1 does not require a gradient; give leaves, made with "
                 "Variable(tensor, true)");
  }
  EXPECT_EQ(message_of<lmp::ValueError>([&] { AdamW({leaf}, {.beta1 = 1}).step(); }),
            "AdamW: beta1 is 1.000000, it has to be in [0, 1)");
  EXPECT_EQ(message_of<lmp::ValueError>([&] { Adam({leaf}, {.beta1 = 1}).step(); }),
            "Adam: beta1 is 1.000000, it has to be in [0, 1)");
  const auto refuses = [&](auto optimizer) { EXPECT_THROW(optimizer->step(), lmp::ValueError); };
  const auto sgd = [&](const lmp::SgdRule& rule) {
    return std::make_unique<SGD>(std::vector{leaf}, rule);
  };
  const auto adam = [&](const lmp::AdamRule& rule) {
    return std::make_unique<Adam>(std::vector{leaf}, rule);
  };
  refuses(sgd({.lr = -1}));
  refuses(sgd({.lr = std::numeric_limits<double>::quiet_NaN()}));
  refuses(sgd({.momentum = -0.1}));
  refuses(sgd({.nesterov = true}));
  refuses(adam({.beta1 = 1}));
  refuses(adam({.beta2 = -0.1}));
  refuses(adam({.decoupled_decay = -1}));
}

TEST(Optim, MastersAddUpWhatIsTooSmallForHalves) {
  const auto train = [](auto make, DataType type, bool restored) {
    Variable x(lmp::full({40}, 1.0).astype(type), true);
    auto optimizer = make(x);
    for (int step = 0; step < 200; ++step) {
      optimizer->zero_grad();
      x.incr_grad(lmp::full({40}, 0.5).astype(type));
      optimizer->step();
      if (restored && step == 99) {
        const auto state = optimizer->state();
        EXPECT_EQ(state.at("0.master").type(), DataType::Float32);
        optimizer = make(x);
        optimizer->load_state(state);
      }
    }
    return x.data();
  };
  const auto sgd = [](bool masters) {
    return [=](const Variable& x) {
      return std::make_unique<SGD>(std::vector{x}, lmp::SgdRule{.lr = 1e-4, .masters = masters});
    };
  };
  const auto adam = [](const Variable& x) {
    return std::make_unique<AdamW>(std::vector{x},
                                   lmp::optim::AdamWOptions{.lr = 1e-4, .masters = true});
  };
  for (const DataType type : {DataType::BFloat16, DataType::Float16}) {
    for (const bool restored : {false, true}) {
      const auto halves = [&](const Tensor& x) { return x.astype(type).to_vector<float>(); };
      EXPECT_EQ(halves(train(sgd(true), type, restored)),
                halves(train(sgd(false), DataType::Float32, false)));
      EXPECT_EQ(halves(train(adam, type, restored)), halves(train(adam, DataType::Float32, false)));
    }
  }
  EXPECT_EQ(train(sgd(false), DataType::BFloat16, false).index({0}), 1) << "without";
}

TEST(Optim, AMasterFollowsAParameterThatIsWritten) {
  Variable x(lmp::zeros({3}).astype(DataType::BFloat16), true);
  SGD sgd({x}, {.lr = 1, .masters = true});
  for (int step = 0; step < 2; ++step) {
    x.zero_grad();
    x.incr_grad(lmp::ones({3}).astype(DataType::BFloat16));
    sgd.step();
    if (step == 0) x.data().fill(100);
  }
  EXPECT_EQ(x.data().index({0}), 99);
  const Tensor wide = lmp::ones({2});
  EXPECT_THROW(
      lmp::sgd_step(
          {{.parameter = wide, .gradient = wide.clone(), .first = {}, .master = wide.clone()}}, {}),
      lmp::TypeError);
}

TEST(Optim, ClipsTheNormOfAllGradientsTogether) {
  Variable a(lmp::zeros({2}), true), b(lmp::zeros({1}), true), unused(lmp::zeros({1}), true);
  lmp::sum(a * Tensor({3.0F, 0.0F}, {2})).backward();
  lmp::sum(b * 4.0).backward();
  EXPECT_DOUBLE_EQ(lmp::optim::clip_grad_norm({a, b, unused}, 10).item(), 5);
  EXPECT_EQ(a.grad().index({0}), 3);
  EXPECT_DOUBLE_EQ(lmp::optim::clip_grad_norm({a, b, unused}, 1).item(), 5);
  EXPECT_NEAR(a.grad().index({0}), 0.6, 1e-7);
  EXPECT_NEAR(b.grad().index({0}), 0.8, 1e-7);
  EXPECT_THROW(lmp::optim::clip_grad_norm({a}, 0), lmp::ValueError);
}

TEST(Optim, ClipsWhatOverflowsTheTypeOfTheGradient) {
  Variable h(lmp::zeros({1000, 100}).astype(DataType::Float16), true);
  lmp::sum(h * 300).backward();
  EXPECT_NEAR(lmp::optim::clip_grad_norm({h}, 1).item(), 94868.3, 0.1);
  EXPECT_NEAR(h.grad().index({0, 0}), 1 / std::sqrt(1e5), 1e-5);
}

TEST(Optim, AStepThatThrowsDoesNotCount) {
  Variable fine(lmp::ones({1}), true);
  Variable repeated(lmp::broadcast_to(lmp::ones({1}), {3}), true);
  Adam adam({fine, repeated}, {.lr = 1});
  lmp::sum(fine).backward();
  lmp::sum(repeated).backward();
  EXPECT_THROW(adam.step(), lmp::Error);
  EXPECT_EQ(adam.state().at("0.step").item(), 0);
  EXPECT_EQ(fine.data().index({0}), 1);
}

TEST(Optim, AScheduleChangesTheOptions) {
  Variable w(lmp::zeros({1}), true);
  SGD sgd({w}, {.lr = 1});
  for (double lr : {1.0, 0.5, 0.25}) {
    sgd.options().lr = lr;
    lmp::sum(w).backward();
    sgd.step();
    sgd.zero_grad();
  }
  EXPECT_DOUBLE_EQ(w.data().index({0}), -1.75);
}

// An optimiser of one class or another: the destructor of the base is no way to destroy one.
struct AnyOptimizer {
  std::shared_ptr<lmp::optim::Optimizer> base;
  std::function<void()> step;
};
struct Kind {
  const char* name;
  std::function<AnyOptimizer(const std::vector<Variable>&)> make;
};
template <class T, class Rule>
Kind kind(const char* name, const Rule& rule) {
  return {name, [rule](const std::vector<Variable>& parameters) {
            const auto made = std::make_shared<T>(parameters, rule);
            return AnyOptimizer{made, [made] { made->step(); }};
          }};
}
const Kind kKinds[] = {
    kind<SGD>("SGD", lmp::SgdRule{.lr = 0.1}),
    kind<SGD>("momentum", lmp::SgdRule{.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-4}),
    kind<SGD>("Nesterov", lmp::SgdRule{.lr = 0.05, .momentum = 0.9, .nesterov = true}),
    kind<Adam>("Adam", lmp::AdamRule{.lr = 0.05}),
    kind<AdamW>("AdamW", lmp::optim::AdamWOptions{.lr = 0.05, .weight_decay = 1e-3})};

// A perceptron that learns a product of two numbers.
struct Model {
  std::vector<Variable> parameters;
  Tensor input, target;

  explicit Model(DataType type = DataType::Float32, std::int64_t rows = 64,
                 std::int64_t width = 16) {
    lmp::Generator generator(4);
    const auto draw = [&](const lmp::Shape& shape) {
      return lmp::randn(generator, 0, 1, shape).astype(type);
    };
    input = draw({rows, 2});
    target = (input.select(1, 0) * input.select(1, 1)).reshape({rows, 1});
    for (const Tensor& t : {draw({width, 2}), draw({width}), draw({1, width}) * 0.1, draw({1})})
      parameters.emplace_back(t, true);
  }

  double step(const AnyOptimizer& optimizer) const {
    optimizer.base->zero_grad();
    const Variable hidden = lmp::linear(input, parameters[0], parameters[1], lmp::Activation::Tanh);
    const Variable loss =
        lmp::mean(lmp::square(lmp::linear(hidden, parameters[2], parameters[3]) - target));
    loss.backward();
    optimizer.step();
    return loss.item();
  }

  std::vector<double> values() const {
    std::vector<double> out;
    for (const Variable& p : parameters)
      for (const double v : p.to_vector<double>()) out.push_back(v);
    return out;
  }
};

TEST(Optim, EveryKindLearns) {
  for (const Kind& kind : kKinds) {
    const Model model;
    const AnyOptimizer optimizer = kind.make(model.parameters);
    const double first = model.step(optimizer);
    for (int i = 0; i < 500; ++i) model.step(optimizer);
    EXPECT_LT(model.step(optimizer), 0.1 * first) << kind.name;
  }
}

TEST(Optim, ARestoredStateContinuesBitForBit) {
  for (const Kind& kind : kKinds) {
    for (const DataType type : {DataType::Float32, DataType::BFloat16, DataType::Float64}) {
      const Model model(type), copy(type);
      const AnyOptimizer optimizer = kind.make(model.parameters);
      for (int i = 0; i < 5; ++i) model.step(optimizer);
      const auto saved = optimizer.base->state();
      for (std::size_t i = 0; i < copy.parameters.size(); ++i)
        copy.parameters[i].data().copy(model.parameters[i].data());
      for (int i = 0; i < 5; ++i) model.step(optimizer);

      const AnyOptimizer restored = kind.make(copy.parameters);
      restored.base->load_state(saved);
      for (int i = 0; i < 5; ++i) copy.step(restored);
      EXPECT_EQ(copy.values(), model.values()) << kind.name << ' ' << type;
      const auto end = optimizer.base->state(), other = restored.base->state();
      ASSERT_EQ(end.size(), other.size());
      for (const auto& [name, value] : end)
        EXPECT_TRUE(lmp::array_equal(value, other.at(name))) << kind.name << ' ' << name;
    }
  }
}

TEST(Optim, SameBitsOnAnyNumberOfThreads) {
  const int before = lmp::get_num_threads();
  for (const Kind& kind : kKinds) {
    std::vector<double> expected;
    for (const int threads : {1, 2, 3, 8}) {
      lmp::set_num_threads(threads);
      const Model model(DataType::Float32, 16, 40000);
      const AnyOptimizer optimizer = kind.make(model.parameters);
      std::vector<double> found;
      for (int i = 0; i < 3; ++i) {
        model.step(optimizer);
        found.push_back(lmp::optim::clip_grad_norm(model.parameters, 0.5).item());
      }
      for (const double v : model.values()) found.push_back(v);
      if (threads == 1) expected = found;
      EXPECT_TRUE(found == expected) << kind.name << " on " << threads << " threads";
    }
  }
  lmp::set_num_threads(before);
}

TEST(Optim, ManyStepsHoldTheSameMemory) {
  const std::int64_t outside = lmp::testing::live_bytes();
  for (const Kind& kind : kKinds) {
    const Model model(DataType::Float32, 4, 4);
    const AnyOptimizer optimizer = kind.make(model.parameters);
    std::int64_t settled = 0;
    for (int i = 0; i < 1000; ++i) {
      model.step(optimizer);
      lmp::optim::clip_grad_norm(model.parameters, 1);
      if (i == 3) settled = lmp::testing::live_bytes();
      if (i > 3) {
        ASSERT_EQ(lmp::testing::live_bytes(), settled) << kind.name << " step " << i;
      }
    }
  }
  EXPECT_EQ(lmp::testing::live_bytes(), outside);
}

TEST(Optim, StepsOfEveryKindCountAsVersionsAndAreNotRecorded) {
  for (const Kind& kind : kKinds) {
    const Variable p(lmp::ones({2}), true);
    const AnyOptimizer optimizer = kind.make({p});
    const Variable y = lmp::sum(p * p);  // saves p
    give(p, 1);
    optimizer.step();
    EXPECT_TRUE(p.is_leaf() && p.requires_grad());
    EXPECT_THROW(y.backward(), lmp::AutogradError) << kind.name;
  }
}

TEST(Optim, ParametersOfSeveralTypesInOneStep) {
  std::vector<Variable> p;
  for (const auto& [shape, type] : {std::pair{lmp::Shape{2}, DataType::Float64},
                                    {lmp::Shape{3}, DataType::Float32},
                                    {lmp::Shape{0, 4}, DataType::Float32},
                                    {lmp::Shape{0, 4}, DataType::Float32},
                                    {lmp::Shape{}, DataType::BFloat16}})
    p.emplace_back(lmp::full(shape, 1, lmp::DeviceType::CPU, type), true);
  SGD sgd(p, {.lr = 0.5});
  for (const Variable& x : p) give(x, 1);
  sgd.step();
  for (const Variable& x : p) EXPECT_TRUE(lmp::all(x.data() == 0.5).item() != 0) << x;
}

// What a Float16 cannot hold: the square of the gradient.
TEST(Optim, StateOfHalvesIsFloat) {
  for (const DataType type :
       {DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64}) {
    const Variable p(lmp::ones({3}).astype(type), true);
    Adam adam({p}, {.lr = 0.5});
    give(p, 1e-4);
    adam.step();
    EXPECT_EQ(p.type(), type);
    EXPECT_NEAR(p.data().index({0}), 0.5, 1e-3) << type;
    const Tensor second = adam.state().at("0.second");
    EXPECT_EQ(second.type(), type == DataType::Float64 ? DataType::Float64 : DataType::Float32);
    EXPECT_GT(lmp::min(second).item(), 0);
  }
}

// Adam's correction of a parameter that joins later starts with its own first step.
TEST(Optim, EachParameterCountsItsSteps) {
  const Variable early(lmp::ones({1}), true), late(lmp::ones({1}), true);
  Adam adam({early, late}, {.lr = 0.25});
  for (int i = 0; i < 3; ++i) {
    give(early, 2);
    adam.step();
  }
  give(late, 2);
  adam.step();
  EXPECT_NEAR(late.item(), 0.75, 1e-6);
  EXPECT_EQ(adam.state().at("0.step").item(), 4);
  EXPECT_EQ(adam.state().at("1.step").item(), 1);
}

// A gradient is not held between steps, so the next pass adds into the memory that is there.
TEST(Optim, LeavesTheGradientToThePass) {
  const Variable p(lmp::ones({1000}), true);
  Adam adam({p});
  give(p, 1);
  adam.step();
  const void* const memory = p.grad().data();
  const std::int64_t before = lmp::testing::live_bytes();
  p.incr_grad(lmp::ones({1000}));
  EXPECT_EQ(p.grad().data(), memory);
  EXPECT_EQ(lmp::testing::live_bytes(), before);
}

TEST(Optim, StateIsACopyByName) {
  const Variable p(lmp::ones({2}), true), q(lmp::ones({3}), true), unused(lmp::ones({1}), true);
  SGD sgd({p, q, unused}, {.lr = 0.5, .momentum = 0.5});
  give(p, 1);
  give(q, 2);
  sgd.step();
  auto state = sgd.state();
  std::vector<std::string> names;
  for (const auto& [name, value] : state) names.push_back(name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"0.momentum", "0.step", "1.momentum", "1.step", "2.step"}));
  EXPECT_TRUE(lmp::array_equal(state["1.momentum"], lmp::full({3}, 2)));
  state["1.momentum"].fill(100);
  EXPECT_TRUE(lmp::array_equal(sgd.state().at("1.momentum"), lmp::full({3}, 2)));
  sgd.load_state(state);
  state["1.momentum"].fill(7);
  EXPECT_TRUE(lmp::array_equal(sgd.state().at("1.momentum"), lmp::full({3}, 100)));
  sgd.load_state({});
  EXPECT_EQ(sgd.state().count("1.momentum"), 0u);
}

TEST(Optim, LoadsAStateInAnyLayout) {
  const Variable p(lmp::ones({2, 3}), true);
  SGD sgd({p}, {.lr = 1, .momentum = 1});
  give(p, 0);
  sgd.step();
  auto state = sgd.state();
  state["0.momentum"] = lmp::transpose(lmp::arange(6).reshape({3, 2}).astype(DataType::Float32));
  sgd.load_state(state);
  sgd.step();
  EXPECT_TRUE(lmp::array_equal(p.data(), 1 - state["0.momentum"]));
}

// Parts of one tensor are parameters of their own as long as they share no element.
TEST(Optim, RefusesParametersThatShareElements) {
  const Tensor all = lmp::ones({4, 4});
  const auto rows = [&](std::int64_t begin, std::int64_t end) {
    return Variable(all.slice(0, begin, end), true);
  };
  const auto step = [](const std::vector<Variable>& parameters) {
    Adam adam(parameters);
    for (const Variable& p : parameters) give(p, 1);
    adam.step();
  };
  step({rows(0, 2), rows(2, 4)});
  EXPECT_THROW(step({rows(0, 3), rows(2, 4)}), lmp::ValueError);
  EXPECT_EQ(message_of<lmp::ValueError>([&] {
              step({rows(2, 3), Variable(all, true), rows(2, 4)});
            }),
            "Adam: parameters 0 and 2 are the same; give each once");
}

TEST(Optim, ClipLeavesWhatIsNotFinite) {
  const std::vector<Variable> p = {Variable(lmp::ones({2}), true), Variable(lmp::ones({1}), true)};
  EXPECT_EQ(lmp::optim::clip_grad_norm(p, 1).item(), 0);  // no gradient has arrived
  EXPECT_FALSE(p[0].has_grad());
  give(p[0], 3);
  for (const double bad : {INFINITY, NAN}) {
    give(p[1], bad);
    EXPECT_FALSE(std::isfinite(lmp::optim::clip_grad_norm(p, 1).item()));
    EXPECT_EQ(p[0].grad().index({0}), 3);
  }
  EXPECT_THROW(lmp::optim::clip_grad_norm(p, NAN), lmp::ValueError);
}

TEST(Optim, AStepThatThrowsLeavesTheStateAsItWas) {
  const Tensor all = lmp::ones({4});
  const Variable a(all.slice(0, 0, 3), true), b(all.slice(0, 1, 4), true);
  Adam adam({a, b}, {.lr = 0.1});
  give(a, 1);
  give(b, 1);
  EXPECT_THROW(adam.step(), lmp::ValueError);  // they share elements
  for (const auto& [name, value] : adam.state()) {
    EXPECT_TRUE(name == "0.step" || name == "1.step") << name;
    EXPECT_EQ(value.item(), 0);
  }
  adam.load_state(adam.state());
}

TEST(Optim, ANewStateThatMemoryIsMissingForIsNotKept) {
  const Variable a(lmp::ones({8}), true), b(lmp::ones({1 << 22}), true);
  Adam adam({a, b}, {.lr = 0.1});
  give(a, 1);
  give(b, 1);
  {
    lmp::empty_cache();
    const lmp::testing::MemoryLeft left(1 << 20);
    EXPECT_THROW(adam.step(), lmp::OutOfMemoryError);
  }
  EXPECT_EQ(adam.state().size(), 2U);
  adam.step();
  EXPECT_EQ(adam.state().at("0.step").item(), 1);
  EXPECT_NEAR(a.data().index({0}), 0.9, 1e-6);
}

TEST(Optim, LoadStateRefusesWhatStateCannotHaveGiven) {
  const Variable p(lmp::ones({2}), true);
  SGD sgd({p}, {.momentum = 0.9});
  EXPECT_THROW(sgd.load_state({{"0.step", lmp::full({}, 0)}, {"0.master", lmp::ones({2})}}),
               lmp::ValueError);
  EXPECT_THROW(sgd.load_state({{"0.step", lmp::full({}, std::numeric_limits<std::int64_t>::max())},
                               {"0.momentum", lmp::ones({2})}}),
               lmp::ValueError);
}

}  // namespace
