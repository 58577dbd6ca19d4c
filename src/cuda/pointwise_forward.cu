#include "cuda/pointwise.cuh"

namespace lmp::cuda {
namespace {

template <int kArity>
struct Sources {
  Source at[kArity];
};

template <class Op, class S, int kN, int kArity>
struct Block {
  Values<Stored<Op, 0, S>, kN> a;
  Values<Stored<Op, 1, S>, kN> b;
  Values<Stored<Op, 2, S>, kN> c;
  __device__ __forceinline__ void compute(Pack<Result<Op, S>, kN>& out) const {
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      if constexpr (kArity == 1)
        out.at[k] = convert<Result<Op, S>>(Op::fwd(a.at[k]));
      else if constexpr (kArity == 2)
        out.at[k] = convert<Result<Op, S>>(Op::fwd(a.at[k], b.at[k]));
      else
        out.at[k] = convert<Result<Op, S>>(Op::fwd(a.at[k], b.at[k], c.at[k]));
    }
  }
};

template <class Op, int kArity, class S>
__global__ void __launch_bounds__(kThreads)
    forward_dense(void* out, const Sources<kArity> in, std::uint32_t n) {
  constexpr int kN = kPack<Op, S>, kPacks = kFlight<Op>;
  const std::uint32_t first = (blockIdx.x * kPacks * kThreads + threadIdx.x) * kN;
  Block<Op, S, kN, kArity> block[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const std::uint32_t i = first + p * kThreads * kN;
    if (i + kN <= n) {
      block[p].a.load(in.at[0], i, false);
      if constexpr (kArity > 1) block[p].b.load(in.at[1], i, false);
      if constexpr (kArity > 2) block[p].c.load(in.at[2], i, false);
    } else if (i < n) {
      const int left = static_cast<int>(n - i);
      block[p].a.load_some(in.at[0], i, left);
      if constexpr (kArity > 1) block[p].b.load_some(in.at[1], i, left);
      if constexpr (kArity > 2) block[p].c.load_some(in.at[2], i, left);
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const std::uint32_t i = first + p * kThreads * kN;
    if (i >= n) break;
    Pack<Result<Op, S>, kN> made;
    block[p].compute(made);
    if (i + kN <= n) {
      store_pack<kN, Result<Op, S>>(out, i, made);
    } else {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (i + k < n) static_cast<Result<Op, S>*>(out)[i + k] = made.at[k];
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
  std::int64_t offset[kArity + 1] = {};
  loop.locate(i, offset);
  Block<Op, S, kN, kArity> block;
  block.a.load(in.at[0], offset[1], repeats & 2);
  if constexpr (kArity > 1) block.b.load(in.at[1], offset[2], repeats & 4);
  if constexpr (kArity > 2) block.c.load(in.at[2], offset[3], repeats & 8);
  Pack<Result<Op, S>, kN> made;
  block.compute(made);
  store_pack<kN, Result<Op, S>>(out, offset[0], made);
}

template <int kArity>
struct Types {
  DataType at[kArity];
};

template <class T>
__device__ __forceinline__ T load_from(const Source& in, DataType type, std::int64_t at) {
  return in.data ? load_as<T>(in.data, type, at) : in.constant<T>();
}

template <class Op, int kArity, class C>
__global__ void __launch_bounds__(kThreads)
    forward_strided(void* out, DataType out_type, const Sources<kArity> in,
                    const Types<kArity> types, const Loop<kArity + 1> loop) {
  const std::uint32_t first = blockIdx.x * kStridedFlight * kThreads + threadIdx.x;
#pragma unroll
  for (int p = 0; p < kStridedFlight; ++p) {
    const std::uint32_t i = first + p * kThreads;
    if (i >= loop.numel) return;
    std::int64_t offset[kArity + 1] = {};
    loop.locate(i, offset);
    const auto a = load_from<In<Op, 0, C>>(in.at[0], types.at[0], offset[1]);
    Result<Op, C> made;
    if constexpr (kArity == 1) {
      made = convert<Result<Op, C>>(Op::fwd(a));
    } else {
      const auto b = load_from<In<Op, 1, C>>(in.at[1], types.at[1], offset[2]);
      if constexpr (kArity == 2) {
        made = convert<Result<Op, C>>(Op::fwd(a, b));
      } else {
        const auto c = load_from<In<Op, 2, C>>(in.at[2], types.at[2], offset[3]);
        made = convert<Result<Op, C>>(Op::fwd(a, b, c));
      }
    }
    store_as(out, out_type, offset[0], made);
  }
}

unsigned blocks_for(std::int64_t elements, int each) {
  return static_cast<unsigned>(ceil_div(elements, std::int64_t{kThreads} * each));
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
      launch(context, Op::info.name, &forward_dense<Op, kArity, S>,
             blocks_for(numel, kN * kFlight<Op>), kThreads, 0, out.data(), sources,
             static_cast<std::uint32_t>(numel));
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
        unsigned repeats = 0;
        if (!in_rows(
                packs, kArity + 1, 1, kPack<Op, S>, repeats,
                [&](int i) { return tensor::size_of(i == 0 ? result : wanted(i - 1)); },
                [&](int i) { return i == 0 ? to : from.at[i - 1].data; }))
          return;
        done = true;
        launch(context, Op::info.name, &forward_rows<Op, kArity, S>, blocks_for(packs.numel, 1),
               kThreads, 0, static_cast<void*>(to), from, Loop<kArity + 1>(packs), repeats);
      });
    }
    if (done) return;
    Types<kArity> types{};
    for (int i = 0; i < kArity; ++i)
      if (in[i].tensor) types.at[i] = in[i].tensor->type();
    dispatch(compute_type(compute), [&](auto tag) {
      using C = typename decltype(tag)::Type;
      if constexpr (!kIsHalf<C>)
        launch(context, Op::info.name, &forward_strided<Op, kArity, C>,
               blocks_for(part.numel, kStridedFlight), kThreads, 0, static_cast<void*>(to),
               out.type(), from, types, Loop<kArity + 1>(part));
    });
  });
}

}  // namespace

template <>
void fill_forward<LMP_PART>(ForwardRun* runs) {
  const auto put = [&]<class Op, int kArity, OpId kId>() {
    if constexpr (static_cast<int>(kId) % LMP_PARTS == LMP_PART - 1)
      runs[static_cast<int>(kId)] = &run<Op, kArity>;
  };
#define LMP_UNARY(function, Op) put.template operator()<Op, 1, OpId::Op>();
#define LMP_BINARY(function, Op) put.template operator()<Op, 2, OpId::Op>();
#define LMP_TERNARY(function, Op) put.template operator()<Op, 3, OpId::Op>();
#include "lamppp/tensor/pointwise.def"
}

}  // namespace lmp::cuda
