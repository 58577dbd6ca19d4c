#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor tensor_a({1.0f, 2.0f}, {2}), tensor_b({3.0f, 4.0f}, {2});
  // clang-format off
lmp::Variable a(tensor_a, true); // Will track gradients
lmp::Variable b(tensor_b, false); // Won't track gradients
lmp::Variable c = a + b; // Result tracks gradients (inherits from a)
  // clang-format on
  CHECK(a.requires_grad());
  CHECK(!b.requires_grad());
  CHECK(c.requires_grad());
  CHECK(!(b + b).requires_grad());
  c.backward();
  CHECK(a.grad().to_vector<float>() == std::vector<float>({1, 1}));
}
