// What training is made of, on the GPU beside the CPU: layers, losses, linear algebra, optimisers
// and whole steps; what they launch, what they leave behind; and that running again gives the same
// bits.

#include <cmath>
#include <limits>
#include <sstream>

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

using Tensors = std::vector<Tensor>;
using Inputs = std::vector<Variable>;

constexpr DataType kFloats[] = {DataType::Float32, DataType::Float64, DataType::Float16,
                                DataType::BFloat16};

Tensor draw(DataType type, const Shape& shape, std::uint64_t seed, double low = -1,
            double high = 1) {
  Generator generator(seed);
  return uniform(generator, shape, low, high).astype(type);
}

/// Value and gradients of f, weighted, in every floating type; run twice on the GPU for the bits.
void check_layer(const std::string& what, const std::vector<Shape>& shapes,
                 const std::function<Variable(const Inputs&)>& f,
                 std::initializer_list<DataType> types = {kFloats[0], kFloats[1], kFloats[2],
                                                          kFloats[3]}) {
  for (DataType type : types) {
    Tensors at;
    for (std::size_t i = 0; i < shapes.size(); ++i) at.push_back(draw(type, shapes[i], 61 + i));
    const auto run = [&](const Tensors& x) {
      Inputs in;
      for (const Tensor& t : x) in.emplace_back(t.clone(), true);
      const Variable y = f(in);
      const Tensor weights = lmp::linspace(0.5, 1.5, static_cast<std::int64_t>(y.numel()),
                                           y.device(), DataType::Float32)
                                 .astype(y.type())
                                 .reshape(IntList(y.shape()));
      y.backward(weights);
      Tensors out{y.data()};
      for (const Variable& v : in) out.push_back(v.grad());
      return out;
    };
    std::ostringstream name;
    name << what << ' ' << type;
    expect_alike(name.str(), run, at, [](DataType t) {
      Tolerance bound = loose(t);
      // Gradients of weights are sums over many rows.
      if (t == DataType::Float32) bound = {3e-5, 1e-4};
      if (t == DataType::Float16) bound = {8e-3, 2e-2};
      if (t == DataType::BFloat16) bound = {6e-2, 2e-1};
      return bound;
    });
    Tensors there;
    for (const Tensor& t : at) there.push_back(t.to(gpu()));
    const Outcome first = outcome([&] { return run(there); }),
                  second = outcome([&] { return run(there); });
    for (std::size_t i = 0; i < first.values.size(); ++i)
      EXPECT_TRUE(same(on_cpu(first.values[i]), second.values[i])) << name.str() << ", run to run";
  }
}

class GpuSharedLayers : public GpuTest {};

TEST_F(GpuSharedLayers, Linear) {
  for (const Activation activation :
       {Activation::None, Activation::Relu, Activation::Gelu, Activation::GeluTanh,
        Activation::Silu, Activation::Sigmoid, Activation::Tanh}) {
    const auto layer = [=](const Inputs& in) {
      return linear(in[0], in[1], in.size() > 2 ? in[2] : Variable(), activation);
    };
    // Below where halves round, relu's kink may be met from either side.
    const bool kink = activation == Activation::Relu;
    const auto check = [&](const std::vector<Shape>& shapes) {
      if (kink)
        check_layer("linear", shapes, layer, {DataType::Float32, DataType::Float64});
      else
        check_layer("linear", shapes, layer);
    };
    check({{33, 65}, {129, 65}, {129}});
    check({{64, 128}, {64, 128}, {64}});
    check({{4, 9, 31}, {7, 31}});
    check({{5}, {3, 5}, {3}});
    check({{17, 64}, {1, 64}, {1}});
  }
}

