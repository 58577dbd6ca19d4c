#include "cuda/pointwise.cuh"

namespace lmp::cuda {
namespace {

/// Operands of a backward kernel: the gradients, the incoming one, the inputs, the result. What is
/// not wanted or not read is null and repeats nothing.
template <int kArity>
struct Gradients {
  void* out[kArity];
  unsigned add;    // bit i: out[i] is added to
  bool join;       // the first two gradients go to one place
  unsigned reads;  // bit i for input i, bit 3 for the result
  Source g, in[kArity], y;
};

template <int kArity>
inline constexpr int kOperands = 2 * kArity + 2;

/// Calls the op's gradient and hands each one that is there to take(i, value).
template <class Op, int kArity, class C, class Take>
__device__ __forceinline__ void gradients_of(C g, In<Op, 0, C> a, In<Op, 1, C> b, In<Op, 2, C> c,
                                             C y, Take&& take) {
  const auto pass = [&](auto index, auto value) {
    if constexpr (!std::is_same_v<decltype(value), None>) take(index, static_cast<C>(value));
  };
  const auto all = [&](const auto& grads) {
    pass(std::integral_constant<int, 0>(), grads.a);
    if constexpr (kArity > 1) pass(std::integral_constant<int, 1>(), grads.b);
    if constexpr (kArity > 2) pass(std::integral_constant<int, 2>(), grads.c);
  };
  if constexpr (kArity == 1)
    all(Op::grad(g, a, y));
  else if constexpr (kArity == 2)
    all(Op::grad(g, a, b, y));
  else
    all(Op::grad(g, a, b, c, y));
}

template <class Op, int kArity>
constexpr bool kDifferentiable = [] {
  if constexpr (kArity == 1) return requires {
      Op::grad(1.0f, 1.0f, 1.0f);
    };
  else if constexpr (kArity == 2)
    return requires { Op::grad(1.0f, 1.0f, 1.0f, 1.0f); };
  else
    return true;
}();

/// One pack of each operand. `at` says where, `left` how much of it there is.
template <class Op, int kArity, class S>
__device__ __forceinline__ void backward_pack(const Gradients<kArity>& k, unsigned repeats,
                                              const std::int64_t (&at)[kOperands<kArity>],
                                              int left) {
  constexpr int kN = kPack<Op, S>;
  using C = Computed<S>;
  Values<S, kN> g, y, held[kArity];
  Values<Stored<Op, 0, S>, kN> a;
  Values<Stored<Op, 1, S>, kN> b;
  Values<Stored<Op, 2, S>, kN> c;
  const auto load = [&](auto& values, const Source& from, int operand) {
    values.load(from, at[operand], repeats >> operand & 1);
  };
  load(g, k.g, kArity);
  if (k.reads & 1) load(a, k.in[0], kArity + 1);
  if constexpr (kArity > 1)
    if (k.reads & 2) load(b, k.in[1], kArity + 2);
  if constexpr (kArity > 2)
    if (k.reads & 4) load(c, k.in[2], kArity + 3);
  if (k.reads & 8) load(y, k.y, 2 * kArity + 1);
#pragma unroll
  for (int i = 0; i < kArity; ++i)
    if (k.add >> i & 1) {
      Source from;
      from.data = k.out[i];
      load(held[i], from, i);
    }
  C made[kArity][kN], gs[kN], ys[kN];
  In<Op, 0, S> as[kN];
  In<Op, 1, S> bs[kN];
  In<Op, 2, S> cs[kN];
  const auto get = [&](const auto& values, auto& numbers, const Source& from, int operand) {
    values.get(numbers, from, repeats >> operand & 1);
  };
  get(g, gs, k.g, kArity);
  get(a, as, k.in[0], kArity + 1);
  if constexpr (kArity > 1) get(b, bs, k.in[1], kArity + 2);
  if constexpr (kArity > 2) get(c, cs, k.in[2], kArity + 3);
  get(y, ys, k.y, 2 * kArity + 1);
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    gradients_of<Op, kArity, C>(gs[n], as[n], bs[n], cs[n], ys[n],
                                [&](auto i, C value) { made[i][n] = value; });
    if constexpr (kArity > 1)
      if (k.join) made[0][n] += made[1][n];
  }
#pragma unroll
  for (int i = 0; i < kArity; ++i) {
    if (k.out[i] == nullptr) continue;
    Source from;
    from.data = k.out[i];
    C before[kN];
    held[i].get(before, from, false);
    Pack<S, kN> pack;
#pragma unroll
    for (int n = 0; n < kN; ++n)
      pack.at[n] = convert<S>(k.add >> i & 1 ? before[n] + made[i][n] : made[i][n]);
    if (left >= kN) {
      store_pack<kN, S>(k.out[i], at[i], pack);
    } else {
#pragma unroll
      for (int n = 0; n < kN; ++n)
        if (n < left) static_cast<S*>(k.out[i])[at[i] + n] = pack.at[n];
    }
  }
}

template <class Op, int kArity, class S>
__global__ void __launch_bounds__(kThreads)
    backward_dense(const Gradients<kArity> k, std::uint32_t n) {
  const std::uint32_t i = (blockIdx.x * kThreads + threadIdx.x) * kPack<Op, S>;
  if (i >= n) return;
  std::int64_t at[kOperands<kArity>];
#pragma unroll
  for (std::int64_t& offset : at) offset = i;
  backward_pack<Op, kArity, S>(k, 0, at, static_cast<int>(n - i));
}

template <class Op, int kArity, class S>
__global__ void __launch_bounds__(kThreads)
    backward_rows(const Gradients<kArity> k, const Loop<kOperands<kArity>> loop, unsigned repeats) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t at[kOperands<kArity>] = {};
  loop.locate(i, at);
  backward_pack<Op, kArity, S>(k, repeats, at, kPack<Op, S>);
}

