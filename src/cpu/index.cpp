#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>

#include "cpu/axes.hpp"
#include "cpu/backend.hpp"
#include "cpu/block_loop.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"

namespace lmp::cpu {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::concat;
using tensor::detail::parallel_for;

namespace {

// A position along an axis from an index, of which negative ones count from the end. One that is
// out of range is noted and reads as 0.
struct Position {
  std::int64_t size;
  std::atomic<bool>* bad;
  bool inside(std::int64_t i) const noexcept {
    return static_cast<std::uint64_t>(i) < static_cast<std::uint64_t>(size);
  }
  bool from_end(std::int64_t i) const noexcept { return i < 0 && inside(i + size); }
  std::int64_t operator()(std::int64_t i) const noexcept {
    if (inside(i)) [[likely]]
      return i;
    if (from_end(i)) return i + size;
    bad->store(true, std::memory_order_relaxed);
    return 0;
  }
};

// The indices of one call. They are checked as they are read, and refuse() throws for the first
// that is out of range once the work is done.
class Indices {
 public:
  Indices(const char* op, const Tensor& index, std::int64_t size, int axis)
      : op_(op), index_(index), axis_(axis), position_{size, &bad_}, bad_(size == 0) {
    if (count() == 0) bad_ = false;
    refuse();
  }
  Indices(const Indices&) = delete;
  Indices& operator=(const Indices&) = delete;
  const std::int64_t* data() const { return static_cast<const std::int64_t*>(index_.data()); }
  std::int64_t count() const { return static_cast<std::int64_t>(index_.numel()); }
  Position position() const { return position_; }
  void refuse() const {
    if (!bad_) return;
    const std::int64_t* const first = std::find_if_not(
        data(), data() + count(),
        [&](std::int64_t i) { return position_.inside(i) || position_.from_end(i); });
    throw IndexError(concat(op_, ": index ", *first, " is out of range for axis ", axis_,
                            " of size ", position_.size));
  }

 private:
  const char* op_;
  const Tensor& index_;
  int axis_;
  Position position_;
  std::atomic<bool> bad_;
};

// Runs f with a value of an unsigned type as wide as an element: what moves data without looking at
// it.
template <class F>
void by_size(DataType type, F&& f) {
  switch (tensor::size_of(type)) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}

// Adds as the type does: integers wrap, Bool is "or". Not for halves.
template <class F>
void by_sum(DataType type, F&& f) {
  const auto wrap = [&](auto unsigned_zero) {
    using T = decltype(unsigned_zero);
    f(T{}, [](T a, T b) { return static_cast<T>(a + b); });
  };
  switch (type) {
    case DataType::Bool:
      return f(std::uint8_t{},
               [](std::uint8_t a, std::uint8_t b) { return static_cast<std::uint8_t>(a | b); });
    case DataType::Float32:
      return f(float{}, [](float a, float b) { return a + b; });
    case DataType::Float64:
      return f(double{}, [](double a, double b) { return a + b; });
    default:
      return by_size(type, wrap);
  }
}

// Sums of halves are sums in float, rounded once: add(whole, source) on floats.
template <class F>
bool added_in_float(const Tensor& out, const Tensor& source, F&& add) {
  if (compute_type(out.type()) == out.type()) return false;
  const Tensor wide = out.astype(DataType::Float32);
  add(wide, source.astype(DataType::Float32));
  copy(out, wide);
  return true;
}

constexpr std::int64_t kLine = 64;                        // bytes
constexpr std::int64_t kTile = std::int64_t{512} * 1024;  // bytes that stay in the second cache
constexpr std::int64_t kMostLines = 4;

// f(cell, dense[i]) for `rows` rows of `count` elements of an index, `row` apart; the cells of one
// position are `step` apart.
template <class T>
struct Walk {
  T* cells;
  T* dense;
  const std::int64_t* index;
  std::int64_t rows, row, step;
  Position position;

