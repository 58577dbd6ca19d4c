#include <cstring>

#include "cpu/axes.hpp"
#include "cuda/backend.hpp"
#include "cuda/launch.cuh"
#include "cuda/types.cuh"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/constant.hpp"

namespace lmp::cuda {

using tensor::IntList;
using tensor::Number;
using tensor::detail::Constant;
using tensor::detail::Iteration;

namespace {

/// Whether elements are converted by taking their bits: all integers of a size wrap alike.
constexpr bool same_bits(tensor::DataType to, tensor::DataType from) {
  using enum tensor::DataType;
  return to == from || (to != Bool && to <= Int8 && from <= Int8);
}
template <class To, class From>
inline constexpr bool kSameBits = std::is_same_v<To, From> ||
                                  (sizeof(To) == 1 && sizeof(From) == 1 &&
                                   !std::is_same_v<To, bool>);

/// Dense to dense: packs of at most 16 bytes on the wider side, several in flight.
template <class To, class From>
__global__ void __launch_bounds__(kThreads) cast_dense(To* to, const From* from, std::uint32_t n) {
  constexpr int kWide = sizeof(To) > sizeof(From) ? sizeof(To) : sizeof(From);
  constexpr int kN = 16 / kWide, kPacks = 4;
  const std::uint32_t first = (blockIdx.x * kPacks * kThreads + threadIdx.x) * kN;
  Pack<From, kN> in[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const std::uint32_t i = first + p * kThreads * kN;
    if (i + kN <= n) in[p] = *reinterpret_cast<const Pack<From, kN>*>(from + i);
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const std::uint32_t i = first + p * kThreads * kN;
    if (i + kN <= n) {
      Pack<To, kN> out;
#pragma unroll
      for (int k = 0; k < kN; ++k) out.at[k] = convert<To>(in[p].at[k]);
      *reinterpret_cast<Pack<To, kN>*>(to + i) = out;
    } else {
      for (std::uint32_t k = i; k < n; ++k) to[k] = convert<To>(from[k]);
    }
  }
}

/// Any layouts of one type, by bits.
template <class T>
__global__ void __launch_bounds__(kThreads) move_strided(T* to, const T* from, const Loop<2> loop) {
  constexpr int kFlight = 4;
  const std::uint32_t first = blockIdx.x * kFlight * kThreads + threadIdx.x;
  T v[kFlight];
  std::int64_t offset[kFlight][2] = {};
#pragma unroll
  for (int p = 0; p < kFlight; ++p) {
    const std::uint32_t i = first + p * kThreads;
    if (i >= loop.numel) break;
    loop.locate(i, offset[p]);
    v[p] = from[offset[p][1]];
  }
#pragma unroll
  for (int p = 0; p < kFlight; ++p)
    if (first + p * kThreads < loop.numel) to[offset[p][0]] = v[p];
}

/// Rows whose innermost axis is dense in both, in packs.
template <class T>
__global__ void __launch_bounds__(kThreads)
    move_rows(T* to, const T* from, const Loop<2> loop, bool repeats) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t offset[2] = {};
  loop.locate(i, offset);
  constexpr int kN = 16 / sizeof(T);
  Pack<T, kN> pack;
  if (repeats) {
    const T v = from[offset[1]];
#pragma unroll
    for (T& each : pack.at) each = v;
  } else {
    pack = *reinterpret_cast<const Pack<T, kN>*>(from + offset[1]);
  }
  *reinterpret_cast<Pack<T, kN>*>(to + offset[0]) = pack;
}

/// Where `to` runs along the last axis and `from` along axis `across`, tiles are turned around in
/// shared memory, so that both sides are read and written in lines.
template <class T>
struct Turn {
  T* to;
  const T* from;
  std::uint32_t rows, columns;  // of a tile's axes: `across` and the last
  std::int64_t to_row, from_column;
  Divider tiles_across, tiles_down;
  Loop<2> outer;
};
/// Words of kN elements to a tile's row, which has as many elements as the tile has rows.
template <int kN>
inline constexpr int kTileWords = kN == 1 ? 64 : 32;
template <int kN>
inline constexpr int kTile = kTileWords<kN>* kN;
/// Element r of each of kN words, which are 4 bytes or one element.
template <int kN, class Word>
__device__ __forceinline__ Word element_of_each(const Word (&words)[kN], int r) {
  if constexpr (kN == 1) {
    return words[0];
  } else if constexpr (kN == 2) {
    return __byte_perm(words[0], words[1], r == 0 ? 0x5410 : 0x7632);
  } else {
    const unsigned pair = static_cast<unsigned>(r | (r + 4) << 4);
    return __byte_perm(__byte_perm(words[0], words[1], pair), __byte_perm(words[2], words[3], pair),
                       0x5410);
  }
}
/// kN elements make up 4 bytes, or are one: squares of kN x kN are turned in registers, and tiles
/// of words in shared memory. Row r of the result lies in row r % kN * kTileWords + r / kN of it,
/// so that the words that a warp writes fall into different banks.
template <class T, int kN>
__global__ void __launch_bounds__(kThreads) turn(const Turn<T> k) {
  constexpr int kWords = kTileWords<kN>, kStep = kThreads / kWords;
  using Word = std::conditional_t<kN == 1, T, std::uint32_t>;
  static_assert(sizeof(Word) == sizeof(T) * kN);
  __shared__ Word tile[kTile<kN>][kWords + (sizeof(Word) < 4 ? 4 / sizeof(Word) : 1)];
  const std::uint32_t rest = k.tiles_across.divide(blockIdx.x);
  const std::uint32_t column0 = (blockIdx.x - rest * k.tiles_across.divisor) * kTile<kN>;
  const std::uint32_t batch = k.tiles_down.divide(rest);
  const std::uint32_t row0 = (rest - batch * k.tiles_down.divisor) * kTile<kN>;
  std::int64_t offset[2] = {};
  k.outer.locate(batch, offset);
  const int x = static_cast<int>(threadIdx.x) % kWords, y = static_cast<int>(threadIdx.x) / kWords;
  const std::uint32_t from_row = row0 + x * kN;
  Word from[kWords / kStep][kN];
#pragma unroll
  for (int j = 0; j < kWords / kStep; ++j)
#pragma unroll
    for (int c = 0; c < kN; ++c) {
      const std::uint32_t column = column0 + (y + j * kStep) * kN + c;
      if (from_row < k.rows && column < k.columns)
        from[j][c] =
            *reinterpret_cast<const Word*>(k.from + offset[1] + from_row + column * k.from_column);
    }
#pragma unroll
  for (int j = 0; j < kWords / kStep; ++j)
#pragma unroll
    for (int r = 0; r < kN; ++r) tile[r * kWords + x][y + j * kStep] = element_of_each(from[j], r);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kTile<kN>; j += kStep) {
    const int r = y + j;
    const std::uint32_t row = row0 + r, column = column0 + x * kN;
    if (row < k.rows && column < k.columns)
      *reinterpret_cast<Word*>(k.to + offset[0] + column + row * k.to_row) =
          tile[r % kN * kWords + r / kN][x];
  }
}

