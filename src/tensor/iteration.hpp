#pragma once

#include <cstdint>
#include <span>

#include "lamppp/tensor/shape.hpp"

namespace lmp::tensor::detail {

/// Most operands of one kernel: three gradients, the incoming one, three inputs, the result.
inline constexpr int kMaxOperands = 8;

/// Loop bounds and strides (in elements, innermost last) of operands that are walked together,
/// after axes of size 1 are dropped, the rest ordered by the strides of the first operand and
/// neighbours that run on merged for all operands. The only place that knows how to order and merge
/// strides.
struct Iteration {
  int ndim = 0;
  std::int64_t numel = 1;
  std::int64_t sizes[kMaxDims] = {};
  std::int64_t strides[kMaxOperands][kMaxDims] = {};

  /// `strides[i]` are operand i's, broadcast to `shape`. `reorder` allows visiting the elements in
  /// another than row-major order.
  Iteration(const Shape& shape, std::span<const IntList> operand_strides, bool reorder);

  /// True where operand i is dense in the order of the loop.
  bool dense(int operand) const noexcept {
    return ndim == 0 || (ndim == 1 && strides[operand][0] == 1);
  }
  bool constant(int operand) const noexcept {
    for (int d = 0; d < ndim; ++d)
      if (strides[operand][d] != 0) return false;
    return true;
  }
};

/// Walks one operand of an Iteration run by run: a run is part of an innermost row.
class RunWalker {
 public:
  RunWalker(const std::int64_t* sizes, const std::int64_t* strides, int ndim,
            std::int64_t start) noexcept
      : sizes_(sizes), strides_(strides), ndim_(ndim) {
    for (int d = ndim - 1; d >= 0 && start > 0; --d) {
      index_[d] = start % sizes[d];
      start /= sizes[d];
      offset_ += index_[d] * strides[d];
    }
  }
  /// Elements left in the current row.
  std::int64_t left() const noexcept {
    return ndim_ == 0 ? 1 : sizes_[ndim_ - 1] - index_[ndim_ - 1];
  }
  std::int64_t offset() const noexcept { return offset_; }
  /// Moves on by n <= left() elements.
  void advance(std::int64_t n) noexcept {
    if (ndim_ == 0) return;
    int d = ndim_ - 1;
    index_[d] += n;
    offset_ += n * strides_[d];
    while (index_[d] == sizes_[d] && d > 0) {
      offset_ -= sizes_[d] * strides_[d];
      index_[d] = 0;
      --d;
      ++index_[d];
      offset_ += strides_[d];
    }
  }

 private:
  const std::int64_t* sizes_;
  const std::int64_t* strides_;
  int ndim_;
  std::int64_t index_[kMaxDims] = {};
  std::int64_t offset_ = 0;
};

/// Walks the first operands of an Iteration together, innermost row by innermost row.
class RowWalker {
 public:
  RowWalker(const Iteration& loop, int operands, std::int64_t start) noexcept
      : loop_(loop), operands_(operands) {
    for (int d = loop.ndim - 2; d >= 0 && start > 0; --d) {
      index_[d] = start % loop.sizes[d];
      start /= loop.sizes[d];
      for (int i = 0; i < operands; ++i) offset_[i] += index_[d] * loop.strides[i][d];
    }
  }
  /// Where operand i's row begins.
  std::int64_t offset(int i) const noexcept { return offset_[i]; }
  /// Rows left along the axis that rows are stacked along, this one included.
  std::int64_t left() const noexcept {
    return loop_.ndim < 2 ? 1 : loop_.sizes[loop_.ndim - 2] - index_[loop_.ndim - 2];
  }
  /// Moves on by `rows` <= left().
  void next(std::int64_t rows = 1) noexcept {
    for (int d = loop_.ndim - 2; d >= 0; --d, rows = 1) {
      for (int i = 0; i < operands_; ++i) offset_[i] += rows * loop_.strides[i][d];
      if ((index_[d] += rows) < loop_.sizes[d]) return;
      index_[d] = 0;
      for (int i = 0; i < operands_; ++i) offset_[i] -= loop_.sizes[d] * loop_.strides[i][d];
    }
  }

 private:
  const Iteration& loop_;
  int operands_;
  std::int64_t index_[kMaxDims] = {};
  std::int64_t offset_[kMaxOperands] = {};
};

}  // namespace lmp::tensor::detail