  template <class F>
  void one(F f) const {
    if (row == 1 && step == 1)
      for (std::int64_t i = 0; i < rows; ++i) f(cells[position(index[i])], dense[i]);
    else
      for (std::int64_t k = 0, i = 0; k < rows; ++k, i += row)
        f(cells[position(index[i]) * step], dense[i]);
  }
  template <class F>
  void columns(std::int64_t count, F f) const {
    for (std::int64_t k = 0, i = 0; k < rows; ++k, i += row) {
      // Rows are too far apart for the hardware to foresee them.
      const std::int64_t ahead = i + std::min(kAhead, rows - 1 - k) * row;
      for (std::int64_t j = 0; j < count; j += kLine / 8) __builtin_prefetch(index + ahead + j);
      for (std::int64_t j = 0; j < count; j += kLine / static_cast<std::int64_t>(sizeof(T)))
        __builtin_prefetch(dense + ahead + j, 1);
      for (std::int64_t j = 0; j < count; ++j)
        f(cells[position(index[i + j]) * step + j], dense[i + j]);
    }
  }

 private:
  static constexpr std::int64_t kAhead = 8;
};

/// Note [Indexing along an axis]
/// f(cell, other) for every element of an index of shape `part`: `other` the element of `dense` at
/// its place, `cell` that of `data`, dense of shape `whole`, at the same place but for the position
/// along `axis`. Each cell meets its elements in their order, and tasks share no cell: they split
/// what is off the axis. Elements next to each other off the axis may pick cells that are far
/// apart, so a line of the cache is used up by going through the index by columns a few lines wide.
/// The cells of such columns are brought together first, since rows a power of two apart would
/// push each other out of a cache.
template <class T, class F>
void for_each_indexed(const Shape& part, const Shape& whole, int axis, const Indices& indices,
                      T* data, bool writes, T* dense, F f) {
  const IntList strides[2] = {tensor::detail::dense_strides(part),
                              tensor::detail::dense_strides(whole)};
  const auto a = static_cast<std::size_t>(axis);
  const std::int64_t n = part.dim(axis), size = whole.dim(axis);
  const std::int64_t whole_step = strides[1][a];
  IntList off_axis(part);
  off_axis[a] = 1;
  const tensor::detail::Iteration loop(Shape(off_axis), strides, false);
  const int inner = loop.ndim - 1;
  const bool in_rows = loop.ndim > 0 && loop.strides[0][inner] == 1 && loop.strides[1][inner] == 1;

  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t lines = std::min(kTile / kLine / std::max<std::int64_t>(size, 1), kMostLines);
  const std::int64_t most = lines * (kLine / kBytes);
  const bool tiled = in_rows && lines > 0 && n >= size / 4 && loop.sizes[inner] >= kLine / kBytes;
  const std::int64_t chunk =
      tiled ? most
            : std::max(in_rows ? kLine : std::int64_t{1}, kChunk / std::max<std::int64_t>(n, 1));

  parallel_for(loop.numel, chunk, [&](std::int64_t begin, std::int64_t end) {
    const Scratch scratch(tiled ? static_cast<std::size_t>(size * most * kBytes) : 0);
    tensor::detail::RunWalker to_part(loop.sizes, loop.strides[0], loop.ndim, begin);
    tensor::detail::RunWalker to_whole(loop.sizes, loop.strides[1], loop.ndim, begin);
    while (begin < end) {
      const std::int64_t width = in_rows ? std::min(end - begin, to_part.left()) : 1;
      T* const cells = data + to_whole.offset();
      T* const tile = tiled ? static_cast<T*>(scratch.data()) : cells;
      const std::int64_t at = to_part.offset();
      const Walk<T> walk{tile,
                         dense + at,
                         indices.data() + at,
                         n,
                         strides[0][a],
                         tiled ? most : whole_step,
                         indices.position()};
      const auto row = static_cast<std::size_t>(width * kBytes);
      for (std::int64_t i = 0; tiled && i < size; ++i)
        std::memcpy(tile + i * most, cells + i * whole_step, row);
      if (width == 1)
        walk.one(f);
      else
        walk.columns(width, f);
      for (std::int64_t i = 0; tiled && writes && i < size; ++i)
        std::memcpy(cells + i * whole_step, tile + i * most, row);
      to_part.advance(width);
      to_whole.advance(width);
      begin += width;
    }
  });
  indices.refuse();
}

// Rows of as many bytes as a T, one for each index, of each of `outer` blocks of `size` rows.
struct Wide {
  std::uint64_t words[2];
};
template <class Copy>
void for_each_row(std::int64_t outer, std::int64_t count, std::int64_t size, std::int64_t bytes,
                  const Indices& indices, Copy copy_row) {
  // Blocks share their positions; four of them together stay in the first cache if they are small.
  const bool fours = 4 * size * bytes <= 32 * 1024;
  parallel_for(outer * count, std::max<std::int64_t>(1, 4 * kChunk / bytes),
               [&](std::int64_t begin, std::int64_t end) {
                 const std::int64_t* const at = indices.data();
                 const Position position = indices.position();
                 const Copy copy = copy_row;
                 for (std::int64_t i = begin; i < end;) {
                   const std::int64_t first = i / count * size, k = i % count;
                   if (fours && k == 0 && end - i >= 4 * count) {
                     for (std::int64_t j = 0; j < count; ++j) {
                       const std::int64_t picked = first + position(at[j]);
                       copy(i + j, picked);
                       copy(i + j + count, picked + size);
                       copy(i + j + 2 * count, picked + 2 * size);
                       copy(i + j + 3 * count, picked + 3 * size);
                     }
                     i += 4 * count;
                     continue;
                   }
                   const std::int64_t run = std::min(count - k, end - i);
                   for (std::int64_t j = 0; j < run; ++j) copy(i + j, first + position(at[k + j]));
                   i += run;
                 }
               });
}

}  // namespace

void index_select(const char* op, const Tensor& out, const Tensor& x, int axis,
                  const Tensor& index) {
  const Indices indices(op, index, x.shape().dim(axis), axis);
  const Tensor source = x.contiguous();
  const Axes axes(source.shape(), axis);
  const std::int64_t row = axes.inner * static_cast<std::int64_t>(tensor::size_of(x.type()));
  const std::int64_t count = indices.count();
  if (row > 0) {
    const auto as = [&](auto unit) {
      using T = decltype(unit);
      const auto* from = static_cast<const T*>(source.data());
      auto* to = static_cast<T*>(out.data());
      for_each_row(axes.outer, count, axes.size, row, indices,
                   [=](std::int64_t i, std::int64_t picked) { to[i] = from[picked]; });
    };
    switch (row) {
      case 1:
        as(std::uint8_t{});
        break;
      case 2:
        as(std::uint16_t{});
        break;
      case 4:
        as(std::uint32_t{});
        break;
      case 8:
        as(std::uint64_t{});
        break;
      case 16:
        as(Wide{});
        break;
      default: {
        const auto* from = static_cast<const std::byte*>(source.data());
        auto* to = static_cast<std::byte*>(out.data());
        for_each_row(
            axes.outer, count, axes.size, row, indices, [&](std::int64_t i, std::int64_t picked) {
              std::memcpy(to + i * row, from + picked * row, static_cast<std::size_t>(row));
            });
      }
    }
  }
  indices.refuse();
}

void index_add(const char* op, const Tensor& out, int axis, const Tensor& index,
               const Tensor& source) {
  if (added_in_float(out, source, [&](const Tensor& wide, const Tensor& terms) {
        index_add(op, wide, axis, index, terms);
      }))
    return;
  const Indices indices(op, index, out.shape().dim(axis), axis);
  const Tensor rows = source.contiguous();
  const Axes axes(out.shape(), axis);
  const std::int64_t count = indices.count();
  constexpr std::int64_t kWide = 16;  // elements of a row that make a call of a kernel worth it
  const ForwardFn add = kernels().forward[static_cast<int>(OpId::Add)][compute_index(out.type())];
  by_sum(out.type(), [&](auto zero, auto sum) {
    using T = decltype(zero);
    auto* from = static_cast<T*>(rows.data());
    auto* to = static_cast<T*>(out.data());
    // Tasks split the columns, so each sum is made in the order of the indices.
    parallel_for(
        axes.outer * axes.inner,
        std::max(axes.inner == 1 ? 1 : kBlock / 4, kChunk / std::max<std::int64_t>(count, 1)),
        [&](std::int64_t begin, std::int64_t end) {
          const std::int64_t* const at = indices.data();
          const Position position = indices.position();
          while (begin < end) {
            const std::int64_t block = begin / axes.inner, first = begin % axes.inner;
            const std::int64_t width = std::min(end - begin, axes.inner - first);
            T* in = from + block * count * axes.inner + first;
            T* const cells = to + block * axes.size * axes.inner + first;
            begin += width;
            if (axes.inner == 1) {
              Walk<T>{cells, in, at, count, 1, 1, position}.one(
                  [sum](T& cell, T& term) { cell = sum(cell, term); });
              continue;
            }
            for (std::int64_t k = 0; k < count; ++k, in += axes.inner) {
              T* const into = cells + position(at[k]) * axes.inner;
              if (width < kWide) {
                for (std::int64_t j = 0; j < width; ++j) into[j] = sum(into[j], in[j]);
              } else {
                const void* const terms[2] = {into, in};
                add(into, terms, static_cast<std::size_t>(width));
              }
            }
          }
        });
  });
  indices.refuse();
}

void gather(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index) {
  if (index.ndim() == 1) return index_select(op, out, x, axis, index);
  const Indices indices(op, index, x.shape().dim(axis), axis);
  const Tensor source = x.contiguous();
  by_size(x.type(), [&](auto zero) {
    using T = decltype(zero);
    for_each_indexed(index.shape(), source.shape(), axis, indices, static_cast<T*>(source.data()),
                     false, static_cast<T*>(out.data()), [](T& cell, T& to) { to = cell; });
  });
}

void scatter(const char* op, const Tensor& out, int axis, const Tensor& index, const Tensor& source,
             bool add) {
  if (add && added_in_float(out, source, [&](const Tensor& wide, const Tensor& terms) {
        scatter(op, wide, axis, index, terms, true);
      }))
    return;
  const Indices indices(op, index, out.shape().dim(axis), axis);
  const Tensor values = source.contiguous();
  const auto into = [&](auto zero, auto combine) {
    using T = decltype(zero);
    for_each_indexed(index.shape(), out.shape(), axis, indices, static_cast<T*>(out.data()), true,
                     static_cast<T*>(values.data()),
                     [combine](T& cell, T& from) { cell = combine(cell, from); });
  };
  if (add)
    by_sum(out.type(), into);
  else
    by_size(out.type(), [&](auto zero) { into(zero, [](auto, auto value) { return value; }); });
}

namespace {

// How many of n bytes, each 0 or 1, are set.
std::int64_t count_set(const std::uint8_t* set, std::int64_t n) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < n; i += kBlock) {
    std::uint32_t some = 0;
    const std::int64_t end = std::min(n, i + kBlock);
    for (std::int64_t j = i; j < end; ++j) some += set[j];
    total += some;
  }
  return total;
}

