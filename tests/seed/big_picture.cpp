// expect: ^Gradient: \[4\.0\]$
// clang-format off
#include "lamppp/lamppp.hpp"
int main() {
// Create a variable that tracks gradients
lmp::Tensor data({2.0f}, {1}, lmp::DeviceType::CPU, lmp::DataType::Float32);
lmp::Variable x(data, true); // requires_grad = true
// Do some computation
lmp::Variable y = x * x; // y = x²
// Compute gradients
y.backward();
// dy/dx = 2x = 2 * 2.0 = 4.0
std::cout << "Gradient: " << x.grad() << std::endl; // Should print 4.0
return 0;
}
