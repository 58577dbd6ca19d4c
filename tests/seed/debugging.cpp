// expect: ^Gradient magnitude: 20\.0$
#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Variable param(lmp::Tensor({1.0f, 2.0f}, {2}), true);
  (param * param).backward();
  {
    // clang-format off
// Check gradient magnitude
std::cout << "Gradient magnitude: " << lmp::sum(param.grad() * param.grad()) << std::endl;
// Check for NaN gradients
auto grad_vector = param.grad().to_vector<float>();
bool has_nan = std::any_of(grad_vector.begin(), grad_vector.end(),
[](float x) { return std::isnan(x); });
    // clang-format on
    CHECK(!has_nan);
  }
  // sqrt(0) * 0 has the gradient inf * 0.
  param = lmp::Variable(lmp::zeros({2}), true);
  (lmp::sqrt(param) * 0).backward();
  auto grad_vector = param.grad().to_vector<float>();
  CHECK(std::any_of(grad_vector.begin(), grad_vector.end(), [](float x) { return std::isnan(x); }));
}
