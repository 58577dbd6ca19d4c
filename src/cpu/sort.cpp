#include <algorithm>
#include <bit>
#include <utility>

#include "cpu/backend.hpp"
#include "cpu/kernels.hpp"
#include "cpu/scratch.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/parallel.hpp"

namespace lmp::cpu {
namespace {

/// Note [Sorting]
/// An element becomes an unsigned key in whose order it sorts: an integer with the bit of its sign
/// turned, a float as the integer that its bits make, with NaN after every number and both zeros
/// the same; descending is the complement. Key and position make an entry. No two entries are
/// equal, so any way to sort them is stable: by digits from the lowest where a row is long, by
/// comparison where it is short.
template <class T>
auto key_of(T v) {
  if constexpr (std::is_floating_point_v<T>) {
    using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    constexpr Key kSign = Key{1} << (8 * sizeof(T) - 1);
    const Key bits = std::bit_cast<Key>(v + 0);  // no -0
    const Key key = bits & kSign ? ~bits : bits | kSign;
    return v != v ? ~Key{0} : key;
  } else if constexpr (sizeof(T) == 8) {
    return static_cast<std::uint64_t>(v) ^ std::uint64_t{1} << 63;
  } else {
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(v)) ^ std::uint32_t{1} << 31;
  }
}

// For keys of 32 bits in rows of less than 2^32.
class Narrow {
 public:
  static constexpr int kDigits = 4;
  Narrow() = default;
  Narrow(std::uint64_t key, std::int64_t position)
      : word_(key << 32 | static_cast<std::uint64_t>(position)) {}
  std::int64_t position() const { return static_cast<std::int64_t>(word_ & 0xffffffffu); }
  std::size_t digit(int i) const { return word_ >> (32 + 8 * i) & 0xffu; }
  friend bool operator<(const Narrow& a, const Narrow& b) { return a.word_ < b.word_; }

 private:
  std::uint64_t word_;
};

class Wide {
 public:
  static constexpr int kDigits = 8;
  Wide() = default;
  Wide(std::uint64_t key, std::int64_t position) : key_(key), position_(position) {}
  std::int64_t position() const { return position_; }
  std::size_t digit(int i) const { return key_ >> (8 * i) & 0xffu; }
  friend bool operator<(const Wide& a, const Wide& b) {
    return a.key_ < b.key_ || (a.key_ == b.key_ && a.position_ < b.position_);
  }

 private:
  std::uint64_t key_;
  std::int64_t position_;
};

constexpr std::int64_t kShort = 128;  // from here on counting digits beats comparing

// Sorts n entries that are in the order of their positions with the help of as many more; returns
// which of the two holds them.
template <class Entry>
Entry* sort_entries(Entry* entries, Entry* other, std::int64_t n) {
  if (n < kShort) {
    std::sort(entries, entries + n);
    return entries;
  }
  std::size_t counts[Entry::kDigits][256] = {};
  for (std::int64_t i = 0; i < n; ++i)
    for (int d = 0; d < Entry::kDigits; ++d) ++counts[d][entries[i].digit(d)];
  for (int d = 0; d < Entry::kDigits; ++d) {
    if (counts[d][entries[0].digit(d)] == static_cast<std::size_t>(n)) continue;  // all the same
    std::size_t start = 0;
    for (std::size_t& count : counts[d]) start += std::exchange(count, start);
    for (std::int64_t i = 0; i < n; ++i) other[counts[d][entries[i].digit(d)]++] = entries[i];
    std::swap(entries, other);
  }
  return entries;
}

// The positions of the first `keep` of a row of n.
template <class Entry, class T>
void argsort_row(std::int64_t* order, std::int64_t keep, const T* row, std::int64_t n,
                 bool descending, Entry* entries, Entry* other) {
  const auto entry = [&](std::int64_t i) {
    const auto key = key_of(row[i]);
    return Entry(descending ? ~key : key, i);
  };
  std::int64_t count = 0;
  const Entry* sorted = entries;
  if (keep <= n / 16) {
    // Only what may be among the first is kept.
    const std::int64_t room = std::min(n / 2, std::max<std::int64_t>(4 * keep, 128));
    std::int64_t i = 0;
    for (; i < room; ++i) entries[count++] = entry(i);
    while (i < n) {
      std::nth_element(entries, entries + keep, entries + count);
      const Entry limit = entries[keep];
      count = keep;
      for (; i < n && count < room; ++i) {
        const Entry next = entry(i);
        entries[count] = next;
        count += next < limit ? 1 : 0;
      }
    }
    std::nth_element(entries, entries + keep - 1, entries + count);
    std::sort(entries, entries + keep);
  } else {
    for (; count < n; ++count) entries[count] = entry(count);
    sorted = sort_entries(entries, other, n);
  }
  for (std::int64_t i = 0; i < keep; ++i) order[i] = sorted[i].position();
}

template <class Entry, class T>
void argsort_rows(const Tensor& out, const Tensor& x, bool descending) {
  const std::int64_t n = x.shape().dim(x.ndim() - 1), keep = out.shape().dim(x.ndim() - 1);
  const auto* from = static_cast<const T*>(x.data());
  auto* to = static_cast<std::int64_t*>(out.data());
  const std::int64_t rows = static_cast<std::int64_t>(x.numel()) / n;
  tensor::detail::parallel_for(
      rows, std::max<std::int64_t>(1, 4 * kBlock / n), [&](std::int64_t begin, std::int64_t end) {
        const Scratch scratch(static_cast<std::size_t>(2 * n) * sizeof(Entry));
        auto* const entries = static_cast<Entry*>(scratch.data());
        for (std::int64_t r = begin; r < end; ++r)
          argsort_row(to + r * keep, keep, from + r * n, n, descending, entries, entries + n);
      });
}

template <class T>
void argsort_as(const Tensor& out, const Tensor& x, bool descending) {
  if (sizeof(T) <= 4 && x.shape().dim(x.ndim() - 1) < std::int64_t{1} << 32)
    argsort_rows<Narrow, T>(out, x, descending);
  else
    argsort_rows<Wide, T>(out, x, descending);
}

}  // namespace

void argsort(const Tensor& out, const Tensor& values, const Tensor& x, int axis, bool descending) {
  // The sorted axis last and dense; the result is written back through a view of that order.
  const Tensor rows = x.movedim(axis, -1).astype(compute_type(x.type())).contiguous();
  const Tensor view = out.movedim(axis, -1);
  const Tensor order =
      view.is_contiguous() ? view : tensor::detail::allocate(view.shape(), DataType::Int64, {});
  switch (rows.type()) {
    case DataType::Bool:
    case DataType::UInt8:
      argsort_as<std::uint8_t>(order, rows, descending);
      break;
    case DataType::Int8:
      argsort_as<std::int8_t>(order, rows, descending);
      break;
    case DataType::Int16:
      argsort_as<std::int16_t>(order, rows, descending);
      break;
    case DataType::Int32:
      argsort_as<std::int32_t>(order, rows, descending);
      break;
    case DataType::Int64:
      argsort_as<std::int64_t>(order, rows, descending);
      break;
    case DataType::Float64:
      argsort_as<double>(order, rows, descending);
      break;
    default:
      argsort_as<float>(order, rows, descending);
      break;
  }
  if (!view.is_contiguous()) copy(view, order);
  if (values.defined()) gather("sort", values, x, axis, out);
}

}  // namespace lmp::cpu