// An activation that ends a product, too, is the table's: NaN stays.
TEST_F(GpuSharedLayers, NanComesThroughLinear) {
  for (DataType type : kFloats)
    for (const Activation activation :
         {Activation::None, Activation::Relu, Activation::Gelu, Activation::GeluTanh,
          Activation::Silu, Activation::Sigmoid, Activation::Tanh})
      for (const std::int64_t n : {8, 64, 100, 256})
        for (const bool biased : {true, false}) {
          Tensor x = draw(type, {n, n}, 71);
          x.select(0, n / 2).select(0, 3).fill(std::numeric_limits<double>::quiet_NaN());
          const Tensor weight = draw(type, {n, n}, 72),
                       bias = biased ? draw(type, {n}, 73) : Tensor();
          const auto nan_at = [&](Device device) {
            const auto there = [&](const Tensor& t) {
              return t.defined() ? Variable(t.to(device)) : Variable();
            };
            const Tensor y = linear(there(x), there(weight), there(bias), activation).data();
            return lmp::isnan(y).to_vector<bool>();
          };
          std::ostringstream what;
          what << type << " activation " << static_cast<int>(activation) << ", " << n
               << (biased ? " with a bias" : "");
          EXPECT_EQ(nan_at(gpu()), nan_at(DeviceType::CPU)) << what.str();
        }
}

TEST_F(GpuSharedLayers, CrossEntropy) {
  for (const auto& [rows, classes] :
       {std::pair<std::int64_t, std::int64_t>{5, 3}, {64, 1000}, {7, 20011}, {300, 10}, {1, 1}}) {
    Generator generator(67);
    Tensor labels = lmp::randint(generator, 0, classes, {rows});
    if (rows > 3) labels.narrow(0, 1, 2).fill(-100);
    for (DataType type : {DataType::Int64, DataType::Int32})
      for (const LossReduction reduction :
           {LossReduction::Mean, LossReduction::Sum, LossReduction::None})
        for (const double smoothing : {0.0, 0.1}) {
          if (quick() && (type == DataType::Int32 || smoothing == 0)) continue;
          check_layer("cross_entropy", {{rows, classes}}, [&](const Inputs& in) {
            return cross_entropy(in[0], labels.astype(type).to(in[0].device()),
                                 {.reduction = reduction, .label_smoothing = smoothing});
          });
        }
  }
}

// The gradient that the forward pass makes, for rows that a few threads, a warp and a block share,
// kept whole or not; it serves any seed, and again where the graph stays.
TEST_F(GpuSharedLayers, CrossEntropyServesEverySeed) {
  for (const auto& [rows, classes] : {std::pair<std::int64_t, std::int64_t>{6, 10},
                                      {50, 1000},
                                      {70, 1003},
                                      {40, 20008},
                                      {9, 50304},
                                      {3, 130003}}) {
    Generator generator(68);
    Tensor labels = lmp::randint(generator, 0, classes, {rows});
    labels.narrow(0, 1, 1).fill(-100);
    for (DataType type : kFloats) {
      const Tensor logits = draw(type, {rows, classes}, 69, -4, 4);
      const auto run = [&, count = rows](const Tensors& in) {
        const Variable x(in[0].clone(), true);
        const Tensor at = labels.to(in[0].device());
        Tensors out;
        const Variable loss = cross_entropy(x, at, {.label_smoothing = 0.1});
        {
          const NoGradGuard no_grad;
          out.push_back(cross_entropy(x, at, {.label_smoothing = 0.1}).data() - loss.data());
        }
        const auto take = [&] {
          // By the rows, so that halves do not vanish beside the tolerance.
          out.push_back(x.grad() * static_cast<double>(count));
          x.zero_grad();
        };
        loss.backward({.retain_graph = true});
        x.grad().fill(9);
        x.zero_grad();
        loss.backward({.gradient = lmp::full({}, 0.5, x.device(), type), .retain_graph = true});
        take();
        loss.backward();
        take();
        (2 * cross_entropy(x, at, {.reduction = LossReduction::Sum})).backward();
        out.push_back(x.grad());
        return out;
      };
      std::ostringstream name;
      name << "cross_entropy " << type << ' ' << rows << " x " << classes;
      expect_alike(name.str(), run, {logits}, loose);
    }
  }
}

// What a pass starts from is kept; one who writes into what he was given of it changes nothing.
TEST_F(GpuSharedLayers, SeedsAreNotShared) {
  const Variable x(draw(DataType::Float32, {4, 9}, 78).to(gpu()), true);
  const Tensor at = lmp::zeros({4}, gpu(), DataType::Int64);
  const auto gradient = [&] {
    x.zero_grad();
    const Variable loss = cross_entropy(x, at);
    loss.backward();
    const Tensor made = x.grad();
    loss.grad().fill(5);
    return made;
  };
  const Tensor first = gradient();
  EXPECT_TRUE(same(on_cpu(gradient()), first));
  EXPECT_TRUE(same(on_cpu(gradient()), first));
}