// Where in n <= kBlock bytes, each 0 or 1, one is set; returns how many there are.
std::int64_t find_set(std::int64_t* found, const std::uint8_t* set, std::int64_t n) {
  std::int64_t count = 0, i = 0;
  const auto look = [&] {
    found[count] = i;
    count += set[i++];
  };
  while (i + 8 <= n) {
    std::uint64_t some;
    std::memcpy(&some, set + i, 8);
    if (some == 0)
      i += 8;
    else
      for (int j = 0; j < 8; ++j) look();
  }
  while (i < n) look();
  return count;
}

// Elements in memory order as bytes that are 0 or 1, and how many are set in each piece of kChunk.
struct SetBytes {
  explicit SetBytes(const Tensor& x)
      : tensor(x.astype(DataType::Bool).contiguous()),
        data(static_cast<const std::uint8_t*>(tensor.data())),
        numel(static_cast<std::int64_t>(tensor.numel())),
        counts(static_cast<std::size_t>((numel + kChunk - 1) / kChunk)) {
    parallel_for(numel, kChunk, [&](std::int64_t begin, std::int64_t end) {
      counts[static_cast<std::size_t>(begin / kChunk)] = count_set(data + begin, end - begin);
    });
  }
  Tensor tensor;
  const std::uint8_t* data;
  std::int64_t numel;
  std::vector<std::int64_t> counts;
};

}  // namespace

