#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor data({0.5f, -1.0f, 0.0f}, {3});
  // clang-format off
lmp::Variable x(data, true);
lmp::Variable a = x * 2; // da/dx = 2
lmp::Variable b = lmp::exp(a); // db/da = exp(a)
lmp::Variable c = lmp::sum(b); // dc/db = 1
c.backward();
// dc/dx = dc/db * db/da * da/dx = 1 * exp(2x) * 2 = 2 * exp(2x)
  // clang-format on
  CHECK(c.data().shape().empty());
  const std::vector<float> at = data.to_vector<float>(), found = x.grad().to_vector<float>();
  for (std::size_t i = 0; i < at.size(); ++i)
    CHECK(std::abs(found[i] - 2 * std::exp(2 * at[i])) < 1e-5f);
  // The intermediate gradients of the comments, as b and a are still held.
  CHECK(b.grad().to_vector<float>() == std::vector<float>({1, 1, 1}));
  CHECK(a.grad().to_vector<float>() == b.data().to_vector<float>());
}
