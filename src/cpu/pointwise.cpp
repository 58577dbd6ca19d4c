#include <cstring>

#include "cpu/backend.hpp"
#include "cpu/block_loop.hpp"
#include "ops/pointwise_run.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/constant.hpp"

namespace lmp::cpu {

using tensor::DataType;
using tensor::IntList;
using tensor::Number;
using tensor::Shape;
using tensor::Tensor;
using tensor::detail::Constant;
using tensor::detail::GradientTarget;
using tensor::detail::Iteration;
using tensor::detail::kMaxOperands;
using tensor::detail::Operand;

namespace {

// Numbers are repeated on the stack for tensors up to this size; the block loop does it for larger
// ones.
constexpr std::int64_t kRepeats = 64;

// Work a task has to be worth: transcendental functions take about four times what arithmetic does.
std::int64_t chunk_of(const table::PointwiseOp& op) {
  return op.info.promote == table::Promote::Float ? kChunk / 4 : kChunk;
}

// Operand 0 is the result.
void run_forward(ForwardFn kernel, const Iteration& loop, const BlockOperand* operands, int count,
                 std::int64_t chunk) {
  block_loop(loop, operands, count + 1, chunk, [=](void* const* p, std::size_t n) {
    const void* const inputs[3] = {p[1], count > 1 ? p[2] : nullptr, count > 2 ? p[3] : nullptr};
    kernel(p[0], inputs, n);
  });
}

// Of operands in the memory of one type and shape, dense, that the kernel takes as they are.
void forward_dense(ForwardFn kernel, std::int64_t chunk, const Tensor& out, const Operand* in,
                   int count) {
  const IntList stride = {1};
  const IntList strides[4] = {stride, stride, stride, stride};
  BlockOperand operands[4] = {
      {static_cast<std::byte*>(out.data()), out.type(), out.type(), true, false}};
  for (int i = 0; i < count; ++i)
    operands[i + 1] = {static_cast<std::byte*>(in[i].tensor->data()), out.type(), out.type()};
  const Iteration loop(Shape{static_cast<std::int64_t>(out.numel())},
                       {strides, static_cast<std::size_t>(count + 1)}, false);
  run_forward(kernel, loop, operands, count, chunk);
}

DataType compute_of(const table::PointwiseOp& op, int operand, DataType compute) {
  return op.info.condition >> operand & 1 ? DataType::Bool : compute;
}

}  // namespace

void forward(OpId id, DataType type, const Tensor& out, const Operand* in, int count) {
  const table::PointwiseOp& op = table::pointwise_op(id);
  const DataType compute = compute_type(type);
  const ForwardFn kernel = kernels().forward[static_cast<int>(id)][compute_index(compute)];
  const DataType result = op.info.promote == table::Promote::Compare ? DataType::Bool : compute;

  if (type == DataType::BFloat16) {
    const ForwardFn whole = kernels().forward_brain[static_cast<int>(id)];
    bool dense = whole != nullptr && out.type() == type && out.is_contiguous();
    for (int i = 0; dense && i < count; ++i) {
      const Tensor* t = in[i].tensor;
      dense = t && t->type() == type && t->is_contiguous() && t->shape() == out.shape();
    }
    if (dense) return forward_dense(whole, chunk_of(op), out, in, count);
  }

  // A binary op of floats takes several rows, and one element in the place of one operand.
  const auto rows_kernel = [&](int scalar) {
    return kernels().forward_rows[static_cast<int>(id)][scalar][compute == DataType::Float64];
  };
  constexpr int kNeither = 2;
  const bool takes_scalars = count == 2 && is_floating(compute);

  const auto numel = static_cast<std::int64_t>(out.numel());
  const bool takes_numbers = takes_scalars || numel <= kRepeats;
  bool direct = out.is_contiguous() && out.type() == result && numel <= chunk_of(op);
  for (int i = 0; direct && i < count; ++i) {
    const Tensor* t = in[i].tensor;
    direct = t ? t->is_contiguous() && t->type() == compute_of(op, i, compute) &&
                     t->shape() == out.shape()
               : takes_numbers;
  }
  if (direct) [[likely]] {
    if (numel == 0) return;
    const void* pointers[3];
    int scalar = kNeither;
    Constant numbers[3];
    alignas(64) std::byte repeated[3][kRepeats * 8];
    for (int i = 0; i < count; ++i) {
      if (in[i].tensor) {
        pointers[i] = in[i].tensor->data();
        continue;
      }
      const DataType wanted = compute_of(op, i, compute);
      numbers[i] = Constant(in[i].number, wanted);
      pointers[i] = takes_scalars ? numbers[i].bytes : repeated[i];
      if (takes_scalars)
        scalar = i;
      else
        kernels().load[static_cast<int>(wanted)][compute_index(wanted)](
            repeated[i], numbers[i].bytes, 0, static_cast<std::size_t>(numel));
    }
    if (scalar != kNeither)
      rows_kernel(scalar)(out.data(), pointers, static_cast<std::size_t>(numel), 1, nullptr);
    else
      kernel(out.data(), pointers, static_cast<std::size_t>(numel));
    return;
  }

  IntList strides[kMaxOperands];
  BlockOperand operands[kMaxOperands];
  Constant constants[3];
  strides[0] = out.strides();
  operands[0] = {static_cast<std::byte*>(out.data()), out.type(), result, true, false};
  for (int i = 0; i < count; ++i) {
    const DataType wanted = compute_of(op, i, compute);
    if (const Tensor* t = in[i].tensor) {
      strides[i + 1] = tensor::detail::broadcast_strides(t->shape(), t->strides(), out.shape());
      operands[i + 1] = {static_cast<std::byte*>(t->data()), t->type(), wanted, false, false};
    } else {
      constants[i] = Constant(in[i].number, wanted);
      strides[i + 1] = tensor::detail::broadcast_strides({}, {}, out.shape());
      operands[i + 1] = {constants[i].bytes, wanted, wanted, false, false};
    }
  }
  const Iteration loop(out.shape(), {strides, static_cast<std::size_t>(count + 1)}, true);
  if (!takes_scalars) return run_forward(kernel, loop, operands, count, chunk_of(op));
  int scalar = kNeither;
  const int inner = loop.ndim - 1;
  for (int i = 0; i < 2; ++i) {
    BlockOperand& o = operands[i + 1];
    o.scalar = scalar == kNeither && o.native() && loop.ndim > 0 &&
               (loop.constant(i + 1) ||
                (loop.sizes[inner] >= kRepeats && loop.strides[i + 1][inner] == 0));
    if (o.scalar) scalar = i;
  }
  block_loop(loop, operands, 3, chunk_of(op),
             [rows_of = rows_kernel(scalar)](void* const* p, std::size_t n, std::size_t rows,
                                             const std::int64_t* steps) {
               rows_of(p[0], p + 1, n, rows, steps);
             });
}

void backward(OpId id, const GradientTarget* out, const Tensor& g, const Operand* in, int count,
              const Tensor& result) {
  const table::PointwiseOp& op = table::pointwise_op(id);
  const DataType compute = compute_type(g.type());
  unsigned mask = 0;
  for (int i = 0; i < count; ++i) mask |= out[i].tensor ? 1u << i : 0;
  const BackwardFn kernel =
      kernels().backward[static_cast<int>(id)][compute == DataType::Float64 ? 1 : 0][mask];
  const unsigned reads = op.reads[mask];

  const auto numel = static_cast<std::int64_t>(g.numel());
  bool direct = g.is_contiguous() && g.type() == compute && numel <= chunk_of(op);
  for (int i = 0; direct && i < count; ++i) {
    if (out[i].tensor) direct = !out[i].accumulate && out[i].tensor->type() == compute;
    if (direct && reads >> i & 1) {
      const Tensor* t = in[i].tensor;
      direct = t && t->is_contiguous() && t->type() == compute_of(op, i, compute) &&
               t->shape() == g.shape();
    }
  }
  if (direct && (reads & 8)) direct = result.type() == compute && result.is_contiguous();
  if (direct) [[likely]] {
    if (numel == 0) return;
    void* outputs[3] = {};
    const void* inputs[3];
    for (int i = 0; i < count; ++i) {
      if (out[i].tensor) outputs[i] = out[i].tensor->data();
      inputs[i] = reads >> i & 1 ? in[i].tensor->data() : g.data();
    }
    kernel(outputs, g.data(), inputs, reads & 8 ? result.data() : g.data(),
           static_cast<std::size_t>(numel));
    return;
  }

  // Operands: the gradients asked for, g, the inputs and the result that are read.
  IntList strides[kMaxOperands];
  BlockOperand operands[kMaxOperands];
  Constant constants[3];
  int at_out[3] = {}, at_in[3] = {}, at_result = 0, total = 0;
  const auto append = [&](const Tensor& t, DataType wanted, bool output, bool accumulate) {
    strides[total] = tensor::detail::broadcast_strides(t.shape(), t.strides(), g.shape());
    operands[total] = {static_cast<std::byte*>(t.data()), t.type(), wanted, output, accumulate};
    return total++;
  };
  for (int i = 0; i < count; ++i)
    if (out[i].tensor) at_out[i] = append(*out[i].tensor, compute, true, out[i].accumulate);
  const int at_g = append(g, compute, false, false);
  for (int i = 0; i < count; ++i) {
    at_in[i] = at_g;
    if (!(reads >> i & 1)) continue;
    const DataType wanted = compute_of(op, i, compute);
    if (in[i].tensor) {
      at_in[i] = append(*in[i].tensor, wanted, false, false);
    } else {
      constants[i] = Constant(in[i].number, wanted);
      strides[total] = tensor::detail::broadcast_strides({}, {}, g.shape());
      operands[total] = {constants[i].bytes, wanted, wanted, false, false};
      at_in[i] = total++;
    }
  }
  at_result = reads & 8 ? append(result, compute, false, false) : at_g;
  const Iteration loop(g.shape(), {strides, static_cast<std::size_t>(total)}, true);
  block_loop(loop, operands, total, chunk_of(op), [&](void* const* p, std::size_t n) {
    void* outputs[3] = {};
    const void* inputs[3] = {};
    for (int i = 0; i < count; ++i) {
      if (out[i].tensor) outputs[i] = p[at_out[i]];
      inputs[i] = p[at_in[i]];
    }
    kernel(outputs, p[at_g], inputs, p[at_result], n);
  });
}

namespace {

// The everyday small case: one element repeated into dense memory. False where it is not that.
bool spread(const Tensor& to, const void* element, DataType type) {
  if (!to.is_contiguous() || to.type() != compute_type(to.type()) || to.numel() > kBlock)
    return false;
  if (to.numel() > 0)
    kernels().load[static_cast<int>(type)][compute_index(to.type())](to.data(), element, 0,
                                                                     to.numel());
  return true;
}

bool is_constant(const Tensor& t) {
  for (std::size_t d = 0; d < t.shape().size(); ++d)
    if (t.strides()[d] != 0 && t.shape()[d] != 1) return false;
  return true;
}

}  // namespace

void copy(const Tensor& to, const Tensor& from) {
  const auto numel = static_cast<std::int64_t>(to.numel());
  if (is_constant(from) && spread(to, from.data(), from.type())) return;
  const auto size = static_cast<std::int64_t>(tensor::size_of(to.type()));
  if (to.is_contiguous() && from.is_contiguous() && to.type() == from.type()) {
    auto* out = static_cast<std::byte*>(to.data());
    const auto* in = static_cast<const std::byte*>(from.data());
    const bool streams = out != in && worth_streaming(2 * numel * size);
    tensor::detail::parallel_for(
        numel, kChunk * 8 / size, [&](std::int64_t begin, std::int64_t end) {
          const auto bytes = static_cast<std::size_t>((end - begin) * size);
          if (!streams) {
            std::memcpy(out + begin * size, in + begin * size, bytes);
            return;
          }
          kernels().stream(out + begin * size, in + begin * size, bytes, nullptr, 0);
          kernels().stream_fence();
        });
    return;
  }
  // Casting and striding happen as blocks are loaded and stored.
  const DataType compute = compute_type(to.type());
  const IntList strides[2] = {to.strides(), from.strides()};
  const BlockOperand operands[2] = {
      {static_cast<std::byte*>(to.data()), to.type(), compute, true, false},
      {static_cast<std::byte*>(from.data()), from.type(), compute, false, false},
  };
  run_blocks(Iteration(to.shape(), strides, true), operands, 2, kChunk, nullptr, nullptr);
}

void cat(const Tensor& out, const std::vector<Tensor>& parts, int axis) {
  tensor::detail::for_places(out, parts, axis, copy);
}

void fill(const Tensor& to, Number value) {
  const DataType compute = compute_type(to.type());
  Constant constant(value, compute);
  if (spread(to, constant.bytes, compute)) return;
  const IntList strides[2] = {to.strides(), tensor::detail::broadcast_strides({}, {}, to.shape())};
  const BlockOperand operands[2] = {
      {static_cast<std::byte*>(to.data()), to.type(), compute, true, false},
      {constant.bytes, compute, compute, false, false},
  };
  run_blocks(Iteration(to.shape(), strides, true), operands, 2, kChunk, nullptr, nullptr);
}

}  // namespace lmp::cpu
