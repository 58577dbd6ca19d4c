#include <algorithm>
#include <atomic>
#include <cstring>

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

// The axis between what is outside and inside of it, in a dense tensor.
struct Axes {
  std::int64_t outer = 1, size = 1, inner = 1;
  Axes(const Shape& shape, int axis) : size(shape.dim(axis)) {
    for (int d = 0; d < axis; ++d) outer *= shape.dim(d);
    for (int d = axis + 1; d < shape.ndim(); ++d) inner *= shape.dim(d);
  }
};

// All indices, in [0, size): checked before anything is written.
std::vector<std::int64_t> checked_indices(const char* op, const Tensor& index, std::int64_t size,
                                          int axis) {
  const auto* from = static_cast<const std::int64_t*>(index.data());
  std::vector<std::int64_t> out(from, from + index.numel());
  for (std::int64_t& i : out) {
    if (i < -size || i >= size)
      throw IndexError(
          concat(op, ": index ", i, " is out of range for axis ", axis, " of size ", size));
    if (i < 0) i += size;
  }
  return out;
}

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

// Adds as the type does: integers wrap, Bool is "or", halves add in float.
template <class F>
void by_sum(DataType type, F&& f) {
  const auto wrap = [](auto unsigned_zero) {
    using T = decltype(unsigned_zero);
    return [](T a, T b) { return static_cast<T>(a + b); };
  };
  switch (type) {
    case DataType::Bool:
      return f(std::uint8_t{},
               [](std::uint8_t a, std::uint8_t b) { return static_cast<std::uint8_t>(a | b); });
    case DataType::UInt8:
    case DataType::Int8:
      return f(std::uint8_t{}, wrap(std::uint8_t{}));
    case DataType::Int16:
      return f(std::uint16_t{}, wrap(std::uint16_t{}));
    case DataType::Int32:
      return f(std::uint32_t{}, wrap(std::uint32_t{}));
    case DataType::Int64:
      return f(std::uint64_t{}, wrap(std::uint64_t{}));
    case DataType::Float16:
      return f(tensor::Half{},
               [](tensor::Half a, tensor::Half b) { return tensor::Half(float{a} + float{b}); });
    case DataType::BFloat16:
      return f(tensor::BFloat16{}, [](tensor::BFloat16 a, tensor::BFloat16 b) {
        return tensor::BFloat16(float{a} + float{b});
      });
    case DataType::Float32:
      return f(float{}, [](float a, float b) { return a + b; });
    case DataType::Float64:
      return f(double{}, [](double a, double b) { return a + b; });
  }
}

// The offsets, in the data along `axis` of shape `whole`, of the positions of a dense tensor of
// shape `part` with its entry along `axis` replaced by indices[position].
template <class F>
void for_each_indexed(const Shape& part, const Shape& whole, int axis,
                      const std::vector<std::int64_t>& indices, F&& f) {
  const IntList dense = tensor::detail::dense_strides(whole);
  IntList strides = dense;
  const auto a = static_cast<std::size_t>(axis);
  strides[a] = 0;
  const tensor::detail::Iteration loop(part, {&strides, 1}, false);
  tensor::detail::RunWalker walker(loop.sizes, loop.strides[0], loop.ndim, 0);
  const std::int64_t stride = loop.ndim == 0 ? 0 : loop.strides[0][loop.ndim - 1];
  for (std::int64_t i = 0; i < loop.numel;) {
    const std::int64_t run = std::min(loop.numel - i, walker.left());
    for (std::int64_t j = 0; j < run; ++j)
      f(i + j, walker.offset() + j * stride + indices[static_cast<std::size_t>(i + j)] * dense[a]);
    walker.advance(run);
    i += run;
  }
}

}  // namespace

void index_select(const char* op, const Tensor& out, const Tensor& x, int axis,
                  const Tensor& index) {
  const std::vector<std::int64_t> at = checked_indices(op, index, x.shape().dim(axis), axis);
  const Tensor source = x.contiguous();
  const Axes axes(source.shape(), axis);
  const auto count = static_cast<std::int64_t>(at.size());
  const std::int64_t row = axes.inner * static_cast<std::int64_t>(tensor::size_of(x.type()));
  const auto* from = static_cast<const std::byte*>(source.data());
  auto* to = static_cast<std::byte*>(out.data());
  if (row == 0) return;
  parallel_for(axes.outer * count, std::max<std::int64_t>(1, 4 * kChunk / row),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t picked =
                       i / count * axes.size + at[static_cast<std::size_t>(i % count)];
                   std::memcpy(to + i * row, from + picked * row, static_cast<std::size_t>(row));
                 }
               });
}

void index_add(const char* op, const Tensor& out, int axis, const Tensor& index,
               const Tensor& source) {
  const std::vector<std::int64_t> at = checked_indices(op, index, out.shape().dim(axis), axis);
  const Tensor rows = source.contiguous();
  const Axes axes(out.shape(), axis);
  const auto count = static_cast<std::int64_t>(at.size());
  by_sum(out.type(), [&](auto zero, auto sum) {
    using T = decltype(zero);
    const auto* from = static_cast<const T*>(rows.data());
    auto* to = static_cast<T*>(out.data());
    for (std::int64_t o = 0; o < axes.outer; ++o)
      for (std::int64_t i = 0; i < count; ++i) {
        const T* in = from + (o * count + i) * axes.inner;
        T* into = to + (o * axes.size + at[static_cast<std::size_t>(i)]) * axes.inner;
        for (std::int64_t j = 0; j < axes.inner; ++j) into[j] = sum(into[j], in[j]);
      }
  });
}

