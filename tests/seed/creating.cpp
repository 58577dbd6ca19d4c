#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  std::vector<float> data = {1, 2, 3, 4, 5, 6};
  // clang-format off
// From existing tensors
lmp::Tensor tensor(data, {2, 3}, lmp::DeviceType::CPU);
lmp::Variable var1(tensor, true); // requires_grad = true
// Using autograd constructors
lmp::Variable zeros_var = lmp::autograd::zeros({2, 3}, lmp::DeviceType::CPU,
lmp::DataType::Float32, true);
lmp::Variable ones_var = lmp::autograd::ones({2, 3}, lmp::DeviceType::CPU,
lmp::DataType::Float32, true);
lmp::Variable rand_var = lmp::autograd::rand({2, 3}, lmp::DeviceType::CPU,
lmp::DataType::Float32, true);
// From nested vectors (automatically infers shape)
std::vector<std::vector<float>> nested_data = {{1.0f, 2.0f}, {3.0f, 4.0f}};
lmp::Variable tensor_var = lmp::autograd::tensor(nested_data, lmp::DeviceType::CPU,
lmp::DataType::Float32, true);
  // clang-format on
  const std::vector<size_t> two_by_three = {2, 3}, two_by_two = {2, 2};
  for (const lmp::Variable& v : {var1, zeros_var, ones_var, rand_var}) {
    CHECK(v.requires_grad());
    CHECK(v.data().shape() == two_by_three);
    CHECK(v.data().type() == lmp::DataType::Float32);
  }
  CHECK(var1.data().to_vector<float>() == data);
  CHECK(zeros_var.data().to_vector<float>() == std::vector<float>(6, 0));
  CHECK(ones_var.data().to_vector<float>() == std::vector<float>(6, 1));
  for (float r : rand_var.data().to_vector<float>()) CHECK(r >= 0 && r < 1);
  CHECK(tensor_var.requires_grad());
  CHECK(tensor_var.data().shape() == two_by_two);
  CHECK(tensor_var.data().to_vector<float>() == std::vector<float>({1, 2, 3, 4}));
}
