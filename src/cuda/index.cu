#include <bit>
#include <cub/device/device_scan.cuh>

#include "cpu/axes.hpp"
#include "cuda/backend.hpp"
#include "cuda/long_divider.cuh"
#include "cuda/positions.cuh"
#include "cuda/sort.hpp"
#include "cuda/types.cuh"
#include "lamppp/error.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/format.hpp"

namespace lmp::cuda {

using cpu::Axes;
using tensor::Shape;
using tensor::TensorAccess;
using tensor::detail::concat;

namespace {

constexpr int kFlight = 4;  // elements that a thread takes, kThreads apart

/// Which cells of a tensor of axes (outer, size, inner) the elements of one of axes (outer, count,
/// inner) stand for, by an index along the axis that has an entry for each position, or for each
/// element.
struct Cells {
  Cells(const Context& context, const char* op, const Axes& whole, const Tensor& at, bool each)
      : index(static_cast<const std::int64_t*>(at.data())),
        positions(context, op, whole.size),
        each_element(each) {
    const auto entries = static_cast<std::int64_t>(at.numel());
    const std::int64_t n = each ? entries / whole.outer / whole.inner : entries;
    inner = LongDivider(whole.inner, whole.outer * n * whole.inner);
    count = LongDivider(n, whole.outer * n);
  }

  /// The cells of elements first, first + kThreads, .. before `end`.
  __device__ __forceinline__ void locate(std::int64_t (&cell)[kFlight], std::int64_t first,
                                         std::int64_t end) const {
    std::int64_t entry[kFlight] = {};
#pragma unroll
    for (int k = 0; k < kFlight; ++k) {
      const std::int64_t i = first + k * kThreads;
      if (i >= end) continue;
      const std::int64_t row = inner.divide(i), outer = count.divide(row);
      entry[k] = index[each_element ? i : row - outer * count.divisor];
      cell[k] = outer * positions.size * inner.divisor + (i - row * inner.divisor);
    }
#pragma unroll
    for (int k = 0; k < kFlight; ++k)
      if (first + k * kThreads < end) cell[k] += positions(entry[k]) * inner.divisor;
  }

  const std::int64_t* index;
  Positions positions;
  bool each_element;
  LongDivider inner, count;
};

__device__ __forceinline__ std::int64_t first_of_thread() {
  return std::int64_t{blockIdx.x} * kThreads * kFlight + threadIdx.x;
}

// ---- Reading ----

/// Block b of the grid takes block b / down of row b % down, where `down` is not 1: so what is read
/// across the rows stays in the cache until its neighbours are read.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pick(T* out, const T* x, const Cells cells, std::int64_t n, std::uint32_t down) {
  const std::uint32_t column = blockIdx.x / down, row = blockIdx.x - column * down;
  const std::int64_t block = std::int64_t{row} * (gridDim.x / down) + column;
  const std::int64_t first = block * kThreads * kFlight + threadIdx.x;
  std::int64_t cell[kFlight];
  cells.locate(cell, first, n);
  T found[kFlight];
#pragma unroll
  for (int k = 0; k < kFlight; ++k)
    if (first + k * kThreads < n) found[k] = x[cell[k]];
#pragma unroll
  for (int k = 0; k < kFlight; ++k)
    if (first + k * kThreads < n) out[first + k * kThreads] = found[k];
}

constexpr int kRowWidth = 64, kRowsOfBlock = kThreads / 32;
constexpr std::int64_t kMostColumns = 65535;  // of a grid

/// A warp takes kRowWidth units of a row, which an entry of the index chooses.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pick_rows(T* out, const T* x, const std::int64_t* index, const Positions positions,
              const Divider count, std::uint32_t rows, std::uint32_t width) {
  const std::uint32_t row = blockIdx.x * kRowsOfBlock + threadIdx.x / 32;
  if (row >= rows) return;
  const std::uint32_t outer = count.divide(row);
  const std::int64_t from = outer * positions.size + positions(index[row - outer * count.divisor]);
  x += from * width;
  out += std::int64_t{row} * width;
  const std::uint32_t first = blockIdx.y * kRowWidth + threadIdx.x % 32;
  T found[kRowWidth / 32];
#pragma unroll
  for (int k = 0; k < kRowWidth / 32; ++k)
    if (first + k * 32 < width) found[k] = x[first + k * 32];
#pragma unroll
  for (int k = 0; k < kRowWidth / 32; ++k)
    if (first + k * 32 < width) out[first + k * 32] = found[k];
}

