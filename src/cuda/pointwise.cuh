#pragma once

#include <algorithm>
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

#include "cuda/half_math.cuh"

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
// dense or repeats one element, a pack is found by its place in the loop (rows), or where a light
// op has a transposed operand, through a tile in shared memory (turned). Anything else, other types
// among them, goes in groups of elements that are converted on the way (strided), so that one
// kernel does for each type that is computed in. A thread takes one pack: two in flight were no
// faster where memory sets the pace. It takes two where they share the many constants of a
// function.

using ForwardRun = void (*)(DataType compute, const Tensor& out, const Operand* in);
using BackwardRun = void (*)(unsigned reads, const tensor::detail::GradientTarget* out,
                             const Tensor& g, const Operand* in, const Tensor& result);
/// Fill in a part of the table: every LMP_PARTS-th op, each part compiled for itself.
template <int kPart>
void fill_forward(ForwardRun* runs);
template <int kPart>
void fill_backward(BackwardRun* runs);

/// f.operator()<Op, kArity>(id) for each op of a part.
template <int kPart, class F>
void for_ops(F&& f) {
  const auto put = [&]<class Op, int kArity, OpId kId>() {
    if constexpr (static_cast<int>(kId) % LMP_PARTS == kPart - 1)
      f.template operator()<Op, kArity>(kId);
  };
#define LMP_UNARY(function, Op) put.template operator()<Op, 1, OpId::Op>();
#define LMP_BINARY(function, Op) put.template operator()<Op, 2, OpId::Op>();
#define LMP_TERNARY(function, Op) put.template operator()<Op, 3, OpId::Op>();
#include "lamppp/tensor/pointwise.def"
}

/// Little enough to compute that memory is what an element waits for.
template <class Op, class S>
inline constexpr bool kCheap = Op::info.promote != Promote::Float && !std::is_same_v<Op, Pow> &&
                               !(std::is_same_v<Op, Remainder> && kIsFloating<S>);
/// Elements of the type that a thread takes at a time: 16 bytes, but few of what is long to
/// compute.
template <class Op, class S>
inline constexpr int kPack = kCheap<Op, S> || sizeof(S) > 1 ? 16 / static_cast<int>(sizeof(S)) : 4;

/// Packs that a thread takes of what lies dense.
template <class Op, class S>
inline constexpr int kPacks =
    !kCheap<Op, S> && !std::is_same_v<Op, Div> && !std::is_same_v<Op, Remainder> &&
            (kIsHalf<S> || std::is_same_v<S, double>)
        ? 2
        : 1;

/// Operand i where the op works on S, in memory and in the kernel.
template <class Op, int i, class S>
using Stored = std::conditional_t<(Op::info.condition >> i & 1) != 0, bool, S>;
template <class Op, int i, class S>
using In = Computed<Stored<Op, i, S>>;
template <class Op, class S>
using Result = std::conditional_t<Op::info.promote == Promote::Compare, bool, S>;

template <class Op, class... Ops>
constexpr bool is_one_of(Ops...) {
  return (std::is_same_v<Op, Ops> || ...);
}
/// Whether the op's functions of halves are others than those of floats.
template <class Op, class S>
inline constexpr bool kNarrows = is_one_of<Op>(Pow(), Remainder(), Log(), Log1p(), Sin(), Cos(),
                                               Tanh(), Erf(), Sigmoid(), Silu(), Gelu()) &&
                                 kIsHalf<S>;

template <class Op, class S>
inline constexpr bool kTakes = kIsFloating<S> ||
                               (Op::info.promote != Promote::Float &&
                                (Op::info.takes_bool || !std::is_same_v<S, bool>));

/// Whether there are elements of S that the op has no answer for, as the second operand.
template <class Op, class S>
inline constexpr bool kRefuses =
    !kIsFloating<S> && (std::is_same_v<Op, Pow> || std::is_same_v<Op, Remainder>);
template <class Op, class S>
__device__ __forceinline__ bool is_refused(S b) {
  return std::is_same_v<Op, Pow> ? b < S{0} : b == S{0};
}

