#include "cuda/pointwise.cuh"
#include "cuda/positions.cuh"

namespace lmp::cuda {
namespace {

template <int kArity>
struct Sources {
  Source at[kArity];
  IndexReport* report = nullptr;  // of an op that refuses numbers
};

/// kN results of as many elements of each operand; `a`, `b` and `c` give theirs. `count` of them
/// are there.
template <class Op, int kArity, class S, int kN, class A, class B, class C>
__device__ __forceinline__ void compute(Result<Op, S> (&out)[kN], int count, IndexReport* report,
                                        A&& a, B&& b, C&& c) {
  In<Op, 0, S> x[kN];
  In<Op, 1, S> y[kN];
  In<Op, 2, S> z[kN];
  a(x);
  if constexpr (kArity > 1) b(y);
  if constexpr (kArity > 2) c(z);
  if constexpr (kRefuses<Op, S>) {
    if (count < kN) {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (k >= count) y[k] = S{1};
    }
    bool refused = false;
#pragma unroll
    for (int k = 0; k < kN; ++k) refused |= is_refused<Op>(y[k]);
    if (refused && report)
      publish(report, nullptr, 0,
              std::is_same_v<Op, Pow> ? IndexReport::kNegativePower : IndexReport::kDivisionByZero);
  }
  const auto operand = [](auto v) {
    if constexpr (kNarrows<Op, S>)
      return Narrow(v);
    else
      return v;
  };
#pragma unroll
  for (int k = 0; k < kN; ++k) {
    if constexpr (kArity == 1)
      out[k] = convert<Result<Op, S>>(Op::fwd(operand(x[k])));
    else if constexpr (kArity == 2)
      out[k] = convert<Result<Op, S>>(Op::fwd(operand(x[k]), operand(y[k])));
    else
      out[k] = convert<Result<Op, S>>(Op::fwd(x[k], y[k], z[k]));
  }
}

/// A pack of each operand.
template <class Op, class S, int kN, int kArity>
struct Block {
  Values<Stored<Op, 0, S>, kN, (kArity > 1)> a;
  Values<Stored<Op, 1, S>, kN> b;
  Values<Stored<Op, 2, S>, kN> c;
  /// Operand i at at[i + 1]; bit i + 1 of `repeats` is set where it is one element.
  __device__ __forceinline__ void load(const Sources<kArity>& in,
                                       const std::int64_t (&at)[kArity + 1], unsigned repeats) {
    a.load(in.at[0], at[1], repeats & 2);
    if constexpr (kArity > 1) b.load(in.at[1], at[2], repeats & 4);
    if constexpr (kArity > 2) c.load(in.at[2], at[3], repeats & 8);
  }
  __device__ __forceinline__ Pack<Result<Op, S>, kN> made(const Sources<kArity>& in,
                                                          unsigned repeats, int count) const {
    Pack<Result<Op, S>, kN> out;
    compute<Op, kArity, S>(
        out.at, count, in.report, [&](auto& v) { a.get(v, in.at[0], repeats & 2); },
        [&](auto& v) { b.get(v, in.at[1], repeats & 4); },
        [&](auto& v) { c.get(v, in.at[2], repeats & 8); });
    return out;
  }
};

template <class Op, int kArity, class S>
__global__ void __launch_bounds__(kThreads / kPacks<Op, S>)
    forward_dense(void* out, const Sources<kArity> in, std::uint32_t n) {
  constexpr int kN = kPack<Op, S>, kEach = kPacks<Op, S>, kStep = kThreads / kEach * kN;
  const std::uint32_t first = blockIdx.x * kThreads * kN + threadIdx.x * kN;
  if (first >= n) return;
  Block<Op, S, kN, kArity> block[kEach];
#pragma unroll
  for (int p = 0; p < kEach; ++p) {
    const std::uint32_t i = first + p * kStep;
    if (i >= n) break;
    std::int64_t at[kArity + 1];
#pragma unroll
    for (std::int64_t& each : at) each = i;
    block[p].load(in, at, 0);
  }
#pragma unroll
  for (int p = 0; p < kEach; ++p) {
    const std::uint32_t i = first + p * kStep;
    if (i >= n) break;
    const int count = n - i < kN ? static_cast<int>(n - i) : kN;
    const auto made = block[p].made(in, 0, count);
    if (count == kN) {
      store_pack<kN, Result<Op, S>>(out, i, made);
    } else {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (k < count) static_cast<Result<Op, S>*>(out)[i + k] = made.at[k];
    }
  }
}

template <class Op, int kArity, class S>
__global__ void __launch_bounds__(kThreads)
    forward_rows(void* out, const Sources<kArity> in, const Loop<kArity + 1> loop,
                 unsigned repeats) {
  constexpr int kN = kPack<Op, S>;
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t at[kArity + 1] = {};
  loop.locate(i, at);
  Block<Op, S, kN, kArity> block;
  block.load(in, at, repeats);
  store_pack<kN, Result<Op, S>>(out, at[0], block.made(in, repeats, kN));
}

/// Tiles of a loop over packs: kTileRows rows of kTileGroups packs.
constexpr int kTileRows = 32, kTileGroups = 8;
static_assert(kTileRows * kTileGroups == kThreads);
struct Tiles {
  std::uint32_t rows = 0, row_groups = 0;
  Divider across;  // tiles to a row

