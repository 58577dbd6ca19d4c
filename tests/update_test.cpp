// The fused steps of optimisers beside the same formulas made of ops in Float64.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "autograd_support.hpp"
#include "sweep.hpp"

namespace lmp {
namespace {

using tensor::AdamRule;
using tensor::ParameterUpdate;
using tensor::SgdRule;

constexpr DataType kFloats[] = {DataType::Float32, DataType::Float64, DataType::Float16,
                                DataType::BFloat16};

double tolerance(DataType type) {
  return type == DataType::Float64   ? 1e-13
         : type == DataType::Float32 ? 2e-6
         : type == DataType::Float16 ? 4e-3
                                     : 3e-2;
}

// A tensor with the values of `x` that a step sees in a certain layout.
using LayoutOf = std::function<Tensor(const Tensor&)>;
const std::pair<const char*, LayoutOf> kLayouts[] = {
    {"dense", [](const Tensor& x) { return x.clone(); }},
    {"transposed",
     [](const Tensor& x) { return lmp::transpose(lmp::contiguous(lmp::transpose(x))); }},
    {"every second", [](const Tensor& x) {
       const Tensor wide = lmp::zeros({2 * static_cast<std::int64_t>(x.shape().dim(0)),
                                       static_cast<std::int64_t>(x.shape().dim(1))},
                                      x.device(), x.type());
       Tensor view = lmp::slice(wide, 0, 1, std::nullopt, 2);
       view.copy(x);
       return view;
     }}};

Tensor wide(const Tensor& x) { return x.astype(DataType::Float64); }

void expect_near(const Tensor& found, const Tensor& expected, double tolerance,
                 const std::string& what) {
  EXPECT_TRUE(allclose(wide(found), wide(expected), tolerance, tolerance)) << what << '\n'
                                                                           << found << expected;
}

// Runs four steps of `step` on parameters of several shapes, and of `formula` on copies of them in
// Float64: formula(p, g, first, second, t).
template <class Step, class Formula>
void check(const std::string& name, int states, Step step, Formula formula) {
  for (const DataType type : kFloats) {
    for (const auto& [layout, as] : kLayouts) {
      Generator generator(5);
      std::vector<ParameterUpdate> updates;
      std::vector<Tensor> p, m, v;
      for (const Shape& shape : {Shape{3, 5}, Shape{1, 1}, Shape{0, 4}, Shape{70, 33}}) {
        const Tensor start = lmp::randn(generator, 0, 1, shape).astype(type);
        const DataType state = tensor::update_state_type(type);
        updates.push_back({as(start), {}, {}, {}, 0});
        if (states > 0) updates.back().first = lmp::zeros(shape, start.device(), state);
        if (states > 1) updates.back().second = lmp::zeros(shape, start.device(), state);
        p.push_back(wide(start).clone());
        m.push_back(lmp::zeros(shape, start.device(), DataType::Float64));
        v.push_back(m.back().clone());
      }
      for (int t = 1; t <= 4; ++t) {
        for (ParameterUpdate& u : updates) {
          u.gradient = as(lmp::randn(generator, 0, 1, u.parameter.shape()).astype(type));
          u.step = t;
        }
        step(updates);
        for (std::size_t i = 0; i < updates.size(); ++i) {
          formula(p[i], wide(updates[i].gradient), m[i], v[i], t);
          expect_near(updates[i].parameter, p[i], tolerance(type),
                      name + ' ' + layout + ' ' + std::to_string(t));
          p[i] = wide(updates[i].parameter).clone();  // halves were rounded
        }
      }
    }
  }
}

TEST(Update, Sgd) {
  const SgdRule rules[] = {
      {.lr = 0.1},
      {.lr = 0.1, .weight_decay = 0.2, .maximize = true},
      {.lr = 0.1, .momentum = 0.9},
      {.lr = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1},
      {.lr = 0.1, .momentum = 0.8, .weight_decay = 0.1, .nesterov = true, .maximize = true}};
  for (const SgdRule& rule : rules) {
    check(
        "sgd", rule.momentum != 0 ? 1 : 0,
        [&](const std::vector<ParameterUpdate>& all) { lmp::sgd_step(all, rule); },
        [&](Tensor& p, Tensor g, Tensor& m, Tensor&, int t) {
          g = (rule.maximize ? -g : g) + rule.weight_decay * p;
          m = t == 1 ? g : rule.momentum * m + (1 - rule.dampening) * g;
          p = p - rule.lr * (rule.momentum == 0 ? g : rule.nesterov ? g + rule.momentum * m : m);
        });
  }
}

TEST(Update, Adam) {
  const AdamRule rules[] = {
      {.lr = 0.1},
      {.lr = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.2, .maximize = true},
      {.lr = 0.1, .decoupled_decay = 0.3}};
  for (const AdamRule& rule : rules) {
    check(
        "adam", 2, [&](const std::vector<ParameterUpdate>& all) { lmp::adam_step(all, rule); },
        [&](Tensor& p, Tensor g, Tensor& m, Tensor& v, int t) {
          p = p * (1 - rule.lr * rule.decoupled_decay);
          g = (rule.maximize ? -g : g) + rule.weight_decay * p;
          m = rule.beta1 * m + (1 - rule.beta1) * g;
          v = rule.beta2 * v + (1 - rule.beta2) * g * g;
          p = p - rule.lr * (m / (1 - std::pow(rule.beta1, t))) /
                      (lmp::sqrt(v / (1 - std::pow(rule.beta2, t))) + rule.eps);
        });
  }
}

TEST(Update, SameBitsOnAnyNumberOfThreads) {
  const auto run = [](int threads) {
    lmp::set_num_threads(threads);
    Generator generator(8);
    std::vector<ParameterUpdate> updates;
    for (const std::int64_t n : {7, 100000, 33, 70001}) {
      const auto draw = [&] { return lmp::randn(generator, 0, 1, {n}); };
      updates.push_back({draw(), draw(), draw(), lmp::abs(draw()), 3});
    }
    lmp::adam_step(updates, {.weight_decay = 0.1});
    lmp::sgd_step(updates, {.momentum = 0.9, .nesterov = true});
    std::vector<Tensor> out;
    for (const ParameterUpdate& u : updates) out.push_back(u.parameter);
    return lmp::cat(out);
  };
  const int before = lmp::get_num_threads();
  const Tensor one = run(1);
  for (const int threads : {2, 3, 8}) EXPECT_TRUE(array_equal(one, run(threads))) << threads;
  lmp::set_num_threads(before);
}

TEST(Update, LeavesParametersWithoutAGradient) {
  const Tensor p = lmp::ones({3}), q = lmp::ones({2});
  const std::uint32_t before = p.version();
  lmp::sgd_step({{p, {}, {}}, {q, lmp::ones({2}), {}}}, {.lr = 0.5});
  EXPECT_TRUE(array_equal(p, lmp::ones({3})));
  EXPECT_EQ(p.version(), before);
  EXPECT_TRUE(array_equal(q, lmp::full({2}, 0.5)));
  EXPECT_GT(q.version(), 0u);
  lmp::sgd_step({}, {});
  lmp::adam_step({{p, {}, {}}}, {});
}

TEST(Update, RefusesToWriteMemoryTwice) {
  const Tensor all = lmp::ones({4, 4}), g = lmp::ones({2, 4});
  const auto rows = [&](std::int64_t begin) { return all.slice(0, begin, begin + 2); };
  const auto step = [](const std::vector<ParameterUpdate>& updates) { lmp::sgd_step(updates, {}); };
  step({{rows(0), g, {}}, {rows(2), g, {}}});
  EXPECT_TRUE(array_equal(all, lmp::full({4, 4}, 0.999f)));
  EXPECT_EQ(testing::message_of<ValueError>([&] {
              step({{lmp::ones({1}), lmp::ones({1}), {}}, {rows(2), g, {}}, {rows(1), g, {}}});
            }),
            "sgd_step: updates 1 and 2 write the same memory; list a parameter once, with a state "
            "of its own, and clone() what shares elements");
  EXPECT_TRUE(array_equal(all, lmp::full({4, 4}, 0.999f)));
  step({{rows(0), g, {}}, {rows(0), {}, {}}});  // the second one is not written
  step({{all.slice(0, 0, 0), lmp::ones({0, 4}), {}}, {rows(0), g, {}}});

  // Columns between others.
  const auto columns = [&](std::int64_t begin) { return all.slice(1, begin, begin + 2); };
  const Tensor tall = lmp::ones({4, 2});
  step({{columns(0), tall, {}}, {columns(2), tall, {}}});
  EXPECT_THROW(step({{columns(2), tall, {}}, {columns(2), tall, {}}}), ValueError);

  // States.
  const Tensor p = lmp::ones({2}), q = lmp::ones({2}), m = lmp::zeros({2}), n = lmp::zeros({2});
  EXPECT_THROW(lmp::sgd_step({{p, p, m}, {q, q, m}}, {.momentum = 0.5}), ValueError);
  EXPECT_THROW(lmp::adam_step({{p, p, m, m}}, {}), ValueError);
  EXPECT_THROW(lmp::adam_step({{p, p, m, p}}, {}), ValueError);
  lmp::adam_step({{p, p, m, n}}, {});

  // One array under two storages.
  float values[4] = {};
  const auto part = [&](int at) { return Tensor::from_blob(values + at, {2}, DataType::Float32); };
  step({{part(0), lmp::ones({2}), {}}, {part(2), lmp::ones({2}), {}}});
  EXPECT_THROW(step({{part(0), lmp::ones({2}), {}}, {part(1), lmp::ones({2}), {}}}), ValueError);
}

TEST(Update, NoDecayOfWhatIsInfinite) {
  const Tensor p({INFINITY, 1.0f}, {2});
  lmp::sgd_step({{p, lmp::ones({2}), {}}}, {.lr = 0.5});
  EXPECT_TRUE(array_equal(p, Tensor({INFINITY, 0.5f}, {2})));
}

TEST(Update, Errors) {
  const Tensor p = lmp::ones({2, 3}), g = lmp::ones({2, 3}), m = lmp::zeros({2, 3});
  EXPECT_THROW(lmp::sgd_step({{p, lmp::ones({3, 2}), {}}}, {}), ShapeError);
  EXPECT_THROW(lmp::sgd_step({{p, g.astype(DataType::Float64), {}}}, {}), TypeError);
  EXPECT_THROW(lmp::sgd_step({{Tensor(), g, {}}}, {}), Error);
  EXPECT_THROW(lmp::sgd_step({{p, g, {}}}, {.momentum = 0.5}), Error);
  EXPECT_THROW(lmp::sgd_step({{p, g, m.astype(DataType::Float64)}}, {.momentum = 0.5}), TypeError);
  EXPECT_THROW(lmp::sgd_step({{p, g, lmp::transpose(lmp::zeros({3, 2}))}}, {.momentum = 0.5}),
               ShapeError);
  EXPECT_THROW(lmp::adam_step({{p, g, m, lmp::zeros({3})}}, {}), ShapeError);
  const Tensor whole = lmp::ones({2}).astype(DataType::Int64);
  EXPECT_THROW(lmp::sgd_step({{whole, whole, {}}}, {}), TypeError);
  EXPECT_THROW(lmp::sgd_step({{lmp::expand(lmp::ones({1, 3}), {2, 3}), g, {}}}, {}), ValueError);
  EXPECT_TRUE(array_equal(p, g));  // nothing was written
}

}  // namespace
}  // namespace lmp
