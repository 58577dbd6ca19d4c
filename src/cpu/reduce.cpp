#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/axes.hpp"
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
// depend on threads. Rows short enough for one kernel go to it several at a time.
constexpr std::int64_t kRow = 4096;        // elements a row kernel takes
constexpr std::int64_t kSegment = 65536;   // elements of a reduction that one task handles
constexpr std::int64_t kColumns = kBlock;  // outputs side by side
constexpr std::int64_t kStack = 32;        // rows added one after the other before parts are joined
constexpr std::int64_t kGather = 8;  // rows gathered at a time where they cannot stay in place

// Items of `each` elements that one task takes.
std::int64_t items_at_once(std::int64_t each, std::int64_t elements = kChunk) {
  return std::max<std::int64_t>(1, elements / each);
}

const std::byte* at(const Tensor& t) { return static_cast<const std::byte*>(t.data()); }

struct Reducer {
  const Kernels& k = kernels();
  ReduceKernels reduce;
  ForwardFn join;
  LoadFn load;
  DataType type;          // of x
  DataType compute;       // of the accumulator
  std::int64_t size;      // bytes of one x
  std::int64_t wide;      // bytes of one accumulator
  const std::byte* with;  // what goes with each output or, if `by_element`, each element
  bool by_element;

  Reducer(table::Reduction reduction, DataType x, DataType accumulator, const Tensor& other)
      : type(x),
        compute(compute_type(accumulator)),
        with(other.defined() ? at(other) : nullptr),
        by_element(reduction == table::Reduction::Products) {
    const int c = compute_index(compute), r = static_cast<int>(reduction);
    const OpId joined_by = reduction == table::Reduction::Prod  ? OpId::Mul
                           : reduction == table::Reduction::Max ? OpId::Maximum
                           : reduction == table::Reduction::Min ? OpId::Minimum
                                                                : OpId::Add;
    reduce = k.reduce[r][c];
    join = k.forward[static_cast<int>(joined_by)][c];
    load = k.load[static_cast<int>(type)][c];
    size = static_cast<std::int64_t>(tensor::size_of(type));
    wide = static_cast<std::int64_t>(tensor::size_of(compute));
  }
  void combine(void* into, const void* other, std::int64_t n) const {
    const void* terms[2] = {into, other};
    join(into, terms, static_cast<std::size_t>(n));
  }
  // What goes with an output, or with the element `offset` elements into x.
  const void* with_at(std::int64_t output, std::int64_t offset) const {
    return with ? with + (by_element ? offset : output) * wide : nullptr;
  }
};

// Elements [begin, begin + n) of the reduced space of one output, into one accumulator.
struct RowReduction {
  const Reducer& r;
  const Iteration& reduced;
  const std::byte* base;  // of x
  std::int64_t origin;    // of the output's elements
  std::int64_t output;
  std::byte* scratch;  // kRow accumulators

  void operator()(void* out, std::int64_t begin, std::int64_t n) const {
    const bool in_place = r.type == r.compute &&
                          (reduced.ndim == 0 || (reduced.ndim == 1 && reduced.strides[0][0] == 1));
    if (n > kRow && !in_place) {
      const std::int64_t half = (n / 2 + kRow - 1) / kRow * kRow;
      alignas(8) std::byte right[8];
      (*this)(out, begin, half);
      (*this)(right, begin + half, n - half);
      r.combine(out, right, 1);
      return;
    }
    RunWalker walker(reduced.sizes, reduced.strides[0], reduced.ndim, begin);
    const std::int64_t stride = reduced.ndim == 0 ? 1 : reduced.strides[0][reduced.ndim - 1];
    const std::int64_t first = origin + walker.offset();
    const auto count = static_cast<std::size_t>(n);
    if (r.type == r.compute && stride == 1 && walker.left() >= n)
      return r.reduce.rows(out, base + first * r.size, r.with_at(output, first), 0, 1, count);
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t run = std::min(n - done, walker.left());
      r.load(scratch + done * r.wide, base + (origin + walker.offset()) * r.size, stride,
             static_cast<std::size_t>(run));
      walker.advance(run);
      done += run;
    }
    r.reduce.rows(out, scratch, r.with_at(output, 0), 0, 1, count);
  }
};

