// Scalar functions for the op table and the kernels, on float, double and the integers.
//
// Included inside a namespace, once for every instruction set, after LMP_MATH_FN has been defined
// (the specifiers of a function: always inlined, __host__ __device__), so: no guard, no #include
// but of its own parts, no std.
//
// bench/numerics/ulp.cpp prints their largest errors. The polynomials are minimax fits made for
// these files (Remez exchange); for the range reductions see Cody and Waite, "Software Manual for
// the Elementary Functions", and Muller, "Elementary Functions".

using MathU32 = unsigned int;
using MathU64 = unsigned long long;

// ---- Integers: arithmetic wraps, bool adds as "or" and multiplies as "and" ----

template <class T>
concept MathInteger = requires(T a) {
  a % a;
};

template <class T>
inline constexpr bool kMathIsFloat = false;
template <>
inline constexpr bool kMathIsFloat<float> = true;
template <>
inline constexpr bool kMathIsFloat<double> = true;
template <class T>
concept MathFloat = kMathIsFloat<T>;

template <bool kWide>
struct MathUnsigned {
  using Type = MathU32;
};
template <>
struct MathUnsigned<true> {
  using Type = MathU64;
};
/// Unsigned, at least as wide as T and as int: wraps without undefined behaviour.
template <class T>
using MathWrap = typename MathUnsigned<(sizeof(T) > sizeof(MathU32))>::Type;

template <MathInteger T>
LMP_MATH_FN T add(T a, T b) {
  return static_cast<T>(static_cast<MathWrap<T>>(a) + static_cast<MathWrap<T>>(b));
}
template <MathInteger T>
LMP_MATH_FN T sub(T a, T b) {
  return static_cast<T>(static_cast<MathWrap<T>>(a) - static_cast<MathWrap<T>>(b));
}
template <MathInteger T>
LMP_MATH_FN T mul(T a, T b) {
  return static_cast<T>(static_cast<MathWrap<T>>(a) * static_cast<MathWrap<T>>(b));
}
template <MathInteger T>
LMP_MATH_FN T neg(T a) {
  return static_cast<T>(MathWrap<T>{0} - static_cast<MathWrap<T>>(a));
}
template <MathInteger T>
LMP_MATH_FN T abs(T a) {
  return a < T{0} ? neg(a) : a;
}

/// x to the power n >= 0.
template <MathInteger T>
LMP_MATH_FN T ipow(T x, T n) {
  MathWrap<T> result = 1;
  auto square = static_cast<MathWrap<T>>(x);
  for (auto left = static_cast<MathWrap<T>>(n); left != 0; left >>= 1) {
    if ((left & 1) != 0) result *= square;
    square *= square;
  }
  return static_cast<T>(result);
}

// ---- Any number ----

template <MathFloat T>
LMP_MATH_FN T add(T a, T b) {
  return a + b;
}
template <MathFloat T>
LMP_MATH_FN T sub(T a, T b) {
  return a - b;
}
template <MathFloat T>
LMP_MATH_FN T mul(T a, T b) {
  return a * b;
}
template <MathFloat T>
LMP_MATH_FN T neg(T a) {
  return -a;
}

template <class T>
LMP_MATH_FN T select(bool condition, T a, T b) {
  return condition ? a : b;
}

/// The larger one, NaN where either is NaN.
template <class T>
LMP_MATH_FN T maximum(T a, T b) {
  if constexpr (MathInteger<T>) {
    return a > b ? a : b;
  } else {
    return ((a > b) | (a != a)) ? a : b;
  }
}
/// The smaller one, NaN where either is NaN.
template <class T>
LMP_MATH_FN T minimum(T a, T b) {
  if constexpr (MathInteger<T>) {
    return a < b ? a : b;
  } else {
    return ((a < b) | (a != a)) ? a : b;
  }
}

template <class T>
inline constexpr T kMathMax{};
template <>
inline constexpr float kMathMax<float> = 3.402823466e+38F;
template <>
inline constexpr double kMathMax<double> = 1.7976931348623157e+308;

