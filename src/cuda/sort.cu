#include "cuda/sort.hpp"

#include <bit>
#include <cub/block/block_radix_sort.cuh>
#include <cub/device/device_radix_sort.cuh>
#include <optional>
#include <type_traits>

#include "cuda/backend.hpp"
#include "cuda/long_divider.cuh"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"

namespace lmp::cuda {

template <class Key, class Position>
void Pairs<Key, Position>::sort(const Context& context, const char* op, std::size_t count,
                                int bits) {
  cub::DoubleBuffer<Key> both_keys(keys(second_keys_), keys(!second_keys_));
  cub::DoubleBuffer<Position> both_positions(positions(second_positions_),
                                             positions(!second_positions_));
  // The type of the count is that of offsets in the kernels.
  const auto run = [&](void* memory, std::size_t& bytes) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, both_keys, both_positions,
                                          static_cast<Position>(count), 0, bits, context.stream),
          op);
  };
  std::size_t bytes = 0;
  run(nullptr, bytes);
  const Scratch memory(context, std::max<std::size_t>(bytes, 1));
  run(memory.as<>(), bytes);
  count_launch();
  second_keys_ ^= both_keys.selector != 0;
  second_positions_ ^= both_positions.selector != 0;
}

template class Pairs<std::uint32_t, std::uint32_t>;

namespace {

// Note [Sorting on a GPU]
// Elements become keys as on the CPU, see Note [Sorting] there, but as wide as they are. A row of
// up to kTile elements is sorted by one block, short ones by a bitonic network of entries of key
// and position, several rows together. Longer rows are sorted together by the digits of their keys,
// and by the rows' numbers after that: as the upper digits of one key where there is room, else in
// a second pass. Sorted elements, where they are asked for, are made of the keys, but for those
// that share one: zeros of either sign, and NaN.

enum class Kind { Unsigned, Signed, Floating };

/// How elements become keys.
struct Rule {
  Kind kind = Kind::Unsigned;
  int bits = 0;                // of an element
  std::uint64_t infinity = 0;  // its bits
  bool descending = false;
};

Rule rule_of(DataType type, bool descending) {
  Rule rule;
  rule.kind = tensor::is_floating(type)                           ? Kind::Floating
              : type == DataType::Bool || type == DataType::UInt8 ? Kind::Unsigned
                                                                  : Kind::Signed;
  rule.bits = 8 * static_cast<int>(tensor::size_of(type));
  rule.infinity = type == DataType::Float16    ? 0x7c00u
                  : type == DataType::BFloat16 ? 0x7f80u
                  : type == DataType::Float32  ? 0x7f800000u
                                               : 0x7ff0000000000000u;
  rule.descending = descending;
  return rule;
}

/// The bits of elements first, first + step, .. before `end`, all ones for others.
template <class Key, int kCount>
__device__ __forceinline__ void load_bits(Key (&bits)[kCount], const void* x, std::int64_t first,
                                          int step, std::int64_t end, const Rule& rule) {
  const auto load = [&](const auto* from) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const std::int64_t i = first + k * step;
      bits[k] = i < end ? static_cast<Key>(from[i]) : static_cast<Key>(~Key{0});
    }
  };
  if constexpr (sizeof(Key) == 8)
    if (rule.bits == 64) return load(static_cast<const std::uint64_t*>(x));
  if (rule.bits == 32) return load(static_cast<const std::uint32_t*>(x));
  if (rule.bits == 16) return load(static_cast<const std::uint16_t*>(x));
  load(static_cast<const std::uint8_t*>(x));
}

/// In the low bits.
template <class Key>
__device__ __forceinline__ Key key_of(Key bits, const Rule& rule) {
  const Key sign = Key{1} << (rule.bits - 1), all = sign | (sign - 1);
  Key key = bits;
  if (rule.kind == Kind::Signed) {
    key ^= sign;
  } else if (rule.kind == Kind::Floating) {
    const Key size = bits & (sign - 1);
    key = size == 0 || bits == size ? size | sign : bits ^ all;  // no -0
    if (size > static_cast<Key>(rule.infinity)) key = all;
  }
  return rule.descending ? key ^ all : key;
}

/// Where the first `keep` positions of each row of n go, and the elements there unless `values` is
/// null.
struct Sorted {
  std::int64_t* order = nullptr;
  void* values = nullptr;
  const void* x = nullptr;
  std::int64_t n = 0, keep = 0;
  Rule rule;