TEST_F(GpuSharedLayers, Norms) {
  for (const Shape& shape :
       {Shape{5, 7}, Shape{37, 768}, Shape{3, 10007}, Shape{2, 9, 64}, Shape{4000, 33}, Shape{4, 1},
        Shape{0, 8}, Shape{5000, 768}, Shape{3001, 1024}, Shape{700, 2048}}) {
    if (quick() && shape.numel() > 150000) continue;
    const Shape n{shape.back()};
    check_layer("layer_norm", {shape, n, n},
                [](const Inputs& in) { return layer_norm(in[0], in[1], in[2], 1e-3); });
    check_layer("layer_norm without bias", {shape, n},
                [](const Inputs& in) { return layer_norm(in[0], in[1], Variable(), 1e-3); });
    check_layer("rms_norm", {shape, n},
                [](const Inputs& in) { return rms_norm(in[0], in[1], 1e-3); });
  }
}

TEST_F(GpuSharedLayers, NormsOfASum) {
  for (const Shape& shape :
       {Shape{5, 7}, Shape{37, 768}, Shape{3, 10007}, Shape{2, 9, 64}, Shape{400, 33}, Shape{4, 1},
        Shape{0, 8}, Shape{301, 1024}, Shape{70, 2048}, Shape{9, 9000}}) {
    if (quick() && shape.numel() > 150000) continue;
    const Shape n{shape.back()};
    const auto both = [](const std::pair<Variable, Variable>& made) {
      return made.first + square(made.second);
    };
    check_layer("add_layer_norm", {shape, shape, n, n}, [&](const Inputs& in) {
      return both(add_layer_norm(in[0], in[1], in[2], in[3], 1e-3));
    });
    check_layer("add_rms_norm", {shape, shape, n},
                [&](const Inputs& in) { return both(add_rms_norm(in[0], in[1], in[2], 1e-3)); });
    check_layer("one result of add_layer_norm", {shape, shape, n},
                [](const Inputs& in) { return add_layer_norm(in[0], in[1], in[2]).first; });
  }
}

// The sum is what + makes of it, and the norm that of the rounded sum, in the same bits.
TEST_F(GpuSharedLayers, NormsOfASumAreTwoOps) {
  for (DataType type : kFloats)
    for (const std::int64_t n : {33, 64, 768, 9000}) {
      const auto drawn = [&](const Shape& shape, std::uint64_t seed) {
        return draw(type, shape, seed).to(gpu());
      };
      const Tensor x = drawn({50, n}, 74), r = drawn({50, n}, 75), w = drawn({n}, 76),
                   b = drawn({n}, 77);
      const auto [y, sum] = add_layer_norm(x, r, w, b);
      EXPECT_TRUE(same(on_cpu(sum), x + r)) << type << ' ' << n;
      EXPECT_TRUE(same(on_cpu(y), layer_norm(x + r, w, b))) << type << ' ' << n;
    }
}

TEST_F(GpuSharedLayers, Embedding) {
  Generator generator(71);
  for (const auto& [entries, width] :
       {std::pair<std::int64_t, std::int64_t>{10, 3}, {500, 64}, {5000, 129}}) {
    const Tensor at = lmp::randint(generator, 0, entries, {40, 30});
    check_layer("embedding", {{entries, width}},
                [&](const Inputs& in) { return embedding(in[0], at.to(in[0].device())); });
  }
}

class GpuSharedLinalg : public GpuTest {};

TEST_F(GpuSharedLinalg, ValuesAndGradients) {
  for (const std::int64_t n : {1, 2, 5, 33, 70}) {
    for (const bool batched : {false, true}) {
      const Shape square = batched ? Shape{3, n, n} : Shape{n, n};
      const Shape right = batched ? Shape{3, n, 4} : Shape{n};
      const auto regular = [n](const Variable& x) {
        return x + Variable(static_cast<double>(n) * lmp::eye(n, -1, x.device(), x.type()));
      };
      const auto check = [&](const char* what, const std::vector<Shape>& shapes,
                             const std::function<Variable(const Inputs&)>& f) {
        check_layer(what, shapes, f, {DataType::Float32, DataType::Float64});
      };
      check("solve", {square, right},
            [&](const Inputs& in) { return solve(regular(in[0]), in[1]); });
      check("inv", {square}, [&](const Inputs& in) { return inv(regular(in[0])); });
      // The determinant of a large matrix is out of range; its logarithm is not.
      if (n <= 5) check("det", {square}, [&](const Inputs& in) { return det(regular(in[0])); });
      check("slogdet", {square}, [&](const Inputs& in) { return slogdet(regular(in[0])).second; });
      check("cholesky", {square}, [&](const Inputs& in) {
        const Variable x = regular(in[0]);
        return cholesky(matmul(x, transpose(x)) / static_cast<double>(n));
      });
    }
  }
}

