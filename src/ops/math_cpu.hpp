// The scalar functions on the CPU. A part of ops/math.hpp: no guard, no #include.
//
// Those of floats are straight-line code, selects in place of branches and no calls, which
// compilers vectorise in a plain loop; a lane and the scalar tail give the same bits. They need
// -ffp-contract=off, -fno-math-errno, -fno-trapping-math and the default rounding mode.

#define LMP_MATH_1(name) \
  LMP_MATH_FN double name(double x) { return __builtin_##name(x); }
#define LMP_MATH_1F(name) \
  LMP_MATH_1(name)        \
  LMP_MATH_FN float name(float x) { return __builtin_##name##f(x); }
#define LMP_MATH_2(name) \
  LMP_MATH_FN double name(double x, double y) { return __builtin_##name(x, y); }
#define LMP_MATH_2F(name) \
  LMP_MATH_2(name)        \
  LMP_MATH_FN float name(float x, float y) { return __builtin_##name##f(x, y); }
LMP_MATH_1F(sqrt)
LMP_MATH_1F(floor)
LMP_MATH_1F(ceil)
LMP_MATH_1F(rint)
LMP_MATH_1F(fabs)
LMP_MATH_2F(fmod)
LMP_MATH_2F(copysign)
LMP_MATH_1(exp2)
LMP_MATH_1(expm1)
LMP_MATH_1(log2)
LMP_MATH_1(log10)
LMP_MATH_1(log1p)
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
LMP_MATH_1(erfc)
LMP_MATH_2(atan2)
LMP_MATH_2(pow)
#undef LMP_MATH_1
#undef LMP_MATH_1F
#undef LMP_MATH_2
#undef LMP_MATH_2F

LMP_MATH_FN float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
LMP_MATH_FN double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

template <MathFloat T>
LMP_MATH_FN T rsqrt(T x) {
  return T{1} / sqrt(x);
}

// -- Building blocks --

LMP_MATH_FN MathU32 math_bits(float x) { return __builtin_bit_cast(MathU32, x); }
LMP_MATH_FN MathU64 math_bits(double x) { return __builtin_bit_cast(MathU64, x); }

inline constexpr float kMathInf = __builtin_inff();
inline constexpr float kMathNan = __builtin_nanf("");

template <MathFloat T>
LMP_MATH_FN T mul_add(T a, T b, T c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// a * b + c, rounded once.
LMP_MATH_FN float math_fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fma(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

/// NaN stays NaN.
template <MathFloat T>
LMP_MATH_FN T math_at_most(T x, T high) {
  return x > high ? high : x;
}
/// Into [low, high]. NaN stays NaN. Both comparisons are of x, or GCC makes three of them.
template <MathFloat T>
LMP_MATH_FN T math_clamp(T x, T low, T high) {
  const T above = x < low ? low : x;
  return x > high ? high : above;
}

/// 2^n, shifted being the bits of n + kMathShift: all of the constant's bits leave at the top.
LMP_MATH_FN float math_pow2(MathU32 shifted) {
  return __builtin_bit_cast(float, (shifted << 23) + (127U << 23));
}
LMP_MATH_FN double math_pow2(MathU64 shifted) {
  return __builtin_bit_cast(double, (shifted << 52) + (MathU64{1023} << 52));
}

/// p * 2^n, both normal numbers, or p with n = 0.
LMP_MATH_FN float math_times_pow2(float p, MathU32 shifted) {
  return __builtin_bit_cast(float, math_bits(p) + (shifted << 23));
}

/// p * 2^n, p near 1, in two steps, so that overflow and denormals come out rounded. |n| < 200.
LMP_MATH_FN float math_scale(float p, MathU32 shifted) {
  const MathU32 half = shifted >> 1;
  return p * math_pow2(half) * math_pow2(shifted - half);
}
/// |n| < 1100.
LMP_MATH_FN double math_scale(double p, MathU64 shifted) {
  const MathU64 half = shifted >> 1;
  return p * math_pow2(half) * math_pow2(shifted - half);
}

/// e^x = (1 + t) * 2^n.
template <MathFloat T>
struct MathExp {
  T t;
  decltype(math_bits(T{})) shifted;  // the bits of n + kMathShift, or kMathShift64
};
/// |x| < 111.
LMP_MATH_FN MathExp<float> math_exp(float x) {
  const float shifted = mul_add(x, static_cast<float>(kLog2E), kMathShift);
  const float n = shifted - kMathShift;
  // ln 2 = 355/512 - 2.12e-4: n times the first is exact.
  const float r = mul_add(n, 2.12194440e-4F, mul_add(n, -0.693359375F, x));
  const float q = poly(r, 0.49999994F, 0.166665152F, 0.041668456F, 0.00836941879F, 0.00138131599F);
  return {mul_add(r * r, q, r), math_bits(shifted)};
}
/// |x| < 761.
LMP_MATH_FN MathExp<double> math_exp(double x) {
  const double shifted = mul_add(x, kLog2E, kMathShift64);
  const double n = shifted - kMathShift64;
  // The first part of ln 2 has 32 bits: n times it is exact.
  const double r = mul_add(n, -1.90821492927058770002e-10, mul_add(n, -0x1.62e42feep-1, x));
  const double q =
      poly(r, 0.500000000000001, 0.16666666666666674, 0.041666666666520948, 0.0083333333333221269,
           0.0013888888948140007, 0.00019841269886836392, 2.4801486965350888e-05,
           2.7557242059340425e-06, 2.7632791582662315e-07, 2.511015434046186e-08);
  return {mul_add(r * r, q, r), math_bits(shifted)};
}
/// e^x = value * scale for x <= 0 or NaN, value a normal number: x * value * scale is rounded once
/// where it is less than that. The scale is 0 where it is below all numbers.
template <MathFloat T>
struct MathScaledExp {
  T value;
  T scale;
};
template <MathFloat T>
LMP_MATH_FN MathScaledExp<T> math_exp_scaled(T x) {
  constexpr T kLow = sizeof(T) == sizeof(float) ? T{-110} : T{-760};
  const bool zero = x < kLow;
  const MathExp<T> e = math_exp(zero ? kLow : x);
  const auto half = e.shifted >> 1;
  return {(T{1} + e.t) * math_pow2(half), zero ? T{0} : math_pow2(e.shifted - half)};
}
/// e^x, |x| < 87 or NaN.
LMP_MATH_FN float math_exp_normal(float x) {
  const MathExp<float> e = math_exp(x);
  return (1.0F + e.t) * math_pow2(e.shifted);
}

/// e^x for x <= 0 or NaN, with 0 for what is less than a normal number.
LMP_MATH_FN float math_exp_below(float x) {
  const bool tiny = x < -87.0F;
  const float y = math_exp_normal(tiny ? -87.0F : x);
  return tiny ? 0.0F : y;
}

/// A float whose magnitude is at most the bound of the op it is given to, and no NaN. What takes
/// the shorter way of it gives the same bits for the float itself.
struct Near {
  float value;
  LMP_MATH_FN operator float() const { return value; }
};
LMP_MATH_FN float exp(Near x) {
  const MathExp<float> e = math_exp(x.value);
  return math_times_pow2(1.0F + e.t, e.shifted);
}

/// 2^t = s + s * p in double, p right to 2^-32: for float results where float arithmetic would lose
/// bits. t is clamped to +-200, far outside of float.
struct MathExp2 {
  double s;
  double p;
};
LMP_MATH_FN MathExp2 math_exp2(double t) {
  const double x = math_clamp(t, -200.0, 200.0);
  const double shifted = x + kMathShift64;
  const double r = x - (shifted - kMathShift64);
  const double p = r * poly(r, 0.69314718055371782, 0.24022650922396663, 0.05550410928754352,
                            0.0096180566612583673, 0.0013333454548154324, 0.00015461450224027109,
                            1.5310081143138152e-05);
  return {math_pow2(math_bits(shifted)), p};
}
LMP_MATH_FN double math_exp2_value(double t) {
  const MathExp2 e = math_exp2(t);
  return mul_add(e.s, e.p, e.s);
}
/// e^x - 1 with a small relative error for every x.
LMP_MATH_FN double math_expm1(double x) {
  const MathExp2 e = math_exp2(x * kLog2E);
  return mul_add(e.s, e.p, e.s - 1.0);
}

/// x = (1 + f) * 2^e with 1 + f in [sqrt(1/2), sqrt(2)), x a positive normal number.
struct MathLog {
  double e;
  double f;
};
LMP_MATH_FN MathLog math_log_split(double x) {
  const MathU64 moved = math_bits(x) - math_bits(kSqrtHalf) + (MathU64{1023} << 52);
  const MathU64 mantissa = (moved & 0x000fffffffffffffULL) + math_bits(kSqrtHalf);
  // The biased exponent, below 2^52, becomes a double as the low bits of 2^52.
  const double biased = __builtin_bit_cast(double, (moved >> 52) | math_bits(0x1p52));
  return {biased - (0x1p52 + 1023.0), __builtin_bit_cast(double, mantissa) - 1.0};
}
/// log2(2^e * (1 + f)), relative error 2^-45.
LMP_MATH_FN double math_log2(double e, double f) {
  const double s = f / (2.0 + f);
  const double z = s * s;
  return mul_add(s,
                 poly(z, 2.8853900817778491, 0.96179669411491309, 0.57707794189708028,
                      0.41220930077220697, 0.31990366648923108, 0.28292980970444032),
                 e);
}
/// log2(x) for x >= 0 that came from a float (so no denormals), infinity, NaN; NaN below 0.
LMP_MATH_FN double math_log2_float(float x) {
  const MathLog l = math_log_split(static_cast<double>(x));
  const double y = math_log2(l.e, l.f);
  const double low = x == 0.0F ? -static_cast<double>(kMathInf) : static_cast<double>(kMathNan);
  const double high = x == kMathInf ? static_cast<double>(kMathInf) : y;
  return x > 0.0F ? high : low;
}
/// log(1 + x), x > -1 and finite; exact in x where 1 + x is not.
LMP_MATH_FN double math_log1p(double x) {
  const MathLog l = math_log_split(1.0 + x);
  return kLn2 * math_log2(l.e, ((x < 0.25) & (x > -0.25)) ? x : l.f);
}

/// |x| = (q / 4 + g) turns, |g| <= 1/8.
struct MathTurns {
  double g;
  MathU64 q;
};
/// For every float: 1/(2 pi) in parts of 29 bits, whose products with the 24 bits of x are exact,
/// so whole turns can be dropped from each. From 2^80 on, the bits of 1/(2 pi) above 2^-57 make
/// whole turns only, and the parts start below these.
LMP_MATH_FN MathTurns math_turns(float x) {
  const double a = static_cast<double>(fabs(x));
  const bool huge = a >= 0x1p80;
  const double t1 = a * (huge ? -0x1.ac07b15p-59 : 0x1.45f306ep-3);
  const double t2 = a * (huge ? -0x1.7056591p-93 : -0x1.b1bbeadp-34);
  const double t3 = a * (huge ? -0x1.f924eb5p-125 : -0x1.80f62a1p-64);
  const double t4 = a * (huge ? -0x1.9b0ef1bef806cp-156 : 0x1.1f534ddc0db63p-94);
  const double f1 = t1 - rint(t1);
  const double f2 = t2 - rint(t2);
  const double f3 = t3 - rint(t3);
  const double shifted = mul_add(f1 + f2 + f3, 4.0, kMathShift64);
  const double q = (shifted - kMathShift64) * 0.25;
  return {(f1 - q) + f2 + f3 + t4, math_bits(shifted)};
}
LMP_MATH_FN double math_sin_turns(double g) {
  return g * poly(g * g, 6.2831853071524533, -41.341702153504983, 81.605204746265628,
                  -76.697869956253314, 41.47294862252118);
}
LMP_MATH_FN double math_cos_turns(double g) {
  return poly(g * g, 0.99999999999994449, -19.73920880192285, 64.93939383150267,
              -85.456764964853633, 60.238185615947529, -26.058175537635872);
}
/// sin of q quarter turns and g turns.
LMP_MATH_FN float math_sin_at(MathTurns t) {
  const double y = (t.q & 1) != 0 ? math_cos_turns(t.g) : math_sin_turns(t.g);
  return static_cast<float>((t.q & 2) != 0 ? -y : y);
}

/// atan(x), 0 <= x <= 1.
LMP_MATH_FN double math_atan(double x) {
  const double z = x * x;
  return x * poly(z, 0.99999999994738276, -0.33333331720801257, 0.19999918060403046,
                  -0.1428407482721025, 0.11093995988660038, -0.089837697749638748,
                  0.072560107441433652, -0.054471728879946495, 0.034441115908208114,
                  -0.016284414190513703, 0.0049237526196294892, -0.00069804676223835069);
}
/// asin(x) for 0 <= x < 1/2, and from there (pi/2 - asin(x)) / 2, by the half-angle formula.
LMP_MATH_FN double math_asin(double x) {
  const bool small = x < 0.5;
  const double z = small ? x * x : 0.5 - 0.5 * x;
  const double root = sqrt(z);
  const double s = small ? x : root;
  const double p =
      poly(z, 0.16666667189434548, 0.074999481811785701, 0.044660157903342421, 0.030110313672232991,
           0.024618020674836798, 0.007470088311309451, 0.034691896613569667);
  return mul_add(s * z, p, s);
}

// -- Float --

LMP_MATH_FN float exp(float x) {
  const MathExp<float> e = math_exp(math_clamp(x, -104.0F, 89.0F));
  return math_scale(1.0F + e.t, e.shifted);
}
LMP_MATH_FN float exp2(float x) {
  const float t = math_clamp(x, -150.5F, 128.0F);
  const float shifted = t + kMathShift;
  const float r = t - (shifted - kMathShift);
  const float p = poly(r, 1.0F, 0.693147242F, 0.240226507F, 0.0555029735F, 0.00961803086F,
                       0.00134100008F, 0.000154697322F);
  return math_scale(p, math_bits(shifted));
}
LMP_MATH_FN float expm1(float x) {
  const float y = static_cast<float>(math_expm1(static_cast<double>(x)));
  return x == 0.0F ? x : y;
}
LMP_MATH_FN float log(float x) {
  const bool denormal = x < 0x1p-126F;
  const MathU32 bits = math_bits(denormal ? x * 0x1p23F : x);
  const MathU32 root = math_bits(static_cast<float>(kSqrtHalf));
  const MathU32 moved = bits - root + (127U << 23);
  const float f = __builtin_bit_cast(float, (moved & 0x007fffffU) + root) - 1.0F;
  const float e =
      static_cast<float>(static_cast<int>(moved >> 23)) - (denormal ? 127.0F + 23.0F : 127.0F);
  const float q = poly(f, 0.333333313F, -0.250008196F, 0.200012282F, -0.166233599F, 0.142017469F,
                       -0.131601423F, 0.127616286F, -0.0763465539F);
  const float square = f * f;
  const float tail = mul_add(e, -2.12194440e-4F, square * f * q);
  const float y = mul_add(e, 0.693359375F, f + mul_add(square, -0.5F, tail));
  const float low = x == 0.0F ? -kMathInf : kMathNan;
  const float high = x == kMathInf ? kMathInf : y;
  return x > 0.0F ? high : low;
}
LMP_MATH_FN float log2(float x) { return static_cast<float>(math_log2_float(x)); }
LMP_MATH_FN float log10(float x) { return static_cast<float>(math_log2_float(x) * kLog10Of2); }
LMP_MATH_FN float log1p(float x) {
  const float y = static_cast<float>(math_log1p(static_cast<double>(x)));
  const float low = x == -1.0F ? -kMathInf : kMathNan;
  const float high = ((x == 0.0F) | (x == kMathInf)) ? x : y;
  return x > -1.0F ? high : low;
}
LMP_MATH_FN float softplus(float x) {
  const double wide = static_cast<double>(x);
  const double tail = math_log1p(math_exp2_value(fabs(wide) * -kLog2E));
  return static_cast<float>((wide < 0.0 ? 0.0 : wide) + tail);
}
/// a / (1 + e^-x), rounded once.
LMP_MATH_FN float math_logistic(float a, float x) {
  const MathExp<float> e = math_exp(-fabs(x));
  const float s = math_pow2(e.shifted);
  const float y = 1.0F / mul_add(s, e.t, 1.0F + s);
  const float q = a * y;
  const float qs = math_times_pow2(q, e.shifted);
  const bool below = x < 0.0F;
  // By what q, to be a / (1 + s + s t), is too large; (q - a) + qs is exact. Below 0 the numerator
  // is a + a t.
  const float rest = math_fused(below ? qs - a : qs, e.t, (q - a) + qs);
  return math_times_pow2(math_fused(-rest, y, q), below ? e.shifted : 0U);
}
LMP_MATH_FN float sigmoid(Near x) { return math_logistic(1.0F, x.value); }
LMP_MATH_FN float sigmoid(float x) {
  const float far = x > 0.0F ? 1.0F : exp(x);  // NaN too
  return fabs(x) <= kMathNearExp ? sigmoid(Near{x}) : far;
}
LMP_MATH_FN float silu(Near x) { return math_logistic(x.value, x.value); }
LMP_MATH_FN float silu(float x) {
  const MathScaledExp<float> e = math_exp_scaled(x);
  const float far = x > 0.0F ? x : x * e.value * e.scale;  // NaN too
  return fabs(x) <= kMathNearExp ? silu(Near{x}) : far;
}

/// sin of x and `quarters` quarter turns, |x| <= kMathNearTurns: x less the nearest multiple of
/// pi / 2 in double, then polynomials on |r| <= pi / 4.
LMP_MATH_FN float math_sin_near(float x, MathU32 quarters) {
  const double shifted = mul_add(static_cast<double>(x), 2 / kPi, kMathShift64);
  const double n = shifted - kMathShift64;
  // pi / 2 = 0x1.921fb544p0 + the rest: n times the first is exact.
  const double first = mul_add(n, -0x1.921fb544p0, static_cast<double>(x));
  const float r = static_cast<float>(mul_add(n, -0x1.0b4611a626331p-34, first));
  const MathU32 q = static_cast<MathU32>(math_bits(shifted)) + quarters;
  const float z = r * r;
  const float s = mul_add(z * r, poly(z, -0.166666549F, 0.00833217770F, -0.000195172300F), r);
  const float c = mul_add(z * z, poly(z, 0.0416666469F, -0.00138873669F, 2.44383793e-05F),
                          mul_add(z, -0.5F, 1.0F));
  const float y = (q & 1U) != 0 ? c : s;
  return __builtin_bit_cast(float, math_bits(y) ^ ((q & 2U) << 30));
}
/// f(x) of an odd function, given y = f(|x|).
LMP_MATH_FN float math_odd(float y, float x) {
  return __builtin_bit_cast(float, math_bits(y) ^ (math_bits(x) & 0x80000000U));
}
LMP_MATH_FN float sin(Near x) { return math_odd(math_sin_near(fabs(x.value), 0), x.value); }
LMP_MATH_FN float cos(Near x) { return math_sin_near(x.value, 1); }
LMP_MATH_FN float sin(float x) {
  const float far = math_odd(math_sin_at(math_turns(x)), x);
  return fabs(x) <= kMathNearTurns ? sin(Near{x}) : far;
}
LMP_MATH_FN float cos(float x) {
  const MathTurns t = math_turns(x);
  const float far = math_sin_at({t.g, t.q + 1});
  return fabs(x) <= kMathNearTurns ? cos(Near{x}) : far;
}
LMP_MATH_FN float tan(float x) {
  const MathTurns t = math_turns(x);
  const double s = math_sin_turns(t.g);
  const double c = math_cos_turns(t.g);
  const bool odd = (t.q & 1) != 0;
  return math_odd(static_cast<float>((odd ? -c : s) / (odd ? s : c)), x);
}
LMP_MATH_FN float sinh(float x) {
  const double em1 = math_expm1(static_cast<double>(fabs(x)));
  return copysign(static_cast<float>(0.5 * (em1 + em1 / (em1 + 1.0))), x);
}
LMP_MATH_FN float cosh(float x) {
  const double e = math_exp2_value(static_cast<double>(x) * kLog2E);
  return static_cast<float>(0.5 * (e + 1.0 / e));
}
LMP_MATH_FN float tanh(float x) {
  const float a = math_at_most(fabs(x), 10.0F);
  const float z = a * a;
  const float near = mul_add(z * a,
                             poly(z, -0.333333254F, 0.133329958F, -0.0539221242F, 0.0215758439F,
                                  -0.0078921942F, 0.00190180726F),
                             a);
  const float far = 1.0F - 2.0F / (math_exp_normal(a + a) + 1.0F);
  return copysign(a < 0.7F ? near : far, x);
}

LMP_MATH_FN float atan(float x) {
  const double a = static_cast<double>(fabs(x));
  const bool steep = a > 1.0;
  const double y = math_atan(steep ? 1.0 / a : a);
  return copysign(static_cast<float>(steep ? kPi / 2 - y : y), x);
}
LMP_MATH_FN float atan2(float y, float x) {
  const double ax = static_cast<double>(fabs(x));
  const double ay = static_cast<double>(fabs(y));
  const bool steep = ay > ax;
  const double num = steep ? ax : ay;
  const double den = steep ? ay : ax;
  const double ratio = num == den ? (den == 0.0 ? 0.0 : 1.0) : num / den;
  const double first = math_atan(ratio);
  const double right = steep ? kPi / 2 - first : first;
  const double angle = (math_bits(x) >> 31) != 0 ? kPi - right : right;
  return copysign(static_cast<float>(((x != x) | (y != y)) ? ax + ay : angle), y);
}
LMP_MATH_FN float asin(float x) {
  const float a = fabs(x);
  const double y = math_asin(static_cast<double>(a));
  return copysign(static_cast<float>(a < 0.5F ? y : kPi / 2 - 2.0 * y), x);
}
LMP_MATH_FN float acos(float x) {
  const float a = fabs(x);
  const double y = math_asin(static_cast<double>(a));
  const double small = x < 0.0F ? kPi / 2 + y : kPi / 2 - y;
  const double large = x < 0.0F ? kPi - 2.0 * y : 2.0 * y;
  return static_cast<float>(a < 0.5F ? small : large);
}

LMP_MATH_FN float erf(float x) {
  const float a = math_at_most(fabs(x), 4.0F);
  const float near = mul_add(a,
                             poly(a * a, 0.128379166F, -0.37612626F, 0.112836003F, -0.0268544462F,
                                  0.00518953661F, -0.000802084571F, 7.8891193e-05F),
                             a);
  // erfc(x) = exp(-x * poly(x))
  const float far =
      1.0F - math_exp_normal(-a * poly(a, 1.12868595F, 0.635001779F, 0.106480286F, -0.0239686556F,
                                       0.00373881264F, -0.000346203771F, 1.35420732e-05F));
  return copysign(a < 1.0F ? near : far, x);
}

/// e^(-x^2 / 2) / sqrt(2 pi), the normal density; 0 where that is less than a normal number.
LMP_MATH_FN float normal_density(float x) {
  return static_cast<float>(kOneOverSqrt2Pi) * math_exp_below(-0.5F * x * x);
}

LMP_MATH_FN float pow(float x, float y) {
  const float a = fabs(x);
  const double value = math_exp2_value(static_cast<double>(y) * math_log2_float(a));
  const bool whole = rint(y) == y;
  const bool odd = whole & (rint(0.5F * y) != 0.5F * y);
  const float size = static_cast<float>(value);
  const float real = ((x < 0.0F) & (a <= kMathMax<float>)&!whole) ? kMathNan : size;
  const MathU32 sign = odd ? math_bits(x) & 0x80000000U : 0U;
  const float result = __builtin_bit_cast(float, math_bits(real) ^ sign);
  const bool one = (y == 0.0F) | (x == 1.0F) | ((x == -1.0F) & (fabs(y) == kMathInf));
  return one ? 1.0F : result;
}

// -- Double --

LMP_MATH_FN double exp(double x) {
  const MathExp<double> e = math_exp(math_clamp(x, -746.0, 710.0));
  return math_scale(1.0 + e.t, e.shifted);
}
LMP_MATH_FN double log(double x) {
  const bool denormal = x < 0x1p-1022;
  const MathLog l = math_log_split(denormal ? x * 0x1p54 : x);
  const double e = denormal ? l.e - 54.0 : l.e;
  const double s = l.f / (2.0 + l.f);
  const double z = s * s;
  const double r =
      z * poly(z, 0.66666666666667096, 0.39999999999517177, 0.28571428730011306,
               0.22222199005395796, 0.18183576430752554, 0.15313030182031415, 0.14811936207104678);
  // log(1 + f) = f - (f^2/2 - s (f^2/2 + r)), as in Ng's fdlibm
  const double half = 0.5 * l.f * l.f;
  const double tail = mul_add(s, half + r, e * 1.90821492927058770002e-10);
  const double y = mul_add(e, 0x1.62e42feep-1, l.f - (half - tail));
  const double inf = static_cast<double>(kMathInf);
  const double low = x == 0.0 ? -inf : static_cast<double>(kMathNan);
  const double high = x == inf ? inf : y;
  return x > 0.0 ? high : low;
}
LMP_MATH_FN double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}
LMP_MATH_FN double silu(double x) {
  const MathScaledExp<double> e = math_exp_scaled(-fabs(x));
  return (x < 0.0 ? x * e.value * e.scale : x) / mul_add(e.value, e.scale, 1.0);
}
LMP_MATH_FN double softplus(double x) { return maximum(x, 0.0) + log1p(exp(-fabs(x))); }
LMP_MATH_FN double normal_cdf(double x) { return 0.5 * erfc(-kSqrtHalf * x); }
LMP_MATH_FN double normal_density(double x) { return kOneOverSqrt2Pi * exp(-0.5 * x * x); }