// Nothing can be read or written along an axis of size 0.
void check_axis(const char* op, const Tensor& x, int axis, const Tensor& index) {
  if (x.shape().dim(axis) == 0 && index.numel() > 0)
    throw IndexError(concat(op, ": every index is out of range for axis ", axis, " of size 0"));
}

/// The part of x that an index of this shape can reach, which off the axis may be smaller.
Tensor within(const Tensor& x, const Shape& index, int axis) {
  tensor::IntList sizes(index);
  sizes[static_cast<std::size_t>(axis)] = x.shape().dim(axis);
  return TensorAccess::view(x, 0, Shape(sizes), x.strides());
}

// ---- Adding in any order: integers, or floats of which no two go to one cell ----

/// Integers wrap; Bool is "or".
template <class T>
__device__ __forceinline__ void add_to(T* cell, T v) {
  if constexpr (kIsFloating<T>) {
    *cell = convert<T>(widen(*cell) + widen(v));
  } else if constexpr (std::is_same_v<T, bool>) {
    if (v) *cell = true;
  } else if constexpr (sizeof(T) == 8) {
    atomicAdd(reinterpret_cast<unsigned long long*>(cell), static_cast<unsigned long long>(v));
  } else if constexpr (sizeof(T) == 4) {
    atomicAdd(reinterpret_cast<unsigned*>(cell), static_cast<unsigned>(v));
  } else {
    // In the word around it, which lies in the same allocation.
    const auto address = reinterpret_cast<std::uintptr_t>(cell);
    auto* const word = reinterpret_cast<unsigned*>(address & ~std::uintptr_t{3});
    const unsigned shift = static_cast<unsigned>(address & 3) * 8;
    constexpr unsigned kMask = (1u << 8 * sizeof(T)) - 1;
    unsigned before, seen = *word;
    do {
      before = seen;
      const unsigned sum = ((before >> shift) + static_cast<unsigned>(v)) & kMask;
      seen = atomicCAS(word, before, (before & ~(kMask << shift)) | sum << shift);
    } while (seen != before);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_elements(T* out, const T* source, const Cells cells, std::int64_t n) {
  const std::int64_t first = first_of_thread();
  std::int64_t cell[kFlight];
  cells.locate(cell, first, n);
#pragma unroll
  for (int k = 0; k < kFlight; ++k)
    if (first + k * kThreads < n) add_to(out + cell[k], source[first + k * kThreads]);
}

// ---- Adding floats, in order ----

// Note [Sums of rows on a GPU]
// A sum of floats depends on the order, and so must not be left to whichever block comes first: the
// rows to add are sorted by where they go, and so lie in segments. A thread sums columns of a chunk
// of the sorted rows. A segment that lies within a chunk goes to its place; of one that passes the
// chunk's borders the sum is a row of a smaller problem of the same kind, at most two for each
// chunk. Chunks are cut by the sizes alone. So a row of halves too is rounded once, and a place
// that gets all rows costs no more than others.

constexpr std::uint32_t kAbsent = ~0u;  // in place of a row

struct Segments {
  const std::uint32_t* places;  // sorted
  const std::uint32_t* rows;    // where they come from
  std::uint32_t count;
  std::uint32_t none;   // a place that is not to be written
  std::uint32_t chunk;  // a multiple of 4
  std::uint32_t* next_places;
  std::uint32_t* next_rows;
  LongDivider packs, chunks;
  std::int64_t outer;
  std::int64_t out_step, step, next_step;  // elements of one of `outer`
};

/// S in the rows, T in the result.
template <class S, class T, int kN>
__global__ void __launch_bounds__(kThreads)
    add_rows(T* out, const S* source, Computed<T>* next, const Segments s) {
  using C = Computed<T>;
  constexpr int kAtOnce = 4;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t row_of_threads = s.packs.divide(thread);
  const std::int64_t column = (thread - row_of_threads * s.packs.divisor) * kN;
  const std::int64_t block = s.chunks.divide(row_of_threads);
  if (block >= s.outer) return;
  const auto chunk = static_cast<std::uint32_t>(row_of_threads - block * s.chunks.divisor);
  const std::int64_t width = s.packs.divisor * kN;
  out += block * s.out_step + column;
  source += block * s.step + column;
  next += block * s.next_step + column;

  const std::uint32_t begin = chunk * s.chunk, end = min(begin + s.chunk, s.count);
  std::uint32_t place = s.places[begin];
  bool from_before = begin > 0 && s.places[begin - 1] == place;
  std::uint32_t parts[2] = {kAbsent, kAbsent};  // the first and the last segment's, if they go on
  bool any = false;
  C sum[kN] = {};
  const auto finish = [&](bool goes_on) {
    if (!any) return;
    if (from_before || goes_on) {
      const int which = from_before ? 0 : 1;
      Pack<C, kN> made;
#pragma unroll
      for (int k = 0; k < kN; ++k) made.at[k] = sum[k];
      const std::uint32_t row = 2 * chunk + static_cast<std::uint32_t>(which);
      *reinterpret_cast<Pack<C, kN>*>(next + row * width) = made;
      (which == 0 ? parts[0] : parts[1]) = row;
    } else if (place != s.none) {
      auto* const to = reinterpret_cast<Pack<T, kN>*>(out + place * width);
      Pack<T, kN> made = *to;
#pragma unroll
      for (int k = 0; k < kN; ++k) made.at[k] = convert<T>(widen(made.at[k]) + sum[k]);
      *to = made;
    }
  };
  for (std::uint32_t at = begin; at < end; at += kAtOnce) {
    const auto places = *reinterpret_cast<const Pack<std::uint32_t, kAtOnce>*>(s.places + at);
    auto rows = *reinterpret_cast<const Pack<std::uint32_t, kAtOnce>*>(s.rows + at);
    Pack<S, kN> values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (at + u >= end) rows.at[u] = kAbsent;
      if (rows.at[u] != kAbsent)
        values[u] = *reinterpret_cast<const Pack<S, kN>*>(source + rows.at[u] * width);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (at + u >= end) break;
      if (places.at[u] != place) {
        finish(false);
        place = places.at[u];
        from_before = any = false;
#pragma unroll
        for (int k = 0; k < kN; ++k) sum[k] = 0;
      }
      if (rows.at[u] == kAbsent) continue;
      any = true;
#pragma unroll
      for (int k = 0; k < kN; ++k) sum[k] += convert<C>(values[u].at[k]);
    }
  }
  finish(end < s.count && s.places[end] == place);
  if (s.next_places == nullptr || block > 0 || column > 0) return;
  s.next_places[2 * chunk] = s.places[begin];
  s.next_places[2 * chunk + 1] = place;
  s.next_rows[2 * chunk] = parts[0];
  s.next_rows[2 * chunk + 1] = parts[1];
}

/// The columns of the rows that are added, in packs of kN elements.
template <int kN>
struct Columns {
  std::int64_t width, outer;
};

template <class S, class T, int kN>
void add_sorted(const Context& context, const char* op, T* out, std::int64_t out_step,
                const S* source, std::int64_t step, const Columns<kN>& columns,
                const std::uint32_t* places, const std::uint32_t* rows, std::uint32_t count,
                std::uint32_t none) {
  using C = Computed<T>;
  // Shorter chunks where there would be few threads.
  constexpr std::int64_t kManyThreads = 1 << 16;
  const std::int64_t packs = columns.width / kN;
  std::int64_t chunk = 64;
  while (chunk > 16 && columns.outer * packs * (count / chunk) < kManyThreads) chunk /= 2;
  const std::int64_t chunks = ceil_div(count, chunk), parts = chunks > 1 ? 2 * chunks : 0;
  const auto part_rows = static_cast<std::size_t>(parts);
  const std::size_t listed = (part_rows + 127) / 128 * 128;  // read in packs
  const std::size_t sums = part_rows * static_cast<std::size_t>(columns.width * columns.outer);
  const Scratch scratch(
      context, std::max<std::size_t>(1, 2 * listed * sizeof(std::uint32_t) + sums * sizeof(C)));
  auto* const next_places = parts > 0 ? scratch.as<std::uint32_t>() : nullptr;
  auto* const next_rows = scratch.as<std::uint32_t>() + listed;
  auto* const next = reinterpret_cast<C*>(next_rows + listed);
  const std::int64_t threads = columns.outer * chunks * packs;
  Segments segments;
  segments.places = places;
  segments.rows = rows;
  segments.count = count;
  segments.none = none;
  segments.chunk = static_cast<std::uint32_t>(chunk);
  segments.next_places = next_places;
  segments.next_rows = next_rows;
  segments.packs = LongDivider(packs, threads + kThreads);
  segments.chunks = LongDivider(chunks, threads + kThreads);
  segments.outer = columns.outer;
  segments.out_step = out_step;
  segments.step = step;
  segments.next_step = parts * columns.width;
  launch(context, op, &add_rows<S, T, kN>, blocks_for(threads), kThreads, 0, out, source, next,
         segments);
  if (parts > 0)
    add_sorted<C, T, kN>(context, op, out, out_step, next, segments.next_step, columns, next_places,
                         next_rows, static_cast<std::uint32_t>(parts), none);
}

/// The places among `range` from `low` on of elements first, first + 1, ..; `range` itself for
/// others.
__global__ void __launch_bounds__(kThreads)
    list_places(std::uint32_t* places, std::uint32_t* rows, const Cells cells, std::int64_t start,
                std::int64_t n, std::int64_t low, std::uint32_t range) {
  const std::int64_t first = first_of_thread();
  std::int64_t cell[kFlight];
  cells.locate(cell, start + first, start + n);
#pragma unroll
  for (int k = 0; k < kFlight; ++k) {
    const std::int64_t i = first + k * kThreads, place = cell[k] - low;
    if (i >= n) continue;
    places[i] = place >= 0 && place < range ? static_cast<std::uint32_t>(place) : range;
    rows[i] = static_cast<std::uint32_t>(i);
  }
}

/// Rows of `width` elements: of each of `outer` blocks, row i of `count` is added to one of
/// `places` that is `cells`' for element i.
struct RowSums {
  std::int64_t outer, places, count, width;
  Cells cells;
};

void add_in_order(const Context& context, const char* op, const Tensor& out, const Tensor& source,
                  const RowSums& sums) {
  // As much as is counted in 32 bits.
  for (std::int64_t start = 0; start < sums.count; start += kLaunchElements) {
    const std::int64_t n = std::min(kLaunchElements, sums.count - start);
    const auto size = static_cast<std::size_t>(n);
    for (std::int64_t low = 0; low < sums.places; low += kLaunchElements) {
      const auto range = static_cast<std::uint32_t>(std::min(kLaunchElements, sums.places - low));
      Pairs<std::uint32_t, std::uint32_t> pairs(context, size);
      launch(context, op, &list_places, blocks_for(n, kFlight), kThreads, 0, pairs.keys(),
             pairs.positions(), sums.cells, start, n, low, range);
      pairs.sort(context, op, size, std::bit_width(range));
      visit_floating(out.type(), [&](auto tag) {
        using T = typename decltype(tag)::Type;
        constexpr int kWide = 16 / static_cast<int>(sizeof(T));
        T* const to = static_cast<T*>(out.data()) + low * sums.width;
        const T* const from = static_cast<const T*>(source.data()) + start * sums.width;
        const auto run = [&](const auto& columns) {
          add_sorted(context, op, to, sums.places * sums.width, from, sums.count * sums.width,
                     columns, pairs.keys(), pairs.positions(), static_cast<std::uint32_t>(n),
                     range);
        };
        if (sums.width % kWide == 0 && is_aligned(to, 16) && is_aligned(from, 16))
          run(Columns<kWide>{sums.width, sums.outer});
        else
          run(Columns<1>{sums.width, sums.outer});
      });
    }
  }
}

void add_unordered(const Context& context, const char* op, const Tensor& out, const Tensor& source,
                   const Cells& cells) {
  const auto n = static_cast<std::int64_t>(source.numel());
  visit(out.type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch(context, op, &add_elements<T>, blocks_for(n, kFlight), kThreads, 0,
           static_cast<T*>(out.data()), static_cast<const T*>(source.data()), cells, n);
  });
}

