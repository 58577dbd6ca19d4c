#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011.
void philox(std::uint32_t* out, std::uint64_t seed, std::uint64_t first, std::size_t blocks) {
  LMP_VECTORIZE
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::uint64_t counter = first + i;
    std::uint32_t c0 = static_cast<std::uint32_t>(counter),
                  c1 = static_cast<std::uint32_t>(counter >> 32);
    std::uint32_t c2 = 0, c3 = 0;
    std::uint32_t k0 = static_cast<std::uint32_t>(seed),
                  k1 = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0,
                          p1 = std::uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<std::uint32_t>(p1);
      c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<std::uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out[4 * i] = c0;
    out[4 * i + 1] = c1;
    out[4 * i + 2] = c2;
    out[4 * i + 3] = c3;
  }
}

// A float takes one word, a double two; the high bits are used, so values lie in [0, 1).
[[gnu::always_inline]] inline float unit(float, const std::uint32_t* words, std::size_t i) {
  return static_cast<float>(static_cast<std::int32_t>(words[i] >> 8)) * 0x1p-24f;
}
[[gnu::always_inline]] inline double unit(double, const std::uint32_t* words, std::size_t i) {
  const std::uint64_t bits = (std::uint64_t{words[2 * i]} << 32 | words[2 * i + 1]) >> 11;
  return static_cast<double>(static_cast<std::int64_t>(bits)) * 0x1p-53;
}

template <class T>
void uniform(void* out, const std::uint32_t* words, std::size_t n) {
  auto* o = static_cast<T*>(out);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) o[i] = unit(T{}, words, i);
}

// Box and Muller, "A note on the generation of random normal deviates", 1958: elements 2i and 2i +
// 1 share a radius. 1 - u lies in (0, 1], so the logarithm is finite. n is even.
template <class T>
void normal(void* out, const std::uint32_t* words, double mean, double deviation, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const T m = static_cast<T>(mean), s = static_cast<T>(deviation);
  const std::size_t pairs = n / 2;
  LMP_VECTORIZE
  for (std::size_t i = 0; i < pairs; ++i) {
    const T radius = sqrt(-2 * log(1 - unit(T{}, words, 2 * i)));
    const T angle = unit(T{}, words, 2 * i + 1) * static_cast<T>(6.283185307179586476925);
    o[2 * i] = m + s * (radius * cos(angle));
    o[2 * i + 1] = m + s * (radius * sin(angle));
  }
}

}  // namespace

void fill_random(Kernels& kernels) {
  kernels.philox = &philox;
  kernels.uniform[0] = &uniform<float>;
  kernels.uniform[1] = &uniform<double>;
  kernels.normal[0] = &normal<float>;
  kernels.normal[1] = &normal<double>;
}

}  // namespace lmp::cpu::LMP_ISA