TEST_F(GpuSharedLinalg, Refusals) {
  for (DataType type : {DataType::Float32, DataType::Float64}) {
    Tensor batch = lmp::expand(lmp::eye(3, -1, DeviceType::CPU, type), {4, 3, 3}).clone();
    batch.select(0, 2).fill(0);
    const auto alike = [&](const char* what, const std::function<Tensor(const Tensor&)>& f,
                           const Tensor& x) {
      expect_alike(what, [&](const Tensors& in) { return Tensors{f(in[0])}; }, {x});
    };
    alike(
        "solve",
        [](const Tensor& x) { return lmp::solve(x, lmp::ones({3}, x.device(), x.type())); }, batch);
    alike(
        "inv", [](const Tensor& x) { return lmp::inv(x); }, batch);
    alike(
        "cholesky", [](const Tensor& x) { return lmp::cholesky(x); }, batch);
    alike(
        "det", [](const Tensor& x) { return lmp::det(x); }, batch);
    alike(
        "slogdet", [](const Tensor& x) { return lmp::slogdet(x).first; }, batch);
    batch.select(0, 2).fill(std::numeric_limits<double>::quiet_NaN());
    alike(
        "solve NaN",
        [](const Tensor& x) { return lmp::solve(x, lmp::ones({3}, x.device(), x.type())); }, batch);
    alike(
        "inv NaN", [](const Tensor& x) { return lmp::inv(x); }, batch);
    alike(
        "cholesky NaN", [](const Tensor& x) { return lmp::cholesky(x); }, batch);
    alike(
        "empty", [](const Tensor& x) { return lmp::inv(x); },
        lmp::zeros({2, 0, 0}, DeviceType::CPU, type));
  }
}

class GpuOptimizers : public GpuTest {
 protected:
  /// Ten steps over parameters of many sizes.
  template <class Make>
  void check(const char* what, Make make) {
    for (DataType type : kFloats) {
      const auto run = [&](Device device) {
        Inputs parameters;
        std::uint64_t seed = 73;
        for (const Shape& shape :
             {Shape{}, Shape{1}, Shape{3, 5}, Shape{1025}, Shape{70001}, Shape{0}})
          parameters.emplace_back(draw(type, shape, seed++).to(device), true);
        parameters.emplace_back(draw(type, {7, 9}, seed).to(device), true);  // never has a gradient
        const auto optimizer = make(parameters);
        for (int step = 0; step < 10; ++step) {
          for (std::size_t i = 0; i + 1 < parameters.size(); ++i)
            if (step != 3 || i != 2)  // one is left out once
              parameters[i].incr_grad(parameters[i].data() * parameters[i].data() - 0.3);
          optimizer->step();
          optimizer->zero_grad();
        }
        Tensors out;
        for (const Variable& p : parameters) out.push_back(p.data());
        return out;
      };
      const Tensors cpu = run(DeviceType::CPU), there = run(gpu()), again = run(gpu());
      for (std::size_t i = 0; i < cpu.size(); ++i) {
        EXPECT_TRUE(close(cpu[i], there[i], loose(type)))
            << what << ' ' << type << " parameter " << i;
        EXPECT_TRUE(same(on_cpu(there[i]), again[i])) << what << ", run to run";
      }
    }
  }
};

