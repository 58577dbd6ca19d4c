// Largest error and speed of every function in src/ops/math.hpp, as a Markdown table.
//
//   ulp [stride [name...]]
//
// Tries every stride-th of the 2^32 floats (default 97) and the special values, of the functions
// named, as in "float exp", or of all.
//
// The reference is the C library in the next wider type. Exit status 1 where an error is above 2
// ULP (double: 3), or where a vectorised loop and a single call differ.

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define LMP_MATH_FN [[gnu::always_inline]] inline
namespace lmp::bench {
#include "ops/math.hpp"
}  // namespace lmp::bench

namespace {

constexpr std::size_t kBlock = 65536;
template <class T>
constexpr double kAllowedUlp = std::is_same_v<T, float> ? 2.0 : 3.0;

std::atomic<bool> all_good = true;

std::vector<std::string> names;  // what is asked for; none for all
template <class T>
std::string full_name(const char* name) {
  return std::string(std::is_same_v<T, float> ? "float " : "double ") + name;
}
template <class T>
bool wanted(const char* name) {
  return names.empty() || std::find(names.begin(), names.end(), full_name<T>(name)) != names.end();
}

template <class T>
constexpr T kSpecials[] = {T{0},
                           -T{0},
                           T{1},
                           -T{1},
                           T(0.5),
                           -T(0.5),
                           T{2},
                           -T{2},
                           T{3},
                           -T{3},
                           T{4},
                           T(2.5),
                           -T(2.5),
                           T(1e-3),
                           T(-1e-3),
                           T(88.5),
                           T(-88.5),
                           T(150),
                           T(-150),
                           std::numeric_limits<T>::min(),
                           -std::numeric_limits<T>::min(),
                           std::numeric_limits<T>::denorm_min(),
                           -std::numeric_limits<T>::denorm_min(),
                           std::numeric_limits<T>::epsilon(),
                           std::numeric_limits<T>::max(),
                           std::numeric_limits<T>::lowest(),
                           std::numeric_limits<T>::infinity(),
                           -std::numeric_limits<T>::infinity(),
                           std::numeric_limits<T>::quiet_NaN()};

struct Worst {
  double ulp = 0;
  double x = 0;
  double y = 0;
};

/// The distance in units of the last place of T at the exact value.
template <class T, class Wide>
double ulp_error(T got, Wide exact) {
  const T rounded = static_cast<T>(exact);
  if (std::isnan(exact) || std::isnan(got)) {
    return std::isnan(exact) && std::isnan(got) ? 0 : INFINITY;
  }
  if (exact == 0) return got == 0 && std::signbit(got) == std::signbit(exact) ? 0 : INFINITY;
  if (std::isinf(rounded) && std::isinf(got)) return got == rounded ? 0 : INFINITY;
  if (std::isinf(got) || std::signbit(got) != std::signbit(exact)) return INFINITY;
  const int exponent = std::max(std::ilogb(exact), std::numeric_limits<T>::min_exponent - 1);
  const Wide error = std::fabs(static_cast<Wide>(got) - exact);
  return static_cast<double>(std::ldexp(error, std::numeric_limits<T>::digits - 1 - exponent));
}

std::uint64_t next_random() {  // splitmix64
  static std::uint64_t state = 1;
  std::uint64_t z = state += 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

template <class F, class T>
[[gnu::noinline]] void run(T* __restrict out, const T* __restrict x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) out[i] = F::fwd(x[i]);
}
template <class F, class T>
[[gnu::noinline]] void run2(T* __restrict out, const T* __restrict x, const T* __restrict y,
                            std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) out[i] = F::fwd(x[i], y[i]);
}

template <class Call>
double nanoseconds(Call call) {
  double best = INFINITY;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 4; ++i) call();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count() / (4.0 * kBlock));
  }
  return best;
}

template <class F, class T>
void check(std::span<const T> x, std::span<T> out, Worst& worst) {
  using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  run<F>(out.data(), x.data(), x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = ulp_error(out[i], F::exact(static_cast<Wide>(x[i])));
    if (error > worst.ulp) worst = {error, static_cast<double>(x[i]), 0};
    if (i % 61 == 0) {
      T alone;
      run<F>(&alone, &x[i], 1);
      if (alone != out[i] && !(std::isnan(alone) && std::isnan(out[i]))) {
        std::printf("%s(%a): %a in a vector, %a alone\n", F::kName, static_cast<double>(x[i]),
                    static_cast<double>(out[i]), static_cast<double>(alone));
        all_good = false;
      }
    }
  }
}

