// expect: ^First gradient: \[2\.0\]$
// expect: ^Accumulated: \[5\.0\]$
#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor data({1.5f}, {1});
  // clang-format off
lmp::Variable x(data, true);
lmp::Variable y1 = x * 2;
y1.backward();
std::cout << "First gradient: " << x.grad() << std::endl; // 2.0
lmp::Variable y2 = x * 3;
y2.backward();
std::cout << "Accumulated: " << x.grad() << std::endl; // 5.0 (2.0 + 3.0)
// Clear gradients before next computation
x.zero_grad();
  // clang-format on
  CHECK(x.grad().item() == 0);
  CHECK(x.requires_grad());
}
