#include <algorithm>
#include <cmath>

#include "cpu/backend.hpp"
#include "cpu/block_loop.hpp"
#include "tensor/checks.hpp"

namespace lmp::cpu {

using tensor::AdamRule;
using tensor::CrossEntropyOptions;
using tensor::LossReduction;
using tensor::ParameterUpdate;
using tensor::SgdRule;
using tensor::detail::concat;
using tensor::detail::GradientTarget;
using tensor::detail::parallel_for;

namespace {

// Dense memory that kernels see in its compute type: as it is, or for halves through scratch.
class Elements {
 public:
  explicit Elements(const Tensor& t)
      : data_(t.defined() ? static_cast<std::byte*>(t.data()) : nullptr),
        type_(t.defined() ? t.type() : DataType::Float32),
        size_(static_cast<std::int64_t>(tensor::size_of(type_))) {}

  bool defined() const noexcept { return data_; }
  bool native() const noexcept { return type_ == compute_type(type_); }
  /// Bytes of scratch for n elements.
  std::size_t scratch(std::int64_t n) const noexcept {
    return native() ? 0 : static_cast<std::size_t>(n) * sizeof(float);
  }
  /// Where elements from `begin` on stand, or will stand until write().
  void* at(std::int64_t begin, void* scratch) const {
    return native() && data_ ? data_ + begin * size_ : native() ? nullptr : scratch;
  }
  /// The same with n elements there.
  void* read(std::int64_t begin, std::int64_t n, void* scratch) const {
    if (!native())
      kernels().load[static_cast<int>(type_)][compute_index(type_)](scratch, data_ + begin * size_,
                                                                    1, static_cast<std::size_t>(n));
    return at(begin, scratch);
  }
  void write(std::int64_t begin, std::int64_t n, const void* from) const {
    if (!native())
      kernels().store[static_cast<int>(type_)](data_ + begin * size_, 1, from,
                                               static_cast<std::size_t>(n));
  }

