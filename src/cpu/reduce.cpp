#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu/backend.hpp"
#include "cpu/block_loop.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"

namespace lmp::cpu {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::Iteration;
using tensor::detail::parallel_for;
using tensor::detail::RunWalker;

namespace {

// Note [Reductions]
// The axes split into kept and reduced ones. Where the elements of a reduced axis lie closest
// together, a value is made of rows of up to kRow elements (a kernel with many lanes); else whole
// rows of neighbouring outputs are added up at a time. Either way parts are joined pairwise, in a
// tree that depends on the sizes alone, so rounding errors grow with log n and results do not
// depend on threads.
constexpr std::int64_t kRow = 4096;        // elements a row kernel takes
constexpr std::int64_t kSegment = 65536;   // elements of a reduction that one task handles
constexpr std::int64_t kColumns = kBlock;  // outputs side by side
constexpr std::int64_t kStack = 32;        // rows added one after the other before parts are joined

struct Part {
  Shape shape;
  IntList strides;
};

struct Reducer {
  const Kernels& k = kernels();
  ReduceFn row;
  ForwardFn join;
  LoadFn load;
  DataType type;      // of x
  DataType compute;   // of the accumulator
  std::int64_t size;  // bytes of one x
  std::int64_t wide;  // bytes of one accumulator

  Reducer(table::Reduction reduction, DataType x, DataType accumulator)
      : type(x), compute(compute_type(accumulator)) {
    constexpr OpId joins[kReductions] = {OpId::Add, OpId::Mul, OpId::Maximum, OpId::Minimum};
    const int c = compute_index(compute), r = static_cast<int>(reduction);
    row = k.reduce[r][c];
    join = k.forward[static_cast<int>(joins[r])][c];
    load = k.load[static_cast<int>(type)][c];
    size = static_cast<std::int64_t>(tensor::size_of(type));
    wide = static_cast<std::int64_t>(tensor::size_of(compute));
  }
  void combine(void* into, const void* other, std::int64_t n) const {
    const void* terms[2] = {into, other};
    join(into, terms, static_cast<std::size_t>(n));
  }
};

// Elements [begin, begin + n) of the reduced space below `base`, into one accumulator.
struct RowReduction {
  const Reducer& r;
  const Iteration& reduced;
  const std::byte* base;
  std::byte* scratch;  // kRow accumulators

  void operator()(void* out, std::int64_t begin, std::int64_t n) const {
    if (n > kRow) {
      const std::int64_t half = (n / 2 + kRow - 1) / kRow * kRow;
      alignas(8) std::byte right[8];
      (*this)(out, begin, half);
      (*this)(right, begin + half, n - half);
      r.combine(out, right, 1);
      return;
    }
    RunWalker walker(reduced.sizes, reduced.strides[0], reduced.ndim, begin);
    const std::int64_t stride = reduced.ndim == 0 ? 1 : reduced.strides[0][reduced.ndim - 1];
    if (r.type == r.compute && stride == 1 && walker.left() >= n)
      return r.row(out, base + walker.offset() * r.size, static_cast<std::size_t>(n));
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t run = std::min(n - done, walker.left());
      r.load(scratch + done * r.wide, base + walker.offset() * r.size, stride,
             static_cast<std::size_t>(run));
      walker.advance(run);
      done += run;
    }
    r.row(out, scratch, static_cast<std::size_t>(n));
  }
};

// Rows [begin, begin + n) of the reduced space, `width` neighbouring outputs each.
struct ColumnReduction {
  const Reducer& r;
  const Iteration& reduced;
  const std::byte* base;
  std::int64_t width;
  std::int64_t stride;  // between neighbours

  const void* row_at(std::int64_t i, std::byte* scratch) const {
    const std::byte* from =
        base + RunWalker(reduced.sizes, reduced.strides[0], reduced.ndim, i).offset() * r.size;
    if (r.type == r.compute && stride == 1) return from;
    r.load(scratch, from, stride, static_cast<std::size_t>(width));
    return scratch;
  }
  // `scratch` has room for one row more than the depth of the tree.
  void operator()(std::byte* out, std::int64_t begin, std::int64_t n, std::byte* scratch) const {
    if (n > kStack) {
      const std::int64_t half = (n / 2 + kStack - 1) / kStack * kStack;
      (*this)(out, begin, half, scratch);
      (*this)(scratch, begin + half, n - half, scratch + width * r.wide);
      r.combine(out, scratch, width);
      return;
    }
    const void* first = row_at(begin, scratch);
    std::memcpy(out, first, static_cast<std::size_t>(width * r.wide));
    for (std::int64_t i = 1; i < n; ++i) r.combine(out, row_at(begin + i, scratch), width);
  }
  static std::int64_t scratch_rows(std::int64_t n) {
    std::int64_t rows = 2;
    for (; n > kStack; n = (n / 2 + kStack - 1) / kStack * kStack) ++rows;
    return rows;
  }
};

// Joins n parts of `width` accumulators, `slot` bytes apart, pairwise into the first.
void join_parts(const Reducer& r, std::byte* parts, std::int64_t n, std::int64_t slot,
                std::int64_t width) {
  for (std::int64_t step = 1; step < n; step *= 2)
    for (std::int64_t i = 0; i + step < n; i += 2 * step)
      r.combine(parts + i * slot, parts + (i + step) * slot, width);
}

}  // namespace