// Rows [begin, begin + n) of the reduced space, `width` neighbouring outputs each.
struct ColumnReduction {
  const Reducer& r;
  const Iteration& reduced;
  const std::byte* base;
  std::int64_t origin;
  std::int64_t output;
  std::int64_t width;
  std::int64_t stride;  // between neighbours
  std::byte* gathered;  // kGather rows

  // `scratch` has room for the depth of the tree.
  void operator()(std::byte* out, std::int64_t begin, std::int64_t n, std::byte* scratch) const {
    const std::int64_t stack = stack_of(width * r.wide);
    if (n > stack) {
      const std::int64_t half = (n / 2 + stack - 1) / stack * stack;
      (*this)(out, begin, half, scratch);
      (*this)(scratch, begin + half, n - half, scratch + width * r.wide);
      r.combine(out, scratch, width);
      return;
    }
    const bool in_place = r.type == r.compute && stride == 1;
    const std::int64_t step = reduced.ndim == 0 ? 0 : reduced.strides[0][reduced.ndim - 1];
    RunWalker walker(reduced.sizes, reduced.strides[0], reduced.ndim, begin);
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t run = std::min({n - done, walker.left(), in_place ? n : kGather});
      const std::int64_t first = origin + walker.offset();
      const std::byte* rows = base + first * r.size;
      for (std::int64_t i = 0; !in_place && i < run; ++i)
        r.load(gathered + i * width * r.wide, rows + i * step * r.size, stride,
               static_cast<std::size_t>(width));
      r.reduce.columns(done == 0 ? out : scratch, in_place ? rows : gathered,
                       r.with_at(output, first), in_place ? step : width,
                       static_cast<std::size_t>(run), static_cast<std::size_t>(width));
      if (done > 0) r.combine(out, scratch, width);
      walker.advance(run);
      done += run;
    }
  }
  // Few columns, whole vectors of them, are added up in four sums each.
  static std::int64_t stack_of(std::int64_t bytes) {
    return bytes <= 256 && bytes % 64 == 0 ? 4 * kStack : kStack;
  }
  static std::int64_t scratch_rows(std::int64_t n) {
    std::int64_t rows = 1;
    for (; n > kStack; n = (n / 2 + kStack - 1) / kStack * kStack) ++rows;
    return rows;
  }
};

// A result that is computed in another type than it is stored in.
Tensor compute_target(const Tensor& out) {
  const DataType compute = compute_type(out.type());
  return compute == out.type() ? out : tensor::detail::allocate(out.shape(), compute, out.device());
}

}  // namespace

void join_parts(ForwardFn join, std::byte* parts, std::int64_t n, std::int64_t slot,
                std::int64_t width) {
  for (std::int64_t step = 1; step < n; step *= 2)
    for (std::int64_t i = 0; i + step < n; i += 2 * step) {
      const void* const terms[2] = {parts + i * slot, parts + (i + step) * slot};
      join(parts + i * slot, terms, static_cast<std::size_t>(width));
    }
}

namespace {

// Of halves a float is divided, and then rounded.
void reduce_divided(table::Reduction reduction, const Tensor& out, const Tensor& x,
                    const Tensor& with, double divisor) {
  const Tensor target = compute_target(out);
  const bool narrow = !target.shares_storage(out);
  reduce(reduction, target, x, with, 1);
  const tensor::detail::Operand terms[2] = {target, tensor::Number(divisor)};
  forward(OpId::Div, target.type(), target, terms, 2);
  if (narrow) copy(out, target);
}

void reduce_deviations(const Tensor& out, const Tensor& x, double divisor) {
  const Tensor mean = tensor::detail::allocate(out.shape(), compute_type(out.type()), out.device());
  const double n = static_cast<double>(x.numel()) / static_cast<double>(out.numel());
  reduce_divided(table::Reduction::Sum, mean, x, {}, n);
  reduce_divided(table::Reduction::Squares, out, x, mean, divisor);
}

}  // namespace

