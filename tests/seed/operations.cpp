#include "check.hpp"
#include "lamppp/lamppp.hpp"

int main() {
  lmp::Tensor tensor_a({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2}),
      tensor_b({5.0f, 6.0f, 7.0f, 8.0f}, {2, 2});
  // clang-format off
lmp::Variable a(tensor_a, true); // Leaf node
lmp::Variable b(tensor_b, true); // Leaf node
lmp::Variable c = a * b; // Multiplication node
lmp::Variable d = lmp::sum(c, 0); // Sum node
  // clang-format on
  CHECK(a.grad_fn() == nullptr && b.grad_fn() == nullptr);
  CHECK(std::string(lmp::autograd::name_of(*c.grad_fn())) == "mul");
  CHECK(std::string(lmp::autograd::name_of(*d.grad_fn())) == "sum");
  CHECK(d.data().to_vector<float>() == std::vector<float>({26, 44}));
  d.backward();
  CHECK(a.grad().to_vector<float>() == b.data().to_vector<float>());
  CHECK(b.grad().to_vector<float>() == a.data().to_vector<float>());

  // What the page says creates nodes, and what does not.
  const lmp::Variable positive = lmp::abs(a) + 1;
  for (const lmp::Variable& v :
       {a + b, a - b, a * b, a / b, lmp::exp(a), lmp::log(positive), lmp::sqrt(positive),
        lmp::sin(a), lmp::cos(a), lmp::sum(a, 0), lmp::max(a, 0), lmp::min(a, 0), lmp::prod(a, 0),
        lmp::matmul(a, b), lmp::transpose(a), lmp::reshape(a, {4}),
        lmp::squeeze(lmp::expand_dims(a, 0), 0), lmp::expand_dims(a, 0)})
    CHECK(v.grad_fn() != nullptr);
  CHECK(a.to(lmp::DeviceType::CPU).requires_grad());
  for (const lmp::Variable& v : {a == b, a != b, a > b, a < b, a >= b, a <= b}) {
    CHECK(v.grad_fn() == nullptr && !v.requires_grad());
    CHECK(v.data().type() == lmp::DataType::Bool);
  }
}