 private:
  std::byte* data_;
  DataType type_;
  std::int64_t size_;
};

std::int64_t compute_size(DataType type) {
  return static_cast<std::int64_t>(tensor::size_of(compute_type(type)));
}

const CompositeKernels& kernels_of(DataType type) {
  return kernels().composites[type == DataType::Float64 ? 1 : 0];
}

// Rows of `columns` elements each that one task takes; some of `work` times what an addition costs.
std::int64_t rows_of_task(std::int64_t columns, std::int64_t work) {
  return std::max<std::int64_t>(1, kChunk / work / std::max<std::int64_t>(columns, 1));
}

void* offset(const void* data, std::int64_t bytes) {
  return const_cast<std::byte*>(static_cast<const std::byte*>(data)) + bytes;
}

}  // namespace

namespace {

// x = activation(x + bias) in place.
void bias_activation(const Tensor& x, const Tensor& bias, OpId activation) {
  const std::int64_t columns = x.shape().dim(x.ndim() - 1);
  const auto numel = static_cast<std::int64_t>(x.numel());
  if (numel == 0) return;
  const int c = compute_index(x.type());
  const CompositeKernels& k = kernels_of(x.type());
  const ForwardFn act =
      activation == OpId::kCount ? nullptr : kernels().forward[static_cast<int>(activation)][c];
  const Elements out(x), added(bias);
  const Scratch bias_scratch(added.scratch(columns));
  const void* const b = added.defined() ? added.read(0, columns, bias_scratch.data()) : nullptr;
  // Rows that stay in the first-level cache between the two.
  const std::int64_t block = std::max<std::int64_t>(1, 4 * kBlock / columns);
  parallel_for(numel / columns, std::max(block, rows_of_task(columns, act ? 4 : 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 const Scratch scratch(out.scratch(block * columns));
                 for (std::int64_t r = begin; r < end; r += block) {
                   const std::int64_t rows = std::min(block, end - r), n = rows * columns;
                   void* const values = out.read(r * columns, n, scratch.data());
                   if (b)
                     k.add_bias(values, b, static_cast<std::size_t>(rows),
                                static_cast<std::size_t>(columns));
                   const void* const in[1] = {values};
                   if (act) act(values, in, static_cast<std::size_t>(n));
                   out.write(r * columns, n, values);
                 }
               });
}

}  // namespace

void linear(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
            OpId activation) {
  matmul(out, x, weight, false);
  if (bias.defined() || activation != OpId::kCount) bias_activation(out, bias, activation);
}

namespace {

// Throws for a label that is neither a class nor ignored; returns how many are classes.
std::int64_t count_labels(const Tensor& labels, std::int64_t classes, std::int64_t ignored) {
  const auto* const label = static_cast<const std::int64_t*>(labels.data());
  const auto n = static_cast<std::int64_t>(labels.numel());
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (label[i] == ignored) continue;
    ++count;
    if (label[i] < 0 || label[i] >= classes)
      throw IndexError(concat("cross_entropy: label ", label[i], " at position ", i,
                              " is not a class in [0, ", classes, "), nor ", ignored,
                              ", which is ignored"));
  }
  return count;
}

// The sum of n > 0 elements of float or double, in their type.
double sum_of(const void* x, std::int64_t n, DataType type) {
  const bool wide = type == DataType::Float64;
  float single = 0;
  double total = 0;
  kernels().reduce[static_cast<int>(Reduction::Sum)][compute_index(type)].rows(
      wide ? static_cast<void*>(&total) : &single, x, nullptr, n, 1, static_cast<std::size_t>(n));
  return wide ? total : single;
}

CrossEntropyArgs all_rows(void* stats, const Tensor& labels, std::int64_t classes,
                          const CrossEntropyOptions& options) {
  CrossEntropyArgs args{};
  args.classes = static_cast<std::size_t>(classes);
  args.labels = static_cast<const std::int64_t*>(labels.data());
  args.ignored = options.ignore_index;
  args.smoothing = options.label_smoothing;
  args.stats = stats;
  return args;
}

// Some of them, `wide` the bytes of a number.
CrossEntropyArgs rows_of(CrossEntropyArgs args, std::int64_t begin, std::int64_t end,
                         const void* logits, std::int64_t wide) {
  args.rows = static_cast<std::size_t>(end - begin);
  args.logits = logits;
  args.labels += begin;
  args.stats = offset(args.stats, 2 * begin * wide);
  return args;
}

}  // namespace

void scale(const Tensor& x, const Tensor& by) {
  alignas(8) std::byte room[8];
  const void* const value = Elements(by).read(0, 1, room);
  if (compute_type(by.type()) == DataType::Float64 ? *static_cast<const double*>(value) == 1
                                                   : *static_cast<const float*>(value) == 1)
    return;
  const tensor::detail::Operand in[2] = {x, by};
  forward(OpId::Mul, x.type(), x, in, 2);
}

void cross_entropy(const Tensor& loss, const Tensor& gradient, const Tensor& stats,
                   const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options) {
  const std::int64_t classes = logits.shape().dim(logits.ndim() - 1);
  const auto rows = static_cast<std::int64_t>(labels.numel());
  const std::int64_t counted = count_labels(labels, classes, options.ignore_index);
  const DataType compute = compute_type(logits.type());
  const std::int64_t wide = compute_size(logits.type());
  const Elements x(logits), out(loss), slopes(gradient);
  const bool reduced = options.reduction != LossReduction::None;
  double total = 0;
  if (rows > 0 && classes > 0) {
    const CompositeKernels& k = kernels_of(logits.type());
    const Scratch own_stats(stats.defined() ? 0 : static_cast<std::size_t>(2 * rows * wide));
    CrossEntropyArgs all =
        all_rows(stats.defined() ? stats.data() : own_stats.data(), labels, classes, options);
    const bool averages =
        options.reduction == LossReduction::Mean && logits.type() != DataType::Float16;
    all.scale = averages ? 1 / static_cast<double>(counted) : 1;
    const Scratch own(reduced || !out.native() ? static_cast<std::size_t>(rows * wide) : 0);
    void* const losses = reduced ? own.data() : out.at(0, own.data());
    parallel_for(rows, rows_of_task(classes, 8), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = (end - begin) * classes;
      const Scratch scratch(x.scratch(n)), made(slopes.defined() ? slopes.scratch(n) : 0);
      const void* const values = x.read(begin * classes, n, scratch.data());
      void* const to = slopes.defined() ? slopes.at(begin * classes, made.data()) : nullptr;
      k.cross_entropy(offset(losses, begin * wide), to, rows_of(all, begin, end, values, wide));
      if (to) slopes.write(begin * classes, n, to);
    });
    if (reduced)
      total = sum_of(losses, rows, compute);
    else
      out.write(0, rows, losses);
  } else if (!reduced) {
    fill(loss, 0);
  }
  if (options.reduction == LossReduction::Mean) total /= static_cast<double>(counted);
  if (reduced) fill(loss, total);
}