/// One operand of a kernel: memory, or where that is null a number.
struct Source {
  const void* data = nullptr;
  std::uint32_t number[2];  // as words: bytes would be put together one by one
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

/// The unsigned integer of as many bytes.
template <int kBytes>
using Bits = std::conditional_t<
    kBytes == 1, std::uint8_t,
    std::conditional_t<kBytes == 2, std::uint16_t,
                       std::conditional_t<kBytes == 4, std::uint32_t, std::uint64_t>>>;

/// The element whose bits are these, or the lowest of these.
template <class S, class Word>
__device__ __forceinline__ S from_bits(Word bits) {
  if constexpr (std::is_same_v<S, bool>)
    return (bits & 0xff) != 0;
  else
    return __builtin_bit_cast(S, static_cast<Bits<sizeof(S)>>(bits));
}

/// kN elements of an operand. They are kept as words until they are computed with, so that the
/// loads of all operands are under way before anything waits for one.
template <class S, int kN, bool kMayBeNumber = true>
class Values {
 public:
  /// A pack at `i`, or one element there that repeats, or nothing for a number. The last pack of a
  /// tensor may go beyond its end, though not beyond the 16 bytes around it, and so not beyond
  /// memory that can be read; what it finds there is computed with, and not stored.
  __device__ __forceinline__ void load(const Source& from, std::int64_t i, bool repeats) {
    if (kMayBeNumber && from.data == nullptr) {
      if (!kWideNumber) fill(from.constant<Bits<sizeof(S)>>());
      return;
    }
    if (repeats)
      words_.at[0] = static_cast<const Bits<sizeof(S)>*>(from.data)[i];
    else
      words_ =
          *reinterpret_cast<const Pack<Word, kN / kEach>*>(static_cast<const S*>(from.data) + i);
  }
  /// A pack that is at hand.
  __device__ __forceinline__ void set(const Pack<Bits<sizeof(S)>, kN>& pack) {
    words_ = __builtin_bit_cast(Pack<Word, kN / kEach>, pack);
  }
  /// What was loaded, in the type that is computed in.
  __device__ __forceinline__ void get(Computed<S> (&v)[kN], const Source& from,
                                      bool repeats) const {
    const bool is_number = kWideNumber && from.data == nullptr;
    const bool packed = !is_number && !repeats;
    const Computed<S> one =
        is_number ? from.constant<Computed<S>>() : widen(from_bits<S>(words_.at[0]));
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      const Word word = words_.at[k / kEach];
      const Computed<S> each = widen(from_bits<S>(word >> k % kEach * 8 * sizeof(S)));
      v[k] = packed ? each : one;
    }
  }

 private:
  static constexpr int kBytes = static_cast<int>(sizeof(S)) * kN;
  using Word = Bits<std::max(static_cast<int>(sizeof(S)), std::min(kBytes, 4))>;
  static constexpr int kEach = static_cast<int>(sizeof(Word) / sizeof(S));
  /// A number that no element is: of a half's op it is a float.
  static constexpr bool kWideNumber = kMayBeNumber && kIsHalf<S>;

  __device__ __forceinline__ void fill(Bits<sizeof(S)> bits) {
    Word word = bits;
#pragma unroll
    for (int k = 1; k < kEach; ++k)
      word |= static_cast<Word>(static_cast<Word>(bits) << k * 8 * sizeof(S));
#pragma unroll
    for (Word& each : words_.at) each = word;
  }

  Pack<Word, kN / kEach> words_;
};

/// Whether the operands, of which the first `outputs` are outputs, can be walked in rows of packs;
/// `size(i)` is the number of bytes of one element. Then `loop` is turned into one over packs of
/// `pack` elements, and bit i of `repeats` says that operand i is one element along the innermost
/// axis. Where there is `turned`, the packs of an input may lie along the axis before it; bit i
/// says so.
template <class Size, class Data>
bool in_rows(Iteration& loop, int count, int outputs, int pack, unsigned& repeats, Size&& size,
             Data&& data, unsigned* turned = nullptr) {
  if (loop.ndim == 0) return false;
  const int inner = loop.ndim - 1;
  if (loop.sizes[inner] % pack != 0) return false;
  if (inner == 0 || loop.sizes[inner - 1] % pack != 0) turned = nullptr;
  repeats = 0;
  for (int i = 0; i < count; ++i) {
    if (!data(i)) continue;
    const std::int64_t* const strides = loop.strides[i];
    if (strides[inner] == 0 && i >= outputs) {
      repeats |= 1u << i;
      continue;
    }
    int along = inner;
    if (strides[inner] != 1) {
      if (!turned || i < outputs || strides[inner - 1] != 1) return false;
      *turned |= 1u << i;
      along = inner - 1;
    }
    if (!is_aligned(data(i), size(i) * static_cast<std::size_t>(pack))) return false;
    for (int d = 0; d <= inner; ++d)
      if (d != along && strides[d] % pack != 0) return false;
  }
  loop.sizes[inner] /= pack;
  loop.numel /= pack;
  for (int i = 0; i < count; ++i) loop.strides[i][inner] *= pack;
  return true;
}

}  // namespace lmp::cuda