template <class C>
__global__ void __launch_bounds__(kThreads)
    cast_strided(void* to, tensor::DataType to_type, const void* from, tensor::DataType from_type,
                 const Loop<2> loop) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t offset[2] = {};
  loop.locate(i, offset);
  store_as(to, to_type, offset[0], load_as<C>(from, from_type, offset[1]));
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_dense(T* to, T value, std::uint32_t n) {
  constexpr int kN = 16 / sizeof(T);
  const std::uint32_t i = (blockIdx.x * kThreads + threadIdx.x) * kN;
  if (i + kN <= n) {
    Pack<T, kN> pack;
#pragma unroll
    for (T& each : pack.at) each = value;
    *reinterpret_cast<Pack<T, kN>*>(to + i) = pack;
  } else {
    for (std::uint32_t k = i; k < n; ++k) to[k] = value;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_strided(T* to, T value, const Loop<1> loop) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t offset[1] = {};
  loop.locate(i, offset);
  to[offset[0]] = value;
}

template <class T>
T* move_by(T* data, std::int64_t elements) {
  return data + elements;
}

/// One part of a copy within a type; `T` has its size.
template <class T>
void move_part(const Context& context, T* to, const T* from, const Iteration& part) {
  constexpr int kN = 16 / sizeof(T);
  const int inner = part.ndim - 1;
  if (part.ndim > 0 && part.strides[0][inner] == 1 && part.strides[1][inner] <= 1 &&
      part.strides[1][inner] >= 0 && part.sizes[inner] % kN == 0 && is_aligned(to, 16)) {
    const bool repeats = part.strides[1][inner] == 0;
    bool whole = repeats || is_aligned(from, 16);
    for (int d = 0; whole && d < inner; ++d)
      whole = part.strides[0][d] % kN == 0 && (repeats || part.strides[1][d] % kN == 0);
    if (whole) {
      Iteration packs = part;
      packs.sizes[inner] /= kN;
      packs.numel /= kN;
      packs.strides[0][inner] *= kN;
      packs.strides[1][inner] *= kN;
      return launch(context, "copy", &move_rows<T>, blocks_for(packs.numel), kThreads, 0, to, from,
                    Loop<2>(packs), repeats);
    }
  }
  if (part.ndim > 1 && part.strides[0][inner] == 1 && part.sizes[inner] >= 16) {
    int across = -1;
    for (int d = 0; d < inner; ++d)
      if (part.strides[1][d] == 1 && part.sizes[d] >= 16) across = d;
    if (across >= 0 && part.strides[1][inner] != 1) {
      Iteration outer = part;
      outer.ndim = 0;
      outer.numel = 1;
      for (int d = 0; d < inner; ++d) {
        if (d == across) continue;
        outer.sizes[outer.ndim] = part.sizes[d];
        for (int i = 0; i < 2; ++i) outer.strides[i][outer.ndim] = part.strides[i][d];
        outer.numel *= part.sizes[d];
        ++outer.ndim;
      }
      const auto turned = [&](auto words) {
        constexpr int kEach = decltype(words)::value, kEdge = kTile<kEach>;
        const std::int64_t tiles_across = ceil_div(part.sizes[inner], kEdge),
                           tiles_down = ceil_div(part.sizes[across], kEdge);
        const Turn<T> k{to,
                        from,
                        static_cast<std::uint32_t>(part.sizes[across]),
                        static_cast<std::uint32_t>(part.sizes[inner]),
                        part.strides[0][across],
                        part.strides[1][inner],
                        Divider(static_cast<std::uint32_t>(tiles_across)),
                        Divider(static_cast<std::uint32_t>(tiles_down)),
                        Loop<2>(outer)};
        launch(context, "copy", &turn<T, kEach>,
               static_cast<unsigned>(tiles_across * tiles_down * outer.numel), kThreads, 0, k);
      };
      constexpr int kEach = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
      bool words = is_aligned(to, 4) && is_aligned(from, 4);
      for (int d = 0; d < part.ndim; ++d)
        words &= (d == inner || part.strides[0][d] % kEach == 0) &&
                 (d == across || part.strides[1][d] % kEach == 0);
      words &= part.sizes[inner] % kEach == 0 && part.sizes[across] % kEach == 0;
      if (words) return turned(std::integral_constant<int, kEach>());
      return turned(std::integral_constant<int, 1>());
    }
  }
  launch(context, "copy", &move_strided<T>, blocks_for(part.numel, 4), kThreads, 0, to, from,
         Loop<2>(part));
}

}  // namespace