std::size_t count_nonzero(const Tensor& x) {
  const SetBytes set(x);
  return static_cast<std::size_t>(
      std::accumulate(set.counts.begin(), set.counts.end(), std::int64_t{0}));
}

void nonzero(const Tensor& out, const Tensor& x) {
  SetBytes set(x);
  std::exclusive_scan(set.counts.begin(), set.counts.end(), set.counts.begin(), std::int64_t{0});
  const int axes = x.ndim();
  const std::int64_t row = axes == 0 ? 1 : x.shape().dim(axes - 1);
  parallel_for(set.numel, kChunk, [&](std::int64_t begin, std::int64_t end) {
    auto* to = static_cast<std::int64_t*>(out.data()) +
               set.counts[static_cast<std::size_t>(begin / kChunk)] * axes;
    std::int64_t found[kBlock];
    for (std::int64_t at = begin, n; at < end; at += n) {
      const std::int64_t column = at % row;
      n = std::min({kBlock, row - column, end - at});
      const std::int64_t count = find_set(found, set.data + at, n);
      if (count == 0 || axes == 0) continue;
      std::int64_t place[tensor::kMaxDims], rest = at / row;
      for (int d = axes - 2; d >= 0; --d) {
        place[d] = rest % x.shape().dim(d);
        rest /= x.shape().dim(d);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        for (int d = 0; d < axes - 1; ++d) *to++ = place[d];
        *to++ = column + found[i];
      }
    }
  });
}