  /// Element `at` of the result is the one at `position` of a row.
  __device__ __forceinline__ void write(std::int64_t at, std::int64_t row,
                                        std::int64_t position) const {
    order[at] = position;
    if (values) copy(at, row * n + position);
  }
  /// The same where the element's key, or one that has it in the low bits, is at hand.
  template <class Key>
  __device__ __forceinline__ void write(std::int64_t at, std::int64_t row, std::int64_t position,
                                        Key key) const {
    order[at] = position;
    if (values == nullptr) return;
    const Key sign = Key{1} << (rule.bits - 1), all = sign | (sign - 1);
    Key bits = (rule.descending ? ~key : key) & all;
    if (rule.kind == Kind::Signed) {
      bits ^= sign;
    } else if (rule.kind == Kind::Floating) {
      if (bits == all || bits == sign) return copy(at, row * n + position);
      bits = bits & sign ? bits ^ sign : bits ^ all;
    }
    if (rule.bits == 64)
      static_cast<std::uint64_t*>(values)[at] = static_cast<std::uint64_t>(bits);
    else if (rule.bits == 32)
      static_cast<std::uint32_t*>(values)[at] = static_cast<std::uint32_t>(bits);
    else if (rule.bits == 16)
      static_cast<std::uint16_t*>(values)[at] = static_cast<std::uint16_t>(bits);
    else
      static_cast<std::uint8_t*>(values)[at] = static_cast<std::uint8_t>(bits);
  }

 private:
  __device__ __forceinline__ void copy(std::int64_t to, std::int64_t from) const {
    if (rule.bits == 64)
      static_cast<std::uint64_t*>(values)[to] = static_cast<const std::uint64_t*>(x)[from];
    else if (rule.bits == 32)
      static_cast<std::uint32_t*>(values)[to] = static_cast<const std::uint32_t*>(x)[from];
    else if (rule.bits == 16)
      static_cast<std::uint16_t*>(values)[to] = static_cast<const std::uint16_t*>(x)[from];
    else
      static_cast<std::uint8_t*>(values)[to] = static_cast<const std::uint8_t*>(x)[from];
  }
};

// ---- Rows that a block sorts ----

template <class Key>
struct Entry {
  Key key;
  std::uint32_t position;
  __device__ __forceinline__ bool operator<(const Entry& b) const {
    return key < b.key || (key == b.key && position < b.position);
  }
};

constexpr int kShort = 256;     // the longest rows of a network
constexpr int kEntries = 1024;  // of a block

/// Rows of at most 2^log_row elements.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    sort_short_rows(const Sorted s, int log_row, std::int64_t rows) {
  __shared__ Entry<Key> entries[kEntries];
  const int length = 1 << log_row, n = static_cast<int>(s.n), keep = static_cast<int>(s.keep);
  const std::int64_t first = std::int64_t{blockIdx.x} * (kEntries >> log_row);
  for (int i = static_cast<int>(threadIdx.x); i < kEntries; i += kThreads) {
    const std::int64_t row = first + (i >> log_row);
    const int at = i & (length - 1);
    // What fills up comes after all else.
    if (row < rows && at < n) {
      Key bits[1];
      load_bits(bits, s.x, row * n + at, 1, row * n + n, s.rule);
      entries[i] = {key_of(bits[0], s.rule), static_cast<unsigned>(at)};
    } else {
      entries[i] = {static_cast<Key>(~Key{0}), ~0u};
    }
  }
  __syncthreads();
  for (int size = 2; size <= length; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < kEntries / 2; i += kThreads) {
        const int low = 2 * i - (i & (step - 1)), high = low + step;
        const Entry<Key> a = entries[low], b = entries[high];
        const bool falls = (low & (length - 1) & size) != 0;
        if ((b < a) != falls) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      __syncthreads();
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < kEntries; i += kThreads) {
    const std::int64_t row = first + (i >> log_row);
    const int at = i & (length - 1);
    if (row < rows && at < keep) s.write(row * keep + at, row, entries[i].position, entries[i].key);
  }
}

constexpr int kTile = 4096;  // the longest rows of a block