TEST_F(GpuOptimizers, FollowTheCpu) {
  check("SGD",
        [](const Inputs& p) { return std::make_unique<optim::SGD>(p, SgdRule{.lr = 0.05}); });
  for (const bool nesterov : {false, true})
    check("SGD with momentum", [=](const Inputs& p) {
      return std::make_unique<optim::SGD>(
          p, SgdRule{.lr = 0.05, .momentum = 0.9, .weight_decay = 0.01, .nesterov = nesterov});
    });
  check("Adam", [](const Inputs& p) {
    return std::make_unique<optim::Adam>(p, AdamRule{.lr = 0.01, .weight_decay = 0.1});
  });
  check("AdamW with masters", [](const Inputs& p) {
    return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 0.01, .masters = true});
  });
  check("AdamW", [](const Inputs& p) {
    return std::make_unique<optim::AdamW>(
        p, optim::AdamWOptions{.lr = 0.01, .weight_decay = 0.1, .maximize = true});
  });
}

TEST_F(GpuOptimizers, ManyParameters) {
  const auto run = [&](Device device) {
    Inputs parameters;
    for (std::uint64_t i = 0; i < 300; ++i)
      parameters.emplace_back(draw(DataType::Float32, {1 + i % 7, 3}, i).to(device), true);
    optim::AdamW optimizer(parameters);
    for (int step = 0; step < 3; ++step) {
      for (const Variable& p : parameters) p.incr_grad(p.data() * 2 - 1);
      optimizer.step();
      optimizer.zero_grad();
    }
    return lmp::cat([&] {
      Tensors flat;
      for (const Variable& p : parameters) flat.push_back(p.data().flatten());
      return flat;
    }());
  };
  EXPECT_TRUE(close(run(DeviceType::CPU), run(gpu()), loose(DataType::Float32)));
}

TEST_F(GpuOptimizers, ClipsGradients) {
  const auto run = [](Device device) {
    const Variable a(draw(DataType::Float32, {33, 5}, 1).to(device), true),
        b(draw(DataType::Float32, {70001}, 2).to(device), true);
    a.incr_grad(a.data());
    b.incr_grad(b.data());
    const double norm = optim::clip_grad_norm({a, b}, 1.5).item();
    return std::tuple(norm, a.grad(), b.grad());
  };
  const auto [norm, a, b] = run(DeviceType::CPU);
  const auto [norm_there, a_there, b_there] = run(gpu());
  EXPECT_NEAR(norm, norm_there, 1e-5 * norm);
  EXPECT_TRUE(close(a, a_there));
  EXPECT_TRUE(close(b, b_there));
}

/// A perceptron on made-up data. Everything is drawn on the CPU.
class Perceptron {
 public:
  Perceptron(Device device, const std::vector<std::int64_t>& sizes, std::int64_t batch) {
    for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
      const double scale = 1 / std::sqrt(static_cast<double>(sizes[i]));
      weights_.emplace_back(
          draw(DataType::Float32, {sizes[i + 1], sizes[i]}, 80 + i, -scale, scale).to(device),
          true);
      biases_.emplace_back(lmp::zeros({sizes[i + 1]}, device), true);
    }
    Generator generator(90);
    x_ = draw(DataType::Float32, {batch, sizes.front()}, 91).to(device);
    labels_ = lmp::randint(generator, 0, sizes.back(), {batch}).to(device);
    Inputs all = weights_;
    all.insert(all.end(), biases_.begin(), biases_.end());
    optimizer_.emplace(all, SgdRule{.lr = 0.5, .momentum = 0.5});
  }
  Variable step() {
    Variable h = x_;
    for (std::size_t i = 0; i < weights_.size(); ++i)
      h = linear(h, weights_[i], biases_[i],
                 i + 1 < weights_.size() ? Activation::Relu : Activation::None);
    const Variable loss = cross_entropy(h, labels_);
    loss.backward();
    optimizer_->step();
    optimizer_->zero_grad();
    return loss;
  }
  std::vector<double> losses(int steps) {
    std::vector<double> all;
    for (int i = 0; i < steps; ++i) all.push_back(step().item());
    return all;
  }

 private:
  Inputs weights_, biases_;
  Tensor x_, labels_;
  std::optional<optim::SGD> optimizer_;
};

class GpuTraining : public GpuTest {};