void random(tensor::detail::Distribution distribution, const Tensor& out, std::uint64_t seed,
            std::uint64_t offset, double mean, double deviation) {
  const DataType compute = compute_type(out.type());
  const Kernels& k = kernels();
  const int wide = compute == DataType::Float64 ? 1 : 0;
  const auto size = static_cast<std::int64_t>(tensor::size_of(out.type()));
  const auto numel = static_cast<std::int64_t>(out.numel());
  const std::int64_t per_block = wide ? 2 : 4;  // elements a block of four words makes
  const bool uniform = distribution == tensor::detail::Distribution::Uniform;
  const std::uint32_t keep = uniform ? tensor::detail::uniform_bits(out.type()) : ~0u;
  auto* to = static_cast<std::byte*>(out.data());
  parallel_for(numel, kChunk / 4, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) std::uint32_t words[kBlock];
    alignas(64) std::byte values[kBlock * sizeof(double) / 2];
    const std::int64_t step = kBlock / 4 * per_block;
    for (std::int64_t at = begin; at < end; at += step) {
      const auto n = static_cast<std::size_t>(std::min(step, end - at));
      const auto blocks =
          (n + static_cast<std::size_t>(per_block) - 1) / static_cast<std::size_t>(per_block);
      k.philox(words, seed, offset + static_cast<std::uint64_t>(at / per_block), blocks);
      const std::size_t made = blocks * static_cast<std::size_t>(per_block);
      if (keep != ~0u)
        for (std::size_t i = 0; i < made; ++i) words[i] &= keep;
      if (uniform)
        k.uniform[wide](values, words, made);
      else
        k.normal[wide](values, words, mean, deviation, made);
      k.store[static_cast<int>(out.type())](to + at * size, 1, values, n);
    }
  });
}

void random_words(std::uint32_t* out, std::size_t blocks, std::uint64_t seed,
                  std::uint64_t offset) {
  kernels().philox(out, seed, offset, blocks);
}

}  // namespace lmp::cpu
