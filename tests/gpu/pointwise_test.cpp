// Every op of include/lamppp/tensor/pointwise.def on the GPU beside the CPU: types, layouts,
// numbers, mixed types, sizes that no vector divides, in place, and into views whose surroundings
// must stay.

#include <sstream>

#include "gpu_support.hpp"
#include "ops/pointwise_run.hpp"
#include "pointwise_reference.hpp"

namespace lmp::testing {
namespace {

using sweep::arrange, sweep::Layout, sweep::Rng, sweep::Wide;
using table::OpId, table::OpInfo, table::Promote;
using tensor::detail::Operand;

std::vector<OpId> all_ops() {
  std::vector<OpId> ops;
  for (int i = 0; i < table::kOpCount; ++i) ops.push_back(static_cast<OpId>(i));
  return ops;
}

struct Argument {
  Tensor tensor;
  std::optional<Number> number = {};
};

class GpuPointwise : public GpuTestWith<OpId> {
 protected:
  const table::PointwiseOp& op() const { return table::pointwise_op(GetParam()); }
  const OpInfo& info() const { return op().info; }
  bool is_condition(int operand) const { return info().condition >> operand & 1; }
  const sweep::Reference& reference() const { return sweep::references().at(info().name); }

  Wide draw(Rng& rng, int i, DataType type) const {
    const auto& domain = info().domains[i];
    const Wide value = sweep::draw_value(rng, type, domain.low, domain.high);
    return i == 1 && !is_floating(type) && !reference().takes(static_cast<sweep::Int>(value))
               ? 1
               : value;
  }
  Tensor arranged(Rng& rng, int i, Layout layout, DataType type, const Shape& shape) const {
    const DataType t = is_condition(i) ? DataType::Bool : type;
    return arrange(rng, layout, t, shape, [&] { return draw(rng, i, t); });
  }

  std::string describe(const std::vector<Argument>& in) const {
    std::ostringstream out;
    out << info().name;
    for (const Argument& a : in) {
      if (a.number)
        out << " number " << a.number->to_double();
      else
        out << ' ' << a.tensor.type() << a.tensor.shape() << " strides " << a.tensor.strides();
    }
    return out.str();
  }

  /// What IEEE rounds is the same on both; functions may differ in their last places.
  Tolerance allowed(DataType type) const {
    if (reference().ulp32 == 0) return {};
    return type == DataType::Float64 ? Tolerance{1e-12, 1e-12} : tolerance(type);
  }

