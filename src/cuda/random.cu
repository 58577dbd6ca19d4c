#include "cuda/capture.hpp"
#include "cuda/pointwise.cuh"

namespace lmp::cuda {

#include "ops/philox.hpp"

namespace {

using tensor::detail::Distribution;

// A thread makes 16 bytes, of the halves by two blocks of four words and else by one.
template <class S>
inline constexpr int kMade = 16 / static_cast<int>(sizeof(S));
// Numbers that a block makes.
template <class S>
inline constexpr int kPerBlock = sizeof(S) == 8 ? 2 : 4;

/// `made` is written at `i`, as far as it lies before n.
template <int kN, class S>
__device__ __forceinline__ void store_some(S* out, std::int64_t i, std::int64_t n, bool aligned,
                                           const Pack<S, kN>& made) {
  if (aligned && i + kN <= n) {
    store_pack<kN, S>(out, i, made);
    return;
  }
#pragma unroll
  for (int k = 0; k < kN; ++k)
    if (i + k < n) out[i + k] = made.at[k];
}

template <Distribution kDistribution, class S>
__global__ void __launch_bounds__(kThreads)
    draw(S* out, std::int64_t n, bool aligned, std::uint64_t seed, const Place place,
         std::uint32_t keep, Computed<S> mean, Computed<S> deviation) {
  using C = Computed<S>;
  constexpr int kN = kMade<S>, kEach = kPerBlock<S>;
  const std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kN;
  if (i >= n) return;
  const std::uint64_t first = place();
  Pack<S, kN> made;
#pragma unroll
  for (int b = 0; b < kN / kEach; ++b) {
    std::uint32_t words[4];
    philox_block(words, seed, first + static_cast<std::uint64_t>(i / kEach + b));
    C values[kEach];
    if constexpr (kDistribution == Distribution::Uniform) {
#pragma unroll
      for (std::uint32_t& word : words) word &= keep;
#pragma unroll
      for (int k = 0; k < kEach; ++k) values[k] = uniform_at<C>(words, k);
    } else {
#pragma unroll
      for (int k = 0; k < kEach; k += 2) normals_at<C>(values + k, words, k / 2, mean, deviation);
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) made.at[b * kEach + k] = convert<S>(values[k]);
  }
  store_some<kN>(out, i, n, aligned, made);
}

// Packs of `out` and `x` that a thread of drop has in flight, of 16 bytes each; doubles take two
// for a block of words.
template <class S>
inline constexpr int kDropped = sizeof(S) == 8 ? 4 : kMade<S>;
inline constexpr int kDropFlight = 2;

template <class S>
__global__ void __launch_bounds__(kThreads)
    drop(S* out, const S* x, std::int64_t n, bool aligned, std::uint64_t seed, const Place place,
         float keep, Computed<S> scale) {
  constexpr int kN = kDropped<S>;
  const std::int64_t start = (std::int64_t{blockIdx.x} * kDropFlight * kThreads + threadIdx.x) * kN;
  const std::uint64_t first = place();
  Pack<S, kN> values[kDropFlight];
#pragma unroll
  for (int p = 0; p < kDropFlight; ++p) {
    const std::int64_t i = start + std::int64_t{p} * kThreads * kN;
    if (aligned && i + kN <= n) {
      values[p] = load_pack<kN, S>(x, i);
    } else {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (i + k < n) values[p].at[k] = x[i + k];
    }
  }
#pragma unroll
  for (int p = 0; p < kDropFlight; ++p) {
    const std::int64_t i = start + std::int64_t{p} * kThreads * kN;
    if (i >= n) return;
#pragma unroll
    for (int b = 0; b < kN / 4; ++b) {
      std::uint32_t words[4];
      philox_block(words, seed, first + static_cast<std::uint64_t>(i / 4 + b));
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        S& value = values[p].at[b * 4 + k];
        value = uniform_at<float>(words, k) < keep ? convert<S>(widen(value) * scale) : S{};
      }
    }
    store_some<kN>(out, i, n, aligned, values[p]);
  }
}

}  // namespace

void random(Distribution distribution, const Tensor& out, std::uint64_t seed, std::uint64_t offset,
            double mean, double deviation) {
  const auto n = static_cast<std::int64_t>(out.numel());
  if (n == 0) return;
  const Context context(out.device());
  const Place place(offset, ceil_div(n, out.type() == DataType::Float64 ? 2 : 4));
  visit_floating(out.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using C = Computed<S>;
    const bool uniform = distribution == Distribution::Uniform;
    launch(context, uniform ? "rand" : "randn",
           uniform ? &draw<Distribution::Uniform, S> : &draw<Distribution::Normal, S>,
           blocks_for(n, kMade<S>), kThreads, 0, static_cast<S*>(out.data()), n,
           is_aligned(out.data(), 16), seed, place, tensor::detail::uniform_bits(out.type()),
           static_cast<C>(mean), static_cast<C>(deviation));
  });
}

// The caller wants them on the host.
void random_words(std::uint32_t* out, std::size_t blocks, std::uint64_t seed,
                  std::uint64_t offset) {
  tensor::detail::backend(tensor::Device{}).random_words(out, blocks, seed, offset);
}

void dropout(const Tensor& out, const Tensor& x, double keep, std::uint64_t seed,
             std::uint64_t offset) {
  const auto n = static_cast<std::int64_t>(x.numel());
  if (n == 0) return;
  const Context context(out.device());
  const Place place(offset, ceil_div(n, 4));
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    constexpr std::size_t kBytes = sizeof(Pack<S, kDropped<S>>);
    launch(context, "dropout", &drop<S>, blocks_for(n, kDropped<S> * kDropFlight), kThreads, 0,
           static_cast<S*>(out.data()), static_cast<const S*>(x.data()), n,
           is_aligned(out.data(), kBytes) && is_aligned(x.data(), kBytes), seed, place,
           static_cast<float>(keep), static_cast<Computed<S>>(1 / keep));
  });
}

}  // namespace lmp::cuda
