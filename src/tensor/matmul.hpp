#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "lamppp/tensor/data_type.hpp"

namespace lmp::tensor {
class Tensor;
}

namespace lmp::tensor::detail {

/// c = a b, or c += a b, for each matrix of a batch. Strides count elements and may be anything:
/// zero for a broadcast batch, negative, swapped for a transposed operand.
struct MatmulArgs {
  DataType type;  // of a, b and c
  std::int64_t batch, m, n, k;
  const void* a;
  std::int64_t a_batch, a_row, a_col;
  const void* b;
  std::int64_t b_batch, b_row, b_col;
  void* c;  // contiguous: [batch][m][n]
  bool accumulate;
};

/// The same product the other way round, c^T = b^T a^T, where c has one row or column, and is its
/// own transpose in memory.
MatmulArgs transposed(const MatmulArgs& args);

/// Runs body(args) for products that make up out = a b, or out += a b, whose batches broadcast to
/// those of `out`, which is dense: batch axes that run on with one stride each make one, and where
/// broadcasting leaves more than one axis, the outer ones are walked.
void for_matmuls(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate,
                 void (*body)(void*, const MatmulArgs&), void* context);

template <class F>
void for_matmuls(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate, F&& f) {
  using Body = std::remove_reference_t<F>;
  for_matmuls(
      out, a, b, accumulate,
      [](void* context, const MatmulArgs& args) { (*static_cast<Body*>(context))(args); },
      const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

}  // namespace lmp::tensor::detail