TEST_F(GpuTraining, TwentyStepsHaveTheCpusLosses) {
  const std::vector<std::int64_t> sizes{64, 48, 10};
  const auto cpu = Perceptron(DeviceType::CPU, sizes, 37).losses(20),
             there = Perceptron(gpu(), sizes, 37).losses(20);
  for (std::size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cpu[i], there[i], 1e-4) << "step " << i;
  EXPECT_LT(there.back(), 0.5 * there.front());
  EXPECT_EQ(there, Perceptron(gpu(), sizes, 37).losses(20)) << "run to run";
}

TEST_F(GpuTraining, LeavesNothingBehind) {
  Perceptron(gpu(), {32, 16, 4}, 8).losses(2);  // what is made once and kept
  lmp::matmul(lmp::ones({2, 2}, gpu()), lmp::ones({2, 2}, gpu())).to_vector<float>();
  const std::int64_t before = memory_stats(gpu()).live_bytes;
  {
    Perceptron model(gpu(), {32, 16, 4}, 8);
    model.losses(5);
    const std::int64_t steady = memory_stats(gpu()).live_bytes;
    model.losses(50);
    EXPECT_EQ(memory_stats(gpu()).live_bytes, steady);
    EXPECT_GT(steady, before);
  }
  EXPECT_EQ(memory_stats(gpu()).live_bytes, before);
  empty_cache();
  EXPECT_EQ(memory_stats(gpu()).live_bytes, before);
}

class GpuLaunches : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (rehearsing()) GTEST_SKIP() << "the CPU launches nothing";
  }
  template <class F>
  static std::int64_t launches(const F& f) {
    f();
    f();  // what is made once, and products that are timed for their second and third use
    f();
    const std::int64_t before = cuda::launch_count();
    f();
    return cuda::launch_count() - before;
  }
};

TEST_F(GpuLaunches, SumOfSquaresForwardAndBackward) {
  const Variable x(lmp::ones({8}, gpu()), true);
  const std::int64_t count = launches([&] {
    sum(x * x).backward();
    x.zero_grad();
  });
  RecordProperty("launches", static_cast<int>(count));
  EXPECT_GT(count, 0);
  EXPECT_LE(count, 4);
}

TEST_F(GpuLaunches, ChainOfTwentyProductsForwardAndBackward) {
  const Variable x(lmp::ones({8}, gpu()), true);
  const Tensor seed = lmp::ones({8}, gpu());
  const std::int64_t count = launches([&] {
    Variable y = x;
    for (int i = 0; i < 20; ++i) y = y * x;
    y.backward(seed);
    x.zero_grad();
  });
  RecordProperty("launches", static_cast<int>(count));
  EXPECT_LE(count, 43);
}

TEST_F(GpuLaunches, StepOfAPerceptron) {
  Perceptron model(gpu(), {784, 512, 10}, 128);
  const std::int64_t count = launches([&] { model.step(); });
  RecordProperty("launches", static_cast<int>(count));
  EXPECT_LE(count, 12);
}

TEST_F(GpuLaunches, ProductsAddIntoAGradientThatIsThere) {
  const Variable x(lmp::ones({128, 64}, gpu()), true);
  const Tensor a = lmp::ones({32, 64}, gpu()), b = lmp::ones({32, 64}, gpu());
  const Tensor seed = lmp::ones({128, 32}, gpu());
  const auto step = [&](bool both) {
    return launches([&] {
      const Variable y = lmp::linear(x, a), z = lmp::linear(x, both ? b : a);
      if (both)
        (y + z).backward(seed);
      else
        y.backward(seed);
      x.zero_grad();
    });
  };
  // The sum, and a product.
  EXPECT_EQ(step(true), step(false) + 2);
  (lmp::linear(x, a) + lmp::linear(x, b)).backward(seed);
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(x.numel(), 64.0F));
}

