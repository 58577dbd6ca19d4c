// What this machine can do at most, on a number of threads: bandwidth of a copy and of a triad in
// and out of cache, with ordinary and with streaming stores, and fused multiply-adds.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "rows.hpp"

namespace peers {

inline constexpr int kSums = 10;

// c = a + 3 b in chunks that one thread each takes whole, always the same one.
template <class F>
void on_threads(int threads, std::int64_t n, const F& f) {
  const std::int64_t share = ((n + threads - 1) / threads + 63) / 64 * 64;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int i = 0; i < threads; ++i) {
    const std::int64_t begin = i * share;
    if (begin < n) f(begin, begin + share < n ? begin + share : n);
  }
}

inline void triad(float* c, const float* a, const float* b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) c[i] = a[i] + 3 * b[i];
}

// Every element of one array, or of two.
template <int kArrays>
#if defined(__x86_64__)
[[gnu::target("avx2")]]
#endif
void read(const float* a, const float* b, std::int64_t n) {
  float sums[64] = {};
  for (std::int64_t i = 0; i + 64 <= n; i += 64)
    for (int j = 0; j < 64; ++j) sums[j] += kArrays == 2 ? a[i + j] + b[i + j] : a[i + j];
  keep(sums);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] inline void copy_streaming(float* to, const float* from, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
  for (; i < n; ++i) to[i] = from[i];
  _mm_sfence();
}
[[gnu::target("avx2")]] inline void triad_streaming(float* c, const float* a, const float* b,
                                                    std::int64_t n) {
  std::int64_t i = 0;
  const __m256 three = _mm256_set1_ps(3);
  for (; i + 8 <= n; i += 8)
    _mm256_stream_ps(
        c + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_mul_ps(three, _mm256_loadu_ps(b + i))));
  for (; i < n; ++i) c[i] = a[i] + 3 * b[i];
  _mm_sfence();
}
#endif

#if defined(__x86_64__)
// Ten independent sums hide the latency of two units. They are variables, since gcc 12 keeps an
// array in memory.
#define LMP_PEAK(name, features, Vector, set, multiply_add)                                    \
  [[gnu::target(features)]] inline void name(long rounds) {                                    \
    Vector x = set(0.5), y = set(1);                                                           \
    Vector a = set(1), b = set(2), c = set(3), d = set(4), e = set(5), f = set(6), g = set(7), \
           h = set(8), i = set(9), j = set(10);                                                \
    for (long r = 0; r < rounds; ++r) {                                                        \
      a = multiply_add(a, x, y), b = multiply_add(b, x, y), c = multiply_add(c, x, y);         \
      d = multiply_add(d, x, y), e = multiply_add(e, x, y), f = multiply_add(f, x, y);         \
      g = multiply_add(g, x, y), h = multiply_add(h, x, y), i = multiply_add(i, x, y);         \
      j = multiply_add(j, x, y);                                                               \
      asm("" : "+x"(x), "+x"(y));                                                              \
    }                                                                                          \
    keep(a + b + c + d + e + f + g + h + i + j);                                               \
  }
LMP_PEAK(fp32_512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
LMP_PEAK(fp64_512, "avx512f", __m512d, _mm512_set1_pd, _mm512_fmadd_pd)
LMP_PEAK(fp32_256, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
LMP_PEAK(fp64_256, "avx2,fma", __m256d, _mm256_set1_pd, _mm256_fmadd_pd)
#undef LMP_PEAK
#endif

inline void add_limits(std::vector<Row>& rows, int threads) {
  const auto row = [&](std::string name, double bytes, double flops, std::function<Body()> setup) {
    Row r;
    r.group = "limit";
    r.name = std::move(name);
    r.bytes = bytes;
    r.flops = flops;
    r.setup = std::move(setup);
    rows.push_back(std::move(r));
  };
  struct Arrays {
    explicit Arrays(std::int64_t n) : memory(new (std::align_val_t{64}) float[3 * n]()), size(n) {}
    ~Arrays() { operator delete[](memory, std::align_val_t{64}); }
    float* at(int i) const { return memory + i * size; }
    float* memory;
    std::int64_t size;
  };
  for (std::int64_t n : {1 << 16, 1 << 20, 1 << 24}) {
    const std::string at = " " + size_name(n);
    const double size = 4.0 * static_cast<double>(n);
    row("copy" + at, 2 * size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          std::memcpy(m->at(0) + begin, m->at(1) + begin,
                      static_cast<std::size_t>(end - begin) * sizeof(float));
        });
      };
    });
    row("read" + at, size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          read<1>(m->at(0) + begin, nullptr, end - begin);
        });
      };
    });
    row("read two" + at, 2 * size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          read<2>(m->at(0) + begin, m->at(1) + begin, end - begin);
        });
      };
    });
    row("triad" + at, 3 * size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          triad(m->at(0) + begin, m->at(1) + begin, m->at(2) + begin, end - begin);
        });
      };
    });
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2")) continue;
    row("copy, streaming stores" + at, 2 * size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          copy_streaming(m->at(0) + begin, m->at(1) + begin, end - begin);
        });
      };
    });
    row("triad, streaming stores" + at, 3 * size, 0, [=]() -> Body {
      const auto m = std::make_shared<Arrays>(n);
      return [=] {
        on_threads(threads, n, [&](std::int64_t begin, std::int64_t end) {
          triad_streaming(m->at(0) + begin, m->at(1) + begin, m->at(2) + begin, end - begin);
        });
      };
    });
#endif
  }
  const auto peak = [&](const char* name, int lanes, void (*loop)(long)) {
    constexpr long kRounds = 20000;
    row(name, 0, 2.0 * kSums * lanes * kRounds * threads, [=]() -> Body {
      return [=] {
        on_threads(threads, threads * 64, [&](std::int64_t, std::int64_t) { loop(kRounds); });
      };
    });
  };
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    peak("fma fp32", 16, &fp32_512);
    peak("fma fp64", 8, &fp64_512);
  } else if (__builtin_cpu_supports("avx2")) {
    peak("fma fp32", 8, &fp32_256);
    peak("fma fp64", 4, &fp64_256);
  }
#endif
}

}  // namespace peers