  Tiles() = default;
  explicit Tiles(const Iteration& loop) {
    row_groups = static_cast<std::uint32_t>(loop.sizes[loop.ndim - 1]);
    rows = static_cast<std::uint32_t>(loop.numel) / row_groups;
    across = Divider(static_cast<std::uint32_t>(ceil_div(row_groups, kTileGroups)));
  }
  unsigned count() const {
    return across.divisor * static_cast<unsigned>(ceil_div(rows, kTileRows));
  }
};

/// Memory sets the pace, and there is much to lose where an operand is not read in lines.
template <class Op, int kArity, class S>
inline constexpr bool kTurns = Op::info.light&& kArity == 2 && (sizeof(S) == 2 || sizeof(S) == 4);

/// As forward_rows; a block takes a tile, for which turned operands go through shared memory.
template <class Op, class S>
__global__ void __launch_bounds__(kThreads)
    forward_turned(void* out, const Sources<2> in, const Loop<3> loop, unsigned repeats,
                   unsigned turned, const Tiles tiles) {
  constexpr int kN = kPack<Op, S>, kColumns = kTileGroups * kN;
  using Word = Bits<sizeof(S)>;
  // Of odd length, so that the words that a warp writes or reads fall into different banks.
  __shared__ Word tile[2][kTileRows][kColumns + 1];
  const std::uint32_t band = tiles.across.divide(blockIdx.x);
  const std::uint32_t row0 = band * kTileRows;
  const std::uint32_t group0 = (blockIdx.x - band * tiles.across.divisor) * kTileGroups;
  const auto place = [&](int row, int group, std::int64_t(&at)[3]) {
    if (row0 + row >= tiles.rows || group0 + group >= tiles.row_groups) return false;
    loop.locate((row0 + row) * tiles.row_groups + group0 + group, at);
    return true;
  };
  const int row = threadIdx.x / kTileGroups, group = threadIdx.x % kTileGroups;
  std::int64_t at[3] = {};
  const bool is_there = place(row, group, at);
  Values<S, kN> values[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (is_there && !(turned >> (i + 1) & 1))
      values[i].load(in.at[i], at[i + 1], repeats >> (i + 1) & 1);
  // The pack of kN rows in one column.
  const int pack_row = threadIdx.x % (kTileRows / kN) * kN, column = threadIdx.x / (kTileRows / kN);
  std::int64_t across[3] = {};
  if (place(pack_row, column / kN, across)) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!(turned >> (i + 1) & 1)) continue;
      const std::int64_t next = loop.strides[i + 1][loop.ndim - 1] / kN;
      const auto pack = load_pack<kN, Word>(in.at[i].data, across[i + 1] + column % kN * next);
#pragma unroll
      for (int k = 0; k < kN; ++k) tile[i][pack_row + k][column] = pack.at[k];
    }
  }
  __syncthreads();
  if (!is_there) return;
  Computed<S> x[2][kN];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (turned >> (i + 1) & 1) {
      Pack<Word, kN> pack;
#pragma unroll
      for (int k = 0; k < kN; ++k) pack.at[k] = tile[i][row][group * kN + k];
      values[i].set(pack);
    }
    values[i].get(x[i], in.at[i], repeats >> (i + 1) & 1);
  }
  Pack<S, kN> made;