void reduce(table::Reduction reduction, const Tensor& out, const Tensor& x, const Tensor& with,
            double divisor) {
  const auto outputs = static_cast<std::int64_t>(out.numel());
  const auto total = static_cast<std::int64_t>(x.numel());
  if (outputs == 0) return;
  if (reduction == table::Reduction::Mean) {
    const DataType type = compute_type(out.type());
    return reduce_divided(table::Reduction::Sum, out, type == out.type() ? x : x.astype(type), {},
                          divisor);
  }
  if (reduction == table::Reduction::Deviations) return reduce_deviations(out, x, divisor);
  if (total == 0) return fill(out, reduction == table::Reduction::Prod ? 1 : 0);

  const Reducer r(reduction, x.type(), out.type(), with);
  if (outputs == 1 && total <= kRow && x.is_contiguous() && x.type() == r.compute &&
      out.type() == r.compute)
    return r.reduce.rows(out.data(), x.data(), r.with, 0, 1, static_cast<std::size_t>(total));
  // Halves accumulate in float and are rounded once.
  const Tensor target = compute_target(out);

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
  const std::byte* base = at(x);
  auto* to = static_cast<std::byte*>(target.data());
  const std::int64_t kept_inner = kept.ndim > 0 ? kept.strides[1][kept.ndim - 1] : 1;

  const bool by_columns = kept_step < reduced_step && kept.ndim > 0 && n > 1;
  const bool one_run = reduced.ndim == 0 || (reduced.ndim == 1 && reduced.strides[0][0] == 1);
  if (!by_columns && one_run && n <= kRow && r.type == r.compute) {
    parallel_for(outputs, items_at_once(n), [&](std::int64_t begin, std::int64_t end) {
      RunWalker walker(kept.sizes, kept.strides[1], kept.ndim, begin);
      for (std::int64_t i = begin; i < end;) {
        const std::int64_t run = std::min(end - i, walker.left()), first = walker.offset();
        r.reduce.rows(to + i * r.wide, base + first * r.size, r.with_at(i, first), kept_inner,
                      static_cast<std::size_t>(run), static_cast<std::size_t>(n));
        walker.advance(run);
        i += run;
      }
    });
    if (!target.shares_storage(out)) copy(out, target);
    return;
  }

  const std::int64_t inner = by_columns ? kept.sizes[kept.ndim - 1] : 1;
  const std::int64_t width = std::min(inner, kColumns);
  const std::int64_t blocks = (inner + width - 1) / width;  // a row of outputs is cut into
  const std::int64_t units = outputs / inner * blocks;
  const std::int64_t rows = std::max<std::int64_t>(kSegment / width, kStack);  // of a segment
  const std::int64_t segments = (n + rows - 1) / rows;

  const std::int64_t slot = width * r.wide;
  const Scratch parts(segments > 1 ? static_cast<std::size_t>(units * segments * slot) : 1);
  const std::int64_t tasks_at_once = items_at_once(width * std::min(n, rows));
  parallel_for(units * segments, tasks_at_once, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t tree = ColumnReduction::scratch_rows(std::min(n, rows)) * slot;
    Scratch scratch(static_cast<std::size_t>(by_columns ? tree + kGather * slot : kRow * r.wide));
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t unit = task / segments, segment = task % segments;
      const std::int64_t first = segment * rows, count = std::min(rows, n - first);
      const std::int64_t column = unit % blocks * width, output = unit / blocks * inner + column;
      const std::int64_t origin =
          RunWalker(kept.sizes, kept.strides[1], kept.ndim, output).offset();
      std::byte* into =
          segments > 1 ? static_cast<std::byte*>(parts.data()) + task * slot : to + output * r.wide;
      auto* space = static_cast<std::byte*>(scratch.data());
      if (by_columns)
        ColumnReduction{r,          reduced,     base,
                        origin,     output,      std::min(width, inner - column),
                        kept_inner, space + tree}(into, first, count, space);
      else
        RowReduction{r, reduced, base, origin, output, space}(into, first, count);
    }
  });
  if (segments > 1) {
    for (std::int64_t unit = 0; unit < units; ++unit) {
      const std::int64_t column = unit % blocks * width, count = std::min(width, inner - column);
      std::byte* mine = static_cast<std::byte*>(parts.data()) + unit * segments * slot;
      join_parts(r.join, mine, segments, slot, count);
      std::memcpy(to + (unit / blocks * inner + column) * r.wide, mine,
                  static_cast<std::size_t>(count * r.wide));
    }
  }
  if (!target.shares_storage(out)) copy(out, target);
}