void cross_entropy_backward(const Tensor& out, const Tensor& g, const Tensor& stats,
                            const Tensor& logits, const Tensor& labels,
                            const CrossEntropyOptions& options) {
  const std::int64_t classes = logits.shape().dim(logits.ndim() - 1);
  const auto rows = static_cast<std::int64_t>(labels.numel());
  if (rows == 0 || classes == 0) return;
  const CompositeKernels& k = kernels_of(logits.type());
  const std::int64_t wide = compute_size(logits.type());
  const CrossEntropyArgs all = all_rows(stats.data(), labels, classes, options);
  const Elements x(logits), to(out), gradient(g);
  const Scratch g_scratch(gradient.scratch(rows));
  const void* const gs = gradient.read(0, rows, g_scratch.data());
  parallel_for(rows, rows_of_task(classes, 8), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t n = (end - begin) * classes;
    const Scratch scratch(x.scratch(n)), made(to.scratch(n));
    const void* const values = x.read(begin * classes, n, scratch.data());
    void* const target = to.at(begin * classes, made.data());
    k.cross_entropy_backward(target, offset(gs, begin * wide),
                             rows_of(all, begin, end, values, wide));
    to.write(begin * classes, n, target);
  });
}

void normalize(bool centered, const Tensor& out, const Tensor& sum, const Tensor& stats,
               const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
               double eps) {
  const auto columns = static_cast<std::int64_t>(weight.numel());
  if (x.numel() == 0) return;
  const auto rows = static_cast<std::int64_t>(x.numel()) / columns;
  const auto fn = kernels_of(x.type()).normalize[centered ? 1 : 0];
  const ForwardFn add = kernels().forward[static_cast<int>(OpId::Add)][compute_index(x.type())];
  const std::int64_t wide = compute_size(x.type());
  const Elements from(x), added(residual), both(sum), to(out), w(weight), b(bias);
  const Scratch w_scratch(w.scratch(columns)), b_scratch(b.scratch(columns));
  NormalizeArgs all{};
  all.columns = static_cast<std::size_t>(columns);
  all.weight = w.read(0, columns, w_scratch.data());
  all.bias = b.defined() ? b.read(0, columns, b_scratch.data()) : nullptr;
  all.eps = eps;
  parallel_for(rows, rows_of_task(columns, 4), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t at = begin * columns, n = (end - begin) * columns;
    const Scratch scratch(from.scratch(n)), more(added.defined() ? added.scratch(n) : 0);
    NormalizeArgs args = all;
    args.rows = static_cast<std::size_t>(end - begin);
    args.stats = offset(stats.data(), 2 * begin * wide);
    args.x = from.read(at, n, scratch.data());
    if (added.defined()) {
      const void* const in[2] = {args.x, added.read(at, n, more.data())};
      void* const values = both.at(at, scratch.data());
      add(values, in, static_cast<std::size_t>(n));
      both.write(at, n, values);
      args.x = both.read(at, n, scratch.data());  // as it was rounded
    }
    void* const target = to.at(at, scratch.data());
    fn(target, args);
    to.write(at, n, target);
  });
}

