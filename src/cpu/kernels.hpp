#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/matmul.hpp"
#include "lamppp/tensor/data_type.hpp"
#include "ops/op_id.hpp"
#include "tensor/constant.hpp"

namespace lmp::cpu {

using table::kOpCount;
using table::kReductions;
using table::kSpreads;
using table::OpId;
using table::Reduction;
using table::Spread;
using tensor::detail::compute_type;

/// The types that kernels compute in: every storage type but the halves, which are float in
/// registers.
inline constexpr int kComputeTypes = 8;
constexpr int compute_index(tensor::DataType type) noexcept {
  constexpr int indices[tensor::kDataTypeCount] = {0, 1, 2, 3, 4, 5, 6, 6, 6, 7};
  return indices[static_cast<int>(type)];
}

/// Elements a block holds: what pointwise kernels are handed at a time where data has to be cast or
/// gathered first, so that scratch stays in the first-level cache.
inline constexpr std::int64_t kBlock = 1024;

/// out[i] = op(in[0][i], ...), all dense and in the compute type (Bool results as bool, conditions
/// as bool). `out` may be one of the inputs.
using ForwardFn = void (*)(void* out, const void* const* in, std::size_t n);
/// The same for `rows` rows of n of a binary op, the operands' being steps[0], steps[1], ... bytes
/// apart, the result's first; not read where there is one row.
using ForwardRowsFn = void (*)(void* out, const void* const* in, std::size_t n, std::size_t rows,
                               const std::int64_t* steps);
/// out[k][i] = the gradient of operand k; `out` of operands that are not asked for is null. Inputs
/// that the gradient does not touch may be any n readable elements.
using BackwardFn = void (*)(void* const* out, const void* gradient, const void* const* in,
                            const void* result, std::size_t n);
/// Reads n elements `stride` apart into dense scratch, converting.
using LoadFn = void (*)(void* out, const void* in, std::int64_t stride, std::size_t n);
/// Writes n dense elements `stride` apart, converting.
using StoreFn = void (*)(void* out, std::int64_t stride, const void* in, std::size_t n);
/// Reduces each of `rows` rows of n >= 1 dense elements, `stride` apart, or each of the n columns
/// of at least one row. `with` has a value for each result or for each element, or is not read.
using ReduceFn = void (*)(void* out, const void* in, const void* with, std::int64_t stride,
                          std::size_t rows, std::size_t n);
struct ReduceKernels {
  ReduceFn rows, columns;
};
/// The extreme of each row, or column (n <= kBlock), and where it is first.
using ArgFn = void (*)(void* best, std::int64_t* index, const void* in, std::int64_t stride,
                       std::size_t rows, std::size_t n);
struct ArgKernels {
  ArgFn rows, columns;
  /// The first extremes of n pairs, those of `other` being later.
  void (*join)(void* best, std::int64_t* index, const void* other, const std::int64_t* other_index,
               std::size_t n);
};
/// Sums of n elements so far, from `carry` on, which runs on; or the next row of n columns, with a
/// carry each. Floats are carried as double.
struct CumsumKernels {
  void (*row)(void* out, void* carry, const void* in, std::size_t n);
  void (*columns)(void* out, void* carry, const void* in, std::size_t n);
};
/// See table::Spread, over `rows` rows of n, all dense: with a and b for each row, `step` apart, or
/// with rows of n values for each column. `out` may be `x` or `with`.
using SpreadFn = void (*)(void* out, const void* x, const void* with, const void* a, const void* b,
                          std::int64_t step, std::size_t rows, std::size_t n);
struct SpreadKernels {
  SpreadFn rows, columns;
};

/// out[r * out_row + c] = in[c * in_col + r], raw elements; the memory does not overlap.
using TransposeFn = void (*)(void* out, std::int64_t out_row, const void* in, std::int64_t in_col,
                             std::int64_t rows, std::int64_t cols);

/// Draws blocks of four 32-bit words: block i from the counter `first + i`.
using PhiloxFn = void (*)(std::uint32_t* out, std::uint64_t seed, std::uint64_t first,
                          std::size_t blocks);

/// Rows of logits. For a row that is not ignored the label lies in [0, classes).
struct CrossEntropyArgs {
  std::size_t rows, classes;
  const void* logits;
  const std::int64_t* labels;
  std::int64_t ignored;
  double smoothing;
  double scale;  // of gradients
  void* stats;   // [rows][2]: the largest logit, and the logarithm of sum(exp(logit - that))
};

/// Rows that are normalised, with one weight (and bias, if any) for each column.
struct NormalizeArgs {
  std::size_t rows, columns;
  const void* x;
  const void* weight;
  const void* bias;
  double eps;
  void* stats;  // [rows][2]: the mean, 0 where none is subtracted, and what is multiplied by
};

struct SgdArgs {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
};

struct AdamArgs {
  double beta1, beta2, eps;
  double weight_decay;  // added to the gradient
  double kept;          // of the parameter, in front of the step
  double rate, root;    // lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t)
  bool maximize;
};

/// The kernels of the composites; all data is dense and of one type, float or double.
struct CompositeKernels {
  /// out[r][c] += bias[c]
  void (*add_bias)(void* out, const void* bias, std::size_t rows, std::size_t columns);
  /// Writes a loss for each row, the stats, and unless it is null gradient = scale * (softmax -
  /// target).
  void (*cross_entropy)(void* losses, void* gradient, const CrossEntropyArgs& args);
  /// out = g * (softmax - target), g for each row.
  void (*cross_entropy_backward)(void* out, const void* g, const CrossEntropyArgs& args);
  /// Without and with a mean that is subtracted; writes the stats.
  void (*normalize[2])(void* out, const NormalizeArgs& args);
  /// Writes gx or adds to it, adds to gw and gb; null where not wanted.
  void (*normalize_backward[2])(void* gx, bool add, void* gw, void* gb, const void* g,
                                const NormalizeArgs& args);
  /// out = x / keep where the uniform number made of the word is below `keep`, else 0.
  void (*drop)(void* out, const void* x, const std::uint32_t* words, double keep, std::size_t n);
  /// Without momentum where that is null.
  void (*sgd)(void* parameter, const void* gradient, void* momentum, const SgdArgs& args,
              std::size_t n);
  void (*adam)(void* parameter, const void* gradient, void* first, void* second,
               const AdamArgs& args, std::size_t n);
};

/// What one instruction set offers. Null where a combination does not exist.
struct Kernels {
  const char* name;
  ForwardFn forward[kOpCount][kComputeTypes];
  /// Binary ops of float and double, where one element is the first or second operand for all of a
  /// row, or neither.
  ForwardRowsFn forward_rows[kOpCount][3][2];  // by the operand, by float, double
  ForwardFn forward_brain[kOpCount];           // of BFloat16 itself, for light ops
  BackwardFn backward[kOpCount][2][8];  // by float, double; by the mask of operands asked for
  LoadFn load[tensor::kDataTypeCount][kComputeTypes];
  StoreFn store[tensor::kDataTypeCount];  // from the compute type of the storage type
  TransposeFn transpose[4];               // by the binary logarithm of an element's size
  /// Copies around the caches where `out` is aligned for that, and has as many bytes at each of the
  /// `count` addresses `ahead` fetched meanwhile, so that memory is read while it is written. Other
  /// threads see the copy for certain after the fence.
  void (*stream)(void* out, const void* in, std::size_t bytes, const void* const* ahead, int count);
  void (*stream_fence)();
  ReduceKernels reduce[kReductions][kComputeTypes];
  ArgKernels arg[2][kComputeTypes];  // max, min
  CumsumKernels cumsum[kComputeTypes];
  SpreadKernels spread[kSpreads][2];  // float, double
  // Of dense rows; softmax and log_softmax by float and double. The gradient may be written over
  // the incoming one.
  void (*softmax[2][2])(void* out, const void* x, std::size_t rows, std::size_t n);
  void (*softmax_gradient[2][2])(void* out, const void* result, const void* gradient,
                                 std::size_t rows, std::size_t n);
  PhiloxFn philox;
  void (*uniform[2])(void* out, const std::uint32_t* words, std::size_t n);  // float, double
  void (*normal[2])(void* out, const std::uint32_t* words, double mean, double deviation,
                    std::size_t n);
  CompositeKernels composites[2];  // float, double
  GemmFn gemm;
};

#define LMP_DECLARE_ISA(isa)              \
  namespace isa {                         \
  void fill_pointwise(Kernels& kernels);  \
  void fill_movement(Kernels& kernels);   \
  void fill_transfer(Kernels& kernels);   \
  void fill_reduce(Kernels& kernels);     \
  void fill_random(Kernels& kernels);     \
  void fill_composites(Kernels& kernels); \
  }
LMP_DECLARE_ISA(baseline)
LMP_DECLARE_ISA(avx2)
LMP_DECLARE_ISA(avx512)
#undef LMP_DECLARE_ISA

/// The kernels of the best instruction set that this CPU and LAMPPP_ISA allow, chosen at first use.
const Kernels& select_kernels();
extern const Kernels* active_kernels;
inline const Kernels& kernels() {
  const Kernels* k = __atomic_load_n(&active_kernels, __ATOMIC_ACQUIRE);
  return k ? *k : select_kernels();
}

/// Joins n parts of `width` elements of the compute type, `slot` bytes apart, pairwise into the
/// first.
void join_parts(ForwardFn join, std::byte* parts, std::int64_t n, std::int64_t slot,
                std::int64_t width);

}  // namespace lmp::cpu
