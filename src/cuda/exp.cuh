#pragma once

/// The exponential of softmax and its like, which is faster than that of ops/math.hpp.
namespace lmp::cuda {

/// e^x for x <= 0 by one instruction, good enough for what is rounded to a half, and for terms of a
/// sum of which the largest is 1: the error of the product with log2(e) grows as -x, but e^x
/// shrinks more. What is less than a normal number is 0.
__device__ __forceinline__ float exp_near(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504F));
  return y;
}

/// The same to less than one unit in the last place, without branches, so that several go on at a
/// time: x less a multiple of ln(2), and a polynomial (Chebyshev) for what is left. For x < 709.
__device__ __forceinline__ double exp_near(double x) {
  constexpr double kShift = 0x1.8p52;
  const double shifted = fma(x, 1.44269504088896340736, kShift), n = shifted - kShift;
  const double r = fma(n, -2.319046813846299558e-17, fma(n, -0.69314718055994528623, x));
  constexpr double kTerms[] = {2.510038549551032e-08,
                               2.7620088445409746e-07,
                               2.7557268459997064e-06,
                               2.4801521295954376e-05,
                               0.00019841269863053618,
                               0.0013888888917213717,
                               0.008333333333330062,
                               0.04166666666662413,
                               0.16666666666666669,
                               0.5000000000000001,
                               1.0,
                               1.0};
  double y = kTerms[0];
#pragma unroll
  for (int i = 1; i < 12; ++i) y = fma(y, r, kTerms[i]);
  // A product, for a NaN stays one.
  y *= __hiloint2double(0x3ff00000 + (__double2loint(shifted) << 20), 0);
  return x < -708 ? 0 : y;
}

}  // namespace lmp::cuda
