// What a program says to a GPU beside its ops: streams, graphs, memory, errors.

#include <atomic>
#include <thread>
#include <vector>

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

class GpuRuntime : public GpuTest {
  void SetUp() override {
    GpuTest::SetUp();
    if (rehearsing()) GTEST_SKIP() << "about GPUs alone";
  }
};

TEST_F(GpuRuntime, OpsGoToTheStreamOfTheGuard) {
  const cuda::Stream outer = cuda::Stream::current();
  const cuda::Stream stream;
  EXPECT_NE(stream.handle(), outer.handle());
  Tensor y;
  {
    const cuda::StreamGuard guard(stream);
    EXPECT_EQ(cuda::Stream::current().handle(), stream.handle());
    y = lmp::full({1 << 20}, 2, gpu()) * 3;
  }
  EXPECT_EQ(cuda::Stream::current().handle(), outer.handle());
  outer.wait(stream);
  EXPECT_EQ(lmp::sum(y).item(), 6.0 * (1 << 20));
}

TEST_F(GpuRuntime, MemoryUsedOnAnotherStreamIsNotReusedTooEarly) {
  const cuda::Stream busy;
  const Tensor x = lmp::full({1 << 22}, 1, gpu());
  for (int round = 0; round < 50; ++round) {
    Tensor y;
    {
      Tensor once = x * (round + 1);
      busy.wait(cuda::Stream::current());
      const cuda::StreamGuard guard(busy);
      for (int k = 0; k < 10; ++k) y = once * 1.0;
    }  // `once` is free here, while the other stream may still read it
    const Tensor over = lmp::full({1 << 22}, -7, gpu());
    cuda::Stream::current().wait(busy);
    ASSERT_EQ(lmp::max(lmp::abs(y - (round + 1))).item(), 0) << round;
    ASSERT_EQ(over.index({0}), -7);
  }
}

TEST_F(GpuRuntime, BackwardRunsOnTheStreamOfTheForward) {
  const cuda::Stream side;
  for (int round = 0; round < 20; ++round) {
    const Variable x(lmp::full({1 << 20}, 3.0, gpu()), true);
    Variable y;
    {
      side.wait(cuda::Stream::current());
      const cuda::StreamGuard guard(side);
      y = x * x * x;
    }
    cuda::Stream::current().wait(side);
    const Variable z = lmp::sum(y * 2);
    z.backward();
    ASSERT_EQ(lmp::max(lmp::abs(x.grad() - 54)).item(), 0) << round;
  }
}

TEST_F(GpuRuntime, AGraphRepeatsAStep) {
  const Tensor x = lmp::zeros({1000}, gpu()), total = lmp::zeros({1000}, gpu());
  const auto step = [&] { total += lmp::exp(x) * 2; };
  step();
  cuda::Graph graph;
  graph.capture(step);
  EXPECT_EQ(total.index({0}), 2) << "a capture runs nothing";
  for (int i = 1; i <= 3; ++i) {
    x.copy(lmp::full({1000}, double(i), gpu()));
    graph.replay();
  }
  EXPECT_NEAR(total.index({999}), 2 + 2 * (std::exp(1) + std::exp(2) + std::exp(3)), 1e-4);
}

TEST_F(GpuRuntime, AGraphTrainsAsTheStepsWould) {
  const auto train = [&](bool captured, bool adam) {
    manual_seed(5);
    Variable w(lmp::randn(0, 0.1, {16, 8}, gpu()), true), b(lmp::zeros({16}, gpu()), true);
    const Tensor x = lmp::zeros({32, 8}, gpu()), t = lmp::zeros({32}, gpu(), DataType::Int64);
    optim::Adam by_adam({w, b}, {.lr = 0.01});
    optim::SGD by_sgd({w, b}, {.lr = 0.1, .momentum = 0.9});
    Variable loss;
    const auto step = [&] {
      w.zero_grad();
      b.zero_grad();
      const Variable h = dropout(linear(Variable(x), w, b, Activation::Relu), 0.25);
      loss = cross_entropy(h, t);
      loss.backward();
      if (adam)
        by_adam.step();
      else
        by_sgd.step();
    };
    std::vector<double> losses;
    cuda::Graph graph;
    for (int i = 0; i < 12; ++i) {
      Generator batch(static_cast<std::uint64_t>(i));
      x.copy(lmp::rand(batch, {32, 8}, gpu()));
      t.copy(lmp::randint(batch, 0, 16, {32}, gpu()));
      if (captured && i == 2) graph.capture(step);
      if (captured && i == 8) graph.set_lr(0.002);
      if (!captured && i == 8) {
        by_adam.options().lr = 0.002;
        by_sgd.options().lr = 0.002;
      }
      if (captured && i >= 2)
        graph.replay();
      else
        step();
      losses.push_back(loss.data().item());
    }
    return losses;
  };
  for (const bool adam : {true, false}) {
    const std::vector<double> eager = train(false, adam), replayed = train(true, adam);
    for (std::size_t i = 0; i < eager.size(); ++i)
      EXPECT_NEAR(eager[i], replayed[i], 1e-5) << adam << ' ' << i;
  }
}