void normalize_backward(bool centered, const GradientTarget& gx, const Tensor& gw, const Tensor& gb,
                        const Tensor& g, const Tensor& stats, const Tensor& x,
                        const Tensor& weight) {
  const auto columns = static_cast<std::int64_t>(weight.numel());
  const Elements from(x), gradient(g), to_x(*gx.tensor), to_w(gw), to_b(gb), w(weight);
  if (x.numel() == 0) {
    if (to_w.defined()) fill(gw, 0);
    if (to_b.defined()) fill(gb, 0);
    return;
  }
  // Sums over rows are made of parts of so many, joined pairwise.
  constexpr std::int64_t kPart = 64;
  const auto rows = static_cast<std::int64_t>(x.numel()) / columns;
  const auto fn = kernels_of(x.type()).normalize_backward[centered ? 1 : 0];
  const int c = compute_index(x.type());
  const std::int64_t wide = compute_size(x.type()), sums = columns * wide;
  const std::int64_t parts = (rows + kPart - 1) / kPart;
  const Scratch w_scratch(w.scratch(columns));
  NormalizeArgs all{};
  all.columns = static_cast<std::size_t>(columns);
  all.weight = w.read(0, columns, w_scratch.data());
  const Scratch w_parts(to_w.defined() ? static_cast<std::size_t>(parts * sums) : 0);
  const Scratch b_parts(to_b.defined() ? static_cast<std::size_t>(parts * sums) : 0);
  const auto part_of = [&](const Elements& to, const Scratch& scratch, std::int64_t part) {
    return to.defined() ? offset(scratch.data(), part * sums) : nullptr;
  };
  parallel_for(parts, std::max<std::int64_t>(1, rows_of_task(columns, 8) / kPart),
               [&](std::int64_t first, std::int64_t last) {
                 const std::int64_t most = kPart * columns;
                 const Scratch x_scratch(from.scratch(most)), g_scratch(gradient.scratch(most));
                 const Scratch made(to_x.scratch(most));
                 for (std::int64_t part = first; part < last; ++part) {
                   const std::int64_t begin = part * kPart, count = std::min(kPart, rows - begin);
                   const std::int64_t at = begin * columns, n = count * columns;
                   NormalizeArgs args = all;
                   args.rows = static_cast<std::size_t>(count);
                   args.stats = offset(stats.data(), 2 * begin * wide);
                   args.x = from.read(at, n, x_scratch.data());
                   void* const pw = part_of(to_w, w_parts, part);
                   void* const pb = part_of(to_b, b_parts, part);
                   for (void* p : {pw, pb})
                     if (p) std::memset(p, 0, static_cast<std::size_t>(sums));
                   void* const target = gx.accumulate    ? to_x.read(at, n, made.data())
                                        : to_x.defined() ? to_x.at(at, made.data())
                                                         : nullptr;
                   fn(target, gx.accumulate, pw, pb, gradient.read(at, n, g_scratch.data()), args);
                   if (target) to_x.write(at, n, target);
                 }
               });
  const ForwardFn add = kernels().forward[static_cast<int>(OpId::Add)][c];
  const auto join = [&](const Tensor& out, const Elements& to, const Scratch& scratch) {
    if (!to.defined()) return;
    auto* const p = static_cast<std::byte*>(scratch.data());
    join_parts(add, p, parts, sums, columns);
    if (to.native())
      std::memcpy(out.data(), p, static_cast<std::size_t>(sums));
    else
      to.write(0, columns, p);
  };
  join(gw, to_w, w_parts);
  join(gb, to_b, b_parts);
}

