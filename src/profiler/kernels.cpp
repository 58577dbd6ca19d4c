#include <array>
#include <initializer_list>

#include "ops/pointwise_run.hpp"
#include "profiler/recording.hpp"

namespace lmp::profiler {

using table::OpId;
using tensor::AdamRule;
using tensor::CrossEntropyOptions;
using tensor::DataType;
using tensor::Number;
using tensor::ParameterUpdate;
using tensor::SgdRule;
using tensor::Tensor;
using tensor::detail::Backend;
using tensor::detail::BadMatrix;
using tensor::detail::Distribution;
using tensor::detail::GradientTarget;
using tensor::detail::Operand;
using tensor::detail::ProfileKind;
using tensor::detail::ProfileMark;

namespace {

/// An event, where a Profiler runs, and the table of the device that it is about. Tensors of GPUs
/// are noted to be in use.
class KernelScope {
 public:
  KernelScope(const char* name, DataType type, std::initializer_list<const Tensor*> tensors)
      : KernelScope(ProfileKind::Kernel, name, type, tensors) {}
  KernelScope(ProfileKind kind, const char* name, DataType type,
              std::initializer_list<const Tensor*> tensors) {
    start(kind, name, true, type, {tensors.begin(), tensors.size()});
  }
  KernelScope(ProfileKind kind, OpId op, DataType type, const Tensor& first, const Operand* in,
              int count, const Tensor* last = nullptr) {
    std::array<const Tensor*, 5> tensors{&first};
    std::size_t n = 1;
    for (int i = 0; i < count; ++i) tensors[n++] = in[i].tensor;
    if (last) tensors[n++] = last;
    start(kind, table::pointwise_op(op).info.name, false, type, {tensors.data(), n});
  }
  ~KernelScope() {
    if (mark_.session != 0) tensor::detail::profile_end(mark_);
  }
  KernelScope(const KernelScope&) = delete;

  const Backend* operator->() const noexcept { return table_; }
  void use(const Tensor* t) {
#ifdef LAMPPP_HAVE_CUDA
    if (!t || !t->defined() || t->device().type == tensor::DeviceType::CPU) return;
    table_ = &cuda::backend;
    cuda::note_use(*t);
#else
    (void)t;
#endif
  }

 private:
  void start(ProfileKind kind, const char* name, bool copies_name, DataType type,
             std::span<const Tensor* const> tensors) {
    for (const Tensor* t : tensors) use(t);
    if (tensor::detail::profile_session.load(std::memory_order_relaxed) != 0)
      mark_ = begin(kind, name, copies_name, type, tensors);
  }
  const Backend* table_ = &cpu::backend;
  ProfileMark mark_{};
};

void forward(OpId op, DataType compute, const Tensor& out, const Operand* in, int count) {
  const KernelScope scope(ProfileKind::Kernel, op, compute, out, in, count);
  scope->forward(op, compute, out, in, count);
}

void backward(OpId op, const GradientTarget* out, const Tensor& g, const Operand* in, int count,
              const Tensor& result) {
  // Operands that the gradient does not read stand there as the number 0.
  KernelScope scope(ProfileKind::BackwardKernel, op, g.type(), g, in, count, &result);
  for (int i = 0; i < count; ++i) scope.use(out[i].tensor);
  scope->backward(op, out, g, in, count, result);
}

void copy(const Tensor& to, const Tensor& from) {
  const KernelScope scope("copy", to.type(), {&to, &from});
  scope->copy(to, from);
}

void cat(const Tensor& out, const std::vector<Tensor>& parts, int axis) {
  KernelScope scope("cat", out.type(), {&out});
  for (const Tensor& part : parts) scope.use(&part);
  scope->cat(out, parts, axis);
}

void upload(const Tensor& to, const void* from, std::size_t bytes) {
  const KernelScope scope("upload", to.type(), {&to});
  scope->upload(to, from, bytes);
}

void download(void* to, const Tensor& from, std::size_t bytes) {
  const KernelScope scope("download", from.type(), {&from});
  scope->download(to, from, bytes);
}

void fetch(const Tensor& to, const Tensor& from, std::size_t bytes) {
  const KernelScope scope("download", from.type(), {&from});
  scope->fetch(to, from, bytes);
}

void fill(const Tensor& to, Number value) {
  const KernelScope scope("fill", to.type(), {&to});
  scope->fill(to, value);
}

void reduce(table::Reduction reduction, const Tensor& out, const Tensor& x, const Tensor& with,
            double divisor) {
  static constexpr std::array<const char*, table::kReductions> kNames = {
      "sum",
      "prod",
      "max",
      "min",
      "sum of squares",
      "sum of exp",
      "count",
      "sum of products",
      "mean",
      "sum of squared deviations"};
  const KernelScope scope(kNames[static_cast<std::size_t>(reduction)], out.type(),
                          {&out, &x, &with});
  scope->reduce(reduction, out, x, with, divisor);
}

void spread(table::Spread op, const Tensor& out, const Tensor& x, const Tensor& with,
            const Tensor& a, const Tensor& b) {
  static constexpr std::array<const char*, table::kSpreads> kNames = {
      "(x - a) * b",          "ties",  "exp(x - a) * b", "x - a - b", "softmax gradient",
      "log_softmax gradient", "repeat"};
  const KernelScope scope(kNames[static_cast<std::size_t>(op)], out.type(),
                          {&out, &x, &with, &a, &b});
  scope->spread(op, out, x, with, a, b);
}

void softmax(bool log, const Tensor& out, const Tensor& x, int axis) {
  const KernelScope scope(log ? "log_softmax" : "softmax", out.type(), {&out, &x});
  scope->softmax(log, out, x, axis);
}

void softmax_gradient(bool log, const Tensor& out, const Tensor& y, const Tensor& g, int axis) {
  const KernelScope scope(log ? "log_softmax gradient" : "softmax gradient", out.type(),
                          {&out, &y, &g});
  scope->softmax_gradient(log, out, y, g, axis);
}

void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int axis) {
  const KernelScope scope(largest ? "argmax" : "argmin", x.type(), {&out, &x});
  scope->arg_extreme(largest, out, x, axis);
}

void cumsum(const Tensor& out, const Tensor& x, int axis) {
  const KernelScope scope("cumsum", out.type(), {&out, &x});
  scope->cumsum(out, x, axis);
}

void matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  const KernelScope scope("matmul", out.type(), {&out, &a, &b});
  scope->matmul(out, a, b, accumulate);
}