namespace {

// From another GPU: after what was given to that one's stream, which then waits until it is read.
void copy_across(const Tensor& to, const Tensor& from) {
  const Stream here = Stream::current(to.device()), there = Stream::current(from.device());
  here.wait(there);
  const Context context(to.device());
  check(cudaMemcpyAsync(to.data(), from.data(), to.numel() * tensor::size_of(to.type()),
                        cudaMemcpyDefault, context.stream),
        "copy");
  there.wait(here);
}

}  // namespace

void copy(const Tensor& to, const Tensor& from) {
  const auto numel = static_cast<std::int64_t>(to.numel());
  if (numel == 0) return;
  if (to.device() != from.device()) return copy_across(to, from);
  const Context context(to.device());
  const bool moves = same_bits(to.type(), from.type());
  if (moves && to.is_contiguous() && from.is_contiguous()) {
    if (to.data() == from.data()) return;
    check(cudaMemcpyAsync(to.data(), from.data(), to.numel() * tensor::size_of(to.type()),
                          cudaMemcpyDeviceToDevice, context.stream),
          "copy");
    count_launch();
    return;
  }
  if (!moves && to.is_contiguous() && from.is_contiguous() && numel <= kLaunchElements &&
      is_aligned(to.data(), 16) && is_aligned(from.data(), 16)) {
    visit(to.type(), [&](auto to_tag) {
      using To = typename decltype(to_tag)::Type;
      visit(from.type(), [&](auto from_tag) {
        using From = typename decltype(from_tag)::Type;
        constexpr int kN = 16 / static_cast<int>(std::max(sizeof(To), sizeof(From)));
        if constexpr (!kSameBits<To, From>)
          launch(context, "copy", &cast_dense<To, From>, blocks_for(numel, kN * 4), kThreads, 0,
                 static_cast<To*>(to.data()), static_cast<const From*>(from.data()),
                 static_cast<std::uint32_t>(numel));
      });
    });
    return;
  }
  const IntList strides[2] = {
      to.strides(), tensor::detail::broadcast_strides(from.shape(), from.strides(), to.shape())};
  for_parts(Iteration(to.shape(), strides, true),
            [&](const Iteration& part, const std::int64_t* offsets) {
              if (moves) {
                visit_bits(to.type(), [&](auto tag) {
                  using T = typename decltype(tag)::Type;
                  move_part(context, static_cast<T*>(to.data()) + offsets[0],
                            static_cast<const T*>(from.data()) + offsets[1], part);
                });
                return;
              }
              const auto place = [&](const Tensor& t, int i) {
                return static_cast<std::byte*>(t.data()) +
                       offsets[i] * static_cast<std::int64_t>(tensor::size_of(t.type()));
              };
              // Through the source's own compute type, so that nothing is rounded twice.
              visit(tensor::detail::compute_type(from.type()), [&](auto tag) {
                using C = typename decltype(tag)::Type;
                if constexpr (!kIsHalf<C>)
                  launch(context, "copy", &cast_strided<C>, blocks_for(part.numel), kThreads, 0,
                         static_cast<void*>(place(to, 0)), to.type(),
                         static_cast<const void*>(place(from, 1)), from.type(), Loop<2>(part));
              });
            });
}

