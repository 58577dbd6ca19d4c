#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lamppp/tensor/memory.hpp"
#include "lamppp/tensor/op_options.hpp"
#include "lamppp/tensor/random.hpp"
#include "lamppp/tensor/tensor.hpp"
#include "lamppp/tensor/update.hpp"
#include "ops/op_id.hpp"

namespace lmp::tensor::detail {

/// A pointwise operand: a tensor, or where that is null a number.
struct Operand {
  Operand(const Tensor& t) : tensor(&t) {}
  Operand(Number n) : number(n) {}
  const Tensor* tensor = nullptr;
  Number number = 0;
};

/// Where the gradient of one operand goes: nowhere (null), into dense memory, or added to what is
/// there.
struct GradientTarget {
  const Tensor* tensor = nullptr;
  bool accumulate = false;
};

/// What the random entry draws.
enum class Distribution { Uniform, Normal };

/// The bits of a word that a uniform number of the type is made of: no more than a half can hold,
/// so that rounding does not reach 1.
constexpr std::uint32_t uniform_bits(DataType type) noexcept {
  return type == DataType::Float16 ? 0xffe00000u : type == DataType::BFloat16 ? 0xff000000u : ~0u;
}

/// A matrix of a batch that linear algebra cannot take: its place in the batch in row-major order,
/// -1 where there is none, and for cholesky the order of the leading minor that is not positive.
struct BadMatrix {
  std::int64_t index = -1;
  std::int64_t order = 0;
};

/// What a device has to offer: the functions that everything else is made of. Callers have checked
/// shapes, types and devices; outputs are allocated, and dense unless it says otherwise.
struct Backend {
  Storage* (*allocate)(std::size_t bytes, Device device);
  void (*deallocate)(Storage* storage) noexcept;
  MemoryStats (*memory_stats)(Device device);
  void (*set_memory_limit)(std::size_t bytes, Device device);
  /// out = op(in...), computed in `compute`, broadcast to out's shape; `out` may be strided and may
  /// be one of the inputs.
  void (*forward)(table::OpId op, DataType compute, const Tensor& out, const Operand* in,
                  int count);
  /// The gradients of a pointwise op in one pass. All tensors broadcast to g's shape; inputs and
  /// result that the gradient does not touch are undefined.
  void (*backward)(table::OpId op, const GradientTarget* out, const Tensor& g, const Operand* in,
                   int count, const Tensor& result);
  /// to = from, cast; both may be strided, shapes agree. `from` is on this device, or dense, of the
  /// same type and on another one of this kind.
  void (*copy)(const Tensor& to, const Tensor& from);
  /// out, which is dense, = the parts of its type, one after another along the axis.
  void (*cat)(const Tensor& out, const std::vector<Tensor>& parts, int axis);
  /// Copies between host memory and this device: both dense, same type.
  void (*upload)(const Tensor& to, const void* from, std::size_t bytes);
  void (*download)(void* to, const Tensor& from, std::size_t bytes);
  /// The same into a new tensor of the CPU, which it may reach later: Tensor::data() waits for it.
  void (*fetch)(const Tensor& to, const Tensor& from, std::size_t bytes);
  void (*fill)(const Tensor& to, Number value);
  /// A 1 of the type, of shape (), that the device holds ready, or an undefined tensor.
  Tensor (*one)(DataType type, Device device);
  /// Over the axes of size 1 in out; in out's type. `with` is dense and has the type that out is
  /// computed in: of out's shape, for Products of x's (then both are dense), or undefined. Sums of
  /// Mean and Deviations are divided by `divisor`.
  void (*reduce)(table::Reduction reduction, const Tensor& out, const Tensor& x, const Tensor& with,
                 double divisor);
  /// Of dense tensors in Float32 or Float64: x, and for gradients `with`, of out's shape; a and b
  /// of one shape that broadcasts to it.
  void (*spread)(table::Spread op, const Tensor& out, const Tensor& x, const Tensor& with,
                 const Tensor& a, const Tensor& b);
  /// softmax or log_softmax along `axis`, computed at least in Float32, and its gradient out of the
  /// result y and the incoming one.
  void (*softmax)(bool log, const Tensor& out, const Tensor& x, int axis);
  void (*softmax_gradient)(bool log, const Tensor& out, const Tensor& y, const Tensor& g, int axis);
  /// Positions of the extremes along `axis` into Int64.
  void (*arg_extreme)(bool largest, const Tensor& out, const Tensor& x, int axis);
  void (*cumsum)(const Tensor& out, const Tensor& x, int axis);
  /// Same type and number of dimensions (at least 2), batches broadcast to out's. Added to what out
  /// holds where `accumulate`.
  void (*matmul)(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate);
  /// out = activation(x weight + bias) of matrices, where bias, a dense row, may be undefined and
  /// kCount is no activation.
  void (*linear)(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 table::OpId activation);
  /// Indices are dense Int64 of any sign; IndexError names `op`.
  void (*index_select)(const char* op, const Tensor& out, const Tensor& x, int axis,
                       const Tensor& index);
  void (*index_add)(const char* op, const Tensor& out, int axis, const Tensor& index,
                    const Tensor& source);
  void (*gather)(const char* op, const Tensor& out, const Tensor& x, int axis, const Tensor& index);
  void (*scatter)(const char* op, const Tensor& out, int axis, const Tensor& index,
                  const Tensor& source, bool add);
  /// As many of the first positions as `order` has room for along `axis`; not empty. `values` gets
  /// the elements there, unless it is undefined.
  void (*argsort)(const Tensor& order, const Tensor& values, const Tensor& x, int axis,
                  bool descending);
  std::size_t (*count_nonzero)(const Tensor& x);
  void (*nonzero)(const Tensor& out, const Tensor& x);
  /// Fills out from the stream at `offset`.
  void (*random)(Distribution distribution, const Tensor& out, std::uint64_t seed,
                 std::uint64_t offset, double mean, double deviation);
  /// Raw 32-bit words.
  void (*random_words)(std::uint32_t* out, std::size_t blocks, std::uint64_t seed,
                       std::uint64_t offset);
  /// x *= by, of shape () and x's type; x is dense. Costs nothing where it is known that `by` is 1.
  void (*scale)(const Tensor& x, const Tensor& by);
  /// The composites take dense tensors of one floating type; `stats` are in the type that it is
  /// computed in, Float32 or Float64, two for each row.
  /// The loss and, unless they are undefined, the gradient of a loss that is one number (in Float16
  /// that of the sum, as the mean's would be rounded to 0), and for the gradient of others the
  /// stats. Labels are Int64. IndexError where one is out of range.
  void (*cross_entropy)(const Tensor& loss, const Tensor& gradient, const Tensor& stats,
                        const Tensor& logits, const Tensor& labels,
                        const CrossEntropyOptions& options);
  /// out = g * (softmax(logits) - target), g for each row.
  void (*cross_entropy_backward)(const Tensor& out, const Tensor& g, const Tensor& stats,
                                 const Tensor& logits, const Tensor& labels,
                                 const CrossEntropyOptions& options);
  /// Rows of x of weight's size; bias may be undefined. Subtracts the mean if `centered`. With a
  /// residual, of x's shape, rows of sum = x + residual instead; else both are undefined.
  void (*normalize)(bool centered, const Tensor& out, const Tensor& sum, const Tensor& stats,
                    const Tensor& x, const Tensor& residual, const Tensor& weight,
                    const Tensor& bias, double eps);
  /// Gradients that are undefined are not wanted.
  void (*normalize_backward)(bool centered, const GradientTarget& gx, const Tensor& gw,
                             const Tensor& gb, const Tensor& g, const Tensor& stats,
                             const Tensor& x, const Tensor& weight);
  /// out = x / keep where number i of the stream, as rand() draws it in Float32, is below keep,
  /// else 0.
  void (*dropout)(const Tensor& out, const Tensor& x, double keep, std::uint64_t seed,
                  std::uint64_t offset);
  void (*sgd_step)(const std::vector<ParameterUpdate>& updates, const SgdRule& rule);
  void (*adam_step)(const std::vector<ParameterUpdate>& updates, const AdamRule& rule);
  /// Linear algebra over the last two axes, in Float32 or Float64, at least one element in `out`.
  /// NaN in a matrix gives NaN. They return the first bad matrix of `a`, with which `out` is not
  /// to be used. out = a^-1 b, batches broadcast to out's.
  BadMatrix (*solve)(const Tensor& out, const Tensor& a, const Tensor& b);
  BadMatrix (*inverse)(const Tensor& out, const Tensor& a);
  /// The lower factor with zeros above; reads the lower triangle alone.
  BadMatrix (*cholesky)(const Tensor& out, const Tensor& a);
  /// For `log` the sign and log|det| as a last axis of 2, else the determinant.
  void (*determinant)(bool log, const Tensor& out, const Tensor& a);
};

}  // namespace lmp::tensor::detail

