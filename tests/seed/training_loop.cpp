#include "check.hpp"
#include "lamppp/lamppp.hpp"

namespace {

struct Batch {
  lmp::Tensor input, target;
};

lmp::Variable compute_loss(const lmp::Variable& output, const lmp::Tensor& target) {
  return lmp::mean(lmp::square(output - target));
}

}  // namespace

int main() {
  // y = 2 a - b + 0.5, which the loop finds.
  std::vector<Batch> data_loader;
  lmp::manual_seed(1);
  const lmp::Tensor truth({2.0f, -1.0f}, {2, 1});
  for (int i = 0; i < 20; ++i) {
    const lmp::Tensor input = lmp::randn(0, 1, {16, 2});
    data_loader.push_back({input, lmp::matmul(input, truth) + 0.5f});
  }
  const int num_epochs = 30;
  const lmp::Tensor weight_data = lmp::zeros({2, 1}), bias_data = lmp::zeros({1});
  // clang-format off
// Neural network parameters
lmp::Variable weights(weight_data, true);
lmp::Variable bias(bias_data, true);
for (int epoch = 0; epoch < num_epochs; ++epoch) {
for (auto& batch : data_loader) {
// Clear gradients from previous iteration
weights.zero_grad();
bias.zero_grad();
// Forward pass
lmp::Variable output = lmp::matmul(batch.input, weights) + bias;
lmp::Variable loss = compute_loss(output, batch.target);
// Backward pass
loss.backward();
// Update parameters
float learning_rate = 0.01f;
weights = lmp::Variable(weights.data() - learning_rate * weights.grad(), true);
bias = lmp::Variable(bias.data() - learning_rate * bias.grad(), true);
}
}
  // clang-format on
  CHECK(std::abs(weights.data().index({0, 0}) - 2) < 1e-2);
  CHECK(std::abs(weights.data().index({1, 0}) + 1) < 1e-2);
  CHECK(std::abs(bias.data().item() - 0.5) < 1e-2);
  CHECK(weight_data.index({0, 0}) == 0);  // the loop rebinds, it does not write
}
