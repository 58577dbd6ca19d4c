#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor tensor_data({1.0f, 2.0f}, {2});
  // clang-format off
lmp::Variable var(tensor_data, true);
// The four components:
var.data(); // The actual tensor data
var.grad(); // Accumulated gradients (initially zero)
var.requires_grad(); // Whether to track gradients
var.grad_fn(); // Pointer to the operation that created this variable
  // clang-format on
  CHECK(var.data().shares_storage(tensor_data));
  CHECK(var.grad().shape() == var.data().shape());
  CHECK(var.grad().to_vector<float>() == std::vector<float>({0, 0}));
  CHECK(var.requires_grad());
  CHECK(var.grad_fn() == nullptr);
  CHECK((var * var).grad_fn() != nullptr);
}
