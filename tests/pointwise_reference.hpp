#pragma once

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "sweep.hpp"

/// What every pointwise op has to return, one line an op: the formula once more, out of the C
/// library and independent of src/ops. A new op needs a line in references(), at the end of this
/// file.
namespace sweep {

/// Holds sums and products of two Int64 exactly.
__extension__ typedef __int128 Int;
__extension__ typedef unsigned __int128 UInt;

inline Wide no_scale(Wide) { return 0; }

struct Reference {
  /// The value for operands in the type that the op computes in: `exact` in double, rounded
  /// afterwards, `wide` for functions of Float64, `whole` on integers and Bool, before it wraps.
  double (*exact)(const double*) = nullptr;
  Wide (*wide)(const Wide*) = nullptr;
  Int (*whole)(const Int*) = nullptr;
  /// Functions: the error that is allowed, in units of the last place of Float32 and of Float64,
  /// taken at max(|value|, scale(x)).
  double ulp32 = 0, ulp64 = 0;
  Wide (*scale)(Wide x) = no_scale;
  /// Integers that the second operand may be.
  bool (*takes)(Int second) = [](Int) { return true; };
};

template <class T, class F>
T call(F f, const T* x) {
  if constexpr (requires { f(x[0], x[1], x[2]); }) {
    return static_cast<T>(f(x[0], x[1], x[2]));
  } else if constexpr (requires { f(x[0], x[1]); }) {
    return static_cast<T>(f(x[0], x[1]));
  } else {
    return static_cast<T>(f(x[0]));
  }
}

/// Floating types only, correctly rounded.
template <class F>
Reference basic(F) {
  return {.exact = [](const double* x) { return call(F{}, x); }};
}

/// Integers too: exact there before wrapping.
template <class F>
Reference exact(F f) {
  Reference r = basic(f);
  r.whole = [](const Int* x) { return call(F{}, x); };
  return r;
}

/// Floating types only, within 2 ULP of Float32 and 3 of Float64.
template <class F>
Reference function(F, Wide (*scale)(Wide) = no_scale) {
  return {.exact = [](const double* x) { return call(F{}, x); },
          .wide = [](const Wide* x) { return call(F{}, x); },
          .ulp32 = 2,
          .ulp64 = 3,
          .scale = scale};
}

inline Int integer_power(Int x, Int n) {
  UInt result = 1, square = static_cast<UInt>(x);
  for (; n != 0; n /= 2, square *= square) result *= n % 2 != 0 ? square : 1;
  return static_cast<Int>(result);
}

inline Int floored_modulo(Int a, Int b) { return (a % b + b) % b; }
/// As Python's %: the result, zero too, has the sign of b.
inline double floored_modulo(double a, double b) {
  const double r = std::fmod(a, b);
  return r == 0                                                ? std::copysign(r, b)
         : std::signbit(r) == std::signbit(b) || std::isnan(r) ? r
                                                               : r + b;
}

template <class T>
bool nan(T x) {
  return x != x;
}
/// std::floor and its like: integers stay as they are.
template <class F>
Reference rounding(F f) {
  Reference r = basic(f);
  r.whole = [](const Int* x) { return x[0]; };
  return r;
}

template <class T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}
template <class T>
T gelu_tanh(T x) {
  const T c = std::sqrt(2 / std::acos(T(-1)));
  return x * (1 + std::tanh(c * (x + T(0.044715L) * x * x * x))) / 2;
}
template <class T>
T clamp(T x, T low, T high) {
  const T raised = nan(low) || x < low ? low : x;
  return nan(high) || raised > high ? high : raised;
}

/// For x times 1 + erf, or 1 + tanh: where that cancels, the error is small beside x, not beside a
/// tiny result.
inline Wide factor_cancels(Wide x) { return std::abs(x); }