void linear(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
            OpId activation) {
  const KernelScope scope("linear", out.type(), {&out, &x, &weight, &bias});
  scope->linear(out, x, weight, bias, activation);
}

void index_select(const char* op, const Tensor& out, const Tensor& x, int axis,
                  const Tensor& index) {
  const KernelScope scope(op, out.type(), {&out, &x, &index});
  scope->index_select(op, out, x, axis, index);
}

void index_add(const char* op, const Tensor& out, int axis, const Tensor& index,
               const Tensor& source) {
  const KernelScope scope(op, out.type(), {&out, &index, &source});
  scope->index_add(op, out, axis, index, source);
}

void gather(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index) {
  const KernelScope scope(op, out.type(), {&out, &x, &index});
  scope->gather(op, out, x, axis, index);
}

void scatter(const char* op, const Tensor& out, int axis, const Tensor& index, const Tensor& source,
             bool add) {
  const KernelScope scope(op, out.type(), {&out, &index, &source});
  scope->scatter(op, out, axis, index, source, add);
}

void argsort(const Tensor& order, const Tensor& values, const Tensor& x, int axis,
             bool descending) {
  const KernelScope scope(values.defined() ? "sort" : "argsort", x.type(), {&order, &values, &x});
  scope->argsort(order, values, x, axis, descending);
}

std::size_t count_nonzero(const Tensor& x) {
  const KernelScope scope("count_nonzero", x.type(), {&x});
  return scope->count_nonzero(x);
}

void nonzero(const Tensor& out, const Tensor& x) {
  const KernelScope scope("nonzero", x.type(), {&out, &x});
  scope->nonzero(out, x);
}

void random(Distribution distribution, const Tensor& out, std::uint64_t seed, std::uint64_t offset,
            double mean, double deviation) {
  const KernelScope scope(distribution == Distribution::Uniform ? "rand" : "randn", out.type(),
                          {&out});
  scope->random(distribution, out, seed, offset, mean, deviation);
}

void random_words(std::uint32_t* out, std::size_t blocks, std::uint64_t seed,
                  std::uint64_t offset) {
  const KernelScope scope("random_words", DataType::Int32, {});
  scope->random_words(out, blocks, seed, offset);
}

void scale(const Tensor& x, const Tensor& by) {
  const KernelScope scope("mul", x.type(), {&x, &by});
  scope->scale(x, by);
}

void cross_entropy(const Tensor& loss, const Tensor& gradient, const Tensor& stats,
                   const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options) {
  const KernelScope scope("cross_entropy", logits.type(),
                          {&loss, &gradient, &stats, &logits, &labels});
  scope->cross_entropy(loss, gradient, stats, logits, labels, options);
}

void cross_entropy_backward(const Tensor& out, const Tensor& g, const Tensor& stats,
                            const Tensor& logits, const Tensor& labels,
                            const CrossEntropyOptions& options) {
  const KernelScope scope(ProfileKind::BackwardKernel, "cross_entropy", out.type(),
                          {&out, &g, &stats, &logits, &labels});
  scope->cross_entropy_backward(out, g, stats, logits, labels, options);
}

constexpr const char* norm_name(bool centered) { return centered ? "layer_norm" : "rms_norm"; }

