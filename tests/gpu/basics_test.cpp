// Where tensors are: moving them, what is said where there is no GPU, and that none is left behind.

#include <sstream>

#include "gpu_support.hpp"

namespace lmp::testing {
namespace {

TEST(GpuAbsent, SaysSoAndWhatToDo) {
  if (cuda::device_count() > 0) GTEST_SKIP() << "there is a GPU";
  const Tensor x({1.0f, 2.0f}, {2});
  for (const std::string& message :
       {message_of<DeviceError>([&] { x.to(DeviceType::CUDA); }),
        message_of<DeviceError>([] { lmp::zeros({2}, DeviceType::CUDA); }),
        message_of<DeviceError>([] { lmp::rand({2}, DeviceType::CUDA); }),
        message_of<DeviceError>([] { Tensor({1.0f}, {1}, DeviceType::CUDA); }),
        message_of<DeviceError>([] { memory_stats(DeviceType::CUDA); })}) {
    EXPECT_TRUE(contains(message, "CUDA:0")) << message;
    EXPECT_TRUE(contains(message, "use DeviceType::CPU")) << message;
  }
  // Nothing is lost for the CPU.
  EXPECT_EQ(values(x + x), (std::vector<double>{2, 4}));
}

TEST(GpuAbsent, AnIndexThatNoMachineHas) {
  const Tensor x({1.0f}, {1});
  const std::string message = message_of<DeviceError>([&] { x.to(Device(DeviceType::CUDA, 63)); });
  EXPECT_TRUE(contains(message, "CUDA:63")) << message;
}

class GpuBasics : public GpuTest {};

TEST_F(GpuBasics, ThereAndBack) {
  for (DataType type : sweep::kTypes) {
    const Tensor x = Tensor({0, 1, 2, 3, 4, 5}, {2, 3}).astype(type);
    const Tensor there = x.to(gpu());
    EXPECT_EQ(there.device(), gpu());
    EXPECT_TRUE(same(x, there)) << type;
    EXPECT_TRUE(same(x.transpose().contiguous(), there.transpose().contiguous())) << type;
  }
}

TEST_F(GpuBasics, Adds) {
  const Tensor x({1.0f, 2.0f, 3.0f}, {3});
  EXPECT_TRUE(same(x + x, x.to(gpu()) + x.to(gpu())));
  EXPECT_EQ(lmp::sum(x.to(gpu())).item(), 6);
}

TEST_F(GpuBasics, Gradient) {
  const Variable x(Tensor({1.0f, 2.0f, 3.0f}, {3}, gpu()), true);
  lmp::sum(x * x).backward();
  EXPECT_EQ(x.grad().device(), gpu());
  EXPECT_EQ(values(x.grad()), (std::vector<double>{2, 4, 6}));
}

}  // namespace
}  // namespace lmp::testing