inline const std::map<std::string, Reference>& references() {
  static const std::map<std::string, Reference> all = [] {
    std::map<std::string, Reference> r;
    r["add"] = exact([](auto a, auto b) { return a + b; });
    r["sub"] = exact([](auto a, auto b) { return a - b; });
    r["mul"] = exact([](auto a, auto b) { return a * b; });
    r["div"] = basic([](auto a, auto b) { return a / b; });
    r["pow"] = function([](auto a, auto b) { return std::pow(a, b); });
    r["pow"].whole = [](const Int* x) { return integer_power(x[0], x[1]); };
    r["pow"].takes = [](Int n) { return n >= 0; };
    r["remainder"] = exact([](auto a, auto b) { return floored_modulo(a, b); });
    r["remainder"].takes = [](Int n) { return n != 0; };
    r["maximum"] = exact([](auto a, auto b) { return nan(a) || a > b ? a : b; });
    r["minimum"] = exact([](auto a, auto b) { return nan(a) || a < b ? a : b; });
    r["atan2"] = function([](auto a, auto b) { return std::atan2(a, b); });
    r["leaky_relu"] = basic([](auto x, auto slope) { return x > 0 ? x : x * slope; });
    r["eq"] = exact([](auto a, auto b) { return a == b; });
    r["ne"] = exact([](auto a, auto b) { return a != b; });
    r["gt"] = exact([](auto a, auto b) { return a > b; });
    r["ge"] = exact([](auto a, auto b) { return a >= b; });
    r["lt"] = exact([](auto a, auto b) { return a < b; });
    r["le"] = exact([](auto a, auto b) { return a <= b; });
    r["logical_and"] = exact([](auto a, auto b) { return a != 0 && b != 0; });
    r["logical_or"] = exact([](auto a, auto b) { return a != 0 || b != 0; });
    r["logical_xor"] = exact([](auto a, auto b) { return (a != 0) != (b != 0); });
    r["neg"] = exact([](auto x) { return -x; });
    r["abs"] = exact([](auto x) { return x < 0 ? -x : x + 0; });
    r["sign"] = exact([](auto x) { return x > 0 ? decltype(x)(1) : x < 0 ? decltype(x)(-1) : x; });
    r["square"] = exact([](auto x) { return x * x; });
    r["reciprocal"] = basic([](auto x) { return 1 / x; });
    r["sqrt"] = basic([](auto x) { return std::sqrt(x); });
    r["rsqrt"] = function([](auto x) { return 1 / std::sqrt(x); });
    r["exp"] = function([](auto x) { return std::exp(x); });
    r["exp2"] = function([](auto x) { return std::exp2(x); });
    r["expm1"] = function([](auto x) { return std::expm1(x); });
    r["log"] = function([](auto x) { return std::log(x); });
    r["log2"] = function([](auto x) { return std::log2(x); });
    r["log10"] = function([](auto x) { return std::log10(x); });
    r["log1p"] = function([](auto x) { return std::log1p(x); });
    r["sin"] = function([](auto x) { return std::sin(x); });
    r["cos"] = function([](auto x) { return std::cos(x); });
    r["tan"] = function([](auto x) { return std::tan(x); });
    r["sinh"] = function([](auto x) { return std::sinh(x); });
    r["cosh"] = function([](auto x) { return std::cosh(x); });
    r["tanh"] = function([](auto x) { return std::tanh(x); });
    r["asin"] = function([](auto x) { return std::asin(x); });
    r["acos"] = function([](auto x) { return std::acos(x); });
    r["atan"] = function([](auto x) { return std::atan(x); });
    r["erf"] = function([](auto x) { return std::erf(x); });
    r["floor"] = rounding([](auto x) { return std::floor(x); });
    r["ceil"] = rounding([](auto x) { return std::ceil(x); });
    r["round"] = rounding([](auto x) { return std::nearbyint(x); });
    r["sigmoid"] = function([](auto x) { return sigmoid(x); });
    r["softplus"] = function(
        [](auto x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); });
    r["relu"] = exact([](auto x) { return x < 0 ? decltype(x)(0) : x; });
    r["gelu"] =
        function([](auto x) { return x * (1 + std::erf(x * std::sqrt(decltype(x)(0.5)))) / 2; },
                 factor_cancels);
    r["gelu_tanh"] = function([](auto x) { return gelu_tanh(x); }, factor_cancels);
    r["silu"] = function([](auto x) { return x * sigmoid(x); });
    r["softsign"] = function([](auto x) { return x / (1 + (x < 0 ? -x : x)); });
    r["isnan"] = exact([](auto x) { return nan(x); });
    r["isinf"] = exact([](auto x) { return !nan(x) && nan(x - x); });
    r["isfinite"] = exact([](auto x) { return !nan(x - x); });
    r["logical_not"] = exact([](auto x) { return x == 0; });
    r["where"] = exact([](auto condition, auto a, auto b) { return condition != 0 ? a : b; });
    r["clamp"] = exact([](auto x, auto low, auto high) { return clamp(x, low, high); });
    return r;
  }();
  return all;
}

}  // namespace sweep