void normalize(bool centered, const Tensor& out, const Tensor& sum, const Tensor& stats,
               const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
               double eps) {
  const KernelScope scope(norm_name(centered), x.type(),
                          {&out, &sum, &stats, &x, &residual, &weight, &bias});
  scope->normalize(centered, out, sum, stats, x, residual, weight, bias, eps);
}

void normalize_backward(bool centered, const GradientTarget& gx, const Tensor& gw, const Tensor& gb,
                        const Tensor& g, const Tensor& stats, const Tensor& x,
                        const Tensor& weight) {
  const KernelScope scope(ProfileKind::BackwardKernel, norm_name(centered), g.type(),
                          {gx.tensor, &gw, &gb, &g, &stats, &x, &weight});
  scope->normalize_backward(centered, gx, gw, gb, g, stats, x, weight);
}

void dropout(const Tensor& out, const Tensor& x, double keep, std::uint64_t seed,
             std::uint64_t offset) {
  const KernelScope scope("dropout", x.type(), {&out, &x});
  scope->dropout(out, x, keep, seed, offset);
}

// A step has as many tensors as a model has parameters: they are not listed.
void use_all(KernelScope& scope, const std::vector<ParameterUpdate>& updates) {
  for (const ParameterUpdate& u : updates)
    for (const Tensor* t : {&u.parameter, &u.gradient, &u.first, &u.second, &u.master})
      scope.use(t);
}

void sgd_step(const std::vector<ParameterUpdate>& updates, const SgdRule& rule) {
  KernelScope scope("sgd_step", updates.front().parameter.type(), {});
  use_all(scope, updates);
  scope->sgd_step(updates, rule);
}

void adam_step(const std::vector<ParameterUpdate>& updates, const AdamRule& rule) {
  KernelScope scope("adam_step", updates.front().parameter.type(), {});
  use_all(scope, updates);
  scope->adam_step(updates, rule);
}

BadMatrix solve(const Tensor& out, const Tensor& a, const Tensor& b) {
  const KernelScope scope("solve", out.type(), {&out, &a, &b});
  return scope->solve(out, a, b);
}

BadMatrix inverse(const Tensor& out, const Tensor& a) {
  const KernelScope scope("inv", out.type(), {&out, &a});
  return scope->inverse(out, a);
}

BadMatrix cholesky(const Tensor& out, const Tensor& a) {
  const KernelScope scope("cholesky", out.type(), {&out, &a});
  return scope->cholesky(out, a);
}

void determinant(bool log, const Tensor& out, const Tensor& a) {
  const KernelScope scope(log ? "slogdet" : "det", out.type(), {&out, &a});
  scope->determinant(log, out, a);
}

const Backend& table_of([[maybe_unused]] tensor::Device device) noexcept {
#ifdef LAMPPP_HAVE_CUDA
  if (device.type == tensor::DeviceType::CUDA) return cuda::backend;
#endif
  return cpu::backend;
}

// Allocation is passed on: what one table allocates the other frees.
tensor::detail::Storage* allocate(std::size_t bytes, tensor::Device device) {
  return table_of(device).allocate(bytes, device);
}
void deallocate(tensor::detail::Storage* storage) noexcept {
  table_of(storage->device).deallocate(storage);
}
tensor::MemoryStats memory_stats(tensor::Device device) {
  return table_of(device).memory_stats(device);
}
void set_memory_limit(std::size_t bytes, tensor::Device device) {
  table_of(device).set_memory_limit(bytes, device);
}

}  // namespace

constexpr Backend kRecordingBackend = {
    .allocate = &allocate,
    .deallocate = &deallocate,
    .memory_stats = &memory_stats,
    .set_memory_limit = &set_memory_limit,
    .forward = &forward,
    .backward = &backward,
    .copy = &copy,
    .cat = &cat,
    .upload = &upload,
    .download = &download,
    .fetch = &fetch,
    .fill = &fill,
    .one = [](DataType type, tensor::Device device) { return table_of(device).one(type, device); },
    .reduce = &reduce,
    .spread = &spread,
    .softmax = &softmax,
    .softmax_gradient = &softmax_gradient,
    .arg_extreme = &arg_extreme,
    .cumsum = &cumsum,
    .matmul = &matmul,
    .linear = &linear,
    .index_select = &index_select,
    .index_add = &index_add,
    .gather = &gather,
    .scatter = &scatter,
    .argsort = &argsort,
    .count_nonzero = &count_nonzero,
    .nonzero = &nonzero,
    .random = &random,
    .random_words = &random_words,
    .scale = &scale,
    .cross_entropy = &cross_entropy,
    .cross_entropy_backward = &cross_entropy_backward,
    .normalize = &normalize,
    .normalize_backward = &normalize_backward,
    .dropout = &dropout,
    .sgd_step = &sgd_step,
    .adam_step = &adam_step,
    .solve = &solve,
    .inverse = &inverse,
    .cholesky = &cholesky,
    .determinant = &determinant,
};

}  // namespace lmp::profiler