void reduce(table::Reduction reduction, const Tensor& out, const Tensor& x) {
  const auto outputs = static_cast<std::int64_t>(out.numel());
  const auto total = static_cast<std::int64_t>(x.numel());
  if (outputs == 0) return;
  if (total == 0) return fill(out, reduction == table::Reduction::Prod ? 1 : 0);

  const Reducer r(reduction, x.type(), out.type());
  if (outputs == 1 && total <= kRow && x.is_contiguous() && x.type() == r.compute &&
      out.type() == r.compute)
    return r.row(out.data(), x.data(), static_cast<std::size_t>(total));
  // Halves accumulate in float and are rounded once.
  const Tensor target =
      r.compute == out.type() ? out : tensor::detail::allocate(out.shape(), r.compute, {});

  IntList kept_shape, kept_strides, reduced_shape, reduced_strides;
  std::int64_t kept_step = INT64_MAX, reduced_step = INT64_MAX;
  for (int d = 0; d < x.ndim(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    const std::int64_t n = x.shape().dim(d), stride = x.strides()[i];
    const bool kept = out.shape()[i] == x.shape()[i];
    (kept ? kept_shape : reduced_shape).push_back(n);
    (kept ? kept_strides : reduced_strides).push_back(stride);
    if (n == 1 || stride == 0) continue;
    std::int64_t& step = kept ? kept_step : reduced_step;
    step = std::min(step, std::abs(stride));
  }
  const IntList dense = tensor::detail::dense_strides(Shape(kept_shape));
  const IntList kept_all[2] = {dense, kept_strides};
  const Iteration kept(Shape(kept_shape), kept_all, false);
  const Iteration reduced(Shape(reduced_shape), {&reduced_strides, 1}, true);
  const std::int64_t n = reduced.numel;
  const auto* base = static_cast<const std::byte*>(x.data());
  auto* to = static_cast<std::byte*>(target.data());

  const bool by_columns = kept_step < reduced_step && kept.ndim > 0 && n > 1;
  const std::int64_t inner = by_columns ? kept.sizes[kept.ndim - 1] : 1;
  const std::int64_t width = std::min(inner, kColumns);
  const std::int64_t blocks = (inner + width - 1) / width;  // a row of outputs is cut into
  const std::int64_t units = outputs / inner * blocks;
  const std::int64_t rows = std::max<std::int64_t>(kSegment / width, kStack);  // of a segment
  const std::int64_t segments = (n + rows - 1) / rows;

  const std::int64_t slot = width * r.wide;
  const Scratch parts(segments > 1 ? static_cast<std::size_t>(units * segments * slot) : 1);
  const std::int64_t tasks_at_once =
      std::max<std::int64_t>(1, kChunk / (width * std::min(n, rows)));
  parallel_for(units * segments, tasks_at_once, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t scratch_rows =
        by_columns ? ColumnReduction::scratch_rows(std::min(n, rows)) : 0;
    Scratch scratch(static_cast<std::size_t>(by_columns ? scratch_rows * slot : kRow * r.wide));
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t unit = task / segments, segment = task % segments;
      const std::int64_t first = segment * rows, count = std::min(rows, n - first);
      const std::int64_t column = unit % blocks * width, output = unit / blocks * inner + column;
      const RunWalker at(kept.sizes, kept.strides[1], kept.ndim, output);
      std::byte* into =
          segments > 1 ? static_cast<std::byte*>(parts.data()) + task * slot : to + output * r.wide;
      auto* space = static_cast<std::byte*>(scratch.data());
      if (by_columns)
        ColumnReduction{r, reduced, base + at.offset() * r.size, std::min(width, inner - column),
                        kept.strides[1][kept.ndim - 1]}(into, first, count, space);
      else
        RowReduction{r, reduced, base + at.offset() * r.size, space}(into, first, count);
    }
  });
  if (segments > 1) {
    for (std::int64_t unit = 0; unit < units; ++unit) {
      const std::int64_t column = unit % blocks * width, count = std::min(width, inner - column);
      std::byte* mine = static_cast<std::byte*>(parts.data()) + unit * segments * slot;
      join_parts(r, mine, segments, slot, count);
      std::memcpy(to + (unit / blocks * inner + column) * r.wide, mine,
                  static_cast<std::size_t>(count * r.wide));
    }
  }
  if (!target.shares_storage(out)) copy(out, target);
}