namespace {

/// Dense tensors whose rows lie side by side in another one's.
template <class T>
struct Parts {
  static constexpr int kMost = 8;
  int count = 0;
  const T* from[kMost];
  std::uint32_t start[kMost + 1] = {};  // of a row
};

template <class T>
constexpr int kCatFlight = sizeof(T) < 16 ? 4 : 1;  // units that a thread takes, kThreads apart

template <class T>
__global__ void __launch_bounds__(kThreads)
    cat_dense(T* to, const __grid_constant__ Parts<T> parts, const Divider width,
              std::int64_t to_row, std::uint32_t n) {
  constexpr int kFlight = kCatFlight<T>;
  const std::uint32_t first = blockIdx.x * kFlight * kThreads + threadIdx.x;
  T v[kFlight];
  std::int64_t at[kFlight];
#pragma unroll
  for (int p = 0; p < kFlight; ++p) {
    const std::uint32_t i = first + p * kThreads;
    if (i >= n) break;
    const std::uint32_t row = width.divide(i), column = i - row * width.divisor;
    int part = 0;
    for (int k = 1; k < parts.count; ++k) part += column >= parts.start[k];
    const std::uint32_t start = parts.start[part];
    const std::int64_t from_row = parts.start[part + 1] - start;
    v[p] = parts.from[part][row * from_row + (column - start)];
    at[p] = row * to_row + column;
  }
#pragma unroll
  for (int p = 0; p < kFlight; ++p)
    if (first + p * kThreads < n) to[at[p]] = v[p];
}

/// Parts in units of T, `outer` rows of which there are.
template <class T>
void cat_units(const Context& context, const Tensor& out, const std::vector<Tensor>& parts,
               std::int64_t outer) {
  const auto units = [&](const Tensor& t) {
    return static_cast<std::int64_t>(t.numel() * tensor::size_of(t.type()) / sizeof(T)) / outer;
  };
  auto* to = static_cast<T*>(out.data());
  Parts<T> joined;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::int64_t end = joined.start[joined.count] + units(parts[i]);
    joined.from[joined.count++] = static_cast<const T*>(parts[i].data());
    joined.start[joined.count] = static_cast<std::uint32_t>(end);
    if (joined.count < Parts<T>::kMost && i + 1 < parts.size()) continue;
    if (end > 0)
      launch(context, "cat", &cat_dense<T>, blocks_for(outer * end, kCatFlight<T>), kThreads, 0, to,
             joined, Divider(static_cast<std::uint32_t>(end)), units(out),
             static_cast<std::uint32_t>(outer * end));
    to += end;
    joined = Parts<T>();
  }
}

}  // namespace

