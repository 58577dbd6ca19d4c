// Many steps of training: memory stays, and numbers repeat.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "autograd_support.hpp"

namespace lmp {
namespace {

using testing::live_bytes;

/// A two-layer perceptron on random data, as a user would write it.
class Training {
 public:
  Training(std::uint64_t seed, std::size_t rows, std::size_t width) {
    manual_seed(seed);
    input_ = randn(0, 1, {rows, 4});
    labels_ = astype(sum(input_, 1, false) > 0, DataType::Int64);
    w1_ = autograd::randn(0, 0.5, {4, width}, DeviceType::CPU, DataType::Float32, true);
    b1_ = autograd::zeros({width}, DeviceType::CPU, DataType::Float32, true);
    w2_ = autograd::randn(0, 0.5, {width, 2}, DeviceType::CPU, DataType::Float32, true);
    b2_ = autograd::zeros({2}, DeviceType::CPU, DataType::Float32, true);
  }

  float step() {
    for (const Variable* p : {&w1_, &b1_, &w2_, &b2_}) p->zero_grad();
    const Variable hidden = relu(matmul(input_, w1_) + b1_);
    const Variable scores = log_softmax(matmul(hidden, w2_) + b2_);
    const Variable loss = -mean(gather(scores, 1, labels_.expand_dims(1)));
    loss.backward();
    // Both ways to update: rebinding as the seed page does, and in place.
    w1_ = Variable(w1_.data() - 0.1 * w1_.grad(), true);
    b1_ = Variable(b1_.data() - 0.1 * b1_.grad(), true);
    w2_.data() -= 0.1 * w2_.grad();
    b2_.data() -= 0.1 * b2_.grad();
    return loss.item<float>();
  }

  std::vector<float> losses(int steps) {
    std::vector<float> out;
    for (int i = 0; i < steps; ++i) out.push_back(step());
    return out;
  }
  std::vector<float> weights() const { return w1_.to_vector<float>(); }

 private:
  Tensor input_, labels_;
  Variable w1_, b1_, w2_, b2_;
};

/// Bytes of memory that the process holds from the system.
std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(Training, TenThousandStepsHoldTheSameMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kSteps = 1000;  // a sanitizer keeps memory of its own
#else
  constexpr int kSteps = 10000;
#endif
  const std::int64_t outside = live_bytes();
  {
    Training training(1, 8, 8);
    const float first = training.step();
    float last = first;
    std::int64_t settled = 0;
    [[maybe_unused]] std::int64_t resident = 0;
    for (int i = 1; i < kSteps; ++i) {
      last = training.step();
      if (i == 100) {
        settled = live_bytes();
        resident = resident_bytes();
      }
      if (i > 100) {
        ASSERT_EQ(live_bytes(), settled) << "step " << i;
      }
    }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(std::abs(resident_bytes() - resident), 1 << 20);
#endif
    EXPECT_LT(last, 0.2f * first);
  }
  EXPECT_EQ(live_bytes(), outside);
}

TEST(Training, ASeedRepeatsBitForBit) {
  Training a(7, 64, 32);
  const std::vector<float> losses = a.losses(50);
  Training b(7, 64, 32), c(8, 64, 32);
  EXPECT_EQ(b.losses(50), losses);
  EXPECT_EQ(b.weights(), a.weights());
  EXPECT_NE(c.losses(50), losses);
}

TEST(Training, ThreadsDoNotChangeResults) {
  const int before = get_num_threads();
  // Large enough that every kernel is split.
  std::vector<float> expected, weights;
  for (const int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    Training training(3, 20000, 48);
    const std::vector<float> losses = training.losses(4);
    if (threads == 1) {
      expected = losses;
      weights = training.weights();
    }
    EXPECT_EQ(losses, expected) << threads << " threads";
    EXPECT_EQ(training.weights(), weights) << threads << " threads";
  }
  set_num_threads(before);
}

}  // namespace
}  // namespace lmp
