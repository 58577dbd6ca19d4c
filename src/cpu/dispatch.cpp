#include <cstdlib>
#include <string_view>

#include "cpu/kernels.hpp"
#include "lamppp/error.hpp"
#include "tensor/format.hpp"

namespace lmp::cpu {

const Kernels* active_kernels = nullptr;

namespace {

#define LMP_ISA_TABLE(isa)            \
  [] {                                \
    static const Kernels table = [] { \
      Kernels k{};                    \
      k.name = #isa;                  \
      isa::fill_pointwise(k);         \
      isa::fill_movement(k);          \
      isa::fill_transfer(k);          \
      isa::fill_reduce(k);            \
      isa::fill_random(k);            \
      isa::fill_composites(k);        \
      k.gemm = &isa::gemm;            \
      return k;                       \
    }();                              \
    return &table;                    \
  }()

int best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return 1;
#endif
  return 0;
}

}  // namespace

const Kernels& select_kernels() {
  int level = best_level();
  if (const char* asked = std::getenv("LAMPPP_ISA"); asked && *asked) {
    const std::string_view name = asked;
    const int wanted = name == "baseline" ? 0 : name == "avx2" ? 1 : name == "avx512" ? 2 : -1;
    if (wanted < 0 || wanted > level)
      throw ValueError(tensor::detail::concat("LAMPPP_ISA=", asked, ": this CPU offers baseline",
                                              level > 0 ? ", avx2" : "",
                                              level > 1 ? ", avx512" : ""));
    level = wanted;
  }
#if defined(__x86_64__)
  const Kernels* chosen = level == 2   ? LMP_ISA_TABLE(avx512)
                          : level == 1 ? LMP_ISA_TABLE(avx2)
                                       : LMP_ISA_TABLE(baseline);
#else
  const Kernels* chosen = LMP_ISA_TABLE(baseline);
#endif
  __atomic_store_n(&active_kernels, chosen, __ATOMIC_RELEASE);
  return *chosen;
}

}  // namespace lmp::cpu