template <int kArity>
struct OperandTypes {
  DataType at[kOperands<kArity>];
};

template <class Op, int kArity, class C>
__global__ void __launch_bounds__(kThreads)
    backward_strided(const Gradients<kArity> k, const OperandTypes<kArity> types,
                     const Loop<kOperands<kArity>> loop) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t at[kOperands<kArity>] = {};
  loop.locate(i, at);
  const auto load = [&](auto& value, const Source& from, int operand) {
    using T = std::remove_reference_t<decltype(value)>;
    value = from.data ? load_as<T>(from.data, types.at[operand], at[operand])
                      : from.template constant<T>();
  };
  C g, y{1}, made[kArity];
  In<Op, 0, C> a{1};
  In<Op, 1, C> b{1};
  In<Op, 2, C> c{1};
  load(g, k.g, kArity);
  if (k.reads & 1) load(a, k.in[0], kArity + 1);
  if constexpr (kArity > 1)
    if (k.reads & 2) load(b, k.in[1], kArity + 2);
  if constexpr (kArity > 2)
    if (k.reads & 4) load(c, k.in[2], kArity + 3);
  if (k.reads & 8) load(y, k.y, 2 * kArity + 1);
  gradients_of<Op, kArity, C>(g, a, b, c, y, [&](auto i, C value) { made[i] = value; });
  if constexpr (kArity > 1)
    if (k.join) made[0] += made[1];
#pragma unroll
  for (int o = 0; o < kArity; ++o) {
    if (k.out[o] == nullptr) continue;
    const C held = k.add >> o & 1 ? load_as<C>(k.out[o], types.at[o], at[o]) : C{0};
    store_as(k.out[o], types.at[o], at[o], k.add >> o & 1 ? held + made[o] : made[o]);
  }
}