void spread(table::Spread op, const Tensor& out, const Tensor& x, const Tensor& with,
            const Tensor& a, const Tensor& b) {
  const auto total = static_cast<std::int64_t>(out.numel());
  if (total == 0) return;
  const SpreadKernels kernel =
      kernels().spread[static_cast<int>(op)][out.type() == DataType::Float32 ? 0 : 1];
  const auto size = static_cast<std::int64_t>(tensor::size_of(out.type()));
  const IntList all[2] = {tensor::detail::dense_strides(x.shape()),
                          tensor::detail::broadcast_strides(
                              a.shape(), tensor::detail::dense_strides(a.shape()), x.shape())};
  const Iteration loop(x.shape(), all, false);
  const int outer = loop.ndim - 1;
  const std::int64_t n = loop.ndim == 0 ? 1 : loop.sizes[outer];
  const bool columns = loop.ndim > 0 && loop.strides[1][outer] != 0;
  const std::int64_t step = outer > 0 ? loop.strides[1][outer - 1] : 0;
  const std::int64_t piece = std::min(n, kChunk), pieces = (n + piece - 1) / piece;
  auto* to = static_cast<std::byte*>(out.data());
  const std::byte* others = with.defined() ? at(with) : nullptr;
  parallel_for(total / n * pieces, items_at_once(piece), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t row = i / pieces, first = i % pieces * piece;
      const RunWalker walker(loop.sizes, loop.strides[1], std::max(outer, 0), row);
      const std::int64_t run = pieces > 1 ? 1 : std::min(end - i, walker.left());
      const std::int64_t element = (row * n + first) * size;
      const std::int64_t value = (walker.offset() + (columns ? first : 0)) * size;
      (columns ? kernel.columns : kernel.rows)(
          to + element, at(x) + element, others ? others + element : nullptr, at(a) + value,
          at(b) + value, step, static_cast<std::size_t>(run),
          static_cast<std::size_t>(std::min(piece, n - first)));
      i += run;
    }
  });
}

namespace {

// Where a softmax runs: rows that stay in cache go to a kernel one by one.
constexpr std::int64_t kCachedRow = 65536;
constexpr std::int64_t kSoftmaxChunk = 8 * kBlock;

bool in_cached_rows(const Axes& axes) { return axes.inner == 1 && axes.size <= kCachedRow; }

Shape kept_shape(const Tensor& x, int axis) {
  return tensor::detail::reduced_shape(x.shape(), 1U << axis, true);
}

// Runs rows(first, count) over all rows, which have n elements.
template <class F>
void over_rows(const Tensor& x, std::int64_t n, F rows) {
  parallel_for(static_cast<std::int64_t>(x.numel()) / n, items_at_once(n, kSoftmaxChunk),
               [&](std::int64_t begin, std::int64_t end) {
                 rows(begin * n * static_cast<std::int64_t>(tensor::size_of(x.type())),
                      static_cast<std::size_t>(end - begin));
               });
}

Tensor dense_as(const Tensor& x, DataType type) { return x.astype(type).contiguous(); }

}  // namespace

void softmax(bool log, const Tensor& out, const Tensor& x, int axis) {
  if (x.numel() == 0) return;
  const Tensor target = compute_target(out), source = dense_as(x, target.type());
  const Axes axes(x.shape(), axis);
  if (in_cached_rows(axes)) {
    const auto kernel = kernels().softmax[log ? 1 : 0][target.type() == DataType::Float32 ? 0 : 1];
    over_rows(source, axes.size, [&](std::int64_t first, std::size_t rows) {
      kernel(static_cast<std::byte*>(target.data()) + first, at(source) + first, rows,
             static_cast<std::size_t>(axes.size));
    });
  } else {
    const Shape kept = kept_shape(x, axis);
    const Tensor top = tensor::detail::allocate(kept, target.type(), out.device());
    const Tensor sum = tensor::detail::allocate(kept, target.type(), out.device());
    reduce(table::Reduction::Max, top, source, {}, 1);
    reduce(table::Reduction::Exps, sum, source, top, 1);
    const tensor::detail::Operand operand = sum;
    forward(log ? OpId::Log : OpId::Reciprocal, target.type(), sum, &operand, 1);
    spread(log ? table::Spread::LessBoth : table::Spread::ScaledExp, target, source, {}, top, sum);
  }
  if (!target.shares_storage(out)) copy(out, target);
}

