#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "lamppp/autograd/ops.hpp"
#include "tensor/checks.hpp"

namespace lmp::table {

/// How operands are brought to common axes: the letters of the result in order, then the summed
/// ones.
struct EinsumPlan {
  std::vector<std::vector<std::pair<int, int>>> diagonals;  // axis pairs, each moves to the end
  std::vector<tensor::IntList> orders;                      // permutation after that
  std::vector<tensor::IntList> inserted;                    // axes of size 1 put in, ascending
  int kept = 0;
  int summed = 0;
};
/// Column minus row for every element of the last two axes of a tensor of this shape.
tensor::Tensor triangle(const char* op, const tensor::Shape& shape, tensor::Device device);

EinsumPlan plan_einsum(std::string_view equation, const std::vector<tensor::IntList>& shapes);

/// The product of two operands with `kept` + `summed` axes, the last `summed` summed: a batched
/// matrix product where axes of size 1 show which letters an operand lacks.
template <class V>
V contract(const V& a, const V& b, int kept, int summed) {
  // Letters of both are batches, letters of one are rows or columns; summed letters of one are
  // summed first.
  V left = a, right = b;
  tensor::IntList batch, rows, columns, inner, shape;
  for (int d = 0; d < kept + summed; ++d) {
    const std::int64_t n = a.shape().dim(d), m = b.shape().dim(d);
    if (n != m && n != 1 && m != 1)
      tensor::detail::broadcast_shapes("einsum", a.shape(), b.shape());
    if (d < kept)
      (n == m ? batch : m == 1 ? rows : columns).push_back(d);
    else if (n != m && m == 1)
      left = sum(left, d);
    else if (n != m)
      right = sum(right, d);
    if (d >= kept) inner.push_back(d);
  }
  using Parts = std::initializer_list<const tensor::IntList*>;
  const auto arrange = [&](const V& x, const tensor::IntList& first, const tensor::IntList& second,
                           const tensor::IntList& ones) {
    tensor::IntList order, sizes;
    for (const tensor::IntList* part : Parts{&batch, &first, &second, &ones})
      for (std::int64_t d : *part) order.push_back(d);
    for (std::int64_t d : batch) sizes.push_back(x.shape().dim(static_cast<int>(d)));
    for (const tensor::IntList* part : Parts{&first, &second}) {
      std::int64_t n = 1;
      for (std::int64_t d : *part) n *= x.shape().dim(static_cast<int>(d));
      sizes.push_back(n);
    }
    return reshape(permute(x, order), sizes);
  };
  const V product =
      matmul(arrange(left, rows, inner, columns), arrange(right, inner, columns, rows));
  // Back to the order of the result.
  tensor::IntList made, back;
  for (const tensor::IntList* part : Parts{&batch, &rows, &columns})
    for (std::int64_t d : *part) {
      made.push_back(d);
      const std::int64_t size = a.shape().dim(static_cast<int>(d));
      shape.push_back(size == 1 ? b.shape().dim(static_cast<int>(d)) : size);
    }
  for (int d = 0; d < kept; ++d)
    for (std::size_t i = 0; i < made.size(); ++i)
      if (made[i] == d) back.push_back(static_cast<std::int64_t>(i));
  return permute(reshape(product, shape), back);
}

}  // namespace lmp::table
