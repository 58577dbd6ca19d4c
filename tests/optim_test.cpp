#include <gtest/gtest.h>

#include <cmath>
#include <lamppp/lamppp.hpp>
#include <limits>
#include <vector>

namespace {

using lmp::DataType;
using lmp::Tensor;
using lmp::Variable;
using lmp::optim::Adam;
using lmp::optim::AdamW;
using lmp::optim::SGD;

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
                                         lmp::AdamRule{.lr = 0.02, .decoupled_decay = 0.3});
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
  AdamW adam({used, unused}, {.lr = 0.1, .decoupled_decay = 0.5});
  lmp::sum(used).backward();
  adam.step();
  EXPECT_EQ(unused.data().index({0}), 1);
  EXPECT_LT(used.data().index({0}), 1);
  EXPECT_FALSE(unused.has_grad());
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

TEST(Optim, RefusesAStateOfSomethingElse) {
  Variable w(lmp::ones({2}), true);
  SGD sgd({w}, {.momentum = 0.9});
  EXPECT_THROW(sgd.load_state({{"1.step", lmp::full({}, 1)}}), lmp::ValueError);
  EXPECT_THROW(sgd.load_state({{"0.first", lmp::ones({2})}}), lmp::ValueError);
  EXPECT_THROW(sgd.load_state({{"0.momentum", lmp::ones({3})}}), lmp::ShapeError);
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

TEST(Optim, ClipsTheNormOfAllGradientsTogether) {
  Variable a(lmp::zeros({2}), true), b(lmp::zeros({1}), true), unused(lmp::zeros({1}), true);
  lmp::sum(a * Tensor({3.0F, 0.0F}, {2})).backward();
  lmp::sum(b * 4.0).backward();
  EXPECT_DOUBLE_EQ(lmp::optim::clip_grad_norm({a, b, unused}, 10), 5);
  EXPECT_EQ(a.grad().index({0}), 3);
  EXPECT_DOUBLE_EQ(lmp::optim::clip_grad_norm({a, b, unused}, 1), 5);
  EXPECT_NEAR(a.grad().index({0}), 0.6, 1e-7);
  EXPECT_NEAR(b.grad().index({0}), 0.8, 1e-7);
  EXPECT_THROW(lmp::optim::clip_grad_norm({a}, 0), lmp::ValueError);
}

TEST(Optim, ClipsWhatOverflowsTheTypeOfTheGradient) {
  Variable h(lmp::zeros({1000, 100}).astype(DataType::Float16), true);
  lmp::sum(h * 300).backward();
  EXPECT_NEAR(lmp::optim::clip_grad_norm({h}, 1), 94868.3, 0.1);
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

}  // namespace
