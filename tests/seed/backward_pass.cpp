// expect: ^dy/dx: \[12\.0\]$
#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor data({2.0f}, {1});
  // clang-format off
lmp::Variable x(data, true);
lmp::Variable y = x * x * x; // y = x³
y.backward(); // Compute dy/dx = 3x²
// Access gradients
std::cout << "dy/dx: " << x.grad() << std::endl;
  // clang-format on
  CHECK(y.data().item() == 8);
}
