// The scalar functions on a GPU, where they are not CUDA's own. A part of ops/math.hpp: no guard,
// no #include. The host's compiler sees the approximations too, since it reads what names them.

/// 1 / x to 2^-23 of it, for normal numbers.
__device__ __forceinline__ float math_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// 1 / x to 2^-20 of it, or more exactly to 2^-52, for normal numbers.
__device__ __forceinline__ double math_reciprocal_near(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
}
__device__ __forceinline__ double math_reciprocal(double x) {
  const double y = math_reciprocal_near(x);
  const double e = ::fma(-x, y, 1.0);
  return ::fma(::fma(e, e, e), y, y);
}
/// 2^x to 2^-22 of it; 0 for what is less than a normal number.
__device__ __forceinline__ float math_exp2_normal(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// p * 2^n, p and the product normal numbers, for n in the lowest bits of `shifted`.
__device__ __forceinline__ double math_times_pow2(double p, double shifted) {
  return __hiloint2double(__double2hiint(p) + (__double2loint(shifted) << 20), __double2loint(p));
}
__device__ __noinline__ inline float math_pow_far(float x, float y) { return ::powf(x, y); }
__device__ __noinline__ inline double math_pow_far(double x, double y) { return ::pow(x, y); }
__device__ __noinline__ inline double math_fmod_far(double a, double b) { return ::fmod(a, b); }

#ifdef __CUDA_ARCH__

/// remainder(a, b) by floats, for numbers below 2^16. (a + 1/2) / b, or (a - 1/2) / b for b < 0, is
/// as far as 1 / (2 |b|) from any integer, which is more than its rounding error of 2^-22 of it, so
/// it rounds down to floor(a / b), in the low bits of a float above 2^23.
template <MathInteger T>
LMP_MATH_FN T math_narrow_remainder(T a, T b) {
  constexpr float kShift = 12582912.0F;  // 3 * 2^22
  constexpr int kShiftBits = 0x4b400000;
  const float half = b < T{0} ? -0.5F : 0.5F;
  const float x = __int_as_float(kShiftBits + a) - kShift + half;
  const float y = __int_as_float(kShiftBits + b) - kShift;
  const MathU32 shifted = __float_as_uint(__fmaf_rd(x, math_reciprocal(y), kShift));
  return b == T{0} ? T{0}
                   : static_cast<T>(static_cast<MathU32>(a) - shifted * static_cast<MathU32>(b));
}

#define LMP_MATH_1(name)                                   \
  LMP_MATH_FN float name(float x) { return ::name##f(x); } \
  LMP_MATH_FN double name(double x) { return ::name(x); }
#define LMP_MATH_2(name)                                               \
  LMP_MATH_FN float name(float x, float y) { return ::name##f(x, y); } \
  LMP_MATH_FN double name(double x, double y) { return ::name(x, y); }
LMP_MATH_1(exp)
LMP_MATH_1(exp2)
LMP_MATH_1(expm1)
LMP_MATH_1(log)
LMP_MATH_1(log2)
LMP_MATH_1(log10)
LMP_MATH_1(sqrt)
LMP_MATH_1(rsqrt)
LMP_MATH_1(sin)
LMP_MATH_1(cos)
LMP_MATH_1(tan)
LMP_MATH_1(sinh)
LMP_MATH_1(cosh)
LMP_MATH_1(tanh)
LMP_MATH_1(asin)
LMP_MATH_1(acos)
LMP_MATH_1(atan)
LMP_MATH_1(erf)
LMP_MATH_1(floor)
LMP_MATH_1(ceil)
LMP_MATH_1(rint)
LMP_MATH_1(fabs)
LMP_MATH_2(atan2)
LMP_MATH_2(copysign)
#undef LMP_MATH_1
#undef LMP_MATH_2
LMP_MATH_FN float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
LMP_MATH_FN double fma(double a, double b, double c) { return ::fma(a, b, c); }
template <MathFloat T>
LMP_MATH_FN T mul_add(T a, T b, T c) {
  return fma(a, b, c);
}

LMP_MATH_FN float fmod(float a, float b) { return ::fmodf(a, b); }
/// Exact: a less the nearest multiple of b, or the one beside that, is a multiple of the last place
/// of a or of b, and below b.
LMP_MATH_FN double fmod(double a, double b) {
  const double size = fabs(a), step = fabs(b);
  const double n = fma(size, math_reciprocal(step), kMathShift64) - kMathShift64;
  const double r = fma(-n, step, size);
  if (!(fabs(r) < step)) return math_fmod_far(a, b);
  return copysign(r < 0.0 ? r + step : r, a);
}

LMP_MATH_FN float math_exp_below(float x) { return exp(x); }
LMP_MATH_FN float log1p(float x) { return ::log1pf(x); }
/// log(u) for u = 1 + x rounded, and what that lacks, c / u. Less work than CUDA's.
LMP_MATH_FN double log1p(double x) {
  const double u = 1.0 + x;
  const double y = log(u), lacking = x - (u - 1.0);
  const double sum = fma(lacking, math_reciprocal_near(u), y);
  return x == 0.0 ? x : (u > 0.0) & (u < kMathMax<double>) ? sum : y;
}

/// 2^(y log2(x)). Products whose rounding errors are taken up again must not be fused with sums.
/// The logarithm has a high and a low part: it is the exponent and 2 atanh(u / 2), u = 2 (m - 1) /
/// (m + 1). What is not plain takes CUDA's way.
LMP_MATH_FN float pow(float x, float y) {
  const MathU32 root = __float_as_uint(static_cast<float>(kSqrtHalf));
  const MathU32 exponent = (__float_as_uint(x) - root) & 0xff800000U;
  const float f = __uint_as_float(__float_as_uint(x) - exponent) - 1.0F;
  const float inverse = math_reciprocal(f + 2.0F);
  const float u = __fmul_rn(f + f, inverse);
  const float d = f - u;
  const float u_low = inverse * fma(-u, f, d + d);
  const float v = u * u;
  const float p =
      fma(v * u, poly(v, 0.0833333284F, 0.0125001045F, 0.00222947448F, 0.000460602721F), u_low);
  constexpr float kHigh = static_cast<float>(kLog2E);
  constexpr float kLow = static_cast<float>(kLog2E - kHigh);
  const float e = static_cast<float>(static_cast<int>(exponent) >> 23);
  const float h = __fmul_rn(u, kHigh);
  const float rest = fma(p, kHigh, fma(u, kLow, fma(u, kHigh, -h)));
  const float sum = h + rest, sum_low = (h - sum) + rest;
  const float log2 = e + sum, log2_low = ((e - log2) + sum) + sum_low;
  const float t = y * log2;
  const float t_low = fma(y, log2_low, fma(y, log2, -t));
  const float power = math_exp2_normal(t);
  const bool plain = (__float_as_uint(x) - 0x00800000U < 0x7f000000U) & (fabs(t) < 126.0F);
  if (!plain) return math_pow_far(x, y);
  return fma(power * static_cast<float>(kLn2), t_low, power);
}
/// The same, where the term of u^3 has a low part too.
LMP_MATH_FN double pow(double x, double y) {
  const int high = __double2hiint(x);
  const int exponent = static_cast<int>((static_cast<MathU32>(high) - 0x3fe6a09eU) & 0xfff00000U);
  const double f = __hiloint2double(high - exponent, __double2loint(x)) - 1.0;
  const double inverse = math_reciprocal(f + 2.0);
  const double u = __dmul_rn(f + f, inverse);
  const double d = f - u;
  const double u_low = inverse * fma(-u, f, d + d);
  const double v = __dmul_rn(u, u), v_low = fma(u + u, u_low, fma(u, u, -v));
  const double w = __dmul_rn(u, v), w_low = fma(v, u_low, fma(u, v_low, fma(u, v, -w)));
  constexpr double kTwelfth = 1.0 / 12, kTwelfthLow = 4.6259292692714856e-18;
  const double q = v * poly(v, 0.012500000000000161, 0.0022321428571057001, 0.00043402778058747453,
                            8.8778309787420428e-5, 1.8781908489758514e-5, 4.0500120637872326e-6,
                            9.9681837469563992e-7);
  const double s = kTwelfth + q, s_low = (kTwelfth - s) + q + kTwelfthLow;
  const double g = __dmul_rn(w, s), g_low = fma(w_low, s, fma(w, s_low, fma(w, s, -g)));
  const double ln = u + g, ln_low = ((u - ln) + g) + (g_low + u_low);
  constexpr double kLow = 2.0355273740931033e-17;  // of kLog2E
  const double h = __dmul_rn(ln, kLog2E);
  const double rest = fma(ln_low, kLog2E, fma(ln, kLow, fma(ln, kLog2E, -h)));
  const double e = exponent >> 20;
  const double log2 = e + h, log2_low = ((e - log2) + h) + rest;
  const double t = __dmul_rn(y, log2);
  const double t_low = fma(y, log2_low, fma(y, log2, -t));
  const double shifted = t + kMathShift64;
  const double r = (t - (shifted - kMathShift64)) + t_low;
  const double power = poly(r, 1.0, 0.69314718055994533, 0.24022650695910131, 0.055504108664820085,
                            0.0096181291075941329, 0.0013333558146774556, 0.00015403530457113764,
                            1.5252733493064959e-05, 1.3215435274550945e-06, 1.0178199608408477e-07,
                            7.073785557749532e-09, 4.4347674505889289e-10);
  const bool plain = (static_cast<MathU32>(high) - 0x00100000U < 0x7fe00000U) & (fabs(t) < 1020.0);
  if (!plain) return math_pow_far(x, y);
  return math_times_pow2(power, shifted);
}

LMP_MATH_FN float normal_density(float x) {
  return static_cast<float>(kOneOverSqrt2Pi) * exp(x * x / -2);
}
/// Up to here e^(-x^2 / 2) is a normal number; beyond, it is taken for 0.
inline constexpr double kMathNormalEnd = 37.5;
/// e^(-x^2 / 2), |x| < kMathNormalEnd.
LMP_MATH_FN double math_bell(double x) {
  const double z = x * x;
  const double shifted = fma(z, -0.5 * kLog2E, kMathShift64);
  const double n = shifted - kMathShift64;
  // z + 2 n ln 2. The first part of ln 2 has 32 bits: n times it is exact.
  const double u = fma(n, 2 * 1.90821492927058770002e-10, fma(n, 0x1.62e42feep0, z));
  const double p = poly(u, 1.0, -0.5, 0.12500000000000025, -0.020833333333333343,
                        0.0026041666666575592, -0.00026041666666631647, 2.170138898146876e-05,
                        -1.5500992099090931e-06, 9.688080845840191e-08, -5.382273839714927e-09,
                        2.6985148029943667e-10, -1.2260817549053642e-11);
  return math_times_pow2(p, shifted);
}
LMP_MATH_FN double normal_density(double x) {
  const double y = kOneOverSqrt2Pi * math_bell(x);
  return fabs(x) < kMathNormalEnd ? y : isnan(x) ? x : 0.0;
}
/// Its value at -a is e^(-a^2 / 2) times a rational function, a minimax fit to (1 + a^2 / 2) 2^-52.
LMP_MATH_FN double normal_cdf(double x) {
  const double a = fabs(x);
  const double over =
      poly(a, 0.50000000000000008431, 0.69889173090817711732, 0.48336588773039084261,
           0.20992829479808050527, 0.061912416660280410177, 0.012644821763619603234,
           0.0017483196890203073088, 0.0001505127841996955134, 6.2582020373870490992e-6);
  const double under =
      poly(a, 1.0, 2.1956680226192528938, 2.2186213913561737727, 1.3581878529975284286,
           0.55715446143099215157, 0.15954237950405857183, 0.032073149124158567963,
           0.0043980745083975961528, 0.00037727960120245812322, 0.000015686986171156584358);
  const double value = math_bell(x) * (over * math_reciprocal(under));
  const double lower = a >= kMathNormalEnd ? 0.0 : value;  // NaN too
  return __double2hiint(x) < 0 ? lower : 1.0 - lower;
}

template <MathFloat T>
LMP_MATH_FN T sigmoid(T x) {
  return T{1} / (T{1} + exp(-x));
}
template <MathFloat T>
LMP_MATH_FN T silu(T x) {
  const T root = exp(x / 2);  // e^x itself may be less than a normal number where x e^x is not
  return x < T{-80} ? x * root * root : x / (T{1} + exp(-x));
}
template <MathFloat T>
LMP_MATH_FN T softplus(T x) {
  return maximum(x, T{0}) + log1p(exp(-fabs(x)));
}

#endif