void gather(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index) {
  const std::vector<std::int64_t> at = checked_indices(op, index, x.shape().dim(axis), axis);
  const Tensor source = x.contiguous();
  by_size(x.type(), [&](auto zero) {
    using T = decltype(zero);
    const auto* from = static_cast<const T*>(source.data());
    auto* to = static_cast<T*>(out.data());
    for_each_indexed(index.shape(), source.shape(), axis, at,
                     [&](std::int64_t i, std::int64_t offset) { to[i] = from[offset]; });
  });
}

void scatter(const char* op, const Tensor& out, int axis, const Tensor& index, const Tensor& source,
             bool add) {
  const std::vector<std::int64_t> at = checked_indices(op, index, out.shape().dim(axis), axis);
  const Tensor values = source.contiguous();
  if (add) {
    by_sum(out.type(), [&](auto zero, auto sum) {
      using T = decltype(zero);
      const auto* from = static_cast<const T*>(values.data());
      auto* to = static_cast<T*>(out.data());
      for_each_indexed(
          index.shape(), out.shape(), axis, at,
          [&](std::int64_t i, std::int64_t offset) { to[offset] = sum(to[offset], from[i]); });
    });
    return;
  }
  by_size(out.type(), [&](auto zero) {
    using T = decltype(zero);
    const auto* from = static_cast<const T*>(values.data());
    auto* to = static_cast<T*>(out.data());
    for_each_indexed(index.shape(), out.shape(), axis, at,
                     [&](std::int64_t i, std::int64_t offset) { to[offset] = from[i]; });
  });
}

namespace {

// NaN comes after every number, in either direction before it is reversed.
template <class T>
bool before(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return false;
    if (b != b) return true;
  }
  return a < b;
}

template <class T>
void argsort_rows(const Tensor& out, const Tensor& x, bool descending) {
  const std::int64_t n = x.shape().dim(x.ndim() - 1);
  const auto* from = static_cast<const T*>(x.data());
  auto* to = static_cast<std::int64_t*>(out.data());
  const auto rows = n == 0 ? 0 : static_cast<std::int64_t>(x.numel()) / n;
  parallel_for(rows, std::max<std::int64_t>(1, kBlock / std::max<std::int64_t>(n, 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   const T* row = from + r * n;
                   std::int64_t* order = to + r * n;
                   for (std::int64_t i = 0; i < n; ++i) order[i] = i;
                   std::stable_sort(order, order + n, [&](std::int64_t a, std::int64_t b) {
                     return descending ? before(row[b], row[a]) : before(row[a], row[b]);
                   });
                 }
               });
}

}  // namespace

void argsort(const Tensor& out, const Tensor& x, int axis, bool descending) {
  // The sorted axis last and dense; the result is written back through a view of that order.
  const Tensor rows = x.movedim(axis, -1).astype(compute_type(x.type())).contiguous();
  const Tensor order = tensor::detail::allocate(rows.shape(), DataType::Int64, {});
  switch (rows.type()) {
    case DataType::Bool:
      argsort_rows<bool>(order, rows, descending);
      break;
    case DataType::UInt8:
      argsort_rows<std::uint8_t>(order, rows, descending);
      break;
    case DataType::Int8:
      argsort_rows<std::int8_t>(order, rows, descending);
      break;
    case DataType::Int16:
      argsort_rows<std::int16_t>(order, rows, descending);
      break;
    case DataType::Int32:
      argsort_rows<std::int32_t>(order, rows, descending);
      break;
    case DataType::Int64:
      argsort_rows<std::int64_t>(order, rows, descending);
      break;
    case DataType::Float64:
      argsort_rows<double>(order, rows, descending);
      break;
    default:
      argsort_rows<float>(order, rows, descending);
      break;
  }
  copy(out.movedim(axis, -1), order);
}

std::size_t count_nonzero(const Tensor& x) {
  const Tensor set = x.astype(DataType::Bool).contiguous();
  const auto* from = static_cast<const std::uint8_t*>(set.data());
  return static_cast<std::size_t>(
      std::count_if(from, from + set.numel(), [](std::uint8_t v) { return v != 0; }));
}

void nonzero(const Tensor& out, const Tensor& x) {
  const Tensor set = x.astype(DataType::Bool).contiguous();
  const auto* from = static_cast<const std::uint8_t*>(set.data());
  auto* to = static_cast<std::int64_t*>(out.data());
  const IntList strides = tensor::detail::dense_strides(x.shape());
  for (std::size_t i = 0; i < set.numel(); ++i) {
    if (from[i] == 0) continue;
    auto rest = static_cast<std::int64_t>(i);
    for (std::size_t d = 0; d < strides.size(); ++d) {
      *to++ = rest / strides[d];
      rest %= strides[d];
    }
  }
}

void random(tensor::detail::Distribution distribution, const Tensor& out, std::uint64_t seed,
            std::uint64_t offset, double mean, double deviation) {
  const DataType compute = compute_type(out.type());
  const Kernels& k = kernels();
  const int wide = compute == DataType::Float64 ? 1 : 0;
  const auto size = static_cast<std::int64_t>(tensor::size_of(out.type()));
  const auto numel = static_cast<std::int64_t>(out.numel());
  const std::int64_t per_block = wide ? 2 : 4;  // elements a block of four words makes
  // The bits a half can hold, so that rounding does not reach 1.
  const bool uniform = distribution == tensor::detail::Distribution::Uniform;
  const std::uint32_t keep = uniform && out.type() == DataType::Float16    ? 0xffe00000u
                             : uniform && out.type() == DataType::BFloat16 ? 0xff000000u
                                                                           : ~0u;
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
