#include "cuda/sort.hpp"

#include <bit>
#include <cub/block/block_radix_sort.cuh>
#include <cub/device/device_radix_sort.cuh>

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
// a second pass.

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

/// The key of element i in the low bits.
template <class Key>
__device__ __forceinline__ Key key_at(const void* x, std::int64_t i, const Rule& rule) {
  Key bits;
  if constexpr (sizeof(Key) == 8) {
    bits = static_cast<const std::uint64_t*>(x)[i];
  } else {
    bits = rule.bits == 32   ? static_cast<const std::uint32_t*>(x)[i]
           : rule.bits == 16 ? static_cast<const std::uint16_t*>(x)[i]
                             : static_cast<const std::uint8_t*>(x)[i];
  }
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

constexpr int kThreads = 256;

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

/// Rows of n <= 2^log_row elements.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    sort_short_rows(std::int64_t* order, int keep, const void* x, int n, int log_row,
                    std::int64_t rows, const Rule rule) {
  __shared__ Entry<Key> entries[kEntries];
  const int length = 1 << log_row;
  const std::int64_t first = std::int64_t{blockIdx.x} * (kEntries >> log_row);
  for (int i = static_cast<int>(threadIdx.x); i < kEntries; i += kThreads) {
    const std::int64_t row = first + (i >> log_row);
    const int at = i & (length - 1);
    // What fills up comes after all else.
    entries[i] = row < rows && at < n
                     ? Entry<Key>{key_at<Key>(x, row * n + at, rule), static_cast<unsigned>(at)}
                     : Entry<Key>{static_cast<Key>(~Key{0}), ~0u};
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
    if (row < rows && at < keep) order[row * keep + at] = entries[i].position;
  }
}

constexpr int kTile = 2048;  // the longest rows of a block

/// A row of n <= kBlock * kEach elements for each block.
template <class Key, int kBlock, int kEach>
__global__ void __launch_bounds__(kBlock)
    sort_rows(std::int64_t* order, int keep, const void* x, int n, const Rule rule) {
  using Sort = cub::BlockRadixSort<Key, kBlock, kEach, std::uint16_t>;
  __shared__ typename Sort::TempStorage storage;
  const std::int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  Key keys[kEach];
  std::uint16_t positions[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int at = thread * kEach + k;
    // What fills up comes after all else, as its positions do.
    keys[k] = at < n ? key_at<Key>(x, row * n + at, rule) : static_cast<Key>(~Key{0});
    positions[k] = static_cast<std::uint16_t>(at);
  }
  Sort(storage).SortBlockedToStriped(keys, positions, 0, rule.bits);
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int at = k * kBlock + thread;
    if (at < keep) order[row * keep + at] = positions[k];
  }
}

template <class Key>
void sort_small(const Context& context, std::int64_t* order, std::int64_t keep, const void* x,
                std::int64_t n, std::int64_t rows, const Rule& rule) {
  const int length = static_cast<int>(n), kept = static_cast<int>(keep);
  if (n <= kShort) {
    const int log_row = std::bit_width(static_cast<unsigned>(length - 1));
    launch(context, "argsort", &sort_short_rows<Key>,
           static_cast<unsigned>(ceil_div(rows, kEntries >> log_row)), kThreads, 0, order, kept, x,
           length, log_row, rows, rule);
  } else if (n <= 512) {
    launch(context, "argsort", &sort_rows<Key, 128, 4>, static_cast<unsigned>(rows), 128, 0, order,
           kept, x, length, rule);
  } else {
    launch(context, "argsort", &sort_rows<Key, 256, 8>, static_cast<unsigned>(rows), 256, 0, order,
           kept, x, length, rule);
  }
}

// ---- Longer rows ----

constexpr int kEach = 4;  // elements that a thread takes, kThreads apart

unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(ceil_div(n, std::int64_t{kThreads} * kEach));
}

/// f(i) for the elements of a thread before n.
template <class F>
__device__ __forceinline__ void for_each(std::int64_t n, F f) {
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads * kEach + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    if (const std::int64_t i = first + k * kThreads; i < n) f(i);
}

/// Keys with the number of their row above, if there are several.
template <class Key, class Position>
__global__ void __launch_bounds__(kThreads)
    make_keys(Key* keys, Position* positions, const void* x, const LongDivider row,
              std::int64_t count, bool with_row, const Rule rule) {
  for_each(count, [&](std::int64_t i) {
    Key key;
    // From memory as wide as the element.
    if constexpr (sizeof(Key) == 8)
      key = rule.bits == 64 ? key_at<std::uint64_t>(x, i, rule) : key_at<std::uint32_t>(x, i, rule);
    else
      key = key_at<Key>(x, i, rule);
    if (with_row) key |= static_cast<Key>(row.divide(i)) << rule.bits;
    keys[i] = key;
    positions[i] = static_cast<Position>(i);
  });
}

