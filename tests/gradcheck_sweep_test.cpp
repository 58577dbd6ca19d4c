// Every differentiable op against central differences in Float64: the pointwise ones from the op
// table, the others from a list here that is checked against the sources, first and second order,
// through views, broadcasting, numbers on either side and type changes.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "gradient_cases.hpp"

namespace lmp {
namespace {

using testing::differentiable_cases;
using testing::Function;
using testing::indices;
using testing::Inputs;
using testing::kLayouts;
using testing::Layout;
using testing::leaf;
using testing::leaves;
using testing::pointwise_cases;
using testing::PointwiseCase;
using testing::structured_cases;
using testing::StructuredCase;
using testing::uniform;
using testing::values;

void check_first(const std::string& what, const Function& f, const std::vector<Tensor>& at) {
  SCOPED_TRACE(what);
  try {
    const auto result = gradcheck(f, leaves(at));
    EXPECT_TRUE(result) << what << ": " << result.report;
  } catch (const Error& error) {
    ADD_FAILURE() << what << ": " << error.what();
  }
}

/// The gradients of f, weighted by the last input.
Inputs gradients_of(const Function& f, const Inputs& in, bool create_graph) {
  const Inputs x(in.begin(), in.end() - 1);
  return grad({f(x)}, x, {.grad_outputs = {in.back()}, .create_graph = create_graph});
}

void check_second(const std::string& what, const Function& f, std::vector<Tensor> at) {
  SCOPED_TRACE(what);
  try {
    const Shape shape = f(leaves(at)).shape();
    Generator generator(7);
    at.push_back(uniform(generator, shape, 0.5, 1.5));
    // What is recorded are the same gradients: other code computes them.
    const Inputs recorded = gradients_of(f, leaves(at), true),
                 plain = gradients_of(f, leaves(at), false);
    for (std::size_t i = 0; i < plain.size(); ++i)
      EXPECT_TRUE(allclose(recorded[i], plain[i], 1e-12, 1e-12)) << what << '\n'
                                                                 << recorded[i] << '\n'
                                                                 << plain[i];
    at.pop_back();
    const auto result = gradgradcheck(f, leaves(at));
    EXPECT_TRUE(result) << what << ", second order: " << result.report;
  } catch (const Error& error) {
    ADD_FAILURE() << what << ", second order: " << error.what();
  }
}

void check_both(const std::string& what, const Function& f, const std::vector<Tensor>& at) {
  check_first(what, f, at);
  check_second(what, f, at);
}

class PointwiseGradients : public ::testing::TestWithParam<PointwiseCase> {
 protected:
  const table::PointwiseOp& op() const { return GetParam().op(); }
  bool condition(int operand) const { return op().info.condition >> operand & 1; }
  table::Domain domain(int operand) const { return op().info.domains[operand]; }
  Tensor draw(int operand, const Shape& shape) {
    return uniform(generator_, shape, domain(operand).low, domain(operand).high);
  }
  /// f over the operands that have a gradient; a condition stays as drawn.
  void check(const std::string& what, const std::vector<Tensor>& at, const Function& f,
             bool second) {
    if (!condition(0)) {
      check_first(what, f, at);
      if (second) check_second(what, f, at);
      return;
    }
    const Function rest = [&](const Inputs& in) {
      Inputs all{Variable(at[0])};
      all.insert(all.end(), in.begin(), in.end());
      return f(all);
    };
    const std::vector<Tensor> others(at.begin() + 1, at.end());
    check_first(what, rest, others);
    if (second) check_second(what, rest, others);
  }