namespace lmp::cpu {
extern const tensor::detail::Backend backend;
}
namespace lmp::cuda {
/// Throws DeviceError where there is no such GPU.
const tensor::detail::Backend& backend_of(tensor::Device device);
/// See tensor/queue.hpp.
void change_queues(std::uint16_t queues);
/// The GPUs' table, whatever backend_of() says at the moment.
extern const tensor::detail::Backend backend;
/// Notes that the ops of this thread use the tensor now, which another stream may have made.
void note_use(const tensor::Tensor& x);
/// While it is so, backend_of() is the table that records.
void record_events(bool on) noexcept;
/// See tensor::detail::arrive(); and for memory that nobody will read any more, without a wait.
void arrive(tensor::detail::Storage& storage);
void abandon_arrival(tensor::detail::Storage& storage) noexcept;
/// Gives the memory that no tensor uses back to the driver, of every GPU that is in use.
void empty_cache() noexcept;
}  // namespace lmp::cuda

namespace lmp::tensor::detail {

/// The first CPU's table: cpu::backend, or while a Profiler runs the one that records.
extern constinit std::atomic<const Backend*> cpu_backend;

/// Whether ops of the device only join a queue: a launch is what small ones cost, and who looks at
/// values waits.
inline bool runs_later(Device device) noexcept { return device.type != DeviceType::CPU; }

/// The backend of any device but the first CPU.
const Backend& other_backend(Device device);

/// Throws DeviceError where this build or machine has no such device.
inline const Backend& backend(Device device) {
  return device == Device{} ? *cpu_backend.load(std::memory_order_relaxed) : other_backend(device);
}

}  // namespace lmp::tensor::detail
