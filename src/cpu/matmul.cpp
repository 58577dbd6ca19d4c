#include "cpu/matmul.hpp"

#include <algorithm>
#include <cstring>

#include "cpu/backend.hpp"
#include "cpu/block_loop.hpp"
#include "cpu/kernels.hpp"
#include "cpu/scratch.hpp"
#include "tensor/parallel.hpp"
#ifdef LAMPPP_HAVE_ONEDNN
#include "cpu/onednn.hpp"
#endif

namespace lmp::cpu {
namespace {

using Index = std::int64_t;

constexpr Index ceil_div(Index x, Index y) { return (x + y - 1) / y; }

// The size, a multiple of `step`, of the parts at most `most` long that n is cut into evenly.
constexpr Index part(Index n, Index most, Index step) {
  return std::min(n, ceil_div(ceil_div(n, ceil_div(n, most)), step) * step);
}

void own_matmul(const MatmulArgs& g) {
  // The columns of b for a tile stay in L1. One row goes through b in the order of memory, by a few
  // rows or by whole columns.
  const Index most = g.m == 1 && g.b_col == 1 ? 16 : g.m <= 4 && g.b_row == 1 ? 2048 : 256;
  const Index depth = ceil_div(g.k, ceil_div(g.k, most));
  // Large enough that packing does not count, small enough for every thread to get some.
  const bool large = g.m * g.n >= Index{1024} * 1024;
  const bool small = g.batch * g.m * g.n <= Index{128} * 128;
  // A sum of few terms costs the writing of c, which goes row by row in the order of memory.
  const bool writes = g.k <= 2 && g.n >= 256;
  const Index rows = part(g.m, writes ? 1 : large ? 256 : small ? 64 : 128, 1);
  const Index cols = part(g.n, g.m == 1 || writes ? 1024 : large ? 512 : 256, 64);
  const Index row_tiles = ceil_div(g.m, rows), col_tiles = ceil_div(g.n, cols);
  constexpr Index kWork = Index{1} << 18;  // multiplications worth a thread
  const Index chunk = std::max(Index{1}, kWork / (rows * cols * g.k));
  const GemmFn gemm = kernels().gemm;
  tensor::detail::parallel_for(g.batch * row_tiles * col_tiles, chunk, [&](Index begin, Index end) {
    const Scratch scratch(static_cast<std::size_t>(gemm_scratch_bytes(g.type, rows, cols, depth)));
    for (Index i = begin; i < end; ++i) {
      const Index row = i / col_tiles % row_tiles * rows, col = i % col_tiles * cols;
      gemm(g, {i / (row_tiles * col_tiles), row, std::min(row + rows, g.m), col,
               std::min(col + cols, g.n), depth, scratch.data()});
    }
  });
}

#ifdef LAMPPP_HAVE_ONEDNN
// Where oneDNN was measured to be faster; it is ahead from AVX-512 on only. Long sums into small
// results, and of a transposed a as it is, stay with our kernel: oneDNN splits some of them by the
// number of threads, which changes their bits.
bool suits_onednn(const MatmulArgs& g) {
  if (kernels().gemm != avx512::gemm || std::min({g.m, g.n, g.k}) < 32) return false;
  if (g.k > g.m * g.n / 16 || (g.a_col != 1 && g.k > 1024)) return false;
  const Index work = g.m * g.n * g.k;
  return (g.type == tensor::DataType::Float32 && work >= Index{1} << 21) ||
         (g.type == tensor::DataType::BFloat16 && work >= Index{1} << 17);
}

// A large transposed `a`, laid out row by row for oneDNN: a small part of the work of the product.
bool turned_onednn(const MatmulArgs& g) {
  if (g.a_row != 1 || g.a_col == 1 || g.batch != 1 || g.n < 512) return false;
  MatmulArgs t = g;
  t.a_row = g.k;
  t.a_col = 1;
  if (!suits_onednn(t)) return false;
  const Scratch turned(static_cast<std::size_t>(g.m * g.k) * tensor::size_of(g.type));
  t.a = turned.data();
  const tensor::IntList strides[2] = {{g.k, 1}, {1, g.a_col}};
  const BlockOperand operands[2] = {
      {static_cast<std::byte*>(turned.data()), g.type, g.type, true},
      {static_cast<std::byte*>(const_cast<void*>(g.a)), g.type, g.type},
  };
  run_blocks(tensor::detail::Iteration({g.m, g.k}, strides, true), operands, 2, kChunk, nullptr,
             nullptr);
  return onednn::matmul(t);
}
#endif

}  // namespace

void matmul(const MatmulArgs& args) {
  if (args.batch == 0 || args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    const auto count = static_cast<std::size_t>(args.batch * args.m * args.n);
    if (!args.accumulate) std::memset(args.c, 0, count * tensor::size_of(args.type));
    return;
  }
  const MatmulArgs g = args.n == 1 && args.m > 1 ? tensor::detail::transposed(args) : args;
#ifdef LAMPPP_HAVE_ONEDNN
  if (suits_onednn(g) ? onednn::matmul(g) : turned_onednn(g)) return;
#endif
  own_matmul(g);
}

void matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  tensor::detail::for_matmuls(out, a, b, accumulate, [](const MatmulArgs& args) { matmul(args); });
}

}  // namespace lmp::cpu