// The gradient comes with the loss, and one kernel adds what meets in a sum.
TEST_F(GpuLaunches, LossesAndNorms) {
  const Variable x(lmp::ones({128, 10}, gpu()), true), wide(lmp::ones({64, 5000}, gpu()), true);
  const Tensor few = lmp::zeros({128}, gpu(), DataType::Int64),
               many = lmp::zeros({64}, gpu(), DataType::Int64);
  EXPECT_EQ(launches([&] {
              cross_entropy(x, few).backward();
              x.zero_grad();
            }),
            1);
  EXPECT_EQ(launches([&] {
              cross_entropy(wide, many).backward();
              wide.zero_grad();
            }),
            2);
  EXPECT_EQ(launches([&] {
              (0.5 * cross_entropy(x, few)).backward();
              x.zero_grad();
            }),
            4);
  const Tensor weight = lmp::ones({10}, gpu()), r = lmp::ones({128, 10}, gpu());
  EXPECT_EQ(launches([&] { add_layer_norm(x.data(), r, weight); }), 1);
  const auto sum_of_both = [&] {  // whose handles are gone when backward runs, so nothing is kept
    const auto [y, both] = add_rms_norm(x, Variable(r), Variable(weight));
    return y + 2 * both;
  };
  EXPECT_EQ(launches([&] {
              sum_of_both().backward(r);
              x.zero_grad();
            }),
            5);
}

TEST_F(GpuLaunches, OneForAnOp) {
  const Tensor x = lmp::ones({3, 5}, gpu()), row = lmp::ones({5}, gpu());
  EXPECT_EQ(launches([&] { x + x; }), 1);
  EXPECT_EQ(launches([&] { x + row; }), 1);
  EXPECT_EQ(launches([&] { x * 2.5; }), 1);
  EXPECT_EQ(launches([&] { x.transpose() + x.transpose(); }), 1);
  EXPECT_EQ(launches([&] { lmp::exp(x); }), 1);
  EXPECT_EQ(launches([&] { x += row; }), 1);
  EXPECT_EQ(launches([&] { lmp::sum(x); }), 1);
  EXPECT_EQ(launches([&] { lmp::sum(x, {0}); }), 1);
  EXPECT_EQ(launches([&] { lmp::softmax(x); }), 1);
  EXPECT_EQ(launches([&] { lmp::zeros({4}, gpu()); }), 1);
  EXPECT_EQ(launches([&] { x.transpose().contiguous(); }), 1);
}

class GpuMixedDevices : public GpuTest {};

TEST_F(GpuMixedDevices, AreRefusedByNameAndWithTheRemedy) {
  if (rehearsing()) GTEST_SKIP() << "one device";
  const Tensor a = lmp::ones({3, 3}), b = lmp::ones({3, 3}, gpu());
  const Tensor at = lmp::zeros({3}, DeviceType::CPU, DataType::Int64), at_there = at.to(gpu());
  const Tensor mask = a > 0;
  const std::vector<std::pair<const char*, std::function<void()>>> ops = {
      {"add", [&] { a + b; }},
      {"mul", [&] { b* a; }},
      {"+=",
       [&] {
         Tensor c = b.clone();
         c += a;
       }},
      {"where", [&] { lmp::where(mask, b, b); }},
      {"matmul", [&] { lmp::matmul(b, a); }},
      {"cat",
       [&] {
         lmp::cat({a, b});
       }},
      {"solve", [&] { lmp::solve(a, b); }},
      {"index_select", [&] { lmp::index_select(b, 0, at); }},
      {"index_select", [&] { lmp::index_select(a, 0, at_there); }},
      {"gather",
       [&] {
         lmp::gather(b, 0, lmp::zeros({3, 3}, DeviceType::CPU, DataType::Int64));
       }},
      {"scatter",
       [&] {
         lmp::scatter(b, 0, lmp::zeros({3, 3}, gpu(), DataType::Int64), a);
       }},
      {"masked_select", [&] { lmp::masked_select(b, mask); }},
      {"linear", [&] { linear(Variable(b), Variable(a)); }},
      {"linear", [&] { linear(Variable(b), Variable(b), Variable(lmp::ones({3}))); }},
      {"layer_norm", [&] { layer_norm(Variable(b), Variable(lmp::ones({3}))); }},
      {"cross_entropy", [&] { cross_entropy(Variable(b), at); }},
      {"backward",
       [&] {
         Variable v(b, true);
         (v * 2).backward(a);
       }},
      {"sgd_step",
       [&] { lmp::sgd_step({{.parameter = b, .gradient = a, .first = {}}}, {.lr = 1}); }},
  };
  for (const auto& [name, f] : ops) {
    const std::string message = message_of<DeviceError>(f);
    EXPECT_TRUE(contains(message, "CPU") && contains(message, "CUDA:0")) << name << ": " << message;
  }
}

