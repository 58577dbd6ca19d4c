#include "cpu/kernels.hpp"
#include "cpu/kernels/tiles.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

// out[r][c] = in[c][r]
template <class T>
void transpose_panel(void* out, Index out_row, const void* in, Index in_col, Index rows,
                     Index cols) {
  auto* to = static_cast<T*>(out);
  const auto* from = static_cast<const T*>(in);
  Index done = 0;  // columns
  if constexpr (sizeof(T) >= 4) {
    constexpr int lanes = kWidth<T>;
    for (; done + lanes <= cols; done += lanes) {
      Index r = 0;
      for (; r + lanes <= rows; r += lanes) {
        Vector<T> square[lanes];
        repeat<lanes>([&](auto i) LMP_FLAT {
          __builtin_memcpy(&square[i.value], from + (done + i.value) * in_col + r, kVectorBytes);
        });
        transpose<T>(square);
        repeat<lanes>([&](auto i) LMP_FLAT {
          __builtin_memcpy(to + (r + i.value) * out_row + done, &square[i.value], kVectorBytes);
        });
      }
      for (; r < rows; ++r)
        for (int c = 0; c < lanes; ++c) to[r * out_row + done + c] = from[(done + c) * in_col + r];
    }
  }
  for (; done < cols; ++done)
    for (Index r = 0; r < rows; ++r) to[r * out_row + done] = from[done * in_col + r];
}

void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void stream(void* out, const void* in, std::size_t bytes, const void* const* ahead, int count) {
#if defined(__x86_64__)
  constexpr std::size_t kLine = 64;
  if (reinterpret_cast<std::uintptr_t>(out) % kLine == 0) {
    auto* to = static_cast<char*>(out);
    const auto* from = static_cast<const char*>(in);
    std::size_t i = 0;
    for (; i + kLine <= bytes; i += kLine) {
      for (int k = 0; k < count; ++k) __builtin_prefetch(static_cast<const char*>(ahead[k]) + i);
      repeat<static_cast<int>(kLine) / kVectorBytes>([&](auto part) LMP_FLAT {
        const std::size_t at = i + part.value * kVectorBytes;
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
#elif defined(__AVX2__)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at)));
#else
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
#endif
      });
    }
    __builtin_memcpy(to + i, from + i, bytes - i);
    return;
  }
#else
  (void)ahead, (void)count;
#endif
  __builtin_memcpy(out, in, bytes);
}

}  // namespace

void fill_transfer(Kernels& kernels) {
  kernels.transpose[0] = &transpose_panel<std::uint8_t>;
  kernels.transpose[1] = &transpose_panel<std::uint16_t>;
  kernels.transpose[2] = &transpose_panel<std::uint32_t>;
  kernels.transpose[3] = &transpose_panel<std::uint64_t>;
  kernels.stream = &stream;
  kernels.stream_fence = &stream_fence;
}

}  // namespace lmp::cpu::LMP_ISA
