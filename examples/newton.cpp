// Fits a damped oscillation to noisy measurements by Newton's method, with all second derivatives:
// hessian(loss)(parameters) is the whole matrix, and its inverse says how sure the fit is.

#include "lamppp/lamppp.hpp"
#include "terminal.hpp"

using lmp::Tensor;
using lmp::Variable;

constexpr auto kCPU = lmp::DeviceType::CPU;
constexpr auto kFloat64 = lmp::DataType::Float64;

constexpr std::array<const char*, 5> kNames = {"amplitude", "damping", "frequency", "phase",
                                               "offset"};
constexpr double kNoise = 0.1;

// a exp(-b t) cos(w t + phi) + c at the times t, of Tensors or Variables alike.
template <class T>
T oscillation(const T& p, const Tensor& t) {
  return p[0] * lmp::exp(-p[1] * t) * lmp::cos(p[2] * t + p[3]) + p[4];
}

// The step to where the gradient would be 0 if the loss were quadratic. It leads downhill only
// where the loss curves upwards in every direction, that is where cholesky(hessian) exists.
// Elsewhere a multiple of the identity is added until it does.
Tensor newton_step(const Tensor& hessian, const Tensor& gradient, double& damping) {
  const Tensor identity = lmp::eye(gradient.shape().dim(0), -1, kCPU, kFloat64);
  for (damping = 0;; damping = damping == 0 ? 1e-3 : 10 * damping) {
    const Tensor damped = hessian + damping * identity;
    try {
      lmp::cholesky(damped);
      return lmp::solve(damped, -gradient);
    } catch (const lmp::LinAlgError&) {
      // Not positive definite: try a larger damping
    }
  }
}

int main() {
  lmp::manual_seed(1);

  // The measurements: 60 of them, with noise
  const Tensor truth({2.0, 0.35, 2.5, 0.6, 0.5}, {5});
  const Tensor t = lmp::linspace(0, 10, 60, kCPU, kFloat64);
  const Tensor measured = oscillation(truth, t) + lmp::randn(0, kNoise, t.shape(), kCPU, kFloat64);

  // What is to be minimal, an ordinary function of all parameters in one vector
  const auto loss = [&](const Variable& p) {
    return lmp::sum(lmp::square(oscillation(p, t) - measured)) / 2;
  };

  Tensor parameters({1.0, 0.1, 2.2, 0.0, 0.0}, {5});
  const Tensor first_guess = parameters;
  std::vector<double> norms;  // of the gradient, step by step
  std::puts("step        loss   |gradient|   damping   step length");
  while (norms.size() < 30) {
    const auto [value_here, gradient_here] = lmp::value_and_grad(loss)(parameters);
    const double value = value_here.item<double>();
    const Tensor& gradient = gradient_here.data();
    norms.push_back(lmp::norm(gradient).item());
    std::printf("%4zu  %10.6f  %11.3e", norms.size() - 1, value, norms.back());
    if (norms.back() < 1e-10) break;

    double damping = 0, length = 1;
    const Tensor step = newton_step(lmp::hessian(loss)(parameters).data(), gradient, damping);

    // Line search: half the step until the loss falls by a part of what the slope promises, give or
    // take what rounding does to it
    const double slope = lmp::dot(gradient, step).item();
    const auto falls = [&] {
      const double there = loss(parameters + length * step).item();
      return there <= value + 1e-4 * length * slope + 1e-12 * std::abs(value);
    };
    while (!falls() && length > 1e-6) length /= 2;
    parameters = parameters + length * step;
    std::printf("  %8g  %12g\n", damping, length);
  }
  std::puts("\n");

  // Near the solution the inverse Hessian times the variance of the noise is the covariance of the
  // parameters; the variance is what is left of the squared residuals.
  const double degrees = static_cast<double>(t.numel() - parameters.numel());
  const double variance = 2 * loss(parameters).item<double>() / degrees;
  const Tensor covariance = variance * lmp::inv(lmp::hessian(loss)(parameters).data());
  const Tensor errors = lmp::sqrt(lmp::diagonal(covariance));

  const std::vector<double> fine = lmp::linspace(0, 10, 400).to_vector<double>();
  const Tensor curve = oscillation(parameters, lmp::linspace(0, 10, 400, kCPU, kFloat64));
  terminal::plot({{fine, curve.to_vector<double>(), "fitted"},
                  {t.to_vector<double>(), measured.to_vector<double>(), "measured", 'o'}});

  bool close = true;
  const auto right = truth.to_vector<double>(), guess = first_guess.to_vector<double>();
  const auto fitted = parameters.to_vector<double>(), error = errors.to_vector<double>();
  std::puts("parameter    true   first guess    fitted   standard error");
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    close = close && std::abs(fitted[i] - right[i]) < 4 * error[i];
    std::printf("%-9s  %6.3f  %12.3f  %8.4f   +/- %.4f\n", kNames[i], right[i], guess[i], fitted[i],
                error[i]);
  }
  std::printf("noise      %6.3f  %12s  %8.4f\n\n", kNoise, "", std::sqrt(variance));

  // Newton's method squares the error in each step: once it is small, a few steps are enough.
  const auto small = static_cast<std::size_t>(
      std::find_if(norms.begin(), norms.end(), [](double g) { return g < 1; }) - norms.begin());
  const std::size_t last = norms.size() - 1;
  const bool quadratic = norms.back() < 1e-10 && last - small <= 4;
  std::printf("|gradient| fell from below 1 to below 1e-10 in %zu steps%s\n", last - small,
              quadratic && close ? "" : ": NOT what was expected");
  return quadratic && close ? 0 : 1;
}