__global__ void __launch_bounds__(kThreads)
    make_row_keys(std::uint32_t* keys, std::uint32_t* to, const std::uint32_t* positions,
                  const LongDivider row, std::int64_t count) {
  for_each(count, [&](std::int64_t i) {
    to[i] = positions[i];
    keys[i] = static_cast<std::uint32_t>(row.divide(positions[i]));
  });
}

/// The first ones of each row of n, counted from the start of the row.
template <class Position>
__global__ void __launch_bounds__(kThreads)
    write_order(std::int64_t* order, const Position* positions, const LongDivider keep,
                std::int64_t n, std::int64_t count) {
  for_each(count, [&](std::int64_t i) {
    const std::int64_t row = keep.divide(i), at = i - row * keep.divisor;
    order[i] = static_cast<std::int64_t>(positions[row * n + at]) - row * n;
  });
}

/// By the keys, `with_row` the rows too.
template <class Key, class Position>
void sort_by_key(const Context& context, std::int64_t* order, std::int64_t keep, const void* x,
                 std::int64_t n, std::int64_t rows, bool with_row, const Rule& rule) {
  const std::int64_t count = n * rows;
  const auto size = static_cast<std::size_t>(count);
  const int row_bits = std::bit_width(static_cast<std::uint64_t>(rows - 1));
  const LongDivider row(n, count);
  Pairs<Key, Position> pairs(context, size);
  launch(context, "argsort", &make_keys<Key, Position>, blocks_for(count), kThreads, 0,
         pairs.keys(), pairs.positions(), x, row, count, with_row && rows > 1, rule);
  pairs.sort(context, "argsort", size, rule.bits + (with_row ? row_bits : 0));
  const auto write = [&](const auto* positions) {
    using At = std::remove_const_t<std::remove_pointer_t<decltype(positions)>>;
    launch(context, "argsort", &write_order<At>, blocks_for(rows * keep), kThreads, 0, order,
           positions, LongDivider(keep, rows * keep), n, rows * keep);
  };
  if constexpr (sizeof(Position) == 4) {
    if (!with_row && rows > 1) {
      Pairs<std::uint32_t, std::uint32_t> by_row(context, size);
      launch(context, "argsort", &make_row_keys, blocks_for(count), kThreads, 0, by_row.keys(),
             by_row.positions(), pairs.positions(), row, count);
      by_row.sort(context, "argsort", size, row_bits);
      return write(by_row.positions());
    }
  }
  write(pairs.positions());
}

void sort_large(const Context& context, std::int64_t* order, std::int64_t keep, const void* x,
                std::int64_t n, std::int64_t rows, const Rule& rule) {
  if (n > kLaunchElements)
    return sort_by_key<std::uint64_t, std::uint64_t>(context, order, keep, x, n, rows, true, rule);
  const int bits = rule.bits + std::bit_width(static_cast<std::uint64_t>(rows - 1));
  if (bits <= 32)
    sort_by_key<std::uint32_t, std::uint32_t>(context, order, keep, x, n, rows, true, rule);
  else
    sort_by_key<std::uint64_t, std::uint32_t>(context, order, keep, x, n, rows, bits <= 64, rule);
}

void sort_all(const Context& context, std::int64_t* order, std::int64_t keep, const void* x,
              std::int64_t n, std::int64_t rows, const Rule& rule) {
  const bool small = n <= kTile;
  // As many rows as one launch takes; one where it is longer than that.
  const std::int64_t most = std::max<std::int64_t>(1, kLaunchElements / n);
  for (std::int64_t row = 0; row < rows; row += most) {
    const std::int64_t some = std::min(most, rows - row);
    const void* const from = static_cast<const std::byte*>(x) + row * n * (rule.bits / 8);
    std::int64_t* const to = order + row * keep;
    if (!small)
      sort_large(context, to, keep, from, n, some, rule);
    else if (rule.bits == 64)
      sort_small<std::uint64_t>(context, to, keep, from, n, some, rule);
    else
      sort_small<std::uint32_t>(context, to, keep, from, n, some, rule);
  }
}

}  // namespace

void argsort(const Tensor& out, const Tensor& x, int axis, bool descending) {
  const Context context(x.device());
  // The sorted axis last and dense; the result is written back through a view of that order.
  const Tensor rows = x.movedim(axis, -1).contiguous();
  const Tensor view = out.movedim(axis, -1);
  const Tensor order = view.is_contiguous()
                           ? view
                           : tensor::detail::allocate(view.shape(), DataType::Int64, x.device());
  const std::int64_t n = x.shape().dim(axis);
  sort_all(context, static_cast<std::int64_t*>(order.data()), out.shape().dim(axis), rows.data(), n,
           static_cast<std::int64_t>(x.numel()) / n, rule_of(x.type(), descending));
  if (!view.is_contiguous()) copy(view, order);
}

}  // namespace lmp::cuda
