// Functions of halves, where the accurate ones of floats would take longer than memory does. They
// compute in float, right to 2^-14 or better of the result (gelu to 2^-10 below the numbers of
// Float16), so that rounding it gives the nearest half or, seldom, the one beside it. The
// polynomials are minimax fits made for this file.
//
// Included inside a namespace, after ops/math.hpp.

/// A float that was a half, and whose function will be rounded to one.
struct Narrow {
  float value;
  __host__ __device__ constexpr explicit Narrow(double v) : value(static_cast<float>(v)) {}
  __host__ __device__ constexpr operator float() const { return value; }
};

/// 2^x, subnormal numbers too.
__device__ __forceinline__ float half_exp2(float x) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float tanh(Narrow x) {
  const float e = math_exp2_normal(x * static_cast<float>(2 * kLog2E));
  const float far = fma(-2.0F, math_reciprocal(e + 1.0F), 1.0F);
  const float near = x * fma(x * x, -1.0F / 3.0F, 1.0F);
  return fabs(x) < 0.0625F ? near : far;
}

/// e^-|x| and 1 / (1 + e^-|x|).
struct HalfLogistic {
  float e, upper;
  __device__ __forceinline__ explicit HalfLogistic(float x)
      : e(half_exp2(-fabs(x) * static_cast<float>(kLog2E))), upper(math_reciprocal(1.0F + e)) {}
};
__device__ __forceinline__ float sigmoid(Narrow x) {
  const HalfLogistic s(x);
  return x < 0.0F ? s.e * s.upper : s.upper;
}
__device__ __forceinline__ float silu(Narrow x) {
  const HalfLogistic s(x);
  return x * (x < 0.0F ? s.e * s.upper : s.upper);
}

/// log(1 + d), |d| < 1/16.
__device__ __forceinline__ float half_log1p_near(float d) {
  return d * poly(d, 0.999999642F, -0.499999285F, 0.334116608F, -0.250783622F);
}
__device__ __forceinline__ float log(Narrow x) {
  const float d = x - 1.0F;
  return fabs(d) < 0.0625F ? half_log1p_near(d) : __log2f(x) * static_cast<float>(kLn2);
}
__device__ __forceinline__ float log1p(Narrow x) {
  return fabs(x) < 0.0625F ? half_log1p_near(x) : __log2f(1.0F + x) * static_cast<float>(kLn2);
}

__device__ __forceinline__ float erf(Narrow x) {
  const float a = ::fminf(fabs(x), 4.0F), z = x * x;
  const float near = x * poly(z, 1.12837565F, -0.375927418F, 0.111060567F, -0.0216440558F);
  // erfc(x) = 2^(-x * poly(x))
  const float far = 1.0F - math_exp2_normal(-a * poly(a, 1.62152886F, 0.940831469F, 0.120430231F,
                                                      -0.0143720657F));
  return fabs(x) >= 0.75F ? copysign(far, x) : near;
}

/// The normal distribution function, to 2^-14 of itself, or 2^-10 where Float16 ends.
__device__ __forceinline__ float normal_cdf(Narrow x) {
  const float a = ::fminf(fabs(x), 16.0F);
  // Its value at -a is 2^(-a * poly(a)) / 2.
  const float lower = 0.5F * half_exp2(-a * poly(a, 1.15089583F, 0.459337533F, 0.0532470196F,
                                                 -0.008261838F, 0.00089921453F, -6.31528746e-05F,
                                                 2.53168491e-06F, -4.36038086e-08F));
  return x < 0.0F ? lower : 1.0F - lower;
}

/// sin(r + n pi), |r| <= pi / 2, for the n in the lowest bit of `turns`.
__device__ __forceinline__ float half_sin(float r, unsigned turns) {
  const float y = r * poly(r * r, 1.0F, -0.166658208F, 0.00831377879F, -0.000185256897F);
  return __uint_as_float(__float_as_uint(y) ^ turns << 31);
}
/// Where x less a multiple of pi, in two parts, is exact enough.
inline constexpr float kHalfTurns = 0x1p17F;
__device__ __forceinline__ float half_less_pi(float x, float n) {
  return fma(n, -1.50995799e-07F, fma(n, -3.14159250F, x));
}
inline constexpr float kHalfShift = 0x1.8p23F;  // leaves the nearest integer in the low bits
__device__ __noinline__ inline float half_sin_far(float x) { return sin(x); }
__device__ __noinline__ inline float half_cos_far(float x) { return cos(x); }
__device__ __forceinline__ float sin(Narrow x) {
  const float shifted = fma(x, static_cast<float>(1 / kPi), kHalfShift);
  const float r = half_less_pi(x, shifted - kHalfShift);
  if (!(fabs(x) <= kHalfTurns)) return half_sin_far(x);
  return half_sin(r, __float_as_uint(shifted));
}
__device__ __forceinline__ float cos(Narrow x) {
  const float shifted = fma(x, static_cast<float>(1 / kPi), -0.5F) + kHalfShift;
  const float r = half_less_pi(x, (shifted - kHalfShift) + 0.5F);
  if (!(fabs(x) <= kHalfTurns)) return half_cos_far(x);
  return half_sin(r, ~__float_as_uint(shifted));
}

/// log2 of a normal number; from (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)].
__device__ __forceinline__ float half_log2(float x) {
  const unsigned root = __float_as_uint(static_cast<float>(kSqrtHalf));
  const unsigned exponent = (__float_as_uint(x) - root) & 0xff800000U;
  const float m = __uint_as_float(__float_as_uint(x) - exponent);
  const float s = (m - 1.0F) * math_reciprocal(m + 1.0F);
  return fma(s, poly(s * s, 2.88539052F, 0.961587906F, 0.595799923F),
             static_cast<float>(static_cast<int>(exponent) >> 23));
}
__device__ __forceinline__ float pow(Narrow x, Narrow y) {
  const unsigned smallest = 0x00800000U, normals = 0x7f000000U;
  const bool plain = __float_as_uint(x) - smallest < normals && isfinite(y.value);
  if (!plain) return math_pow_far(x, y);
  return half_exp2(y * half_log2(x));
}

__device__ __noinline__ inline float half_fmod_far(float a, float b) { return fmod(a, b); }
__device__ __forceinline__ float remainder(Narrow a, Narrow b) {
  const float size = fabs(a), step = fabs(b);
  const float n = fma(size, math_reciprocal(step), kHalfShift) - kHalfShift;
  // Where it is less than b it is exact: a multiple of the last places of a and b.
  float r = fma(-n, step, size);
  if (!(fabs(r) < step)) r = half_fmod_far(size, step);
  r = a < 0.0F ? -r : r;
  const float moved = (r < 0.0F) != (b < 0.0F) ? r + b : r;
  return r == 0.0F ? copysign(r, b) : moved;
}
