#pragma once

#include <cstring>

#include "cuda/backend.hpp"
#include "cuda/launch.cuh"
#include "cuda/types.cuh"
#include "ops/op_info.hpp"
#include "ops/pointwise_run.hpp"
#include "tensor/checks.hpp"
#include "tensor/constant.hpp"

// Templates for every integer compare with 0, the unsigned ones in vain.
#pragma nv_diag_suppress 186

#define LMP_FN __host__ __device__ constexpr
#define LMP_MATH_FN __host__ __device__ inline

namespace lmp::cuda {

#include "ops/math.hpp"
#include "ops/pointwise.hpp"

using table::OpId;
using tensor::DataType;
using tensor::IntList;
using tensor::Tensor;
using tensor::detail::compute_type;
using tensor::detail::Constant;
using tensor::detail::Iteration;
using tensor::detail::Operand;

// Note [Pointwise kernels]
// An op has up to three kernels for each type. Where all operands lie dense in memory in that type,
// or are numbers, a thread takes packs of 16 bytes (dense). Where the innermost axis of each is
// dense or repeats one element, a pack is found by its place in the loop (rows). Anything else,
// other types among them, goes an element at a time and is converted on the way (strided), so that
// one kernel does for each type that is computed in.

using ForwardRun = void (*)(DataType compute, const Tensor& out, const Operand* in);
using BackwardRun = void (*)(unsigned reads, const tensor::detail::GradientTarget* out,
                             const Tensor& g, const Operand* in, const Tensor& result);
/// Fill in a part of the table: every LMP_PARTS-th op, each part compiled for itself.
template <int kPart>
void fill_forward(ForwardRun* runs);
template <int kPart>
void fill_backward(BackwardRun* runs);

inline constexpr int kThreads = 256;

/// Elements of the type that a thread takes at a time: 16 bytes, but few of what is long to
/// compute.
template <class Op, class S>
inline constexpr int kPack = Op::info.light || sizeof(S) > 1 ? 16 / static_cast<int>(sizeof(S)) : 4;
/// Packs that a thread has in flight.
template <class Op>
inline constexpr int kFlight = Op::info.light ? 2 : 1;
inline constexpr int kStridedFlight = 4;

/// Operand i where the op works on S, in memory and in the kernel.
template <class Op, int i, class S>
using Stored = std::conditional_t<(Op::info.condition >> i & 1) != 0, bool, S>;
template <class Op, int i, class S>
using In = Computed<Stored<Op, i, S>>;
template <class Op, class S>
using Result = std::conditional_t<Op::info.promote == Promote::Compare, bool, S>;

template <class Op, class S>
inline constexpr bool kTakes = kIsFloating<S> ||
                               (Op::info.promote != Promote::Float &&
                                (Op::info.takes_bool || !std::is_same_v<S, bool>));

/// One operand of a kernel: memory, or where that is null a number.
struct Source {
  const void* data = nullptr;
  alignas(8) std::byte number[8];
  template <class T>
  __device__ __forceinline__ T constant() const {
    return *reinterpret_cast<const T*>(number);
  }
};

template <int N, class S>
__device__ __forceinline__ Pack<S, N> load_pack(const void* from, std::int64_t at) {
  return *reinterpret_cast<const Pack<S, N>*>(static_cast<const S*>(from) + at);
}
template <int N, class S>
__device__ __forceinline__ void store_pack(void* to, std::int64_t at, const Pack<S, N>& pack) {
  *reinterpret_cast<Pack<S, N>*>(static_cast<S*>(to) + at) = pack;
}

/// kN elements of an operand, computed in In.
template <class S, int kN>
struct Values {
  Computed<S> at[kN];
  /// A pack at `i`, or one element there that `repeats`, or the number.
  __device__ __forceinline__ void load(const Source& from, std::int64_t i, bool repeats) {
    if (from.data == nullptr || repeats) {
      const Computed<S> v =
          from.data ? widen(static_cast<const S*>(from.data)[i]) : from.constant<Computed<S>>();
#pragma unroll
      for (int k = 0; k < kN; ++k) at[k] = v;
      return;
    }
    const auto pack = load_pack<kN, S>(from.data, i);
#pragma unroll
    for (int k = 0; k < kN; ++k) at[k] = widen(pack.at[k]);
  }
  /// Elements i, i + 1, .. up to `left` of them.
  __device__ __forceinline__ void load_some(const Source& from, std::int64_t i, int left) {
#pragma unroll
    for (int k = 0; k < kN; ++k)
      at[k] = from.data == nullptr ? from.constant<Computed<S>>()
              : k < left           ? widen(static_cast<const S*>(from.data)[i + k])
                                   : Computed<S>{1};
  }
};

/// How the operands of a loop are walked.
enum class Walk { Dense, Rows, Strided };

/// Whether the operands, of which the first is an output, can be walked in rows of packs; `size(i)`
/// is the number of bytes of one element. Then `loop` is turned into one over packs of `pack`
/// elements, and bit i of `repeats` says that operand i repeats.
template <class Size, class Data>
bool in_rows(Iteration& loop, int count, int outputs, int pack, unsigned& repeats, Size&& size,
             Data&& data) {
  if (loop.ndim == 0) return false;
  const int inner = loop.ndim - 1;
  if (loop.sizes[inner] % pack != 0) return false;
  repeats = 0;
  for (int i = 0; i < count; ++i) {
    if (!data(i)) continue;
    const std::int64_t stride = loop.strides[i][inner];
    if (stride == 0 && i >= outputs) {
      repeats |= 1u << i;
      continue;
    }
    if (stride != 1 || !is_aligned(data(i), size(i) * static_cast<std::size_t>(pack))) return false;
    for (int d = 0; d < inner; ++d)
      if (loop.strides[i][d] % pack != 0) return false;
  }
  loop.sizes[inner] /= pack;
  loop.numel /= pack;
  for (int i = 0; i < count; ++i) loop.strides[i][inner] *= pack;
  return true;
}

}  // namespace lmp::cuda