// ---- Writing ----

/// Notes at each cell the last element that goes there, counted from 1.
__global__ void __launch_bounds__(kThreads)
    find_last(std::uint32_t* last, const Cells cells, std::int64_t start, std::int64_t n) {
  const std::int64_t first = first_of_thread();
  std::int64_t cell[kFlight];
  cells.locate(cell, start + first, start + n);
#pragma unroll
  for (int k = 0; k < kFlight; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i < n) atomicMax(last + cell[k], static_cast<std::uint32_t>(i + 1));
  }
}

/// Writes elements start, start + 1, .., of those that go to one cell the last; `last` is null
/// where no two do.
template <class T>
__global__ void __launch_bounds__(kThreads)
    put(T* out, const T* source, const std::uint32_t* last, const Cells cells, std::int64_t start,
        std::int64_t n) {
  const std::int64_t first = first_of_thread();
  std::int64_t cell[kFlight];
  cells.locate(cell, start + first, start + n);
#pragma unroll
  for (int k = 0; k < kFlight; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i < n && (last == nullptr || last[cell[k]] == i + 1)) out[cell[k]] = source[start + i];
  }
}

void put_last(const Context& context, const char* op, const Tensor& out, const Tensor& source,
              const Cells& cells, bool once) {
  const auto n = static_cast<std::int64_t>(source.numel());
  const std::size_t bytes = once ? 1 : out.numel() * sizeof(std::uint32_t);
  const Scratch scratch(context, bytes);
  auto* const last = once ? nullptr : scratch.as<std::uint32_t>();
  for (std::int64_t start = 0; start < n; start += kLaunchElements) {
    const std::int64_t some = std::min(kLaunchElements, n - start);
    if (last) {
      check(cudaMemsetAsync(last, 0, bytes, context.stream), op);
      launch(context, op, &find_last, blocks_for(some, kFlight), kThreads, 0, last, cells, start,
             some);
    }
    visit_bits(out.type(), [&](auto tag) {
      using T = typename decltype(tag)::Type;
      launch(context, op, &put<T>, blocks_for(some, kFlight), kThreads, 0,
             static_cast<T*>(out.data()), static_cast<const T*>(source.data()), last, cells, start,
             some);
    });
  }
}

}  // namespace