/// A row of at most kBlock * kEach elements for each block.
template <class Key, int kBlock, int kEach>
__global__ void __launch_bounds__(kBlock, sizeof(Key) == 8 ? 2 : 3) sort_rows(const Sorted s) {
  using Sort = cub::BlockRadixSort<Key, kBlock, kEach, std::uint16_t>;
  constexpr int kPad = 32;  // a place left out after so many spares banks conflicts
  __shared__ union {
    typename Sort::TempStorage storage;
    Key loaded[kBlock * kEach + kBlock * kEach / kPad];
  } shared;
  const std::int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), keep = static_cast<int>(s.keep);
  Key keys[kEach];
  std::uint16_t positions[kEach];
  load_bits(keys, s.x, row * s.n + thread, kBlock, row * s.n + s.n, s.rule);
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int at = k * kBlock + thread;
    // What fills up comes after all else, as its positions do.
    shared.loaded[at + at / kPad] = at < s.n ? key_of(keys[k], s.rule) : static_cast<Key>(~Key{0});
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int at = thread * kEach + k;
    keys[k] = shared.loaded[at + at / kPad];
    positions[k] = static_cast<std::uint16_t>(at);
  }
  __syncthreads();
  Sort(shared.storage).SortBlockedToStriped(keys, positions, 0, s.rule.bits);
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int at = k * kBlock + thread;
    if (at < keep) s.write(row * keep + at, row, positions[k], keys[k]);
  }
}

template <int kValue>
using Number = std::integral_constant<int, kValue>;

template <class Key>
void sort_small(const Context& context, const Sorted& s, std::int64_t rows) {
  const auto by_block = [&](auto threads, auto each) {
    launch(context, "argsort", &sort_rows<Key, decltype(threads)::value, decltype(each)::value>,
           static_cast<unsigned>(rows), decltype(threads)::value, 0, s);
  };
  if (s.n <= kShort) {
    const int log_row = std::bit_width(static_cast<unsigned>(s.n - 1));
    launch(context, "argsort", &sort_short_rows<Key>,
           static_cast<unsigned>(ceil_div(rows, kEntries >> log_row)), kThreads, 0, s, log_row,
           rows);
  } else if (s.n <= 512) {
    by_block(Number<128>(), Number<4>());
  } else if (s.n <= 2048) {
    by_block(Number<256>(), Number<8>());
  } else {
    by_block(Number<256>(), Number<16>());
  }
}

// ---- Longer rows ----

constexpr int kEach = 4;  // elements that a thread takes, kThreads apart

__device__ __forceinline__ std::int64_t first_of_thread() {
  return std::int64_t{blockIdx.x} * kThreads * kEach + threadIdx.x;
}

/// Keys with the number of their row above, if there are several.
template <class Key, class Position>
__global__ void __launch_bounds__(kThreads)
    make_keys(Key* keys, Position* positions, const Sorted s, const LongDivider row,
              std::int64_t count, bool with_row) {
  const std::int64_t first = first_of_thread();
  Key bits[kEach];
  load_bits(bits, s.x, first, kThreads, count, s.rule);
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i >= count) break;
    Key key = key_of(bits[k], s.rule);
    if (with_row) key |= static_cast<Key>(row.divide(i)) << s.rule.bits;
    keys[i] = key;
    positions[i] = static_cast<Position>(i);
  }
}

__global__ void __launch_bounds__(kThreads)
    make_row_keys(std::uint32_t* keys, std::uint32_t* to, const std::uint32_t* positions,
                  const LongDivider row, std::int64_t count) {
  const std::int64_t first = first_of_thread();
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i >= count) break;
    to[i] = positions[i];
    keys[i] = static_cast<std::uint32_t>(row.divide(positions[i]));
  }
}

/// Out of the sorted rows; `keys` is null where the elements' keys are no longer at hand.
template <class Key, class Position>
__global__ void __launch_bounds__(kThreads)
    write_sorted(const Sorted s, const Key* keys, const Position* positions, const LongDivider keep,
                 std::int64_t count) {
  const std::int64_t first = first_of_thread();
  std::int64_t row[kEach];
  Position position[kEach];
  Key key[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i >= count) break;
    row[k] = keep.divide(i);
    const std::int64_t from = row[k] * s.n + (i - row[k] * keep.divisor);
    position[k] = positions[from];
    if (keys) key[k] = keys[from];
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const std::int64_t i = first + k * kThreads;
    if (i >= count) break;
    const std::int64_t at = static_cast<std::int64_t>(position[k]) - row[k] * s.n;
    if (keys)
      s.write(i, row[k], at, key[k]);
    else
      s.write(i, row[k], at);
  }
}

