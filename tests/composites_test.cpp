// The composites beside their definitions out of other ops in Float64, over types, layouts and
// shapes; their errors; and that threads change nothing.

#include "lamppp/lamppp.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>

#include "gradient_cases.hpp"

namespace lmp {
namespace {

using testing::indices;

constexpr DataType kFloats[] = {DataType::Float64, DataType::Float32, DataType::Float16,
                                DataType::BFloat16};

double tolerance(DataType type) {
  return type == DataType::Float64   ? 1e-12
         : type == DataType::Float32 ? 1e-5
         : type == DataType::Float16 ? 1e-2
                                     : 8e-2;
}

using Inputs = std::vector<Variable>;
using Function = std::function<Variable(const Inputs&)>;

void expect_near(const Tensor& found, const Tensor& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.shape(), expected.shape()) << what;
  EXPECT_TRUE(allclose(found.astype(DataType::Float64), expected.astype(DataType::Float64),
                       tolerance, tolerance, true))
      << what << '\n'
      << found << '\n'
      << expected;
}

// Value and gradients of `op` beside those of `definition` at the same values in Float64, for all
// floating types and layouts; and what comes without a graph is the same bits. Gradients with kinks
// are not compared in halves, whose rounding may end up on the other side.
void check(const std::string& name, const std::vector<Shape>& shapes, const Function& op,
           const Function& definition, double scale = 1, bool kinks = false) {
  for (const DataType type : kFloats) {
    for (const testing::Layout& layout : testing::kLayouts) {
      Generator generator(3);
      Inputs bases, in, wide;
      for (const Shape& shape : shapes) {
        const Tensor base = scale * lmp::randn(generator, 0, 1, layout.base(shape));
        bases.emplace_back(base.astype(type), true);
        in.push_back(layout.view(bases.back(), shape));
        wide.emplace_back(in.back().data().astype(DataType::Float64).clone(), true);
      }
      const std::string what =
          name + ' ' + layout.name + ' ' + std::to_string(static_cast<int>(type));
      const Variable y = op(in), expected = definition(wide);
      EXPECT_EQ(y.type(), type) << what;
      expect_near(y.data(), expected.data(), tolerance(type), what);
      {
        const NoGradGuard no_grad;
        EXPECT_TRUE(array_equal(op(in), y) || all(isfinite(y.data())).item() == 0) << what;
      }
      if (kinks && tensor::size_of(type) == 2) continue;
      const Tensor g = lmp::randn(generator, 0, 1, y.shape()).astype(type);
      y.backward(g);
      expected.backward(g.astype(DataType::Float64));
      for (std::size_t i = 0; i < in.size(); ++i)
        expect_near(in[i].grad(), wide[i].grad(), tolerance(type) * 4,
                    what + ": gradient " + std::to_string(i));
    }
  }
}

TEST(Linear, IsItsDefinition) {
  const std::pair<Activation, Variable (*)(const Variable&)> activations[] = {
      {Activation::None, [](const Variable& x) { return x; }},
      {Activation::Relu, [](const Variable& x) { return maximum(x, 0); }},
      {Activation::Gelu, [](const Variable& x) { return x * (1 + erf(x / std::sqrt(2.0))) / 2; }},
      {Activation::GeluTanh, [](const Variable& x) { return gelu_tanh(x); }},
      {Activation::Silu, [](const Variable& x) { return x / (1 + exp(-x)); }},
      {Activation::Sigmoid, [](const Variable& x) { return 1 / (1 + exp(-x)); }},
      {Activation::Tanh, [](const Variable& x) { return tanh(x); }}};
  const std::vector<std::vector<Shape>> all = {{{5, 3}, {4, 3}, {4}}, {{5, 3}, {4, 3}},
                                               {{3}, {2, 3}, {2}},    {{2, 3, 7}, {1, 7}, {1}},
                                               {{1, 1}, {1, 1}, {1}}, {{40, 33}, {65, 33}, {65}}};
  for (const auto& [activation, f] : activations) {
    for (const std::vector<Shape>& shapes : all) {
      check(
          "linear " + std::to_string(static_cast<int>(activation)), shapes,
          [a = activation](const Inputs& in) {
            return linear(in[0], in[1], in.size() > 2 ? in[2] : Variable(), a);
          },
          [f = f](const Inputs& in) {
            const Variable y = matmul(in[0], transpose(in[1]));
            return f(in.size() > 2 ? y + in[2] : y);
          },
          0.4, activation == Activation::Relu);
    }
  }
}

// What a value that two products read gets for a gradient, and how many kernels of each name the
// backward pass ran.
struct Shared {
  Tensor gradient;
  std::map<std::string, int> kernels;
};
Shared shared_gradient(const Tensor& value,
                       const std::function<Variable(const Variable&, int)>& product) {
  const Variable x(value, true);
  const Variable total = sum(product(x, 0)) + sum(product(x, 1));
  Shared result;
  Profiler profiler;
  total.backward();
  profiler.stop();
  for (const ProfileEvent& event : profiler.events())
    if (event.category == "kernel") ++result.kernels[event.name];
  result.gradient = x.grad();
  return result;
}

TEST(Linear, ProductsAddIntoAGradientThatIsThere) {
  using lmp::DataType;
  for (const DataType type : {DataType::Float32, DataType::Float64, DataType::BFloat16}) {
    lmp::manual_seed(11);
    const auto random = [&](const Shape& shape) { return lmp::randn(0, 1, shape).astype(type); };
    const Tensor x = random({2, 64, 48});
    const Tensor w[2] = {random({80, 48}), random({80, 48})};
    const Tensor ones = lmp::ones({2, 64, 80}, DeviceType::CPU, type);
    const Shared linear =
        shared_gradient(x, [&](const Variable& v, int i) { return lmp::linear(v, w[i]); });
    const Shared batched = shared_gradient(x, [&](const Variable& v, int i) {
      return matmul(v, broadcast_to(w[i], {2, 80, 48}).transpose());
    });
    const Tensor expected = matmul(ones.astype(DataType::Float64), w[0].astype(DataType::Float64)) +
                            matmul(ones.astype(DataType::Float64), w[1].astype(DataType::Float64));
    const double close = type == DataType::BFloat16 ? 0.02 : 1e-5;
    for (const Shared& got : {linear, batched}) {
      EXPECT_TRUE(allclose(got.gradient.astype(DataType::Float64), expected, close, close * 40));
      EXPECT_EQ(got.kernels.at("matmul"), 2);
      EXPECT_FALSE(got.kernels.contains("add")) << type;
    }
    // A gradient that was broadcast is summed before it is added.
    const Tensor one = random({64, 48});
    const Tensor many[2] = {random({3, 48, 8}), random({3, 48, 8})};
    const Shared summed =
        shared_gradient(one, [&](const Variable& v, int i) { return matmul(v, many[i]); });
    EXPECT_EQ(summed.gradient.shape(), one.shape());
    EXPECT_TRUE(allclose(summed.gradient,
                         broadcast_to(sum(many[0] + many[1], {0, 2}, false), one.shape()),
                         close * 5, close * 60))
        << type;
  }
}

TEST(Linear, EmptyAndPromoted) {
  for (const std::vector<Shape>& s :
       {std::vector<Shape>{{0, 3}, {2, 3}}, {{4, 0}, {2, 0}}, {{4, 3}, {0, 3}}}) {
    const Variable x(lmp::ones(s[0]), true), w(lmp::ones(s[1]), true);
    const Variable bias(lmp::full({s[1].dim(0)}, 0.5), true);
    const Variable y = linear(x, w, bias, Activation::Relu);
    expect_near(y.data(), (matmul(x, transpose(w)) + bias).data(), 0, "empty");
    sum(y).backward();
    expect_near(bias.grad(), lmp::full(bias.shape(), static_cast<double>(s[0].dim(0))), 0, "bias");
    EXPECT_EQ(w.grad().shape(), w.shape());
    EXPECT_EQ(x.grad().shape(), x.shape());
  }
  const Variable x(lmp::ones({2, 3}).astype(DataType::BFloat16), true);
  const Variable w(lmp::ones({4, 3}), true);
  const Variable y = linear(x, w);
  EXPECT_EQ(y.type(), DataType::Float32);
  sum(y).backward();
  EXPECT_EQ(x.grad().type(), DataType::BFloat16);
  EXPECT_EQ(linear(lmp::ones({3}).astype(DataType::Int64), lmp::ones({2, 3})).type(),
            DataType::Float32);
}

// relu keeps NaN, as the op of that name does.
TEST(Linear, NotANumber) {
  const Tensor y = linear(Tensor({NAN, 1.0f, -1.0f}, {3, 1}), Tensor({1.0f}, {1, 1}), Tensor(),
                          Activation::Relu);
  EXPECT_TRUE(allclose(y, Tensor({NAN, 1.0f, 0.0f}, {3, 1}), 0, 0, true));
}

TEST(Linear, Errors) {
  const Tensor x = lmp::ones({2, 3}), w = lmp::ones({4, 3}), b = lmp::ones({4});
  EXPECT_THROW(linear(x, lmp::ones({3, 4})), ShapeError);
  EXPECT_THROW(linear(x, lmp::ones({3})), ShapeError);
  EXPECT_THROW(linear(lmp::ones({}), w), ShapeError);
  EXPECT_THROW(linear(x, w, lmp::ones({3})), ShapeError);
  EXPECT_THROW(linear(x, w, lmp::ones({1, 4})), ShapeError);
  EXPECT_THROW(linear(x.astype(DataType::Int64), w.astype(DataType::Int64)), TypeError);
  EXPECT_THROW(linear(x, Tensor(), b), Error);
  EXPECT_THROW(linear(Variable(), Variable(w)), Error);
}

// The result of a layer without an activation is not read by its gradient.
TEST(Linear, ResultMayChange) {
  const Variable x(lmp::ones({2, 3}), true), w(lmp::ones({4, 3}), true);
  Variable plain = linear(x, w), through = linear(x, w, Variable(), Activation::Relu);
  plain.data().fill(5);
  EXPECT_NO_THROW(sum(plain).backward());
  through.data().fill(5);
  EXPECT_THROW(sum(through).backward(), AutogradError);
}

// -sum(target * log_softmax(x)) for each example that counts.
Variable entropy(const Variable& x, const Tensor& labels, const CrossEntropyOptions& options) {
  const auto classes = static_cast<std::int64_t>(x.shape().back());
  const Tensor counts = labels != options.ignore_index;
  const Tensor known = lmp::where(counts, labels, 0);
  const Tensor target =
      lmp::one_hot(known, classes).astype(x.type()) * (1 - options.label_smoothing) +
      options.label_smoothing / static_cast<double>(classes);
  const Variable losses =
      -sum(log_softmax(x) * Variable(target), -1, false) * Variable(counts.astype(x.type()));
  if (options.reduction == LossReduction::None) return losses;
  if (options.reduction == LossReduction::Sum) return sum(losses);
  return sum(losses) / lmp::sum(counts).item();
}

TEST(CrossEntropy, IsItsDefinition) {
  Generator generator(4);
  for (const Shape& shape :
       {Shape{5, 3}, Shape{3}, Shape{2, 3, 4}, Shape{4, 1}, Shape{70, 10}, Shape{3, 1500}}) {
    IntList leading;
    for (int d = 0; d + 1 < shape.ndim(); ++d) leading.push_back(shape.dim(d));
    const Tensor labels = lmp::randint(generator, 0, shape.dim(shape.ndim() - 1), Shape(leading));
    for (const LossReduction reduction :
         {LossReduction::Mean, LossReduction::Sum, LossReduction::None}) {
      for (const double smoothing : {0.0, 0.3, 1.0}) {
        for (const std::int64_t ignored : {-100, 1}) {
          const CrossEntropyOptions options = {reduction, ignored, smoothing};
          if (reduction == LossReduction::Mean && lmp::any(labels != ignored).item() == 0) continue;
          check(
              "cross_entropy", {shape},
              [&](const Inputs& in) { return cross_entropy(in[0], labels, options); },
              [&](const Inputs& in) { return entropy(in[0], labels, options); });
        }
      }
    }
  }
}

TEST(CrossEntropy, LabelsOfAnyIntegerTypeAndLayout) {
  const Tensor x = lmp::randn(0, 1, {2, 3, 4});
  const Tensor labels = indices({0, 1, 3, 2, 2, 1}, {3, 2});
  const Tensor expected = cross_entropy(x, labels.transpose().contiguous());
  for (const DataType type :
       {DataType::UInt8, DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64})
    EXPECT_TRUE(array_equal(cross_entropy(x, labels.astype(type).transpose()), expected)) << type;
}

TEST(CrossEntropy, ExtremeLogits) {
  const Variable x(Tensor({1e30f, 0.0f, -INFINITY, 0.0f}, {2, 2}), true);
  const Variable y = cross_entropy(x, indices({0, 1}, {2}), {.reduction = LossReduction::None});
  EXPECT_TRUE(array_equal(y.data(), lmp::zeros({2})));
  sum(y).backward();
  EXPECT_TRUE(array_equal(x.grad(), lmp::zeros({2, 2})));
}

TEST(CrossEntropy, NoneCounts) {
  const Variable x(lmp::randn(0, 1, {2, 3}), true);
  const Variable mean = cross_entropy(x, indices({-100, -100}, {2}));
  EXPECT_TRUE(std::isnan(mean.item()));
  mean.backward();
  EXPECT_TRUE(array_equal(x.grad(), lmp::zeros({2, 3})));
  const Variable empty(lmp::ones({0, 3}), true);
  EXPECT_EQ(cross_entropy(empty, indices({}, {0}), {.reduction = LossReduction::Sum}).item(), 0);
  EXPECT_TRUE(std::isnan(cross_entropy(empty, indices({}, {0})).item()));
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(CrossEntropy, Errors) {
  const Tensor x = lmp::ones({2, 3});
  const std::string wrong = message([&] { cross_entropy(x, indices({0, 7}, {2})); });
  EXPECT_NE(wrong.find("label 7 at position 1"), std::string::npos) << wrong;
  EXPECT_THROW(cross_entropy(x, indices({0, 3}, {2})), IndexError);
  EXPECT_THROW(cross_entropy(x, indices({-1, 0}, {2})), IndexError);
  EXPECT_NO_THROW(cross_entropy(x, indices({-1, 0}, {2}), {.ignore_index = -1}));
  EXPECT_THROW(cross_entropy(x, indices({0}, {1})), ShapeError);
  EXPECT_THROW(cross_entropy(lmp::ones({}), indices({0}, {})), ShapeError);
  EXPECT_THROW(cross_entropy(x, lmp::zeros({2})), TypeError);
  EXPECT_THROW(cross_entropy(x.astype(DataType::Int64), indices({0, 1}, {2})), TypeError);
  EXPECT_THROW(cross_entropy(x, indices({0, 1}, {2}), {.label_smoothing = 1.5}), ValueError);
  EXPECT_THROW(cross_entropy(x, indices({0, 1}, {2}), {.label_smoothing = NAN}), ValueError);
  EXPECT_THROW(cross_entropy(x, Tensor()), Error);
}

// What the forward pass has made serves any seed, again where the graph stays, and belongs to who
// gets it.
TEST(CrossEntropy, GradientServesEverySeed) {
  const Tensor labels = indices({0, 6, -100, 3, 3}, {5});
  for (const DataType type : kFloats) {
    for (const LossReduction reduction : {LossReduction::Mean, LossReduction::Sum}) {
      const Variable x(lmp::randn(0, 1, {5, 7}).astype(type), true);
      const Variable wide(x.data().astype(DataType::Float64), true);
      const CrossEntropyOptions options = {.reduction = reduction, .label_smoothing = 0.2};
      entropy(wide, labels, options).backward();
      const auto seed = [&](double value) { return lmp::full({}, value, x.device(), type); };

      const Variable loss = cross_entropy(x, labels, options);
      loss.backward({.retain_graph = true});
      const Tensor first = x.grad().clone();
      expect_near(first, wide.grad(), tolerance(type), "a seed of 1");
      x.grad().fill(9);
      x.zero_grad();
      loss.backward({.gradient = seed(-3), .retain_graph = true});
      expect_near(x.grad(), -3 * wide.grad(), 4 * tolerance(type), "another seed");
      const Variable again = grad({loss}, {x}, {.retain_graph = true})[0];
      EXPECT_TRUE(array_equal(again, first));
      const Variable recorded = grad({loss}, {x}, {.create_graph = true})[0];
      expect_near(recorded.data(), wide.grad(), tolerance(type), "recorded");
      EXPECT_TRUE(recorded.requires_grad());
      x.zero_grad();
      loss.backward();
      EXPECT_TRUE(array_equal(x.grad(), first));
      EXPECT_THROW(loss.backward(), AutogradError);

      x.zero_grad();
      (2 * cross_entropy(x, labels, options) + cross_entropy(x, labels, options)).backward();
      expect_near(x.grad(), 3 * wide.grad(), 4 * tolerance(type), "two losses");
    }
  }
}

// A gradient is made where it will be asked for, and for a loss that is one number.
TEST(CrossEntropy, GradientIsMadeWhereRecorded) {
  const Variable x(lmp::randn(0, 1, {300, 1000}), true);
  const Tensor labels = lmp::zeros({300}).astype(DataType::Int64);
  const std::int64_t bytes = 300 * 1000 * sizeof(float);
  const auto held = [&](const Variable& logits, LossReduction reduction) {
    const std::int64_t before = memory_stats().live_bytes;
    const Variable loss = cross_entropy(logits, labels, {.reduction = reduction});
    return memory_stats().live_bytes - before;
  };
  EXPECT_GE(held(x, LossReduction::Mean), bytes);
  EXPECT_LT(held(x, LossReduction::None), bytes);
  EXPECT_LT(held(x.detach(), LossReduction::Mean), bytes);
  const NoGradGuard no_grad;
  EXPECT_LT(held(x, LossReduction::Mean), bytes);
}

// What a mean over many rows divides by would take the gradient of a Float16 below what it can
// hold.
TEST(CrossEntropy, HalfGradientsOfALargeMeanTakeALossScale) {
  constexpr std::int64_t kRows = 4096, kClasses = 300;
  Generator generator(5);
  const Variable x(lmp::randn(generator, 0, 1, {kRows, kClasses}).astype(DataType::Float16), true);
  const Variable wide(x.data().astype(DataType::Float64), true);
  const Tensor labels = lmp::randint(generator, 0, kClasses, {kRows});
  for (const bool again : {true, false}) {
    x.zero_grad();
    wide.zero_grad();
    const Variable loss = 4096 * cross_entropy(x, labels);
    BackwardOptions options;
    options.retain_graph = again;
    loss.backward(options);
    (4096 * cross_entropy(wide, labels)).backward();
    EXPECT_EQ(x.grad().type(), DataType::Float16);
    EXPECT_TRUE(allclose(x.grad().astype(DataType::Float64), wide.grad(), 2e-3, 1e-7)) << again;
  }
}

TEST(CrossEntropy, LabelsMustNotChange) {
  const Variable x(lmp::randn(0, 1, {2, 3}), true);
  const Tensor labels = indices({0, 2}, {2});
  const Variable loss = cross_entropy(x, labels);
  labels.fill(1);
  EXPECT_THROW(loss.backward(), AutogradError);
}

// Labels that differ from lane to lane, and an outer vmap over the logits.
TEST(CrossEntropy, LanesOfLabels) {
  const Variable x(lmp::randn(0, 1, {3, 2, 4}), true);
  const Tensor labels = indices({0, 1, 3, 2, -100, 1}, {3, 2});
  const Variable all = vmap([](const Variable& logits, const Variable& label) {
    return cross_entropy(logits, label.data());
  })(x, Variable(labels));
  for (int i = 0; i < 3; ++i)
    EXPECT_NEAR(all[i].item(), cross_entropy(x[i], labels[i]).item(), 1e-6);
}

Variable normal(const Variable& x, bool centered, double eps) {
  const Variable d = centered ? x - mean(x, -1) : x;
  return d / sqrt(mean(d * d, -1) + eps);
}

TEST(Normalize, IsItsDefinition) {
  for (const Shape& shape :
       {Shape{5, 3}, Shape{3}, Shape{2, 3, 4}, Shape{4, 1}, Shape{150, 33}, Shape{3, 5000}}) {
    const Shape row{shape.back()};
    check(
        "layer_norm", {shape, row, row},
        [](const Inputs& in) { return layer_norm(in[0], in[1], in[2], 0.1); },
        [](const Inputs& in) { return normal(in[0], true, 0.1) * in[1] + in[2]; });
    check(
        "layer_norm without bias", {shape, row},
        [](const Inputs& in) { return layer_norm(in[0], in[1], Variable(), 0.1); },
        [](const Inputs& in) { return normal(in[0], true, 0.1) * in[1]; });
    check(
        "rms_norm", {shape, row}, [](const Inputs& in) { return rms_norm(in[0], in[1], 0.1); },
        [](const Inputs& in) { return normal(in[0], false, 0.1) * in[1]; });
  }
}

// Both results, whose gradients meet in the sum.
TEST(Normalize, OfASum) {
  for (const Shape& shape : {Shape{5, 3}, Shape{3}, Shape{2, 3, 4}, Shape{150, 33}, Shape{0, 3}}) {
    const Shape row{shape.back()};
    const auto both = [](const std::pair<Variable, Variable>& made) {
      return made.first + 0.3 * square(made.second);
    };
    check(
        "add_layer_norm", {shape, shape, row, row},
        [&](const Inputs& in) { return both(add_layer_norm(in[0], in[1], in[2], in[3], 0.1)); },
        [&](const Inputs& in) {
          const Variable sum = in[0] + in[1];
          return both({normal(sum, true, 0.1) * in[2] + in[3], sum});
        });
    check(
        "add_rms_norm", {shape, shape, row},
        [&](const Inputs& in) { return both(add_rms_norm(in[0], in[1], in[2], 0.1)); },
        [&](const Inputs& in) {
          const Variable sum = in[0] + in[1];
          return both({normal(sum, false, 0.1) * in[2], sum});
        });
    check(
        "one result of a sum", {shape, shape, row},
        [&](const Inputs& in) { return add_layer_norm(in[0], in[1], in[2]).first; },
        [&](const Inputs& in) { return normal(in[0] + in[1], true, 1e-5) * in[2]; }, 1);
  }
}

// In the bits of the two ops, halves rounded in between.
TEST(Normalize, OfASumIsTwoOps) {
  for (const DataType type : kFloats) {
    const Tensor x = lmp::randn(0, 1, {70, 33}).astype(type),
                 r = lmp::randn(0, 1, {70, 33}).astype(type);
    const Tensor w = lmp::randn(0, 1, {33}).astype(type), b = lmp::randn(0, 1, {33}).astype(type);
    const auto [y, sum] = add_layer_norm(x, r, w, b);
    EXPECT_TRUE(array_equal(sum, x + r));
    EXPECT_TRUE(array_equal(y, layer_norm(x + r, w, b)));
    const Variable one(x, true);
    const auto [z, both] = add_rms_norm(one, Variable(r), Variable(w));
    EXPECT_TRUE(array_equal(both.data(), sum));
    EXPECT_TRUE(array_equal(z.data(), rms_norm(x + r, w)));
    EXPECT_STREQ(name_of(*both.grad_fn()), "add");
  }
  const auto [y, sum] = add_layer_norm(lmp::ones({2, 3}).astype(DataType::BFloat16),
                                       lmp::ones({2, 3}), lmp::ones({3}));
  EXPECT_EQ(y.type(), DataType::Float32);
  EXPECT_EQ(sum.type(), DataType::Float32);
}

// What another use of x has for its gradient by then is added to, unless somebody else holds it.
TEST(Normalize, GradientsMeet) {
  const Variable x(lmp::randn(0, 1, {40, 33}), true), w(lmp::randn(0, 1, {33}), true);
  const Tensor g = lmp::randn(0, 1, {40, 33});
  const auto gradient = [&](const std::function<Variable(const Variable&)>& f) {
    x.zero_grad();
    const Variable h = 2 * x;
    f(h).backward(g);
    return x.grad();
  };
  const Tensor alone = gradient([&](const Variable& h) { return layer_norm(h, w); });
  for (const double by : {1.0, 0.5})
    expect_near(gradient([&](const Variable& h) { return layer_norm(h, w) + by * h; }),
                alone + 2 * by * g, 1e-5, "met");
  expect_near(gradient([&](const Variable& h) { return h + layer_norm(h, w); }), alone + 2 * g,
              1e-5, "handed on");
}

TEST(Normalize, Empty) {
  for (const Shape& shape : {Shape{0, 3}, Shape{2, 0}}) {
    const Variable x(lmp::ones(shape), true), w(lmp::ones({shape.back()}), true);
    const Variable b(lmp::ones({shape.back()}), true);
    sum(layer_norm(x, w, b)).backward();
    EXPECT_TRUE(array_equal(w.grad(), lmp::zeros(w.shape())));
    EXPECT_TRUE(array_equal(b.grad(), lmp::zeros(w.shape())));
    EXPECT_EQ(x.grad().shape(), shape);
  }
}

// The mean is subtracted before it is squared.
TEST(Normalize, FarFromZero) {
  const Tensor x = lmp::randn(0, 1, {4, 1000}), one = lmp::ones({1000});
  expect_near(layer_norm(x + 4096, one), layer_norm(x, one), 5e-3, "shifted");
}

TEST(Normalize, Errors) {
  const Tensor x = lmp::ones({2, 3}), w = lmp::ones({3});
  EXPECT_THROW(layer_norm(x, lmp::ones({2})), ShapeError);
  EXPECT_THROW(layer_norm(x, lmp::ones({1, 3})), ShapeError);
  EXPECT_THROW(layer_norm(x, w, lmp::ones({2})), ShapeError);
  EXPECT_THROW(rms_norm(lmp::ones({}), w), ShapeError);
  EXPECT_THROW(rms_norm(x.astype(DataType::Int64), w.astype(DataType::Int64)), TypeError);
  EXPECT_THROW(rms_norm(x, Tensor()), Error);
  EXPECT_THROW(add_layer_norm(x, lmp::ones({3}), w), ShapeError);
  EXPECT_THROW(add_layer_norm(x, x, lmp::ones({2})), ShapeError);
  EXPECT_THROW(add_layer_norm(x, x, w, lmp::ones({2})), ShapeError);
  EXPECT_THROW(add_rms_norm(x, Tensor(), w), Error);
  EXPECT_THROW(add_rms_norm(lmp::ones({}), lmp::ones({}), w), ShapeError);
}

TEST(Dropout, DropsWhatRandSaysAndScales) {
  for (const DataType type : kFloats) {
    for (const Shape& shape : {Shape{5, 7}, Shape{40000}, Shape{}, Shape{0, 3}}) {
      const Variable x(lmp::randn(0, 1, shape).astype(type), true);
      lmp::manual_seed(3);
      const Tensor kept = lmp::rand(shape) < 0.7;
      const Tensor next = lmp::rand({1});
      lmp::manual_seed(3);
      const Variable y = dropout(x, 0.3);
      EXPECT_TRUE(array_equal(lmp::rand({1}), next));
      const Tensor scale = kept.astype(DataType::Float64) / 0.7;
      expect_near(y.data(), x.data().astype(DataType::Float64) * scale, tolerance(type), "value");
      y.backward(lmp::ones(shape, y.device(), type));
      expect_near(x.grad(), scale, tolerance(type), "gradient");
      lmp::manual_seed(3);
      EXPECT_TRUE(array_equal(dropout(x.data(), 0.3), y));
    }
  }
}

TEST(Dropout, NothingAndEverything) {
  const Tensor x({1.0f, INFINITY}, {2});
  const Generator before = lmp::default_generator();
  EXPECT_TRUE(dropout(x, 0.5, false).shares_storage(x));
  EXPECT_TRUE(dropout(x, 0).shares_storage(x));
  EXPECT_EQ(lmp::default_generator().offset(), before.offset());
  EXPECT_TRUE(array_equal(dropout(x, 1), lmp::zeros({2})));
  EXPECT_THROW(dropout(x, -0.1), ValueError);
  EXPECT_THROW(dropout(x, NAN), ValueError);
  EXPECT_THROW(dropout(indices({1}, {1}), 0.5), TypeError);
}

// As what rand() draws inside vmap, the elements left out are the same in each lane.
TEST(Dropout, LanesDropTheSame) {
  const Variable x(lmp::ones({3, 40}), true);
  lmp::manual_seed(5);
  const Variable all = vmap([](const Variable& v) { return dropout(v, 0.5); })(x);
  lmp::manual_seed(5);
  const Tensor one = dropout(x.data()[0], 0.5);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(array_equal(all.data()[i], one));
}

TEST(Embedding, ReadsRows) {
  const Variable weight(lmp::randn(0, 1, {5, 3}), true);
  for (const Tensor& at : {indices({4, 0, 4, 1, 1, -1}, {2, 3}), indices({2}, {}),
                           indices({}, {0, 2}), indices({3, 1}, {2})}) {
    const Variable y = embedding(weight, at.astype(DataType::Int32));
    EXPECT_TRUE(array_equal(y, weight.data()[at]));
  }
  const Variable y = embedding(weight, indices({4, 0, 4, 1}, {2, 2}));
  sum(y).backward();
  EXPECT_TRUE(array_equal(sum(weight.grad(), 1, false), Tensor({3, 3, 0, 0, 6}, {5})));
  EXPECT_THROW(embedding(weight, indices({5}, {1})), IndexError);
  EXPECT_THROW(embedding(weight, lmp::ones({1})), TypeError);
  EXPECT_THROW(embedding(select(weight, 0, 0), indices({0}, {1})), ShapeError);
}

// The values and gradients of `f` on this many threads.
Tensor on_threads(int threads, const Function& f, const std::vector<Shape>& shapes) {
  lmp::set_num_threads(threads);
  Generator generator(6);
  Inputs in;
  for (const Shape& shape : shapes) in.emplace_back(lmp::randn(generator, 0, 1, shape), true);
  const Variable y = f(in);
  y.backward(lmp::randn(generator, 0, 1, y.shape()));
  std::vector<Tensor> out = {y.data().reshape({-1})};
  for (const Variable& x : in) out.push_back(x.grad().reshape({-1}));
  return lmp::cat(out);
}

void check_threads(const std::vector<Shape>& shapes, const Function& f) {
  const int before = lmp::get_num_threads();
  const Tensor one = on_threads(1, f, shapes);
  for (const int threads : {2, 3, 8})
    EXPECT_TRUE(array_equal(on_threads(threads, f, shapes), one)) << threads;
  lmp::set_num_threads(before);
}

TEST(Composites, SameBitsOnAnyNumberOfThreads) {
  check_threads({{300, 70}, {500, 70}, {500}},
                [](const Inputs& in) { return linear(in[0], in[1], in[2], Activation::Relu); });
  Generator generator(7);
  const Tensor labels = lmp::randint(generator, 0, 300, {700});
  check_threads({{700, 300}}, [&](const Inputs& in) {
    return cross_entropy(in[0], labels, {.label_smoothing = 0.1});
  });
  check_threads({{700, 300}, {300}, {300}},
                [](const Inputs& in) { return layer_norm(in[0], in[1], in[2]); });
  check_threads({{700, 300}, {300}}, [](const Inputs& in) { return rms_norm(in[0], in[1]); });
  check_threads({{700, 300}, {700, 300}, {300}}, [](const Inputs& in) {
    const auto [y, sum] = add_layer_norm(in[0], in[1], in[2]);
    return y * sum;
  });
  check_threads({{300000}}, [](const Inputs& in) {
    const tensor::detail::RandomScope same(Generator(3));
    return dropout(in[0], 0.2);
  });
}

}  // namespace
}  // namespace lmp