void index_select(const char* op, const Tensor& out, const Tensor& x, int axis,
                  const Tensor& index) {
  check_axis(op, x, axis, index);
  if (out.numel() == 0) return;
  const Context context(out.device());
  const Tensor source = x.contiguous();
  Axes axes(source.shape(), axis);
  const auto size = static_cast<std::int64_t>(tensor::size_of(x.type()));
  const std::uintptr_t bits = static_cast<std::uintptr_t>(axes.inner * size) |
                              address_of(out.data()) | address_of(source.data());
  visit_units(bits, [&](auto tag) {
    using Unit = typename decltype(tag)::Type;
    constexpr auto kSize = static_cast<std::int64_t>(sizeof(Unit));
    axes.inner = axes.inner * size / kSize;
    const auto n = static_cast<std::int64_t>(out.numel()) * size / kSize;
    const std::int64_t rows = n / axes.inner, columns = ceil_div(axes.inner, kRowWidth);
    if (axes.inner >= 32 && rows <= kLaunchElements && columns <= kMostColumns)
      return launch(
          context, op, &pick_rows<Unit>,
          dim3(static_cast<unsigned>(ceil_div(rows, kRowsOfBlock)), static_cast<unsigned>(columns)),
          kThreads, 0, static_cast<Unit*>(out.data()), static_cast<const Unit*>(source.data()),
          static_cast<const std::int64_t*>(index.data()), Positions(context, op, axes.size),
          Divider(static_cast<std::uint32_t>(index.numel())), static_cast<std::uint32_t>(rows),
          static_cast<std::uint32_t>(axes.inner));
    launch(context, op, &pick<Unit>, blocks_for(n, kFlight), kThreads, 0,
           static_cast<Unit*>(out.data()), static_cast<const Unit*>(source.data()),
           Cells(context, op, axes, index, false), n, 1u);
  });
}