  Generator generator_{2024};
};

TEST_P(PointwiseGradients, ThroughViews) {
  const Shape shape{2, 3};
  for (const Layout& layout : kLayouts) {
    std::vector<Tensor> at;
    for (int i = 0; i < op().arity; ++i) at.push_back(draw(i, layout.base(shape)));
    const Function viewed = [&](const Inputs& in) {
      Inputs x;
      for (const Variable& v : in) x.push_back(layout.view(v, shape));
      return GetParam().call(x);
    };
    check(GetParam().name + " " + layout.name, at, viewed, true);
  }
}

TEST_P(PointwiseGradients, Broadcasting) {
  if (op().arity == 1) return;
  const std::vector<std::vector<Shape>> shapes = {
      {{2, 3}, {3}, {2, 1}}, {{2, 1}, {1, 3}, {}}, {{}, {2, 3}, {1}}, {{3}, {2, 1, 3}, {2, 1, 1}}};
  for (const auto& sizes : shapes) {
    std::vector<Tensor> at;
    for (int i = 0; i < op().arity; ++i) at.push_back(draw(i, sizes[static_cast<std::size_t>(i)]));
    check(GetParam().name + " broadcast", at, GetParam().call, true);
  }
}

TEST_P(PointwiseGradients, NumbersOnEitherSide) {
  if (!GetParam().right) return;
  for (const double at : {0.37, 0.81}) {
    const auto number = [&](int operand) {
      return domain(operand).low + at * (domain(operand).high - domain(operand).low);
    };
    check_both(GetParam().name + " x, number",
               [&](const Inputs& in) { return GetParam().right(in[0], number(1)); },
               {draw(0, {5})});
    check_both(GetParam().name + " number, x",
               [&](const Inputs& in) { return GetParam().left(in[0], number(0)); }, {draw(1, {5})});
  }
}

/// Gradients of sum(w * f) with each operand in its own type, the condition left out.
std::vector<Tensor> gradients(const Function& f, const Inputs& in, const Tensor& weights) {
  f(in).backward(weights);
  std::vector<Tensor> out;
  for (const Variable& v : in)
    if (v.requires_grad()) out.push_back(v.grad());
  return out;
}

TEST_P(PointwiseGradients, TypesComeBack) {
  const Shape shape{7};
  const auto run = [&](const std::vector<Tensor>& at, const std::vector<DataType>& types) {
    Inputs in;
    for (std::size_t i = 0; i < at.size(); ++i)
      in.emplace_back(condition(static_cast<int>(i)) ? at[i] : at[i].astype(types[i]),
                      !condition(static_cast<int>(i)));
    DataType wide = DataType::Bool;
    for (std::size_t i = 0; i < at.size(); ++i)
      if (!condition(static_cast<int>(i))) wide = type_upcast(wide, types[i]);
    return gradients(GetParam().call, in, lmp::linspace(0.5, 1.5, 7, DeviceType::CPU, wide));
  };
  using enum DataType;
  const std::vector<std::vector<DataType>> combinations = {
      {Float32, Float32, Float32}, {Float32, Float64, Float32}, {Float64, Float32, Float64},
      {Float16, Float32, Float64}, {Float16, Float16, Float16}, {BFloat16, BFloat16, BFloat16},
      {BFloat16, Float16, Float32}};
  for (const auto& types : combinations) {
    std::vector<Tensor> at;
    double epsilon = 1e-13;
    for (int i = 0; i < op().arity; ++i) {
      const DataType type = types[static_cast<std::size_t>(i)];
      const Tensor x = draw(i, shape);
      at.push_back(condition(i) ? x : x.astype(type).astype(Float64));
      if (condition(i)) continue;
      epsilon = std::max(epsilon, type == BFloat16  ? 0.03
                                  : type == Float16 ? 4e-3
                                  : type == Float32 ? 1e-5
                                                    : 0);
    }
    const std::vector<Tensor> expected = run(at, {Float64, Float64, Float64}),
                              found = run(at, types);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].type(), types[i + (condition(0) ? 1 : 0)]) << GetParam().name;
      EXPECT_TRUE(allclose(found[i].astype(Float64), expected[i], epsilon, epsilon))
          << GetParam().name << " operand " << i << ' ' << found[i].type() << '\n'
          << found[i] << '\n'
          << expected[i];
    }
  }
}

// Long rows take other paths than short ones: whole blocks, and gradients that are added as they
// are made.
TEST_P(PointwiseGradients, LongAndAccumulated) {
  const std::int64_t n = 5003;
  std::vector<Tensor> at;
  for (int i = 0; i < op().arity; ++i) at.push_back(draw(i, {n}));
  const auto run = [&](std::int64_t from, std::int64_t length, bool twice) {
    Inputs in;
    for (int i = 0; i < op().arity; ++i)
      in.emplace_back(at[static_cast<std::size_t>(i)].narrow(0, from, length).clone(),
                      !condition(i));
    const Function f = [&](const Inputs& x) {
      return twice ? GetParam().call(x) + GetParam().call(x) : GetParam().call(x);
    };
    return gradients(f, in, lmp::ones({length}, DeviceType::CPU, DataType::Float64));
  };
  const std::vector<Tensor> once = run(0, n, false), twice = run(0, n, true),
                            piece = run(4096, 300, false);
  for (std::size_t i = 0; i < once.size(); ++i) {
    EXPECT_TRUE(allclose(twice[i], 2 * once[i], 1e-14, 0)) << GetParam().name;
    EXPECT_TRUE(allclose(once[i].narrow(0, 4096, 300), piece[i], 1e-13, 1e-15)) << GetParam().name;
  }
}