void softmax_gradient(bool log, const Tensor& out, const Tensor& y, const Tensor& g, int axis) {
  if (y.numel() == 0) return;
  const Tensor target = compute_target(out), result = dense_as(y, target.type()),
               gradient = dense_as(g, target.type());
  const Axes axes(y.shape(), axis);
  if (in_cached_rows(axes)) {
    const auto kernel =
        kernels().softmax_gradient[log ? 1 : 0][target.type() == DataType::Float32 ? 0 : 1];
    over_rows(result, axes.size, [&](std::int64_t first, std::size_t rows) {
      kernel(static_cast<std::byte*>(target.data()) + first, at(result) + first,
             at(gradient) + first, rows, static_cast<std::size_t>(axes.size));
    });
  } else {
    const Tensor sum = tensor::detail::allocate(kept_shape(y, axis), target.type(), out.device());
    if (log)
      reduce(table::Reduction::Sum, sum, gradient, {}, 1);
    else
      reduce(table::Reduction::Products, sum, result, gradient, 1);
    spread(log ? table::Spread::LogSoftmaxGradient : table::Spread::SoftmaxGradient, target, result,
           gradient, sum, sum);
  }
  if (!target.shares_storage(out)) copy(out, target);
}

void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int axis) {
  Tensor source = x.type() == compute_type(x.type()) ? x : x.astype(DataType::Float32);
  const auto a = static_cast<std::size_t>(axis);
  const std::int64_t n = source.shape().dim(axis);
  IntList shape(source.shape());
  shape[a] = 1;
  const IntList dense = tensor::detail::dense_strides(Shape(shape));
  const auto outputs = [&] {
    IntList strides = source.strides();
    strides[a] = 0;
    const IntList all[2] = {dense, strides};
    return Iteration(Shape(shape), all, false);
  };
  Iteration kept = outputs();
  if (kept.numel == 0) return;
  const auto neighbours = [&] { return kept.ndim > 0 ? kept.strides[1][kept.ndim - 1] : 0; };
  if (n > 1 && source.strides()[a] != 1 && neighbours() != 1) {
    source = source.contiguous();
    kept = outputs();
  }
  const std::int64_t step = source.strides()[a];
  const bool by_columns = n > 1 && step != 1 && neighbours() == 1;
  const auto size = static_cast<std::int64_t>(tensor::size_of(source.type()));
  const ArgKernels& kernel = kernels().arg[largest ? 0 : 1][compute_index(source.type())];
  auto* to = static_cast<std::int64_t*>(out.data());
  const std::byte* base = at(source);
  const bool rows_apart = n == 1 || step == 1;

  const std::int64_t inner = by_columns ? kept.sizes[kept.ndim - 1] : 1;
  const std::int64_t width = std::min(inner, kColumns), blocks = (inner + width - 1) / width;
  const std::int64_t units = kept.numel / inner * blocks;
  const std::int64_t rows = std::max<std::int64_t>(kSegment / width, kStack);
  const std::int64_t segments = (n + rows - 1) / rows;
  const auto run = [&](void* best, std::int64_t* index, std::int64_t offset, std::int64_t stride,
                       std::int64_t first, std::int64_t length, std::int64_t count) {
    const auto outputs_there = static_cast<std::size_t>(count);
    const auto elements = static_cast<std::size_t>(length);
    const std::byte* from = base + (offset + first * step) * size;
    if (rows_apart)
      kernel.rows(best, index, from, stride, outputs_there, elements);
    else
      kernel.columns(best, index, from, step, elements, outputs_there);
    for (std::int64_t i = 0; first > 0 && i < count; ++i) index[i] += first;
  };
  if (segments == 1 && rows_apart) {
    parallel_for(units, items_at_once(n), [&](std::int64_t begin, std::int64_t end) {
      const Scratch best(static_cast<std::size_t>((end - begin) * size));
      RunWalker walker(kept.sizes, kept.strides[1], kept.ndim, begin);
      for (std::int64_t i = begin; i < end;) {
        const std::int64_t count = std::min(end - i, walker.left());
        run(best.data(), to + i, walker.offset(), neighbours(), 0, n, count);
        walker.advance(count);
        i += count;
      }
    });
    return;
  }
  const Scratch best(static_cast<std::size_t>(units * segments * width * size));
  const Scratch index(segments > 1 ? static_cast<std::size_t>(units * segments * width * 8) : 1);
  auto* const values = static_cast<std::byte*>(best.data());
  auto* const places = static_cast<std::int64_t*>(index.data());
  parallel_for(units * segments, items_at_once(width * std::min(n, rows)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t task = begin; task < end; ++task) {
                   const std::int64_t unit = task / segments, first = task % segments * rows;
                   const std::int64_t column = unit % blocks * width,
                                      output = unit / blocks * inner + column;
                   run(values + task * width * size,
                       segments > 1 ? places + task * width : to + output,
                       RunWalker(kept.sizes, kept.strides[1], kept.ndim, output).offset(), 0, first,
                       std::min(rows, n - first), std::min(width, inner - column));
                 }
               });
  if (segments == 1) return;
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t column = unit % blocks * width, count = std::min(width, inner - column);
    std::byte* value = values + unit * segments * width * size;
    std::int64_t* place = places + unit * segments * width;
    for (std::int64_t s = 1; s < segments; ++s)
      kernel.join(value, place, value + s * width * size, place + s * width,
                  static_cast<std::size_t>(count));
    std::copy(place, place + count, to + unit / blocks * inner + column);
  }
}