#pragma unroll
  for (int k = 0; k < kN; ++k) made.at[k] = convert<S>(Op::fwd(x[0][k], x[1][k]));
  store_pack<kN, S>(out, at[0], made);
}

template <int kArity>
struct Types {
  DataType at[kArity];
  int bytes[kArity];
};

/// How a thread's kGroup elements lie: neighbours along the innermost axis, of which the loop
/// counts groups, or as many threads apart as a block has.
constexpr int kGroup = 4;
template <int kOperands>
struct Walk {
  bool groups = false;
  unsigned packed = 0;                // bit i: they are neighbours in operand i's memory too
  std::int64_t step[kOperands] = {};  // from one to the next
  /// Blocks take tiles, so that what lies across the rows is read in lines too.
  bool in_tiles = false;
  Tiles tiles;
};

/// The group that a thread takes. A warp takes 8 rows of 4 groups.
template <int kOperands>
__device__ __forceinline__ std::uint32_t group_of(const Walk<kOperands>& walk,
                                                  std::uint32_t numel) {
  if (!walk.in_tiles) return blockIdx.x * kThreads + threadIdx.x;
  const Tiles& tiles = walk.tiles;
  const std::uint32_t band = tiles.across.divide(blockIdx.x), warp = threadIdx.x / 32;
  const std::uint32_t group =
      (blockIdx.x - band * tiles.across.divisor) * kTileGroups + warp % 2 * 4 + threadIdx.x % 4;
  const std::uint32_t row = band * kTileRows + warp / 2 * 8 + threadIdx.x / 4 % 8;
  return row < tiles.rows && group < tiles.row_groups ? row * tiles.row_groups + group : numel;
}

/// kGroup elements of a type that is known at run time, as they lie in memory: packed ones in as
/// many words as they take, others in one or two each.
template <class C>
struct Group {
  std::uint32_t words[2 * kGroup];

