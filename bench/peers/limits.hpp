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

// `kSums` independent sums hide the latency of two units.
template <class T, int kBytes>
[[gnu::always_inline]] inline void fma_loop(long rounds) {
  typedef T Vector __attribute__((vector_size(kBytes)));
  constexpr int kSums = 12;
  Vector sums[kSums] = {};
  Vector x = {}, y = {};
  for (int i = 0; i < kBytes / static_cast<int>(sizeof(T)); ++i) {
    x[i] = static_cast<T>(0.5);
    y[i] = static_cast<T>(i);
  }
  for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = sums[i] * x + y;
      asm("" : "+x"(sums[i]));
    }
  keep(sums);
}
#if defined(__x86_64__)
template <class T>
[[gnu::target("avx512f,avx512dq,avx512vl,fma")]] void fma_512(long rounds) {
  fma_loop<T, 64>(rounds);
}
template <class T>
[[gnu::target("avx2,fma")]] void fma_256(long rounds) {
  fma_loop<T, 32>(rounds);
}
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
          float sums[64] = {};
          for (std::int64_t i = begin; i + 64 <= end; i += 64)
            for (int j = 0; j < 64; ++j) sums[j] += m->at(0)[i + j];
          keep(sums);
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
    row(name, 0, 2.0 * 12 * lanes * kRounds * threads, [=]() -> Body {
      return [=] {
        on_threads(threads, threads * 64, [&](std::int64_t, std::int64_t) { loop(kRounds); });
      };
    });
  };
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    peak("fma fp32", 16, &fma_512<float>);
    peak("fma fp64", 8, &fma_512<double>);
    return;
  }
  if (__builtin_cpu_supports("avx2")) {
    peak("fma fp32", 8, &fma_256<float>);
    peak("fma fp64", 4, &fma_256<double>);
    return;
  }
#endif
  peak("fma fp32", 4, [](long rounds) { fma_loop<float, 16>(rounds); });
  peak("fma fp64", 2, [](long rounds) { fma_loop<double, 16>(rounds); });
}

}  // namespace peers