template <class Op, int kArity>
void run(unsigned reads, const tensor::detail::GradientTarget* out, const Tensor& g,
         const Operand* in, const Tensor& result) {
  if constexpr (kDifferentiable<Op, kArity>) {
    const Context context(g.device());
    const DataType type = g.type();
    const auto numel = static_cast<std::int64_t>(g.numel());
    if (numel == 0) return;
    // Operands in the order of Gradients; null where there is none.
    Gradients<kArity> k{};
    const Tensor* tensors[kOperands<kArity>] = {};
    k.reads = reads;
    for (int i = 0; i < kArity; ++i) {
      tensors[i] = out[i].tensor;
      if (out[i].accumulate) k.add |= 1u << i;
    }
    if (kArity > 1 && tensors[0] && tensors[1] && tensors[0]->data() == tensors[1]->data()) {
      k.join = true;
      tensors[1] = nullptr;
      k.add &= ~2u;
    }
    tensors[kArity] = &g;
    const auto wanted = [&](int i) {
      const int input = i - kArity - 1;
      return input >= 0 && input < kArity && (Op::info.condition >> input & 1) ? DataType::Bool
                                                                               : type;
    };
    for (int i = 0; i < kArity; ++i) {
      if (!(k.reads >> i & 1)) continue;
      if (in[i].tensor)
        tensors[kArity + 1 + i] = in[i].tensor;
      else
        std::memcpy(&k.in[i].number,
                    Constant(in[i].number, compute_type(wanted(kArity + 1 + i))).bytes, 8);
    }
    if (k.reads & 8) tensors[2 * kArity + 1] = &result;

    bool native = true, dense = numel <= kLaunchElements, aligned = true;
    OperandTypes<kArity> types{};
    IntList strides[kOperands<kArity>];
    for (int i = 0; i < kOperands<kArity>; ++i) {
      const Tensor* t = tensors[i];
      if (!t) continue;
      types.at[i] = t->type();
      native &= t->type() == wanted(i);
      dense &= t->is_contiguous() && t->shape() == g.shape();
    }
    const auto put = [&](Gradients<kArity>& to, const std::int64_t* offsets) {
      const auto place = [&](int i) -> std::byte* {
        return tensors[i]
                   ? static_cast<std::byte*>(tensors[i]->data()) +
                         offsets[i] * static_cast<std::int64_t>(tensor::size_of(tensors[i]->type()))
                   : nullptr;
      };
      for (int i = 0; i < kArity; ++i) {
        to.out[i] = place(i);
        to.in[i].data = place(kArity + 1 + i);
      }
      to.g.data = place(kArity);
      to.y.data = place(2 * kArity + 1);
    };
    const auto at = [&](const Gradients<kArity>& from, int i) -> const void* {
      return i < kArity            ? from.out[i]
             : i == kArity         ? from.g.data
             : i == 2 * kArity + 1 ? from.y.data
                                   : from.in[i - kArity - 1].data;
    };
    const std::int64_t none[kOperands<kArity>] = {};
    put(k, none);

    if (dense && native) {
      bool done = false;
      visit_floating(type, [&](auto tag) {
        using S = typename decltype(tag)::Type;
        for (int i = 0; i < kOperands<kArity>; ++i)
          aligned &= is_aligned(at(k, i), tensor::size_of(wanted(i)) * kPack<Op, S>);
        if (!aligned) return;
        done = true;
        launch(context, Op::info.name, &backward_dense<Op, kArity, S>,
               blocks_for(numel, kPack<Op, S>), kThreads, 0, k, static_cast<std::uint32_t>(numel));
      });
      if (done) return;
    }

    for (int i = 0; i < kOperands<kArity>; ++i)
      strides[i] = tensors[i] ? tensor::detail::broadcast_strides(tensors[i]->shape(),
                                                                  tensors[i]->strides(), g.shape())
                              : tensor::detail::broadcast_strides({}, {}, g.shape());
    // The loop is ordered by its first operand, which therefore has to be one that is there.
    int first = 0;
    while (!tensors[first]) ++first;
    std::swap(strides[0], strides[first]);
    Iteration whole(g.shape(), strides, true);
    std::swap(whole.strides[0], whole.strides[first]);
    for_parts(whole, [&](const Iteration& part, const std::int64_t* offsets) {
      Gradients<kArity> here = k;
      put(here, offsets);
      bool done = false;
      if (native) {
        visit_floating(type, [&](auto tag) {
          using S = typename decltype(tag)::Type;
          Iteration packs = part;
          unsigned repeats = 0;
          if (!in_rows(
                  packs, kOperands<kArity>, kArity, kPack<Op, S>, repeats,
                  [&](int i) { return tensor::size_of(wanted(i)); },
                  [&](int i) { return at(here, i); }))
            return;
          done = true;
          launch(context, Op::info.name, &backward_rows<Op, kArity, S>, blocks_for(packs.numel),
                 kThreads, 0, here, Loop<kOperands<kArity>>(packs), repeats);
        });
      }
      if (done) return;
      const auto strided = [&](auto tag) {
        using C = typename decltype(tag)::Type;
        launch(context, Op::info.name, &backward_strided<Op, kArity, C>, blocks_for(part.numel),
               kThreads, 0, here, types, Loop<kOperands<kArity>>(part));
      };
      if (type == DataType::Float64)
        strided(Tag<double>());
      else
        strided(Tag<float>());
    });
  }
}

}  // namespace

template <>
void fill_backward<LMP_PART>(BackwardRun* runs) {
  for_ops<LMP_PART>(
      [&]<class Op, int kArity>(OpId id) { runs[static_cast<int>(id)] = &run<Op, kArity>; });
}

}  // namespace lmp::cuda