TEST_F(GpuRuntime, AGraphRefusesWhatReadsBack) {
  const Tensor x = lmp::ones({4}, gpu());
  cuda::Graph graph;
  const std::string message =
      message_of<DeviceError>([&] { graph.capture([&] { (void)lmp::sum(x).item(); }); });
  EXPECT_TRUE(contains(message, "Graph")) << message;
  EXPECT_EQ(lmp::sum(x).item(), 4) << "the thread goes on as before";
  EXPECT_TRUE(contains(message_of<DeviceError>([&] { graph.replay(); }), "capture"));
  graph.capture([&] { x += 1; });
  graph.replay();
  EXPECT_EQ(x.index({3}), 2);
}

TEST_F(GpuRuntime, MemoryRunsOutAndTheProgramGoesOn) {
  empty_cache();
  const auto held = memory_stats(gpu());
  set_memory_limit(
      static_cast<std::size_t>(held.live_block_bytes + held.cached_bytes) + (std::size_t{64} << 20),
      gpu());
  const std::string message = message_of<OutOfMemoryError>([] {
    std::vector<Tensor> all;
    for (int i = 0; i < 100; ++i) all.push_back(lmp::empty({8 << 20}, gpu()));
  });
  set_memory_limit(0, gpu());
  EXPECT_TRUE(contains(message, "asked for")) << message;
  EXPECT_EQ(lmp::sum(lmp::ones({1 << 20}, gpu())).item(), 1 << 20);
}

TEST_F(GpuRuntime, NothingIsLeftBehind) {
  {
    // The 1 that a pass starts from stays.
    const Variable x(lmp::ones({}, gpu()), true);
    (x * 2).backward();
  }
  const auto before = memory_stats(gpu());
  {
    const Variable x(lmp::ones({300, 300}, gpu()), true);
    lmp::sum(lmp::exp(x) * x).backward();
    EXPECT_GT(memory_stats(gpu()).live_bytes, before.live_bytes);
  }
  EXPECT_EQ(memory_stats(gpu()).live_bytes, before.live_bytes);
  empty_cache();
  EXPECT_LE(memory_stats(gpu()).cached_bytes, before.cached_bytes + before.live_block_bytes);
}

TEST_F(GpuRuntime, ABadIndexIsThrownAtTheNextRead) {
  const Tensor x = lmp::ones({4}, gpu());
  const Tensor at = Tensor({0, 9, 1}, {3}, gpu()).astype(DataType::Int64);
  const Tensor y = lmp::index_select(x, 0, at);
  const std::string message = message_of<IndexError>([&] { (void)y.to_vector<float>(); });
  EXPECT_TRUE(contains(message, "index_select")) << message;
  EXPECT_TRUE(contains(message, "9")) << message;
  EXPECT_NO_THROW((void)x.to_vector<float>()) << "it is thrown once";
  (void)lmp::index_select(x, 0, at);
  EXPECT_THROW(cuda::synchronize(), IndexError);
}

TEST_F(GpuRuntime, DevicesDoNotMix) {
  const std::string message =
      message_of<DeviceError>([] { (void)(lmp::ones({2}, gpu()) + lmp::ones({2})); });
  EXPECT_TRUE(contains(message, "CUDA:0") && contains(message, "to(")) << message;
  EXPECT_THROW(cuda::Stream{DeviceType::CPU}, DeviceError);
}

TEST_F(GpuRuntime, SeveralGpusAtOnce) {
  if (cuda::device_count() < 2) GTEST_SKIP() << "there is one GPU";
  const Device first(DeviceType::CUDA, 0), second(DeviceType::CUDA, 1);
  const Variable x(lmp::full({1000}, 2.0, first), true);
  const Variable there = x.to(second);
  const cuda::DeviceGuard guard(second);
  lmp::sum(there * there).backward();
  EXPECT_EQ(x.grad().device(), first);
  EXPECT_EQ(x.grad().index({7}), 4);
  EXPECT_THROW((void)(x + there), DeviceError);
}

TEST_F(GpuRuntime, CopiesFromTheHostOfAnySize) {
  for (const std::int64_t n : {1, 1000, 100000, 1 << 20, 3 << 20}) {
    const Tensor x = lmp::arange(0, n).astype(DataType::Float32);
    std::vector<Tensor> there;
    for (int k = 0; k < 20; ++k) there.push_back((x + k).to(gpu()));
    for (int k = 0; k < 20; ++k)
      ASSERT_TRUE(same(x + k, there[static_cast<std::size_t>(k)])) << n << ' ' << k;
  }
}