void index_add(const char* op, const Tensor& out, int axis, const Tensor& index,
               const Tensor& source) {
  check_axis(op, out, axis, index);
  if (source.numel() == 0) return;
  const Context context(out.device());
  const Tensor terms = source.contiguous();
  const Axes axes(out.shape(), axis);
  if (!tensor::is_floating(out.type()) || index.numel() == 1)
    return add_unordered(context, op, out, terms, Cells(context, op, axes, index, false));
  Axes along = axes;
  along.outer = along.inner = 1;
  add_in_order(context, op, out, terms,
               {axes.outer, axes.size, static_cast<std::int64_t>(index.numel()), axes.inner,
                Cells(context, op, along, index, false)});
}

void gather(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index) {
  check_axis(op, x, axis, index);
  if (out.numel() == 0) return;
  const Context context(out.device());
  const Tensor source = within(x, index.shape(), axis).contiguous();
  const Axes axes(source.shape(), axis);
  visit_bits(out.type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto n = static_cast<std::int64_t>(out.numel());
    const bool whole = axes.inner % (kThreads * kFlight) == 0;
    launch(context, op, &pick<T>, blocks_for(n, kFlight), kThreads, 0, static_cast<T*>(out.data()),
           static_cast<const T*>(source.data()), Cells(context, op, axes, index, true), n,
           whole ? static_cast<std::uint32_t>(n / axes.inner) : 1u);
  });
}