  template <int kBytes>
  __device__ __forceinline__ void load_bits(const void* from, const std::int64_t (&at)[kGroup],
                                            int count, bool packed) {
    constexpr int kWide = kBytes == 8 ? 2 : 1;
    const auto* const elements = static_cast<const Bits<kBytes>*>(from);
    if (packed) {
      using Whole = Pack<std::uint32_t, kBytes * kGroup / 4>;
      const auto whole = *reinterpret_cast<const Whole*>(elements + at[0]);
#pragma unroll
      for (int w = 0; w < kBytes * kGroup / 4; ++w) words[w] = whole.at[w];
      return;
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (k >= count) continue;
      const Bits<kBytes> each = elements[at[k]];
      words[k * kWide] = static_cast<std::uint32_t>(each);
      if constexpr (kWide == 2) words[k * kWide + 1] = static_cast<std::uint32_t>(each >> 32);
    }
  }
  __device__ __forceinline__ void load(const void* from, int bytes,
                                       const std::int64_t (&at)[kGroup], int count, bool packed) {
    constexpr int kWidest = std::is_floating_point_v<C> ? 8 : static_cast<int>(sizeof(C));
    if (from == nullptr) return;
    if (kWidest == 1 || bytes == 1)
      load_bits<1>(from, at, count, packed);
    else if (kWidest == 2 || bytes == 2)
      load_bits<2>(from, at, count, packed);
    else if (kWidest == 4 || bytes == 4)
      load_bits<4>(from, at, count, packed);
    else
      load_bits<8>(from, at, count, packed);
  }
  __device__ __forceinline__ void get(C (&v)[kGroup], const Source& from, DataType type,
                                      bool packed) const {
    if (from.data == nullptr) {
#pragma unroll
      for (C& each : v) each = from.constant<C>();
      return;
    }
    visit_promoted<C>(type, [&](auto tag) {
      using S = typename decltype(tag)::Type;
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        if constexpr (sizeof(S) == 8) {
          const std::uint64_t high = words[2 * k + 1];
          v[k] = convert<C>(from_bits<S>(high << 32 | words[2 * k]));
        } else if constexpr (sizeof(S) == 4) {
          v[k] = convert<C>(from_bits<S>(words[k]));
        } else {
          constexpr int kEach = 4 / static_cast<int>(sizeof(S));
          const std::uint32_t word =
              packed ? words[k / kEach] >> k % kEach * 8 * static_cast<int>(sizeof(S)) : words[k];
          v[k] = convert<C>(from_bits<S>(word));
        }
      }
    });
  }
};

template <class C, class S>
__device__ __forceinline__ void store_group(void* out, const C (&v)[kGroup],
                                            const std::int64_t (&at)[kGroup], int count,
                                            bool packed) {
  Pack<S, kGroup> pack;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) pack.at[k] = convert<S>(v[k]);
  if (packed) return store_pack<kGroup, S>(out, at[0], pack);
#pragma unroll
  for (int k = 0; k < kGroup; ++k)
    if (k < count) static_cast<S*>(out)[at[k]] = pack.at[k];
}

template <class Op, int kArity, class C>
__global__ void __launch_bounds__(kThreads)
    forward_strided(void* out, DataType out_type, const Sources<kArity> in,
                    const Types<kArity> types, const Loop<kArity + 1> loop,
                    const Walk<kArity + 1> walk) {
  std::int64_t at[kArity + 1][kGroup];
  int count = 0;
  if (walk.groups) {
    const std::uint32_t i = group_of(walk, loop.numel);
    if (i >= loop.numel) return;
    count = kGroup;
    std::int64_t offset[kArity + 1] = {};
    loop.locate(i, offset);
#pragma unroll
    for (int o = 0; o <= kArity; ++o)
#pragma unroll
      for (int k = 0; k < kGroup; ++k) at[o][k] = offset[o] + k * walk.step[o];
  } else {
    const std::uint32_t first = blockIdx.x * kGroup * kThreads + threadIdx.x;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      std::int64_t offset[kArity + 1] = {};
      const std::uint32_t i = first + k * kThreads;
      if (i < loop.numel) {
        count = k + 1;
        loop.locate(i, offset);
      }
#pragma unroll
      for (int o = 0; o <= kArity; ++o) at[o][k] = offset[o];
    }
  }
  Group<In<Op, 0, C>> a;
  Group<In<Op, 1, C>> b;
  Group<In<Op, 2, C>> c;
  const auto packed = [&](int i) { return (walk.packed >> (i + 1) & 1) != 0; };
  const auto load = [&](auto& group, int i) {
    group.load(in.at[i].data, types.bytes[i], at[i + 1], count, packed(i));
  };
  load(a, 0);
  if constexpr (kArity > 1) load(b, 1);
  if constexpr (kArity > 2) load(c, 2);
  Result<Op, C> made[kGroup];
  compute<Op, kArity, C>(
      made, count, in.report, [&](auto& v) { a.get(v, in.at[0], types.at[0], packed(0)); },
      [&](auto& v) { b.get(v, in.at[1], types.at[1], packed(1)); },
      [&](auto& v) { c.get(v, in.at[2], types.at[2], packed(2)); });
  // The result has the type that is computed in, of which only floats come in several sizes.
  if constexpr (std::is_same_v<Result<Op, C>, float>) {
    if (out_type == DataType::Float16)
      return store_group<float, Half>(out, made, at[0], count, packed(-1));
    if (out_type == DataType::BFloat16)
      return store_group<float, Brain>(out, made, at[0], count, packed(-1));
  }
  store_group<Result<Op, C>, Result<Op, C>>(out, made, at[0], count, packed(-1));
}