bool arriving(const Tensor& x) {
  return tensor::TensorAccess::storage(x)->arriving.load() != nullptr;
}

TEST_F(GpuRuntime, CopiesToTheHostAreWaitedForByTheirReader) {
  const Tensor big = lmp::full({1 << 24}, 1, gpu());
  for (const std::int64_t n : {1, 100, 70000, 1 << 17}) {  // of Int64
    std::vector<Tensor> there, here;
    for (int k = 0; k < 30; ++k) {
      there.push_back(lmp::full({n}, k, gpu()) + big.slice(0, 0, n));
      here.push_back(there.back().to(DeviceType::CPU));
      there.back() += 100;  // the copy is of what was there before
    }
    EXPECT_TRUE(arriving(here.back())) << n;
    for (int k = 0; k < 30; ++k) {
      const Tensor& x = here[static_cast<std::size_t>(k)];
      if (k % 3 == 0) continue;  // never read
      const Tensor view = x.slice(0, n - 1, n);
      ASSERT_EQ(k % 3 == 1 ? view.item() : lmp::max(x).item(), k + 1) << n;
      EXPECT_FALSE(arriving(x));
    }
  }
  const Tensor huge = lmp::full({3 << 20}, 2, gpu()).to(DeviceType::CPU);
  EXPECT_FALSE(arriving(huge)) << "beyond what is pinned";
  EXPECT_EQ(lmp::min(huge).item(), 2);
  EXPECT_EQ(lmp::zeros({0}, gpu()).to(DeviceType::CPU).numel(), 0U);
}

TEST_F(GpuRuntime, ACopyToTheHostIsWaitedForByManyThreads) {
  for (int round = 0; round < rounds(100); ++round) {
    const Tensor x = lmp::full({50000}, 1.0 * round, gpu()).to(DeviceType::CPU);
    std::vector<std::thread> threads;
    std::atomic<int> right = 0;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        const float* const values = x.data<float>();
        right += values[0] == static_cast<float>(round) && values[49999] == values[0];
      });
    for (std::thread& t : threads) t.join();
    ASSERT_EQ(right, 4) << round;
  }
}

TEST_F(GpuRuntime, ACopyToTheHostInsideTransformsAndGradients) {
  const Variable x(lmp::full({3, 4}, 2.0, gpu()), true);
  const Variable here = (x * x).to(DeviceType::CPU);
  lmp::sum(here * here).backward();
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(12, 32.0F));
  const Tensor two = lmp::full({3}, 2.0, gpu()).to(DeviceType::CPU);
  const auto [value, slope] =
      lmp::value_and_grad([](const Variable& v) { return lmp::sum(v * v); })(Variable(two));
  EXPECT_EQ(slope.to_vector<float>(), std::vector<float>(3, 4.0F));
}

TEST_F(GpuRuntime, WhatKernelsMetIsThrownByTheReaderOfACopy) {
  const Tensor at = Tensor({0, 9, 1}, {3}, gpu()).astype(DataType::Int64);
  const Tensor y = lmp::index_select(lmp::ones({4}, gpu()), 0, at).to(DeviceType::CPU);
  EXPECT_THROW((void)y.data(), IndexError);
  EXPECT_NO_THROW((void)y.data()) << "it is thrown once";
  cuda::Graph graph;
  const Tensor x = lmp::ones({4}, gpu()), late = x.to(DeviceType::CPU);
  EXPECT_THROW(graph.capture([&] { (void)late.data(); }), DeviceError);
  EXPECT_EQ(late.index({3}), 1);
}

TEST_F(GpuRuntime, ZResetStartsAnew) {
  const Tensor lost = lmp::ones({4}, gpu());
  const Tensor kept = (lost * 3).to(DeviceType::CPU);
  cuda::Graph graph;
  graph.capture([&] { lost += 1; });
  cuda::reset_device();
  const std::string message = message_of<DeviceLostError>([&] { (void)(lost + 1); });
  EXPECT_TRUE(contains(message, "reset")) << message;
  EXPECT_EQ(kept.to_vector<float>(), std::vector<float>(4, 3.0F)) << "it was on its way";
  EXPECT_THROW((void)lost.to_vector<float>(), DeviceLostError);
  EXPECT_THROW(graph.replay(), DeviceLostError);
  const Variable x(lmp::ones({64, 64}, gpu()), true);
  lmp::sum(lmp::matmul(x, x)).backward();
  EXPECT_EQ(x.grad().index({0, 0}), 128);
  EXPECT_THROW((void)cuda::Stream(Device(DeviceType::CUDA, 63)), DeviceError);
}

}  // namespace
}  // namespace lmp::testing