void scatter(const char* op, const Tensor& out, int axis, const Tensor& index, const Tensor& source,
             bool add) {
  check_axis(op, out, axis, index);
  if (source.numel() == 0) return;
  const Context context(out.device());
  const Tensor values = source.contiguous();
  const Tensor part = within(out, index.shape(), axis), whole = part.contiguous();
  const Cells cells(context, op, Axes(whole.shape(), axis), index, true);
  const bool once = index.shape().dim(axis) == 1;  // to each cell
  if (!add)
    put_last(context, op, whole, values, cells, once);
  else if (once || !tensor::is_floating(out.type()))
    add_unordered(context, op, whole, values, cells);
  else
    add_in_order(context, op, whole, values,
                 {1, static_cast<std::int64_t>(whole.numel()),
                  static_cast<std::int64_t>(values.numel()), 1, cells});
  if (whole.data() != part.data()) copy(part, whole);
}

// ---- What is not zero ----

namespace {

constexpr int kPerThread = 16;
constexpr int kTile = kThreads * kPerThread;  // of a block
constexpr int kWarps = kThreads / 32;

/// All bits of an element but the sign of a zero.
std::uint64_t value_bits(DataType type) {
  const int bits = 8 * static_cast<int>(tensor::size_of(type));
  return ~std::uint64_t{0} >> (64 - bits + (tensor::is_floating(type) ? 1 : 0));
}

/// How many elements are set in each tile, or where `counts` is null in all, added to `total`.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_set(std::int64_t* counts, unsigned long long* total, const T* x, std::int64_t n, T bits,
              bool aligned) {
  constexpr int kN = 16 / static_cast<int>(sizeof(T));
  const std::int64_t first = std::int64_t{blockIdx.x} * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  int count = 0;
  if (aligned && first + kTile <= n) {
    Pack<T, kN> packs[kPerThread / kN];
#pragma unroll
    for (int p = 0; p < kPerThread / kN; ++p)
      packs[p] = *reinterpret_cast<const Pack<T, kN>*>(x + first + (p * kThreads + thread) * kN);
#pragma unroll
    for (int p = 0; p < kPerThread / kN; ++p)
#pragma unroll
      for (int k = 0; k < kN; ++k) count += (packs[p].at[k] & bits) != 0;
  } else {
    for (std::int64_t i = first + thread; i < min(first + kTile, n); i += kThreads)
      count += (x[i] & bits) != 0;
  }
  __shared__ int counted[kWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) count += __shfl_down_sync(~0u, count, step);
  if (thread % 32 == 0) counted[thread / 32] = count;
  __syncthreads();
  if (thread > 0) return;
  count = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) count += counted[w];
  if (counts)
    counts[blockIdx.x] = count;
  else if (count > 0)
    atomicAdd(total, static_cast<unsigned long long>(count));
}

struct Sizes {
  int ndim = 0;
  LongDivider at[tensor::kMaxDims];
};