template <MathInteger T>
LMP_MATH_FN bool isnan(T) {
  return false;
}
template <MathInteger T>
LMP_MATH_FN bool isinf(T) {
  return false;
}
template <MathInteger T>
LMP_MATH_FN bool isfinite(T) {
  return true;
}
template <MathFloat T>
LMP_MATH_FN bool isnan(T x) {
  return x != x;
}
template <MathFloat T>
LMP_MATH_FN bool isinf(T x) {
  return (x > kMathMax<T>) | (x < -kMathMax<T>);
}
template <MathFloat T>
LMP_MATH_FN bool isfinite(T x) {
  return (x <= kMathMax<T>)&(x >= -kMathMax<T>);
}

/// Bounds of OpInfo::near: where e^x and e^-x are normal numbers, and where sin and cos need few
/// bits of pi.
inline constexpr float kMathNearExp = 87.0F;
inline constexpr float kMathNearTurns = 0x1p20F;

inline constexpr double kPi = 3.14159265358979323846;
inline constexpr double kLn2 = 0.69314718055994530942;
inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr double kLog10Of2 = 0.30102999566398119521;
inline constexpr double kLn10 = 2.30258509299404568402;
inline constexpr double kSqrtHalf = 0.70710678118654752440;
inline constexpr double kTwoOverSqrtPi = 1.12837916709551257390;   // erf'(0)
inline constexpr double kOneOverSqrt2Pi = 0.39894228040143267794;  // the normal density at 0

/// Added to a number below 2^22 (2^51), it leaves the nearest integer in the low bits.
inline constexpr float kMathShift = 0x1.8p23F;
inline constexpr double kMathShift64 = 0x1.8p52;

/// a * b + c, rounded once where that is one instruction.
template <MathFloat T>
LMP_MATH_FN T mul_add(T a, T b, T c);

/// Horner's scheme, coefficients from the constant upwards.
template <MathFloat T>
LMP_MATH_FN T poly(T, T c) {
  return c;
}
template <MathFloat T, class... Rest>
LMP_MATH_FN T poly(T x, T c, Rest... rest) {
  return mul_add(poly(x, rest...), x, c);
}

#ifdef __CUDACC__
#include "ops/math_gpu.hpp"
#endif
#ifndef __CUDA_ARCH__
#include "ops/math_cpu.hpp"
#endif

/// a - floor(a / b) * b, which has the sign of b; 0 where b is 0.
template <MathInteger T>
LMP_MATH_FN T remainder(T a, T b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) < sizeof(int)) return math_narrow_remainder(a, b);
#endif
  constexpr T kMinusOne = static_cast<T>(-1);
  const bool trivial = b == T{0} || (kMinusOne < T{0} && b == kMinusOne);  // MIN % -1 overflows
  const T r = static_cast<T>(a % (trivial ? T{1} : b));
  return r != T{0} && (r < T{0}) != (b < T{0}) ? static_cast<T>(r + b) : r;
}

/// (1 + erf(x / sqrt(2))) / 2, the normal distribution function, right to 2^-25 absolutely.
LMP_MATH_FN float normal_cdf(float x) {
  const float a = fabs(x);
  // Its value at -a is exp(-a * poly(a)) / 2.
  const float e = -a * poly(a, 0.797885907F, 0.318291994F, 0.0364135258F, -0.00493996647F,
                            0.000132878753F, 0.000111800376F, -2.33852742e-05F, 1.61846349e-06F);
  const float lower = 0.5F * math_exp_below(e);
  return x < 0.0F ? lower : 1.0F - lower;
}

template <MathFloat T>
LMP_MATH_FN T abs(T x) {
  return fabs(x);
}
/// To the nearest integer, halves to even.
template <MathFloat T>
LMP_MATH_FN T round(T x) {
  return rint(x);
}
/// a - floor(a / b) * b without its rounding error; the result, zero too, has the sign of b.
template <MathFloat T>
LMP_MATH_FN T remainder(T a, T b) {
  const T r = fmod(a, b);
  const T moved = (r < T{0}) != (b < T{0}) ? r + b : r;
  return r == T{0} ? copysign(r, b) : moved;
}
