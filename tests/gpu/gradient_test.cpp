// Values, gradients and gradients of gradients of every differentiable op on the GPU beside the
// CPU's, in every floating type, through views.

#include "gpu_support.hpp"
#include "gradient_cases.hpp"

namespace lmp::testing {
namespace {

constexpr DataType kFloats[] = {DataType::Float32, DataType::Float64, DataType::Float16,
                                DataType::BFloat16};

/// f of leaves that hold `at`, each seen through `view`: the value and the gradients.
std::vector<Tensor> first_order(const Function& f, const std::vector<Tensor>& at,
                                const std::function<Variable(const Variable&, std::size_t)>& view,
                                unsigned constants) {
  const Inputs bases = [&] {
    Inputs all;
    for (std::size_t i = 0; i < at.size(); ++i)
      all.emplace_back(at[i].clone(), (constants >> i & 1) == 0);
    return all;
  }();
  Inputs in;
  for (std::size_t i = 0; i < bases.size(); ++i) in.push_back(view(bases[i], i));
  const Variable y = f(in);
  std::vector<Tensor> out{y.data().to(at[0].device())};
  // Unequal weights: a gradient that goes to the wrong element shows.
  const auto n = static_cast<std::int64_t>(y.numel());
  const Tensor weights = lmp::linspace(0.5, 1.5, n, DeviceType::CPU, DataType::Float64)
                             .astype(y.type())
                             .to(y.device())
                             .reshape(IntList(y.shape()));
  y.backward(weights);
  // Once more on top, as a second pass of a training step would.
  f(in).backward(weights);
  for (const Variable& base : bases)
    if (base.requires_grad()) out.push_back(base.grad());
  return out;
}

std::vector<Tensor> second_order(const Function& f, const std::vector<Tensor>& at) {
  const Inputs in = leaves(at);
  const Variable y = f(in);
  const Inputs first = grad({sum(y * y)}, in, {.create_graph = true});
  Variable total;
  for (const Variable& g : first) {
    if (!g.requires_grad()) continue;
    const Variable square = sum(g * g);
    total = total.defined() ? total + square : square;
  }
  if (!total.defined()) return {};
  std::vector<Tensor> out;
  for (const Variable& g : grad({total}, in, {.allow_unused = true}))
    if (g.defined()) out.push_back(g.data());
  return out;
}

void check(const std::string& what, const Function& f, const std::vector<Shape>& shapes,
           const std::function<Tensor(Generator&, std::size_t, const Shape&)>& draw,
           unsigned constants = 0) {
  for (const DataType type : kFloats) {
    for (const Layout& layout : kLayouts) {
      Generator generator(11);
      std::vector<Tensor> at;
      for (std::size_t i = 0; i < shapes.size(); ++i)
        at.push_back(draw(generator, i, layout.base(shapes[i])).astype(type));
      const auto view = [&](const Variable& x, std::size_t i) { return layout.view(x, shapes[i]); };
      std::ostringstream name;
      name << what << ' ' << layout.name << ' ' << type;
      expect_alike(
          name.str(),
          [&](const std::vector<Tensor>& x) { return first_order(f, x, view, constants); }, at,
          loose);
      if (type == DataType::Float64 && constants == 0 && layout.name == kLayouts[0].name)
        expect_alike(
            name.str() + " second order",
            [&](const std::vector<Tensor>& x) { return second_order(f, x); }, at, loose);
    }
  }
}

class GpuPointwiseGradients : public GpuTestWith<PointwiseCase> {
 protected:
  void check_shapes(const std::vector<Shape>& shapes, const char* what) {
    const PointwiseCase& c = GetParam();
    check(
        c.name + ' ' + what, c.call, shapes,
        [&](Generator& generator, std::size_t i, const Shape& shape) {
          const table::Domain domain = c.op().info.domains[i];
          return uniform(generator, shape, domain.low, domain.high);
        },
        c.op().info.condition & 1);
  }
  std::vector<Shape> of(const Shape& shape) const {
    return std::vector<Shape>(static_cast<std::size_t>(GetParam().op().arity), shape);
  }
};

TEST_P(GpuPointwiseGradients, ThroughViews) { check_shapes(of({3, 5}), "views"); }

TEST_P(GpuPointwiseGradients, LongAndOdd) {
  check_shapes(of({4099}), "long");
  check_shapes(of({33, 65}), "matrix");
}

TEST_P(GpuPointwiseGradients, Broadcasting) {
  const int arity = GetParam().op().arity;
  if (arity == 1) return;
  const std::vector<std::vector<Shape>> shapes = {{{2, 3}, {3}, {2, 1}},
                                                  {{2, 1}, {1, 3}, {}},
                                                  {{65, 33}, {33}, {65, 1}},
                                                  {{}, {40, 300}, {40, 1}}};
  for (auto list : shapes) {
    list.resize(static_cast<std::size_t>(arity));
    check_shapes(list, "broadcast");
  }
}

TEST_P(GpuPointwiseGradients, NumbersOnEitherSide) {
  const PointwiseCase& c = GetParam();
  if (!c.right) return;
  for (int side = 0; side < 2; ++side) {
    const table::Domain own = c.op().info.domains[side], other = c.op().info.domains[1 - side];
    const double number = other.low + 0.81 * (other.high - other.low);
    check(
        c.name + (side == 0 ? " x, number" : " number, x"),
        [&](const Inputs& in) {
          return side == 0 ? c.right(in[0], number) : c.left(in[0], number);
        },
        {{301}},
        [&](Generator& generator, std::size_t, const Shape& shape) {
          return uniform(generator, shape, own.low, own.high);
        });
  }
}

TEST_P(GpuPointwiseGradients, MixedTypes) {
  const PointwiseCase& c = GetParam();
  const int arity = c.op().arity;
  if (arity == 1) return;
  using enum DataType;
  for (const auto& types : {std::vector{Float32, Float64, Float32},
                            {Float16, Float32, Float64},
                            {BFloat16, Float16, Float32},
                            {BFloat16, Float32, BFloat16}}) {
    Generator generator(13);
    std::vector<Tensor> at;
    for (std::size_t i = 0; i < static_cast<std::size_t>(arity); ++i) {
      const table::Domain domain = c.op().info.domains[i];
      at.push_back(uniform(generator, {37}, domain.low, domain.high).astype(types[i]));
    }
    expect_alike(
        c.name + " mixed types",
        [&](const std::vector<Tensor>& x) {
          return first_order(
              c.call, x, [](const Variable& v, std::size_t) { return v; },
              c.op().info.condition & 1);
        },
        at, loose);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, GpuPointwiseGradients, ::testing::ValuesIn(differentiable_cases()),
                         [](const auto& p) { return p.param.name; });

struct NumberedCase {
  StructuredCase c;
  std::string name;
};
std::vector<NumberedCase> numbered_cases() {
  std::vector<NumberedCase> all;
  for (StructuredCase& c : structured_cases()) {
    std::string name = std::to_string(all.size()) + '_';
    for (char letter : c.function)
      if (std::isalnum(static_cast<unsigned char>(letter)) || letter == '_') name += letter;
    all.push_back({std::move(c), std::move(name)});
  }
  return all;
}

class GpuStructuredGradients : public GpuTestWith<NumberedCase> {};

TEST_P(GpuStructuredGradients, ThroughViews) {
  const StructuredCase& c = GetParam().c;
  check(c.function, c.call, c.shapes, [&](Generator& generator, std::size_t, const Shape& shape) {
    return uniform(generator, shape, c.low, c.high);
  });
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuStructuredGradients, ::testing::ValuesIn(numbered_cases()),
                         [](const auto& p) { return p.param.name; });

}  // namespace
}  // namespace lmp::testing