void dropout(const Tensor& out, const Tensor& x, double keep, std::uint64_t seed,
             std::uint64_t first) {
  const Kernels& k = kernels();
  const auto drop = kernels_of(x.type()).drop;
  const Elements from(x), to(out);
  parallel_for(static_cast<std::int64_t>(x.numel()), kChunk / 4,
               [&](std::int64_t begin, std::int64_t end) {
                 alignas(64) std::uint32_t words[kBlock];
                 const Scratch scratch(from.scratch(kBlock));
                 for (std::int64_t at = begin; at < end; at += kBlock) {
                   const std::int64_t n = std::min(kBlock, end - at);
                   k.philox(words, seed, first + static_cast<std::uint64_t>(at) / 4,
                            static_cast<std::size_t>((n + 3) / 4));
                   const void* const values = from.read(at, n, scratch.data());
                   void* const target = to.at(at, scratch.data());
                   drop(target, values, words, keep, static_cast<std::size_t>(n));
                   to.write(at, n, target);
                 }
               });
}

namespace {

// Runs run(parameter, gradient, first, second, n, update) over all parameters as if they lay one
// behind the other, so that many small ones are one task, and a large one several.
template <class Run>
void for_all(const std::vector<ParameterUpdate>& updates, Run&& run) {
  std::int64_t total = 0;
  for (const ParameterUpdate& u : updates)
    if (u.gradient.defined()) total += static_cast<std::int64_t>(u.parameter.numel());
  parallel_for(total, kChunk, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;
    for (const ParameterUpdate& u : updates) {
      if (!u.gradient.defined()) continue;
      const std::int64_t from = std::max(begin - start, std::int64_t{0});
      const std::int64_t to = std::min(end - start, static_cast<std::int64_t>(u.parameter.numel()));
      start += static_cast<std::int64_t>(u.parameter.numel());
      if (from >= to) continue;
      const Elements p(u.parameter), g(u.gradient), first(u.first), second(u.second);
      const Elements master(u.master);
      const std::int64_t most = p.native() ? to - from : std::min(to - from, kBlock);
      const Scratch scratch(p.scratch(2 * most));
      for (std::int64_t at = from; at < to; at += most) {
        const std::int64_t n = std::min(most, to - at);
        void* const values =
            master.defined() ? master.at(at, nullptr) : p.read(at, n, scratch.data());
        const void* const gs =
            g.read(at, n, offset(scratch.data(), most * static_cast<std::int64_t>(sizeof(float))));
        run(values, gs, first.at(at, nullptr), second.at(at, nullptr), static_cast<std::size_t>(n),
            u);
        p.write(at, n, values);
      }
    }
  });
}

}  // namespace

void sgd_step(const std::vector<ParameterUpdate>& updates, const SgdRule& rule) {
  for_all(updates, [&](void* p, const void* g, void* momentum, void*, std::size_t n,
                       const ParameterUpdate& u) {
    const SgdArgs args = {rule.lr,           rule.momentum, u.step == 1 ? 0 : rule.dampening,
                          rule.weight_decay, rule.nesterov, rule.maximize};
    kernels_of(u.parameter.type()).sgd(p, g, rule.momentum != 0 ? momentum : nullptr, args, n);
  });
}

void adam_step(const std::vector<ParameterUpdate>& updates, const AdamRule& rule) {
  const auto args_at = [&](std::int64_t step) {
    const auto t = static_cast<double>(step);
    return AdamArgs{rule.beta1,
                    rule.beta2,
                    rule.eps,
                    rule.weight_decay,
                    1 - rule.lr * rule.decoupled_decay,
                    rule.lr / (1 - std::pow(rule.beta1, t)),
                    1 / std::sqrt(1 - std::pow(rule.beta2, t)),
                    rule.maximize};
  };
  // Mostly all parameters are at the same step.
  const std::int64_t usual = updates.empty() ? 1 : updates.front().step;
  const AdamArgs usual_args = args_at(usual);
  for_all(updates, [&](void* p, const void* g, void* first, void* second, std::size_t n,
                       const ParameterUpdate& u) {
    kernels_of(u.parameter.type())
        .adam(p, g, first, second, u.step == usual ? usual_args : args_at(u.step), n);
  });
}

}  // namespace lmp::cpu