void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int axis) {
  const Tensor source = x.type() == compute_type(x.type()) ? x : x.astype(DataType::Float32);
  const auto a = static_cast<std::size_t>(axis);
  const auto n = static_cast<std::int64_t>(source.shape()[a]);
  const std::int64_t step = source.strides()[a];
  const auto size = static_cast<std::int64_t>(tensor::size_of(source.type()));
  const int c = compute_index(source.type());
  const ArgRowFn row = kernels().arg_row[largest ? 0 : 1][c];
  const ArgColumnsFn columns = kernels().arg_columns[largest ? 0 : 1][c];
  const LoadFn load = kernels().load[static_cast<int>(source.type())][c];

  IntList shape(source.shape()), strides = source.strides();
  shape[a] = 1;
  strides[a] = 0;
  const IntList all[2] = {tensor::detail::dense_strides(Shape(shape)), strides};
  const Iteration kept(Shape(shape), all, false);
  if (kept.numel == 0) return;
  auto* to = static_cast<std::int64_t*>(out.data());
  const auto* base = static_cast<const std::byte*>(source.data());

  const bool by_columns =
      kept.ndim > 0 && kept.strides[1][kept.ndim - 1] == 1 && std::abs(step) != 1;
  const std::int64_t inner = by_columns ? kept.sizes[kept.ndim - 1] : 1;
  const std::int64_t width = std::min(inner, kColumns), blocks = (inner + width - 1) / width;
  const std::int64_t units = kept.numel / inner * blocks;
  parallel_for(units, std::max<std::int64_t>(1, kChunk / (n * width)),
               [&](std::int64_t begin, std::int64_t end) {
                 Scratch scratch(static_cast<std::size_t>(kBlock * 8));
                 for (std::int64_t unit = begin; unit < end; ++unit) {
                   const std::int64_t column = unit % blocks * width,
                                      output = unit / blocks * inner + column;
                   const std::byte* from =
                       base +
                       RunWalker(kept.sizes, kept.strides[1], kept.ndim, output).offset() * size;
                   if (by_columns) {
                     const auto count = static_cast<std::size_t>(std::min(width, inner - column));
                     for (std::int64_t i = 0; i < n; ++i)
                       columns(scratch.data(), to + output, from + i * step * size, i, count);
                     continue;
                   }
                   alignas(8) std::byte best[8] = {};
                   to[output] = -1;
                   for (std::int64_t i = 0; i < n; i += kBlock) {
                     const std::int64_t count = std::min(kBlock, n - i);
                     const void* values = from + i * step * size;
                     if (step != 1) {
                       load(scratch.data(), values, step, static_cast<std::size_t>(count));
                       values = scratch.data();
                     }
                     row(best, to + output, values, i, static_cast<std::size_t>(count));
                   }
                 }
               });
}

void cumsum(const Tensor& out, const Tensor& x, int axis) {
  const DataType compute = compute_type(out.type());
  const Tensor source = x.astype(compute).contiguous();
  const Tensor target =
      compute == out.type() ? out : tensor::detail::allocate(out.shape(), compute, {});
  const auto n = static_cast<std::int64_t>(source.shape()[static_cast<std::size_t>(axis)]);
  std::int64_t inner = 1;
  for (int d = axis + 1; d < source.ndim(); ++d) inner *= source.shape().dim(d);
  const auto total = static_cast<std::int64_t>(source.numel());
  if (total == 0) return;
  const auto size = static_cast<std::int64_t>(tensor::size_of(compute));
  const int c = compute_index(compute);
  const CumsumFn scan = kernels().cumsum[c];
  const ForwardFn add = kernels().forward[static_cast<int>(OpId::Add)][c];
  const auto* from = static_cast<const std::byte*>(source.data());
  auto* to = static_cast<std::byte*>(target.data());
  parallel_for(total / (n * inner), std::max<std::int64_t>(1, kChunk / (n * inner)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t o = begin; o < end; ++o) {
                   const std::byte* in = from + o * n * inner * size;
                   std::byte* sums = to + o * n * inner * size;
                   if (inner == 1) {
                     scan(sums, in, static_cast<std::size_t>(n));
                     continue;
                   }
                   const std::int64_t row = inner * size;
                   std::memcpy(sums, in, static_cast<std::size_t>(row));
                   for (std::int64_t i = 1; i < n; ++i) {
                     const void* terms[2] = {sums + (i - 1) * row, in + i * row};
                     add(sums + i * row, terms, static_cast<std::size_t>(inner));
                   }
                 }
               });
  if (!target.shares_storage(out)) copy(out, target);
}

}  // namespace lmp::cpu
