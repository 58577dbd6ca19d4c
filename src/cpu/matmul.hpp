#pragma once

#include <cstdint>

#include "tensor/matmul.hpp"

namespace lmp::cpu {

using tensor::detail::MatmulArgs;

/// Halves are summed in float over the whole of k and rounded once; integers wrap. The order of a
/// sum depends on shapes and strides only, so results are the same bits on any number of threads.
void matmul(const MatmulArgs& args);

/// A part of one matrix of c, and what the kernel needs to compute it.
struct GemmTile {
  std::int64_t batch;
  std::int64_t row_begin, row_end;
  std::int64_t col_begin, col_end;
  std::int64_t depth;  // terms summed before the next partial sum starts, at least 1
  void* scratch;       // gemm_scratch_bytes(), aligned to 64
};

/// The bytes of scratch memory for a tile of rows x cols.
constexpr std::int64_t gemm_scratch_bytes(tensor::DataType type, std::int64_t rows,
                                          std::int64_t cols, std::int64_t depth) {
  const bool half = type == tensor::DataType::Float16 || type == tensor::DataType::BFloat16;
  const std::int64_t size = half ? 4 : static_cast<std::int64_t>(tensor::size_of(type));
  constexpr std::int64_t kLanes =
      64;  // of the widest vector at the most, and the alignment in bytes
  const std::int64_t panels = depth * (cols + kLanes);
  const std::int64_t block = (rows + 2 * kLanes) * (depth + 2 * kLanes);
  return (panels + block + (half ? rows * cols : 0)) * size;
}

using GemmFn = void (*)(const MatmulArgs& args, const GemmTile& tile);

namespace baseline {
void gemm(const MatmulArgs& args, const GemmTile& tile);
}
namespace avx2 {
void gemm(const MatmulArgs& args, const GemmTile& tile);
}
namespace avx512 {
void gemm(const MatmulArgs& args, const GemmTile& tile);
}

}  // namespace lmp::cpu
