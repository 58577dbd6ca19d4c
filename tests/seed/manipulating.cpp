// expect: ^Requires grad: 1$
// expect: ^Has grad_fn: 0$
#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor data({1.0f, 2.0f}, {2});
  std::vector<float> grad_data = {0.5f, -0.5f};
  // clang-format off
lmp::Variable var(data, true);
// Check gradient status
std::cout << "Requires grad: " << var.requires_grad() << std::endl;
std::cout << "Has grad_fn: " << (var.grad_fn() != nullptr) << std::endl;
// Manual gradient manipulation
lmp::Tensor custom_grad(grad_data, var.data().shape(), var.data().device());
var.incr_grad(custom_grad); // Add to existing gradients
var.zero_grad(); // Clear gradients
  // clang-format on
  CHECK(var.grad().to_vector<float>() == std::vector<float>({0, 0}));
  var.incr_grad(custom_grad);
  var.incr_grad(custom_grad);
  CHECK(var.grad().to_vector<float>() == std::vector<float>({1, -1}));
  CHECK(custom_grad.to_vector<float>() == grad_data);
}
