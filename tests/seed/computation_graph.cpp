#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor data({1.0f, -2.0f, 3.0f}, {3});
  // clang-format off
lmp::Variable x(data, true);
lmp::Variable y = x * x;
lmp::Variable loss = lmp::sum(y);
// backward() visits nodes in reverse topological order
loss.backward();
  // clang-format on
  CHECK(x.grad().to_vector<float>() == std::vector<float>({2, -4, 6}));
}
