#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

void philox(std::uint32_t* out, std::uint64_t seed, std::uint64_t first, std::size_t blocks) {
  LMP_VECTORIZE
  for (std::size_t i = 0; i < blocks; ++i) philox_block(out + 4 * i, seed, first + i);
}

template <class T>
void uniform(void* out, const std::uint32_t* words, std::size_t n) {
  auto* o = static_cast<T*>(out);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) o[i] = uniform_at<T>(words, i);
}

// n is even.
template <class T>
void normal(void* out, const std::uint32_t* words, double mean, double deviation, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const T m = static_cast<T>(mean), s = static_cast<T>(deviation);
  const std::size_t pairs = n / 2;
  LMP_VECTORIZE
  for (std::size_t i = 0; i < pairs; ++i) normals_at(o + 2 * i, words, i, m, s);
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
