// The stream of random numbers, element by element, for every device.
//
// Included inside a namespace after ops/math.hpp, so: no guard, no #include, no std.

/// Philox4x32-10: the four words at `counter`. Salmon, Moraes, Dror, Shaw, "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011.
LMP_MATH_FN void philox_block(MathU32* words, MathU64 seed, MathU64 counter) {
  MathU32 c0 = static_cast<MathU32>(counter), c1 = static_cast<MathU32>(counter >> 32);
  MathU32 c2 = 0, c3 = 0;
  MathU32 k0 = static_cast<MathU32>(seed), k1 = static_cast<MathU32>(seed >> 32);
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const MathU64 p0 = MathU64{0xD2511F53u} * c0, p1 = MathU64{0xCD9E8D57u} * c2;
    c0 = static_cast<MathU32>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<MathU32>(p1);
    c2 = static_cast<MathU32>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<MathU32>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/// Number i of what `words` make: a float takes one word, a double two; the high bits are used, so
/// values lie in [0, 1).
template <MathFloat T>
LMP_MATH_FN T uniform_at(const MathU32* words, MathU64 i) {
  if constexpr (sizeof(T) == 4) {
    return static_cast<float>(static_cast<int>(words[i] >> 8)) * 0x1p-24f;
  } else {
    const MathU64 bits = (MathU64{words[2 * i]} << 32 | words[2 * i + 1]) >> 11;
    return static_cast<double>(static_cast<long long>(bits)) * 0x1p-53;
  }
}

/// Numbers 2i and 2i + 1, which share a radius: Box and Muller, "A note on the generation of random
/// normal deviates", 1958. 1 - u lies in (0, 1], so the logarithm is finite.
template <MathFloat T>
LMP_MATH_FN void normals_at(T* out, const MathU32* words, MathU64 i, T mean, T deviation) {
  const T radius = sqrt(-2 * log(1 - uniform_at<T>(words, 2 * i)));
  const T angle = uniform_at<T>(words, 2 * i + 1) * static_cast<T>(6.283185307179586476925);
  out[0] = mean + deviation * (radius * cos(angle));
  out[1] = mean + deviation * (radius * sin(angle));
}