namespace {

constexpr std::int64_t kSumColumns = 512;  // running sums side by side

// What goes from one segment of a row into the next, in the type that is carried.
struct Carry {
  alignas(8) std::byte bytes[8] = {};
  void add(const Carry& other, bool floating) {
    const auto sum = [&]<class T>(T a, T b) {
      std::memcpy(&a, bytes, 8);
      std::memcpy(&b, other.bytes, 8);
      a += b;
      std::memcpy(bytes, &a, 8);
    };
    floating ? sum(double{}, double{}) : sum(std::uint64_t{}, std::uint64_t{});
  }
};

}  // namespace

void cumsum(const Tensor& out, const Tensor& x, int axis) {
  if (x.numel() == 0) return;
  const Tensor target = compute_target(out), source = dense_as(x, target.type());
  const Axes axes(x.shape(), axis);
  const std::int64_t outer = axes.outer, n = axes.size, inner = axes.inner;
  const auto size = static_cast<std::int64_t>(tensor::size_of(target.type()));
  const bool floating = is_floating(target.type());
  const CumsumKernels& kernel = kernels().cumsum[compute_index(target.type())];
  auto* to = static_cast<std::byte*>(target.data());
  const std::byte* from = at(source);

  if (inner > 1) {
    const std::int64_t width = std::min(inner, kSumColumns), blocks = (inner + width - 1) / width;
    parallel_for(outer * blocks, items_at_once(n * width),
                 [&](std::int64_t begin, std::int64_t end) {
                   const Scratch carry(static_cast<std::size_t>(width * 8));
                   for (std::int64_t task = begin; task < end; ++task) {
                     const std::int64_t column = task % blocks * width;
                     std::int64_t offset = (task / blocks * n * inner + column) * size;
                     std::memset(carry.data(), 0, static_cast<std::size_t>(width * 8));
                     for (std::int64_t i = 0; i < n; ++i, offset += inner * size)
                       kernel.columns(to + offset, carry.data(), from + offset,
                                      static_cast<std::size_t>(std::min(width, inner - column)));
                   }
                 });
  } else {
    // Few long rows are cut into segments, whose sums are found first.
    const std::int64_t length = outer < 8 && n >= 4 * kSegment ? kSegment : n;
    const std::int64_t segments = (n + length - 1) / length;
    std::vector<Carry> carries(static_cast<std::size_t>(outer * segments));
    const auto each = [&](auto&& row) {
      parallel_for(outer * segments, items_at_once(length),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t task = begin; task < end; ++task) {
                       const std::int64_t first = task % segments * length;
                       row(carries[static_cast<std::size_t>(task)],
                           (task / segments * n + first) * size, std::min(length, n - first));
                     }
                   });
    };
    if (segments > 1) {
      each([&](Carry& carry, std::int64_t offset, std::int64_t count) {
        std::byte unused[kBlock * 8];
        for (std::int64_t i = 0; i < count; i += kBlock)
          kernel.row(unused, carry.bytes, from + offset + i * size,
                     static_cast<std::size_t>(std::min(kBlock, count - i)));
      });
      for (std::int64_t o = 0; o < outer; ++o) {
        Carry total;
        for (std::int64_t s = 0; s < segments; ++s) {
          Carry& here = carries[static_cast<std::size_t>(o * segments + s)];
          const Carry sum = here;
          here = total;
          total.add(sum, floating);
        }
      }
    }
    each([&](Carry& carry, std::int64_t offset, std::int64_t count) {
      kernel.row(to + offset, carry.bytes, from + offset, static_cast<std::size_t>(count));
    });
  }
  if (!target.shares_storage(out)) copy(out, target);
}

}  // namespace lmp::cpu