/// Turns the loop into one over groups, where the result has neighbours in packs.
template <int kOperands, class Size, class Data>
Walk<kOperands> in_groups(Iteration& loop, Size&& size, Data&& data) {
  Walk<kOperands> walk;
  const int inner = loop.ndim - 1;
  if (inner < 0 || loop.sizes[inner] % kGroup != 0) return walk;
  bool across = false;
  for (int i = 0; i < kOperands; ++i) {
    const std::int64_t* const strides = loop.strides[i];
    bool packed = strides[inner] == 1 && is_aligned(data(i), size(i) * kGroup);
    for (int d = 0; d < inner; ++d) packed &= strides[d] % kGroup == 0;
    if (packed) walk.packed |= 1u << i;
    walk.step[i] = strides[inner];
    across |= data(i) && inner > 0 && std::abs(strides[inner]) > 1 &&
              std::abs(strides[inner - 1]) < std::abs(strides[inner]);
  }
  if (!(walk.packed & 1)) return {};
  walk.groups = true;
  loop.sizes[inner] /= kGroup;
  loop.numel /= kGroup;
  for (int i = 0; i < kOperands; ++i) loop.strides[i][inner] *= kGroup;
  walk.tiles = Tiles(loop);
  walk.in_tiles = across && walk.tiles.row_groups >= kTileGroups && walk.tiles.rows >= kTileRows;
  return walk;
}

