#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/matmul.hpp"
#include "lamppp/tensor/data_type.hpp"
#include "ops/op_id.hpp"

namespace lmp::cpu {

using table::kOpCount;
using table::kReductions;
using table::kSpreads;
using table::OpId;
using table::Reduction;
using table::Spread;

/// The types that kernels compute in: every storage type but the halves, which are float in
/// registers.
inline constexpr int kComputeTypes = 8;
constexpr int compute_index(tensor::DataType type) noexcept {
  constexpr int indices[tensor::kDataTypeCount] = {0, 1, 2, 3, 4, 5, 6, 6, 6, 7};
  return indices[static_cast<int>(type)];
}
constexpr tensor::DataType compute_type(tensor::DataType type) noexcept {
  return type == tensor::DataType::Float16 || type == tensor::DataType::BFloat16
             ? tensor::DataType::Float32
             : type;
}

/// Elements a block holds: what pointwise kernels are handed at a time where data has to be cast or
/// gathered first, so that scratch stays in the first-level cache.
inline constexpr std::int64_t kBlock = 1024;

/// out[i] = op(in[0][i], ...), all dense and in the compute type (Bool results as bool, conditions
/// as bool). `out` may be one of the inputs.
using ForwardFn = void (*)(void* out, const void* const* in, std::size_t n);
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

/// Draws blocks of four 32-bit words: block i from the counter `first + i`.
using PhiloxFn = void (*)(std::uint32_t* out, std::uint64_t seed, std::uint64_t first,
                          std::size_t blocks);

/// What one instruction set offers. Null where a combination does not exist.
struct Kernels {
  const char* name;
  ForwardFn forward[kOpCount][kComputeTypes];
  BackwardFn backward[kOpCount][2][8];  // by float, double; by the mask of operands asked for
  LoadFn load[tensor::kDataTypeCount][kComputeTypes];
  StoreFn store[tensor::kDataTypeCount];  // from the compute type of the storage type
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
  GemmFn gemm;
};

#define LMP_DECLARE_ISA(isa)             \
  namespace isa {                        \
  void fill_pointwise(Kernels& kernels); \
  void fill_movement(Kernels& kernels);  \
  void fill_reduce(Kernels& kernels);    \
  void fill_random(Kernels& kernels);    \
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

}  // namespace lmp::cpu