  using Run = std::function<Tensor(const std::vector<Operand>&)>;
  /// run() of the operands on both devices.
  void check(const std::vector<Argument>& in, const Run& run) const {
    std::vector<Tensor> tensors;
    for (const Argument& a : in) tensors.push_back(a.tensor);
    expect_alike(
        describe(in),
        [&](const std::vector<Tensor>& x) {
          std::vector<Operand> operands;
          for (std::size_t i = 0; i < in.size(); ++i)
            operands.push_back(in[i].number ? Operand(*in[i].number) : Operand(x[i]));
          return std::vector{run(operands)};
        },
        tensors, [this](DataType type) { return allowed(type); });
  }
  void check(const std::vector<Argument>& in) const {
    check(in, [this](const std::vector<Operand>& x) {
      return tensor::ops::pointwise(GetParam(), x.data(), op().arity);
    });
  }
};

TEST_P(GpuPointwise, EveryTypeAndLayout) {
  Rng rng(static_cast<std::uint64_t>(GetParam()) + 1001);
  for (DataType type : sweep::kTypes) {
    for (Layout layout : sweep::kLayouts) {
      for (int i = 0; i < rounds(20); ++i) {
        const Shape shape =
            random_shape(rng, layout, quick() ? static_cast<int>(rng.bits() % 10) : i);
        std::vector<Argument> in;
        for (int k = 0; k < op().arity; ++k) {
          const bool leads = k == 0 || i % 2 == 0;
          const DataType t =
              leads ? type : sweep::kTypes[rng.integer(0, std::size(sweep::kTypes) - 1)];
          const Shape s = op().arity > 1 && rng.chance(0.4) ? broadcastable(rng, shape) : shape;
          in.push_back({arranged(rng, k, k == 0 ? layout : random_layout(rng), t, s)});
        }
        if (op().arity == 2 && i % 5 == 2) {
          const int side = static_cast<int>(rng.integer(0, 1));
          auto& argument = in[static_cast<std::size_t>(side)];
          if (rng.chance(0.5))
            argument.number = rng.integer(side, 100);
          else
            argument.number = static_cast<double>(draw(rng, side, DataType::Float64));
          argument.tensor = {};
        }
        check(in);
        if (HasFailure()) FAIL() << type << ' ' << layout << ", shape number " << i;
      }
    }
  }
}

TEST_P(GpuPointwise, Numbers) {
  if (op().arity != 2) return;
  Rng rng(static_cast<std::uint64_t>(GetParam()) + 2001);
  for (DataType type : sweep::kTypes)
    for (int side = 0; side < 2; ++side)
      for (const Number& number : {Number(3), Number(true), Number(1.5)}) {
        std::vector<Argument> in(2);
        in[static_cast<std::size_t>(side)].number = number;
        in[static_cast<std::size_t>(1 - side)].tensor =
            arranged(rng, 1 - side, Layout::Contiguous, type, {3, 37});
        check(in);
      }
}

TEST_P(GpuPointwise, LargeAndOddSizes) {
  Rng rng(static_cast<std::uint64_t>(GetParam()) + 3001);
  struct Size {
    Layout layout;
    Shape first, others;
  };
  const Size sizes[] = {
      {Layout::Offset, {100003}, {100003}},         {Layout::Contiguous, {65537}, {1}},
      {Layout::Contiguous, {301, 517}, {517}},      {Layout::Contiguous, {301, 517}, {301, 1}},
      {Layout::Transposed, {259, 131}, {259, 131}}, {Layout::Transposed, {132, 100}, {132, 100}},
      {Layout::Sliced, {67, 33, 5}, {67, 33, 5}},   {Layout::Reversed, {40001}, {40001}}};
  for (DataType type : sweep::kTypes) {
    // Drawn once: drawing takes longer than computing.
    std::vector<Wide> pool[3];
    for (int k = 0; k < op().arity; ++k)
      for (int i = 0; i < 4099; ++i)
        pool[k].push_back(draw(rng, k, is_condition(k) ? DataType::Bool : type));
    for (const Size& size : sizes) {
      if (quick() && !rng.chance(0.3)) continue;
      std::vector<Argument> in;
      for (int k = 0; k < op().arity; ++k) {
        std::size_t next = 0;
        in.push_back({arrange(rng, size.layout, is_condition(k) ? DataType::Bool : type,
                              k == 0 ? size.first : size.others,
                              [&] { return pool[k][next++ % pool[k].size()]; })});
      }
      check(in);
      if (HasFailure()) FAIL() << type << ' ' << size.layout;
    }
  }
}

TEST_P(GpuPointwise, Edges) {
  for (DataType type : sweep::kTypes) {
    std::vector<Wide> choices[3];
    std::size_t count = 1;
    for (int k = 0; k < op().arity; ++k) {
      const DataType t = is_condition(k) ? DataType::Bool : type;
      for (Wide v : sweep::edges(t, op().arity == 3))
        if (k != 1 || is_floating(t) || reference().takes(static_cast<sweep::Int>(v)))
          choices[k].push_back(v);
      count *= choices[k].size();
    }
    std::vector<Argument> in;
    std::size_t inner = count;
    for (int k = 0; k < op().arity; ++k) {
      inner /= choices[k].size();
      std::vector<Wide> values;
      for (std::size_t e = 0; e < count; ++e)
        values.push_back(choices[k][e / inner % choices[k].size()]);
      in.push_back({sweep::dense(is_condition(k) ? DataType::Bool : type, Shape{count}, values)});
    }
    check(in);
  }
}

TEST_P(GpuPointwise, EveryHalf) {
  if (op().arity != 1) return;
  std::vector<Half> half(65536);
  std::vector<BFloat16> brain(65536);
  for (std::size_t i = 0; i < half.size(); ++i)
    half[i].bits = brain[i].bits = static_cast<std::uint16_t>(i);
  check({{Tensor(half, {65536})}});
  check({{Tensor(brain, {65536})}});
}

// The first operand is written, or a view that no operand reads; what lies around it stays.
TEST_P(GpuPointwise, IntoViews) {
  Rng rng(static_cast<std::uint64_t>(GetParam()) + 4001);
  for (DataType type : sweep::kTypes) {
    for (Layout layout : sweep::kLayouts) {
      if (layout == Layout::Expanded) continue;
      for (int i = 0; i < rounds(8); ++i) {
        const Shape shape = random_shape(rng, layout, quick() ? 9 : i * 3 + 1);
        std::vector<Argument> in;
        for (int k = 0; k < op().arity; ++k)
          in.push_back({arranged(rng, k, k == 0 ? layout : random_layout(rng), type,
                                 k == 0 || rng.chance(0.7) ? shape : broadcastable(rng, shape))});
        if (i % 2 == 0) {
          check(in, [&](const std::vector<Operand>& x) {
            tensor::ops::pointwise_into(GetParam(), info().name, *x[0].tensor, x.data(),
                                        op().arity);
            return memory_of(*x[0].tensor);
          });
        } else {
          in.push_back({arranged(
              rng, 0, layout, info().promote == Promote::Compare ? DataType::Bool : type, shape)});
          check(in, [&](const std::vector<Operand>& x) {
            const Tensor& out = *x.back().tensor;
            tensor::ops::pointwise_into(GetParam(), info().name, out, x.data(), op().arity);
            return memory_of(out);
          });
        }
        if (HasFailure()) FAIL() << type << ' ' << layout << ", shape number " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, GpuPointwise, ::testing::ValuesIn(all_ops()), [](const auto& p) {
  return std::string(table::pointwise_op(p.param).info.name);
});

}  // namespace
}  // namespace lmp::testing