/// Writes where elements are set; `starts` has the number of those before each tile, null for one
/// tile.
template <class T>
__global__ void __launch_bounds__(kThreads)
    find_set(std::int64_t* out, const std::int64_t* starts, const T* x, std::int64_t n, T bits,
             const Sizes sizes) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t first = std::int64_t{blockIdx.x} * kTile + warp * (kTile / kWarps) + lane;
  unsigned set[kPerThread];
  int count = 0;
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const std::int64_t i = first + k * 32;
    set[k] = __ballot_sync(~0u, i < n && (x[i] & bits) != 0);
    count += __popc(set[k]);
  }
  __shared__ int counted[kWarps];
  if (lane == 0) counted[warp] = count;
  __syncthreads();
  std::int64_t before = starts ? starts[blockIdx.x] : 0;
  for (int w = 0; w < warp; ++w) before += counted[w];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    if ((set[k] >> lane & 1) != 0) {
      const std::int64_t row = before + __popc(set[k] & ((1u << lane) - 1));
      std::int64_t i = first + k * 32;
#pragma unroll 1
      for (int d = sizes.ndim - 1; d >= 0; --d) {
        const std::int64_t outer = sizes.at[d].divide(i);
        out[row * sizes.ndim + d] = i - outer * sizes.at[d].divisor;
        i = outer;
      }
    }
    before += __popc(set[k]);
  }
}

}  // namespace

std::size_t count_nonzero(const Tensor& x) {
  constexpr const char* kOp = "count_nonzero";
  if (x.numel() == 0) return 0;
  check_not_capturing(kOp);
  const Context context(x.device());
  const Tensor dense = x.contiguous();
  const auto n = static_cast<std::int64_t>(dense.numel());
  unsigned long long found = 0;
  const Scratch scratch(context, sizeof(found));
  auto* const total = scratch.as<unsigned long long>();
  check(cudaMemsetAsync(total, 0, sizeof(found), context.stream), kOp);
  visit_bits(dense.type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch(context, kOp, &count_set<T>, static_cast<unsigned>(ceil_div(n, kTile)), kThreads, 0,
           nullptr, total, static_cast<const T*>(dense.data()), n,
           static_cast<T>(value_bits(dense.type())), is_aligned(dense.data(), 16));
  });
  check(cudaMemcpyAsync(&found, total, sizeof(found), cudaMemcpyDeviceToHost, context.stream), kOp);
  synchronize(context, kOp);
  return found;
}

void nonzero(const Tensor& out, const Tensor& x) {
  constexpr const char* kOp = "nonzero";
  if (out.numel() == 0) return;
  const Context context(x.device());
  const Tensor dense = x.contiguous();
  const auto n = static_cast<std::int64_t>(dense.numel());
  Sizes sizes;
  sizes.ndim = x.ndim();
  for (int d = 0; d < sizes.ndim; ++d) sizes.at[d] = LongDivider(x.shape().dim(d), n);
  const std::int64_t tiles = ceil_div(n, kTile);
  const auto blocks = static_cast<unsigned>(tiles);
  const Scratch scratch(context, static_cast<std::size_t>(tiles) * sizeof(std::int64_t));
  auto* const starts = tiles > 1 ? scratch.as<std::int64_t>() : nullptr;
  visit_bits(dense.type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto* const from = static_cast<const T*>(dense.data());
    const T bits = static_cast<T>(value_bits(dense.type()));
    if (starts) {
      launch(context, kOp, &count_set<T>, blocks, kThreads, 0, starts, nullptr, from, n, bits,
             is_aligned(from, 16));
      const auto scan = [&](void* memory, std::size_t& bytes) {
        check(cub::DeviceScan::ExclusiveSum(memory, bytes, starts, starts, tiles, context.stream),
              kOp);
      };
      std::size_t bytes = 0;
      scan(nullptr, bytes);
      const Scratch memory(context, std::max<std::size_t>(bytes, 1));
      scan(memory.as<>(), bytes);
      count_launch();
    }
    launch(context, kOp, &find_set<T>, blocks, kThreads, 0, static_cast<std::int64_t*>(out.data()),
           starts, from, n, bits, sizes);
  });
}

}  // namespace lmp::cuda
