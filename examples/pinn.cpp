// A physics-informed network: solves a differential equation,
//
//   u''(x) = f(x) on [0, 1],   u(0) = u(1) = 0,
//
// without being shown a single value of u. A small network is trained until its own second
// derivative fits the equation. That takes derivatives with respect to x inside the loss (jvp of
// jvp) and derivatives of the loss with respect to the parameters around them.

#include "lamppp/lamppp.hpp"
#include "terminal.hpp"

using lmp::Tensor;
using lmp::Variable;

constexpr auto kCPU = lmp::DeviceType::CPU;
constexpr auto kFloat64 = lmp::DataType::Float64;
constexpr double kPi = 3.14159265358979323846;
constexpr double kPromised = 1e-5;  // the largest error

// The solution, for the comparison at the end, and its second derivative.
Tensor solution(const Tensor& x) { return lmp::sin(3 * kPi * x) * lmp::exp(-x); }
Tensor right_side(const Tensor& x) {
  const double k = 3 * kPi;
  return lmp::exp(-x) * ((1 - k * k) * lmp::sin(k * x) - 2 * k * lmp::cos(k * x));
}

// The network: x (n, 1) -> 24 units -> u (n, 1). All parameters lie in one vector.
constexpr std::int64_t kHidden = 24, kParameters = 3 * kHidden + 1;

Variable network(const Variable& parameters, const Variable& x) {
  const std::vector<Variable> p = lmp::split(parameters, {kHidden, kHidden, kHidden, 1});
  const Variable hidden = lmp::tanh(x * p[0] + p[1]);  // (n, 1) * (24)
  const Variable output = lmp::sum(hidden * p[2], 1) + p[3];
  return x * (1 - x) * output;  // 0 at both ends, whatever the parameters
}

// The derivative of a function whose every row depends on its own row of x alone.
template <class F>
auto derivative(F f) {
  return [f](const Variable& x) {
    return lmp::jvp(f, x, lmp::ones(x.shape(), kCPU, kFloat64)).tangent;
  };
}

int main(int argc, char** argv) {
  lmp::manual_seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);

  // By how much the equation is missed at some points, as a function of the parameters
  const Tensor points = lmp::linspace(0, 1, 80, kCPU, kFloat64).reshape({-1, 1});
  const Tensor f = right_side(points);
  const auto residual = [&](const Variable& parameters) {
    const auto u = [&](const Variable& x) { return network(parameters, x); };
    return lmp::flatten(derivative(derivative(u))(points) - f);
  };
  const auto loss = [&](const Variable& parameters) {
    return lmp::mean(lmp::square(residual(parameters)));
  };

  // The largest error, on points between those above
  const Tensor fine = lmp::linspace(0, 1, 501, kCPU, kFloat64).reshape({-1, 1});
  const auto error = [&](const Tensor& parameters) {
    const Tensor u = network(parameters, fine).data();
    return lmp::max(lmp::abs(u - solution(fine))).item<double>();
  };

  // Steep enough units, with their turning points spread over the interval
  Tensor parameters = lmp::cat(
      {lmp::randn(0, 6, {kHidden}, kCPU, kFloat64), lmp::randn(0, 3, {kHidden}, kCPU, kFloat64),
       lmp::randn(0, 0.3, {kHidden}, kCPU, kFloat64), lmp::zeros({1}, kCPU, kFloat64)});

  std::puts("                 steps     loss   largest error");
  const auto report = [&](const char* method, int step, double value) {
    std::printf("%-16s  %4d  %.1e   %.1e\n", method, step, value, error(parameters));
  };

  // Adam (Kingma and Ba, 2015) comes near.
  Tensor mean = lmp::zeros_like(parameters), spread = lmp::zeros_like(parameters);
  for (int step = 1; step <= 500; ++step) {
    const auto [value, gradient] = lmp::value_and_grad(loss)(parameters);
    if (step % 100 == 1) report("Adam", step - 1, value.item());
    const Tensor& g = gradient.data();
    mean += 0.1 * (g - mean);
    spread += 0.001 * (lmp::square(g) - spread);
    const Tensor scaled_mean = mean / (1 - std::pow(0.9, step));
    const Tensor scaled_spread = spread / (1 - std::pow(0.999, step));
    parameters -= 0.02 * scaled_mean / (lmp::sqrt(scaled_spread) + 1e-8);
  }

  // Levenberg and Marquardt's method comes much nearer: with the residuals r and their Jacobian J
  // by the parameters, a step solves (J^T J + damping) step = -J^T r. The damping grows until the
  // loss falls.
  const Tensor identity = lmp::eye(kParameters, -1, kCPU, kFloat64);
  double damping = 0.1, value = loss(parameters).item();
  for (int step = 1; step <= 120; ++step) {
    if (step % 20 == 1) report("Levenberg", step - 1, value);
    const Tensor r = residual(parameters).data();
    const Tensor j = lmp::jacobian(residual)(parameters).data();
    const Tensor jt = j.transpose();
    const Tensor jtj = lmp::matmul(jt, j), jtr = lmp::matmul(jt, r);
    for (double before = value; value >= before && damping < 1e10;) {
      const Tensor moved = parameters - lmp::solve(jtj + damping * identity, jtr);
      const double there = loss(moved).item();
      if (there < before) {
        parameters = moved;
        value = there;
        damping /= 3;
      } else {
        damping *= 2;
      }
    }
  }
  report("Levenberg", 120, value);
  std::puts("");

  const Tensor some = lmp::linspace(0, 1, 24, kCPU, kFloat64).reshape({-1, 1});
  terminal::plot(
      {{fine.to_vector<double>(), solution(fine).to_vector<double>(), "solution"},
       {some.to_vector<double>(), network(parameters, some).to_vector<double>(), "network", 'o'}});
  const double reached = error(parameters);
  const bool kept = reached < kPromised;
  std::printf("largest error %.1e, %s the promised %.0e\n", reached, kept ? "below" : "NOT below",
              kPromised);
  return kept ? 0 : 1;
}