TEST_F(GpuMixedDevices, GradientsTravelBack) {
  const Variable x(lmp::ones({3}), true);
  const Variable y = x.to(gpu()) * 3;
  sum(y * y).backward();
  EXPECT_EQ(x.grad().device(), Device(DeviceType::CPU));
  EXPECT_EQ(values(x.grad()), (std::vector<double>{18, 18, 18}));
}

/// More elements than 32 bits count.
class GpuHuge : public GpuTest {
 protected:
  static constexpr std::int64_t n = (std::int64_t{1} << 31) + 77;
  void SetUp() override {
    GpuTest::SetUp();
    if (rehearsing() || IsSkipped()) GTEST_SKIP() << "only on a GPU";
    std::size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    if (available < (std::size_t{24} << 30)) GTEST_SKIP() << "needs 24 GiB of GPU memory";
  }
  void TearDown() override { empty_cache(); }
  static double at(const Tensor& x, std::int64_t i) { return x.index({i}); }
};

TEST_F(GpuHuge, PointwiseFillSumAndCopy) {
  const Tensor x = lmp::ones({n}, gpu(), DataType::Int8);
  x.narrow(0, n - 3, 3).fill(5);
  const Tensor y = x + x;
  EXPECT_EQ(at(y, 0), 2);
  EXPECT_EQ(at(y, n / 2), 2);
  EXPECT_EQ(at(y, n - 1), 10);
  EXPECT_EQ(lmp::sum(y).item<std::int64_t>(), 2 * (n - 3) + 30);
  EXPECT_EQ(lmp::argmax(x).item<std::int64_t>(), n - 3);
  const Tensor z = lmp::flip(x, {0}).contiguous();
  EXPECT_EQ(at(z, 2), 5);
  EXPECT_EQ(at(z, 3), 1);
  EXPECT_EQ(lmp::sum(x.astype(DataType::Int16) == 5).item<std::int64_t>(), 3);
  EXPECT_EQ(lmp::nonzero(x == 5).to_vector<std::int64_t>(),
            (std::vector<std::int64_t>{n - 3, n - 2, n - 1}));
}

TEST_F(GpuHuge, BroadcastsTransposesAndIndices) {
  const Tensor column = lmp::ones({70000, 1}, gpu(), DataType::Int8),
               row = lmp::arange(0, 40000, 1, gpu()).astype(DataType::Int8);
  const Tensor x = column + row;  // 2.8e9 elements
  EXPECT_EQ(x.index({69999, 39999}), Tensor({39999}, {1}).astype(DataType::Int8).index({0}) + 1);
  const Tensor total = lmp::sum(x, {0}, false), first = lmp::sum(x.narrow(0, 0, 1), {0}, false);
  EXPECT_TRUE(lmp::array_equal(total, first * 70000));
  EXPECT_TRUE(lmp::array_equal(lmp::sum(x, {1}, false), lmp::expand(lmp::sum(first), {70000})));
  const Tensor t = x.transpose().contiguous();
  EXPECT_EQ(t.index({39999, 69999}), x.index({69999, 39999}));
  EXPECT_TRUE(lmp::array_equal(t.select(0, 39998), x.select(1, 39998)));
  const Tensor picked =
      lmp::index_select(x, 0, Tensor({69999, 0}, {2}).astype(DataType::Int64).to(gpu()));
  EXPECT_TRUE(lmp::array_equal(picked.select(0, 0), x.select(0, 69999)));
}

TEST_F(GpuHuge, GradientsAndRandomNumbers) {
  Generator generator(5);
  const Tensor x = lmp::rand(generator, {n}, gpu(), DataType::BFloat16);
  // The end of the stream is where it should be.
  Generator skipping(5);
  skipping.set_offset(static_cast<std::uint64_t>(n / 4 - 2));
  const std::int64_t from = (n / 4 - 2) * 4;
  EXPECT_TRUE(same(on_cpu(lmp::rand(skipping, {n - from}, DeviceType::CPU, DataType::BFloat16)),
                   x.narrow(0, from, n - from)));
  const Variable v(x, true);
  (v * 2).backward(lmp::expand(lmp::ones({1}, gpu(), DataType::BFloat16), {n}));
  EXPECT_EQ(at(v.grad(), 0), 2);
  EXPECT_EQ(at(v.grad(), n - 1), 2);
}

}  // namespace
}  // namespace lmp::testing
