#include "lamppp/tensor/shape.hpp"

#include "lamppp/error.hpp"
#include "tensor/format.hpp"

namespace lmp::tensor {

void IntList::too_many() {
  throw ShapeError("a tensor has at most 8 dimensions; merge some with reshape");
}

IntList::IntList(std::initializer_list<Dim> values) {
  for (Dim d : values) push_back(d.value);
}

Shape::Shape(std::initializer_list<Dim> sizes) : Shape(IntList(sizes)) {}

Shape::Shape(const IntList& sizes) : size_(static_cast<std::uint8_t>(sizes.size())) {
  std::int64_t numel = 1;
  bool overflow = false;
  for (std::size_t i = 0; i < size_; ++i) {
    if (sizes[i] < 0)
      throw ShapeError(detail::concat("shape ", sizes, ": a size cannot be negative"));
    sizes_[i] = static_cast<std::size_t>(sizes[i]);
    // Sizes beside a 0 have to be countable too: strides are products of them.
    if (sizes[i] != 0) overflow |= __builtin_mul_overflow(numel, sizes[i], &numel);
  }
  if (overflow) throw ShapeError(detail::concat("shape ", sizes, ": more than 2^63 - 1 elements"));
}

}  // namespace lmp::tensor