template <class T>
void report(const char* name, const Worst& worst, double ns, const char* argument) {
  std::printf("| %s | %.3f | %s | %.2f |\n", full_name<T>(name).c_str(), worst.ulp, argument, ns);
  std::fflush(stdout);
  all_good = all_good && worst.ulp <= kAllowedUlp<T>;
}

template <class F, class T = float>
void unary(std::uint64_t stride) {
  if (!wanted<T>(F::kName)) return;
  std::vector<T> x(kBlock);
  std::vector<T> out(kBlock);
  Worst worst;
  check<F, T>(kSpecials<T>, std::span(out).first(std::size(kSpecials<T>)), worst);
  const std::uint64_t step = stride * kBlock;
  const auto blocks = static_cast<std::int64_t>(((1ULL << 32) + step - 1) / step);
#pragma omp parallel
  {
    std::vector<T> inputs(kBlock);
    std::vector<T> outputs(kBlock);
    Worst own;
#pragma omp for schedule(dynamic)
    for (std::int64_t block = 0; block < blocks; ++block) {
      std::uint64_t bits = static_cast<std::uint64_t>(block) * step;
      std::uint64_t low = bits;
      std::size_t n = 0;
      for (; n < kBlock && bits < 1ULL << 32; ++n, bits += stride) {
        if constexpr (std::is_same_v<T, float>) {
          inputs[n] = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
        } else {
          low = low * 6364136223846793005ULL + 1442695040888963407ULL;
          inputs[n] = std::bit_cast<double>(bits << 32 | (low >> 32));
        }
      }
      check<F, T>(std::span(std::as_const(inputs)).first(n), std::span(outputs).first(n), own);
    }
#pragma omp critical
    if (own.ulp > worst.ulp || (own.ulp == worst.ulp && own.x < worst.x)) worst = own;
  }
  for (std::size_t i = 0; i < kBlock; ++i) x[i] = T(i) * T(8.0 / kBlock) - T{4};
  const double ns = nanoseconds([&] { run<F>(out.data(), x.data(), kBlock); });
  char argument[64];
  std::snprintf(argument, sizeof(argument), "%a", worst.x);
  report<T>(F::kName, worst, ns, argument);
}

template <class F>
void binary(std::uint64_t stride) {
  if (!wanted<float>(F::kName)) return;
  std::vector<float> x(kBlock);
  std::vector<float> y(kBlock);
  std::vector<float> out(kBlock);
  Worst worst;
  const auto compare = [&](std::size_t n) {
    run2<F>(out.data(), x.data(), y.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      const double a = static_cast<double>(x[i]);
      const double b = static_cast<double>(y[i]);
      const double error = ulp_error(out[i], F::exact(a, b));
      if (error > worst.ulp) worst = {error, a, b};
    }
  };
  std::size_t n = 0;
  for (const float a : kSpecials<float>) {
    for (const float b : kSpecials<float>) {
      x[n] = a;
      y[n++] = b;
    }
  }
  compare(n);
  for (std::uint64_t done = 0; done < (1ULL << 32) / stride; done += kBlock) {
    const bool tame = (done / kBlock) % 2 != 0;  // any bits, then x in [0, 4), y in [-32, 32)
    for (std::size_t i = 0; i < kBlock; ++i) {
      const std::uint64_t r = next_random();
      const auto low = static_cast<std::uint32_t>(r);
      const auto high = static_cast<std::uint32_t>(r >> 32);
      x[i] = tame ? static_cast<float>(low) * 0x1p-30F : std::bit_cast<float>(low);
      y[i] = tame ? static_cast<float>(high) * 0x1p-26F - 32.0F : std::bit_cast<float>(high);
    }
    compare(kBlock);
  }
  for (std::size_t i = 0; i < kBlock; ++i) {
    x[i] = static_cast<float>(i + 1) * (4.0F / kBlock);
    y[i] = static_cast<float>(i % 97) * 0.1F - 4.0F;
  }
  const double ns = nanoseconds([&] { run2<F>(out.data(), x.data(), y.data(), kBlock); });
  char argument[96];
  std::snprintf(argument, sizeof(argument), "%a, %a", worst.x, worst.y);
  report<float>(F::kName, worst, ns, argument);
}

