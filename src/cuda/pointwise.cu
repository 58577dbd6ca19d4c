#include "cuda/pointwise.cuh"

#include <array>
#include <utility>

namespace lmp::cuda {
namespace {

struct Runs {
  std::array<ForwardRun, table::kOpCount> forward{};
  std::array<BackwardRun, table::kOpCount> backward{};

  Runs() : Runs(std::make_integer_sequence<int, LMP_PARTS>()) {}
  template <int... kPart>
  explicit Runs(std::integer_sequence<int, kPart...>) {
    (fill_forward<kPart + 1>(forward.data()), ...);
    (fill_backward<kPart + 1>(backward.data()), ...);
  }
};

const Runs& runs() {
  static const Runs instance;
  return instance;
}

}  // namespace

void forward(OpId op, DataType compute, const Tensor& out, const Operand* in, int) {
  runs().forward[static_cast<std::size_t>(op)](compute, out, in);
}

void backward(OpId op, const tensor::detail::GradientTarget* out, const Tensor& g,
              const Operand* in, int count, const Tensor& result) {
  unsigned mask = 0;
  for (int i = 0; i < count; ++i) mask |= out[i].tensor ? 1u << i : 0;
  runs().backward[static_cast<std::size_t>(op)](table::pointwise_op(op).reads[mask], out, g, in,
                                                result);
}

}  // namespace lmp::cuda