/// By the keys, `with_row` the rows too.
template <class Key, class Position>
void sort_by_key(const Context& context, const Sorted& s, std::int64_t rows, bool with_row) {
  const std::int64_t count = s.n * rows, kept = rows * s.keep;
  const auto size = static_cast<std::size_t>(count);
  const int row_bits = std::bit_width(static_cast<std::uint64_t>(rows - 1));
  const LongDivider row(s.n, count), keep(s.keep, kept);
  Pairs<Key, Position> pairs(context, size);
  launch(context, "argsort", &make_keys<Key, Position>, blocks_for(count, kEach), kThreads, 0,
         pairs.keys(), pairs.positions(), s, row, count, with_row && rows > 1);
  pairs.sort(context, "argsort", size, s.rule.bits + (with_row ? row_bits : 0));
  if constexpr (sizeof(Position) == 4) {
    if (!with_row && rows > 1) {
      Pairs<std::uint32_t, std::uint32_t> by_row(context, size);
      launch(context, "argsort", &make_row_keys, blocks_for(count, kEach), kThreads, 0,
             by_row.keys(), by_row.positions(), pairs.positions(), row, count);
      by_row.sort(context, "argsort", size, row_bits);
      launch(context, "argsort", &write_sorted<Key, Position>, blocks_for(kept, kEach), kThreads, 0,
             s, nullptr, by_row.positions(), keep, kept);
      return;
    }
  }
  launch(context, "argsort", &write_sorted<Key, Position>, blocks_for(kept, kEach), kThreads, 0, s,
         pairs.keys(), pairs.positions(), keep, kept);
}

void sort_large(const Context& context, const Sorted& s, std::int64_t rows) {
  if (s.n > kLaunchElements)
    return sort_by_key<std::uint64_t, std::uint64_t>(context, s, rows, true);
  const int bits = s.rule.bits + std::bit_width(static_cast<std::uint64_t>(rows - 1));
  if (bits <= 32)
    sort_by_key<std::uint32_t, std::uint32_t>(context, s, rows, true);
  else
    sort_by_key<std::uint64_t, std::uint32_t>(context, s, rows, bits <= 64);
}

void sort_all(const Context& context, const Sorted& all, std::int64_t rows) {
  const bool small = all.n <= kTile;
  // As many rows as one launch takes; one where it is longer than that.
  const std::int64_t most = std::max<std::int64_t>(1, kLaunchElements / all.n);
  const std::int64_t bytes = all.rule.bits / 8;
  for (std::int64_t row = 0; row < rows; row += most) {
    const std::int64_t some = std::min(most, rows - row);
    Sorted s = all;
    s.x = static_cast<const std::byte*>(all.x) + row * all.n * bytes;
    s.order += row * all.keep;
    if (s.values) s.values = static_cast<std::byte*>(all.values) + row * all.keep * bytes;
    if (!small)
      sort_large(context, s, some);
    else if (s.rule.bits == 64)
      sort_small<std::uint64_t>(context, s, some);
    else
      sort_small<std::uint32_t>(context, s, some);
  }
}

/// A view of an output with `axis` last, or where that is not dense, what stands in for it.
struct RowsOut {
  RowsOut(const Tensor& out, int axis)
      : view(out.movedim(axis, -1)),
        dense(view.is_contiguous()
                  ? view
                  : tensor::detail::allocate(view.shape(), view.type(), view.device())) {}
  void finish() const {
    if (!view.is_contiguous()) cuda::copy(view, dense);
  }
  Tensor view, dense;
};

}  // namespace

void argsort(const Tensor& order, const Tensor& values, const Tensor& x, int axis,
             bool descending) {
  const Context context(x.device());
  const Tensor rows = x.movedim(axis, -1).contiguous();
  const RowsOut to(order, axis);
  std::optional<RowsOut> sorted;
  Sorted s;
  if (values.defined()) s.values = sorted.emplace(values, axis).dense.data();
  s.order = static_cast<std::int64_t*>(to.dense.data());
  s.x = rows.data();
  s.n = x.shape().dim(axis);
  s.keep = order.shape().dim(axis);
  s.rule = rule_of(x.type(), descending);
  sort_all(context, s, static_cast<std::int64_t>(x.numel()) / s.n);
  to.finish();
  if (sorted) sorted->finish();
}

}  // namespace lmp::cuda