#define FUNCTION(Name, name, reference)                                                   \
  struct Name {                                                                           \
    static constexpr const char* kName = #name;                                           \
    [[gnu::always_inline]] static inline auto fwd(auto x) { return lmp::bench::name(x); } \
    template <class T>                                                                    \
    static T exact(T x) {                                                                 \
      return reference;                                                                   \
    }                                                                                     \
  }
#define FUNCTION2(Name, name, reference)                            \
  struct Name {                                                     \
    static constexpr const char* kName = #name;                     \
    [[gnu::always_inline]] static inline auto fwd(auto x, auto y) { \
      return lmp::bench::name(x, y);                                \
    }                                                               \
    static double exact(double x, double y) { return reference; }   \
  }
FUNCTION(Exp, exp, std::exp(x));
FUNCTION(Exp2, exp2, std::exp2(x));
FUNCTION(Expm1, expm1, std::expm1(x));
FUNCTION(Log, log, std::log(x));
FUNCTION(Log2, log2, std::log2(x));
FUNCTION(Log10, log10, std::log10(x));
FUNCTION(Log1p, log1p, std::log1p(x));
FUNCTION(Sqrt, sqrt, std::sqrt(x));
FUNCTION(Rsqrt, rsqrt, 1 / std::sqrt(x));
FUNCTION(Sin, sin, std::sin(x));
FUNCTION(Cos, cos, std::cos(x));
FUNCTION(Tan, tan, std::tan(x));
FUNCTION(Asin, asin, std::asin(x));
FUNCTION(Acos, acos, std::acos(x));
FUNCTION(Atan, atan, std::atan(x));
FUNCTION(Sinh, sinh, std::sinh(x));
FUNCTION(Cosh, cosh, std::cosh(x));
FUNCTION(Tanh, tanh, std::tanh(x));
FUNCTION(Sigmoid, sigmoid, 1 / (1 + std::exp(-x)));
FUNCTION(Silu, silu, x / (1 + std::exp(-x)));
FUNCTION(Softplus, softplus, (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))));
FUNCTION(Erf, erf, std::erf(x));
FUNCTION(Round, round, std::nearbyint(x));
FUNCTION2(Pow, pow, std::pow(x, y));
FUNCTION2(Atan2, atan2, std::atan2(x, y));
#undef FUNCTION
#undef FUNCTION2

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t stride = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 97;
  if (stride == 0) {
    std::fprintf(stderr, "usage: %s [stride [name...]]\n", argv[0]);
    return 2;
  }
  for (int i = 2; i < argc; ++i) names.emplace_back(argv[i]);
  std::printf("| function | max ULP | at | ns per element |\n|---|---|---|---|\n");
  unary<Exp>(stride);
  unary<Exp2>(stride);
  unary<Expm1>(stride);
  unary<Log>(stride);
  unary<Log2>(stride);
  unary<Log10>(stride);
  unary<Log1p>(stride);
  unary<Sqrt>(stride);
  unary<Rsqrt>(stride);
  unary<Sin>(stride);
  unary<Cos>(stride);
  unary<Tan>(stride);
  unary<Asin>(stride);
  unary<Acos>(stride);
  unary<Atan>(stride);
  unary<Sinh>(stride);
  unary<Cosh>(stride);
  unary<Tanh>(stride);
  unary<Sigmoid>(stride);
  unary<Silu>(stride);
  unary<Softplus>(stride);
  unary<Erf>(stride);
  unary<Round>(stride);
  binary<Pow>(stride);
  binary<Atan2>(stride);
  unary<Exp, double>(stride);
  unary<Log, double>(stride);
  unary<Sigmoid, double>(stride);
  unary<Silu, double>(stride);
  unary<Softplus, double>(stride);
  return all_good ? 0 : 1;
}