TEST_P(PointwiseGradients, ScalarsAndNothing) {
  for (const Shape& shape : {Shape{}, Shape{0}, Shape{2, 0, 3}}) {
    std::vector<Tensor> at;
    for (int i = 0; i < op().arity; ++i) at.push_back(draw(i, shape));
    check(GetParam().name + " small", at, GetParam().call, shape.empty());
    Inputs in;
    for (int i = 0; i < op().arity; ++i)
      in.emplace_back(at[static_cast<std::size_t>(i)], !condition(i));
    GetParam().call(in).backward();
    for (const Variable& v : in) {
      if (v.requires_grad()) {
        EXPECT_EQ(v.grad().shape(), shape);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Table, PointwiseGradients, ::testing::ValuesIn(differentiable_cases()),
                         [](const auto& op) { return op.param.name; });

TEST(PointwiseGradientsTable, OthersHaveNone) {
  const Variable x = leaf({-1, 0.5, 2}), y = leaf({1, 1, 1});
  for (const PointwiseCase& c : pointwise_cases()) {
    const Variable first = c.op().info.condition & 1 ? Variable(x.data() > 0) : x;
    const Variable out = c.call({first, y, y});
    EXPECT_EQ(out.requires_grad(), c.op().differentiable) << c.name;
    if (!c.op().differentiable) {
      EXPECT_EQ(out.type(), DataType::Bool) << c.name;
      EXPECT_EQ(out.grad_fn(), nullptr) << c.name;
    }
  }
}

// ---- Structured ----

TEST(StructuredGradients, ThroughViews) {
  Generator generator(99);
  for (const StructuredCase& c : structured_cases()) {
    for (const Layout& layout : kLayouts) {
      std::vector<Tensor> at;
      for (const Shape& shape : c.shapes) at.push_back(uniform(generator, layout.base(shape)));
      const Function viewed = [&](const Inputs& in) {
        Inputs x;
        for (std::size_t i = 0; i < in.size(); ++i) x.push_back(layout.view(in[i], c.shapes[i]));
        return c.call(x);
      };
      check_both(c.function + " " + layout.name, viewed, at);
    }
  }
}

TEST(StructuredGradients, NarrowTypesComeBack) {
  Generator generator(5);
  for (const StructuredCase& c : structured_cases()) {
    for (const auto& [type, epsilon] : {std::pair{DataType::Float32, 2e-5},
                                        {DataType::Float16, 0.03},
                                        {DataType::BFloat16, 0.2}}) {
      Inputs narrow, wide;
      for (const Shape& shape : c.shapes) {
        const Tensor x = uniform(generator, shape).astype(type);
        narrow.emplace_back(x, true);
        wide.emplace_back(x.astype(DataType::Float64), true);
      }
      c.call(narrow).backward();
      c.call(wide).backward();
      for (std::size_t i = 0; i < narrow.size(); ++i) {
        EXPECT_EQ(narrow[i].grad().type(), type) << c.function;
        EXPECT_TRUE(
            allclose(narrow[i].grad().astype(DataType::Float64), wide[i].grad(), epsilon, epsilon))
            << c.function << ' ' << type << '\n'
            << narrow[i].grad() << '\n'
            << wide[i].grad();
      }
    }
  }
}

std::string source(const char* path) {
  std::ifstream file(std::string(LAMPPP_TEST_DIR "/../") + path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::set<std::string> matches(const std::string& text, const std::regex& pattern) {
  std::set<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it)
    found.insert((*it)[1]);
  return found;
}

TEST(StructuredGradients, NoOpIsMissing) {
  std::set<std::string> structs, functions;
  for (const StructuredCase& c : structured_cases()) {
    structs.insert(c.structs.begin(), c.structs.end());
    functions.insert(c.function);
  }
  // A struct with a gradient.
  const std::set<std::string> declared =
      matches(source("src/ops/structured.hpp") + source("src/ops/linalg.hpp") +
                  source("src/ops/composites.hpp"),
              std::regex(R"(\nstruct (\w+) \{\n  static constexpr unsigned saves)"));
  EXPECT_GT(declared.size(), 15u);
  const std::set<std::string> no_gradient = {"ArgExtreme", "ArgSort", "OneHot"};
  for (const std::string& name : declared)
    EXPECT_TRUE(structs.contains(name) || no_gradient.contains(name))
        << name << " has no case here";

  const std::set<std::string> without_gradient = {"any", "all", "argmax", "argmin"};
  const std::set<std::string> offered = matches(
      source("include/lamppp/tensor/functions.inc"),
      std::regex(R"(\nLMP_API (?:std::vector<LMP_T>|std::pair<LMP_T, \w+>|LMP_T) (\w+)\()"));
  EXPECT_GT(offered.size(), 40u);
  for (const std::string& name : offered)
    EXPECT_TRUE(functions.contains(name) || without_gradient.contains(name))
        << name << " has no case here";
}

// Casts are not seen by differences in Float64 that go through Float32.
TEST(StructuredGradients, Casts) {
  const Variable x = leaf({1, 2, 3});
  const Variable y = astype(x, DataType::Float32);
  EXPECT_EQ(y.type(), DataType::Float32);
  (y * y).backward();
  EXPECT_EQ(x.grad().type(), DataType::Float64);
  EXPECT_EQ(values(x.grad()), (std::vector<double>{2, 4, 6}));
  EXPECT_FALSE(astype(x, DataType::Int32).requires_grad());

  const Variable narrow = leaf({1, 2}, {1, 2}, DataType::Float32), wide = leaf({3, 4}, {2, 1});
  const Variable products[] = {matmul(narrow, wide), cat({narrow, transpose(wide)}),
                               sum(narrow * wide)};
  for (const Variable& v : products) {
    EXPECT_EQ(v.type(), DataType::Float64);
    v.backward();
    EXPECT_EQ(narrow.grad().type(), DataType::Float32);
    EXPECT_EQ(narrow.grad().shape(), narrow.shape());
    EXPECT_EQ(wide.grad().type(), DataType::Float64);
    EXPECT_EQ(wide.grad().shape(), wide.shape());
  }
}

// ---- Points where a formula could fail ----

std::vector<double> gradient_at(const Variable& x, const Variable& y) {
  x.zero_grad();
  y.backward();
  return values(x.grad());
}
using Values = std::vector<double>;

TEST(SpecialPoints, ProdWithZeros) {
  for (const Values& at :
       {Values{2, 0, 3, 4}, Values{0, 2, 0, 5}, Values{0, 0, 0, 1}, Values{-1, 2, 3, 0}}) {
    check_both("prod", [](const Inputs& in) { return prod(in[0]); }, {Tensor(at, {4})});
    check_both("prod of an axis", [](const Inputs& in) { return prod(in[0], 1); },
               {Tensor(at, {2, 2})});
    check_both("prod of the other axis", [](const Inputs& in) { return prod(in[0], 0, false); },
               {Tensor(at, {2, 2})});
  }
  const Variable x = leaf({2, 0, 3});
  EXPECT_EQ(gradient_at(x, prod(x)), (Values{0, 6, 0}));
}

TEST(SpecialPoints, TiesShareEvenly) {
  const Variable x = leaf({1, 3, 3, 0, 3, -2});
  const double third = 1.0 / 3;
  EXPECT_EQ(gradient_at(x, max(x)), (Values{0, third, third, 0, third, 0}));
  EXPECT_EQ(gradient_at(x, min(-x)), (Values{0, -third, -third, 0, -third, 0}));
  const Variable rows = leaf({1, 1, 2, 5, 4, 5}, {2, 3});
  EXPECT_EQ(gradient_at(rows, max(rows, 1)), (Values{0, 0, 1, 0.5, 0, 0.5}));
  EXPECT_EQ(gradient_at(rows, min(rows, 1)), (Values{0.5, 0.5, 0, 0, 1, 0}));
  const Variable a = leaf({1, 2, 3}), b = leaf({1, 3, 2});
  EXPECT_EQ(gradient_at(a, maximum(a, b)), (Values{0.5, 0, 1}));
  EXPECT_EQ(values(b.grad()), (Values{0.5, 1, 0}));
  EXPECT_EQ(gradient_at(a, minimum(a, b)), (Values{0.5, 1, 0}));
}

TEST(SpecialPoints, ScatterDuplicates) {
  const Variable x = leaf({1, 2, 3}), source = leaf({10, 20, 30, 40});
  const Tensor at = indices({2, 0, 2, 2}, {4});
  const Tensor weights({1.0, 2.0, 3.0}, {3});
  const Variable y = scatter(x, 0, at, source);
  EXPECT_EQ(values(y), (Values{20, 2, 40}));
  y.backward(weights);
  EXPECT_EQ(values(x.grad()), (Values{0, 2, 0}));
  EXPECT_EQ(values(source.grad()), (Values{0, 1, 0, 3}));

  x.zero_grad();
  source.zero_grad();
  const Variable z = scatter_add(x, 0, at, source);
  EXPECT_EQ(values(z), (Values{21, 2, 83}));
  z.backward(weights);
  EXPECT_EQ(values(x.grad()), (Values{1, 2, 3}));
  EXPECT_EQ(values(source.grad()), (Values{3, 1, 3, 3}));
  EXPECT_EQ(gradient_at(x, gather(x, 0, at)), (Values{1, 0, 3}));
}

TEST(SpecialPoints, RootsAtZero) {
  const Variable zero = leaf({0, 0, 0});
  EXPECT_EQ(gradient_at(zero, norm(zero)), (Values{0, 0, 0}));
  EXPECT_EQ(gradient_at(zero, std(zero)), (Values{0, 0, 0}));
  const Variable same = leaf({4, 4, 4, 4});
  EXPECT_EQ(gradient_at(same, std(same)), (Values{0, 0, 0, 0}));
  EXPECT_EQ(gradient_at(same, var(same)), (Values{0, 0, 0, 0}));
  EXPECT_EQ(gradient_at(zero, abs(zero)), (Values{0, 0, 0}));
  EXPECT_EQ(gradient_at(zero, relu(zero)), (Values{0, 0, 0}));
  EXPECT_EQ(gradient_at(zero, sqrt(zero)), Values(3, INFINITY));
}

TEST(SpecialPoints, PowAtZero) {
  const Variable x = leaf({0, 0, 0, 0}), b = leaf({0, 1, 2, 3});
  EXPECT_EQ(gradient_at(x, pow(x, b)), (Values{0, 1, 0, 0}));
  EXPECT_EQ(gradient_at(b, pow(x, b)), (Values{0, 0, 0, 0}));
  EXPECT_EQ(gradient_at(x, pow(x, 0)), Values(4, 0));
  EXPECT_EQ(gradient_at(x, pow(x, 1)), Values(4, 1));
  EXPECT_EQ(gradient_at(x, pow(x, 2)), Values(4, 0));
  const Variable negative = leaf({-2, -3});
  EXPECT_EQ(gradient_at(negative, pow(negative, 2)), (Values{-4, -6}));
  EXPECT_EQ(gradient_at(negative, pow(negative, 3)), (Values{12, 27}));
  check_both("square by pow", [](const Inputs& in) { return pow(in[0], 2); },
             {Tensor({-1.5, 0.0, 2.0}, {3})});
  check_both("cube by pow", [](const Inputs& in) { return pow(in[0], 3); },
             {Tensor({-1.5, 0.0, 2.0}, {3})});
}

TEST(SpecialPoints, InfinitiesAndNaN) {
  const double inf = INFINITY;
  const Variable x = leaf({-inf, 0, 1});
  const Values p = gradient_at(x, logsumexp(x));
  EXPECT_EQ(p[0], 0);
  EXPECT_NEAR(p[1] + p[2], 1, 1e-15);
  const Variable s = leaf({-inf, 0, 0});
  EXPECT_EQ(gradient_at(s, select(softmax(s), 0, 1)), (Values{0, 0.25, -0.25}));
  // What where() does not take leaves no NaN behind.
  const Variable z = leaf({0, 4});
  EXPECT_EQ(gradient_at(z, where(z > 0, sqrt(where(z > 0, z, 1)), 0)), (Values{0, 0.25}));
  const Variable t = leaf({100, -100});
  EXPECT_EQ(values(tanh(t)), (Values{1, -1}));
  EXPECT_EQ(gradient_at(t, tanh(t)), (Values{0, 0}));
}

TEST(SpecialPoints, ThirdOrder) {
  const Variable x = leaf({0.5, -1.5, 2});
  const auto derivative = [&](const Variable& y) {
    return grad({y}, {x}, {.create_graph = true}).front();
  };
  const Values third = values(derivative(derivative(derivative(x * x * x * x + sin(x)))));
  for (std::size_t i = 0; i < 3; ++i) {
    const double at = x.index({i});
    EXPECT_NEAR(third[i], 24 * at - std::cos(at), 1e-12);
  }
}

}  // namespace
}  // namespace lmp