void cat(const Tensor& out, const std::vector<Tensor>& parts, int axis) {
  if (out.numel() == 0) return;
  const std::int64_t outer = cpu::Axes(out.shape(), axis).outer;
  bool dense = true;
  // What is a multiple of as many bytes as all of these are is made of such units.
  std::uintptr_t bits = address_of(out.data());
  for (const Tensor& part : parts) {
    dense &= part.is_contiguous();
    bits |= part.numel() * tensor::size_of(part.type()) / static_cast<std::size_t>(outer);
    if (part.numel() > 0) bits |= address_of(part.data());
  }
  visit_units(bits, [&](auto tag) {
    using Unit = typename decltype(tag)::Type;
    const std::size_t units = out.numel() * tensor::size_of(out.type()) / sizeof(Unit);
    if (!dense || units > static_cast<std::size_t>(kLaunchElements))
      return tensor::detail::for_places(out, parts, axis, copy);
    cat_units<Unit>(Context(out.device()), out, parts, outer);
  });
}

namespace {

/// The bits of a number as an element of `type`.
std::uint64_t bits_of(Number value, tensor::DataType type) {
  const Constant wide(value, tensor::detail::compute_type(type));
  std::uint64_t bits = 0;
  std::memcpy(&bits, wide.bytes, tensor::size_of(tensor::detail::compute_type(type)));
  if (type == tensor::DataType::Float16 || type == tensor::DataType::BFloat16) {
    float f;
    std::memcpy(&f, wide.bytes, sizeof f);
    bits = type == tensor::DataType::Float16 ? tensor::detail::float_to_half(f)
                                             : tensor::detail::float_to_bfloat16(f);
  }
  return bits;
}

}  // namespace

void fill(const Tensor& to, Number value) {
  const auto numel = static_cast<std::int64_t>(to.numel());
  if (numel == 0) return;
  const Context context(to.device());
  const std::uint64_t bits = bits_of(value, to.type());
  visit_bits(to.type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const T element = static_cast<T>(bits);
    auto* const data = static_cast<T*>(to.data());
    if (to.is_contiguous() && numel <= kLaunchElements && is_aligned(data, 16))
      return launch(context, "fill", &fill_dense<T>,
                    blocks_for(numel, 16 / static_cast<int>(sizeof(T))), kThreads, 0, data, element,
                    static_cast<std::uint32_t>(numel));
    const IntList strides[1] = {to.strides()};
    for_parts(Iteration(to.shape(), strides, true),
              [&](const Iteration& part, const std::int64_t* offsets) {
                launch(context, "fill", &fill_strided<T>, blocks_for(part.numel), kThreads, 0,
                       data + offsets[0], element, Loop<1>(part));
              });
  });
}

}  // namespace lmp::cuda