template <class Op, int kArity>
void run(DataType compute, const Tensor& out, const Operand* in) {
  const Context context(out.device());
  const auto wanted = [&](int i) { return Op::info.condition >> i & 1 ? DataType::Bool : compute; };
  const DataType result = Op::info.promote == Promote::Compare ? DataType::Bool : compute;
  const auto numel = static_cast<std::int64_t>(out.numel());
  if (numel == 0) return;

  Sources<kArity> sources;
  bool native = out.type() == result, dense = native && out.is_contiguous();
  for (int i = 0; i < kArity; ++i) {
    if (const Tensor* t = in[i].tensor) {
      sources.at[i].data = t->data();
      native &= t->type() == wanted(i);
      dense &= t->is_contiguous() && t->shape() == out.shape();
    } else {
      const DataType held = compute_type(wanted(i));
      std::memcpy(sources.at[i].number, Constant(in[i].number, held).bytes, 8);
    }
  }
  dense &= native && numel <= kLaunchElements;
  if constexpr (std::is_same_v<Op, Pow> || std::is_same_v<Op, Remainder>)
    if (in[1].tensor) sources.report = index_report(context.index);

  const auto dispatch = [&](DataType as, auto&& go) {
    visit(as, [&](auto tag) {
      using S = typename decltype(tag)::Type;
      if constexpr (kTakes<Op, S>) go(tag);
    });
  };

  if (dense) [[likely]] {
    bool done = false;
    dispatch(compute, [&](auto tag) {
      using S = typename decltype(tag)::Type;
      constexpr int kN = kPack<Op, S>;
      bool aligned = is_aligned(out.data(), sizeof(Result<Op, S>) * kN);
      for (int i = 0; i < kArity; ++i)
        aligned &= is_aligned(sources.at[i].data, tensor::size_of(wanted(i)) * kN);
      if (!aligned) return;
      done = true;
      launch(context, Op::info.name, &forward_dense<Op, kArity, S>, blocks_for(numel, kN),
             kThreads / kPacks<Op, S>, 0, out.data(), sources, static_cast<std::uint32_t>(numel));
    });
    if (done) return;
  }

  IntList strides[kArity + 1];
  strides[0] = out.strides();
  for (int i = 0; i < kArity; ++i)
    strides[i + 1] = in[i].tensor ? tensor::detail::broadcast_strides(
                                        in[i].tensor->shape(), in[i].tensor->strides(), out.shape())
                                  : tensor::detail::broadcast_strides({}, {}, out.shape());
  const Iteration whole(out.shape(), strides, true);
  for_parts(whole, [&](const Iteration& part, const std::int64_t* offsets) {
    const auto place = [&](const void* data, DataType t, int i) -> const std::byte* {
      return data ? static_cast<const std::byte*>(data) +
                        offsets[i] * static_cast<std::int64_t>(tensor::size_of(t))
                  : nullptr;
    };
    auto* to = const_cast<std::byte*>(place(out.data(), out.type(), 0));
    Sources<kArity> from = sources;
    for (int i = 0; i < kArity; ++i)
      if (in[i].tensor) from.at[i].data = place(sources.at[i].data, in[i].tensor->type(), i + 1);
    bool done = false;
    if (native) {
      dispatch(compute, [&](auto tag) {
        using S = typename decltype(tag)::Type;
        Iteration packs = part;
        unsigned repeats = 0, turned = 0;
        const bool may_turn = kTurns<Op, kArity, S> && part.ndim > 1 &&
                              part.sizes[part.ndim - 1] >= kTileGroups * kPack<Op, S> &&
                              part.sizes[part.ndim - 2] >= kTileRows;
        if (!in_rows(
                packs, kArity + 1, 1, kPack<Op, S>, repeats,
                [&](int i) { return tensor::size_of(i == 0 ? result : wanted(i - 1)); },
                [&](int i) { return i == 0 ? to : from.at[i - 1].data; },
                may_turn ? &turned : nullptr))
          return;
        done = true;
        const Loop<kArity + 1> loop(packs);
        if constexpr (kTurns<Op, kArity, S>) {
          if (turned != 0) {
            const Tiles tiles(packs);
            return launch(context, Op::info.name, &forward_turned<Op, S>, tiles.count(), kThreads,
                          0, static_cast<void*>(to), from, loop, repeats, turned, tiles);
          }
        }
        launch(context, Op::info.name, &forward_rows<Op, kArity, S>, blocks_for(packs.numel),
               kThreads, 0, static_cast<void*>(to), from, loop, repeats);
      });
    }
    if (done) return;
    Types<kArity> types{};
    for (int i = 0; i < kArity; ++i) {
      if (!in[i].tensor) continue;
      types.at[i] = in[i].tensor->type();
      types.bytes[i] = static_cast<int>(tensor::size_of(types.at[i]));
    }
    Iteration loop = part;
    const auto walk = in_groups<kArity + 1>(
        loop, [&](int i) { return tensor::size_of(i == 0 ? out.type() : types.at[i - 1]); },
        [&](int i) { return i == 0 ? to : from.at[i - 1].data; });
    const unsigned blocks =
        walk.in_tiles ? walk.tiles.count() : blocks_for(loop.numel, walk.groups ? 1 : kGroup);
    dispatch(compute_type(compute), [&](auto tag) {
      using C = typename decltype(tag)::Type;
      if constexpr (!kIsHalf<C>)
        launch(context, Op::info.name, &forward_strided<Op, kArity, C>, blocks, kThreads, 0,
               static_cast<void*>(to), out.type(), from, types, Loop<kArity + 1>(loop), walk);
    });
  });
}

}  // namespace

template <>
void fill_forward<LMP_PART>(ForwardRun* runs) {
  for_ops<LMP_PART>(
      [&]<class Op, int kArity>(OpId id) { runs[static_cast<int>(id)] = &run<Op, kArity>; });
}

}  // namespace lmp::cuda
