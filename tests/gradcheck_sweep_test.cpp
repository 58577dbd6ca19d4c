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

#include "autograd_support.hpp"
#include "ops/linalg.hpp"
#include "ops/pointwise_run.hpp"
#include "ops/structured.hpp"

namespace lmp {
namespace {

using testing::leaf;
using testing::uniform;
using testing::values;

using Inputs = std::vector<Variable>;
using Function = std::function<Variable(const Inputs&)>;

Inputs leaves(const std::vector<Tensor>& tensors) {
  Inputs out;
  for (const Tensor& t : tensors) out.emplace_back(t.clone(), true);
  return out;
}

void check_first(const std::string& what, const Function& f, const std::vector<Tensor>& at) {
  SCOPED_TRACE(what);
  try {
    const auto result = gradcheck(f, leaves(at));
    EXPECT_TRUE(result) << what << ": " << result.report;
  } catch (const Error& error) {
    ADD_FAILURE() << what << ": " << error.what();
  }
}

/// The gradients of f, weighted by the last input, as one vector: what gradcheck differentiates
/// again.
Function gradients_of(const Function& f, bool create_graph) {
  return [f, create_graph](const Inputs& in) {
    const Inputs x(in.begin(), in.end() - 1);
    const Variable y = f(x);
    Variable total;
    for (const Variable& v : x) total = total.defined() ? total + sum(v) : sum(v);
    Inputs parts;
    for (const Variable& g :
         grad({y}, x, {.grad_outputs = {in.back()}, .create_graph = create_graph}))
      parts.push_back(reshape(g, {-1}));
    return cat(parts) + 0 * total;  // a gradient that is constant leads nowhere by itself
  };
}

void check_second(const std::string& what, const Function& f, std::vector<Tensor> at) {
  SCOPED_TRACE(what);
  try {
    const Shape shape = f(leaves(at)).shape();
    Generator generator(7);
    at.push_back(uniform(generator, shape, 0.5, 1.5));
    // What is recorded are the same gradients: other code computes them.
    const Variable recorded = gradients_of(f, true)(leaves(at)),
                   plain = gradients_of(f, false)(leaves(at));
    EXPECT_TRUE(allclose(recorded, plain, 1e-12, 1e-12)) << what << '\n'
                                                         << recorded << '\n'
                                                         << plain;
    const auto result = gradcheck(gradients_of(f, true), leaves(at));
    EXPECT_TRUE(result) << what << ", second order: " << result.report;
  } catch (const Error& error) {
    ADD_FAILURE() << what << ", second order: " << error.what();
  }
}

void check_both(const std::string& what, const Function& f, const std::vector<Tensor>& at) {
  check_first(what, f, at);
  check_second(what, f, at);
}

/// A way to make a tensor of a given shape as a view of another one.
struct Layout {
  const char* name;
  Shape (*base)(const Shape&);
  Variable (*view)(const Variable&, const Shape&);
};

IntList reversed_axes(std::size_t n) {
  IntList axes;
  for (std::size_t i = n; i-- > 0;) axes.push_back(static_cast<std::int64_t>(i));
  return axes;
}

const Layout kLayouts[] = {
    {"contiguous", [](const Shape& s) { return s; },
     [](const Variable& x, const Shape&) { return x; }},
    {"transposed",
     [](const Shape& s) {
       IntList sizes;
       for (std::size_t i = s.size(); i-- > 0;) sizes.push_back(static_cast<std::int64_t>(s[i]));
       return Shape(sizes);
     },
     [](const Variable& x, const Shape& s) { return permute(x, reversed_axes(s.size())); }},
    {"sliced",
     [](const Shape& s) {
       IntList sizes(s);
       for (std::int64_t& size : sizes) size = 2 * size + 1;
       return Shape(sizes);
     },
     [](const Variable& x, const Shape& s) {
       Variable v = x;
       for (int d = 0; d < s.ndim(); ++d) v = slice(v, d, 1, std::nullopt, 2);
       return v;
     }},
    {"reversed", [](const Shape& s) { return s; },
     [](const Variable& x, const Shape& s) { return flip(x, reversed_axes(s.size())); }},
    {"expanded",
     [](const Shape& s) {
       IntList sizes(s);
       if (!sizes.empty()) sizes[0] = 1;
       return Shape(sizes);
     },
     [](const Variable& x, const Shape& s) { return expand(x, s); }},
    {"offset",
     [](const Shape& s) {
       IntList sizes(s);
       for (std::int64_t& size : sizes) size += 2;
       return Shape(sizes);
     },
     [](const Variable& x, const Shape& s) {
       Variable v = x;
       for (int d = 0; d < s.ndim(); ++d) v = narrow(v, d, 1, s.dim(d));
       return v;
     }},
};

// ---- Pointwise ----

struct PointwiseCase {
  std::string name;
  table::OpId id;
  Function call;
  // Binary ops: the number on the right, and on the left.
  std::function<Variable(const Variable&, double)> right, left;
  const table::PointwiseOp& op() const { return table::pointwise_op(id); }
};

std::vector<PointwiseCase> pointwise_cases() {
  std::vector<PointwiseCase> cases;
#define LMP_UNARY(function, Op)                \
  cases.push_back({#function, table::OpId::Op, \
                   [](const Inputs& in) { return autograd::function(in[0]); }, nullptr, nullptr});
#define LMP_BINARY(function, Op)                                                         \
  cases.push_back({#function, table::OpId::Op,                                           \
                   [](const Inputs& in) { return autograd::function(in[0], in[1]); },    \
                   [](const Variable& a, double b) { return autograd::function(a, b); }, \
                   [](const Variable& b, double a) { return autograd::function(a, b); }});
#define LMP_TERNARY(function, Op)                                                            \
  cases.push_back({#function, table::OpId::Op,                                               \
                   [](const Inputs& in) { return autograd::function(in[0], in[1], in[2]); }, \
                   nullptr, nullptr});
#include "lamppp/tensor/pointwise.def"
  return cases;
}

/// The differentiable ones, conditions taken as the sign of an operand without a gradient.
std::vector<PointwiseCase> differentiable_cases() {
  std::vector<PointwiseCase> cases;
  for (PointwiseCase c : pointwise_cases()) {
    if (!c.op().differentiable) continue;
    if (c.op().info.condition & 1)
      c.call = [call = c.call](const Inputs& in) {
        return call({Variable(in[0].data() > 0), in[1], in[2]});
      };
    cases.push_back(c);
  }
  return cases;
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

struct StructuredCase {
  std::string function;
  /// The structs of structured.hpp and linalg.hpp that it exercises, forward or as another's
  /// gradient.
  std::vector<std::string> structs;
  std::vector<Shape> shapes;
  Function call;
  double low = -2, high = 2;
};

Tensor indices(const std::vector<std::int64_t>& data, const Shape& shape) {
  return Tensor(data, shape);
}

std::vector<StructuredCase> structured_cases() {
  std::vector<StructuredCase> cases;
  const auto add = [&](const char* function, std::vector<std::string> structs,
                       std::vector<Shape> shapes, Function call) {
    cases.push_back({function, std::move(structs), std::move(shapes), std::move(call)});
  };
  const auto unary = [&](const char* function, const char* op, const Shape& shape,
                         Variable (*call)(const Variable&)) {
    add(function, {op}, {shape}, [call](const Inputs& in) { return call(in[0]); });
  };
  using V = const Variable&;

  // Views.
  unary("reshape", "Reshape", {2, 3}, [](V x) { return reshape(x, {3, -1}); });
  unary("flatten", "Reshape", {2, 2, 3}, [](V x) { return flatten(x, 1, 2); });
  unary("permute", "View", {2, 3, 2}, [](V x) { return permute(x, {2, 0, 1}); });
  unary("transpose", "View", {2, 3}, [](V x) { return transpose(x); });
  unary("transpose", "View", {2, 3, 2}, [](V x) { return transpose(x, 0, -1); });
  unary("movedim", "View", {2, 3, 2}, [](V x) { return movedim(x, 0, 2); });
  unary("broadcast_to", "BroadcastTo", {2, 1}, [](V x) { return broadcast_to(x, {3, 2, 2}); });
  unary("expand", "BroadcastTo", {1, 3}, [](V x) { return expand(x, {2, 3}); });
  unary("squeeze", "View", {2, 1, 3, 1}, [](V x) { return squeeze(x); });
  unary("squeeze", "View", {2, 1, 3}, [](V x) { return squeeze(x, 1); });
  unary("expand_dims", "View", {2, 3}, [](V x) { return expand_dims(x, -2); });
  unary("slice", "Embed", {2, 5}, [](V x) { return slice(x, 1, 1, std::nullopt, 2); });
  unary("slice", "Embed", {5, 2}, [](V x) { return slice(x, 0, -1, 0, -3); });
  unary("select", "Embed", {2, 3}, [](V x) { return select(x, 1, -1); });
  unary("operator[]", "Embed", {2, 3}, [](V x) { return x[1]; });
  unary("narrow", "Embed", {2, 4}, [](V x) { return narrow(x, 1, 1, 2); });
  unary("narrow", "Embed", {2, 4}, [](V x) { return narrow(x, 1, 2, 0); });
  unary("diagonal", "Embed", {3, 4}, [](V x) { return diagonal(x, 1); });
  unary("diagonal", "Embed", {2, 3, 3}, [](V x) { return diagonal(x, -1, 2, 1); });
  unary("flip", "View", {2, 3}, [](V x) { return flip(x, {0, 1}); });
  unary("split", "Embed", {5, 2}, [](V x) {
    const auto pieces = split(x, 2);
    return sum(pieces[0] * pieces[1]) + square(sum(pieces[2]));
  });
  unary("split", "Embed", {5}, [](V x) {
    const auto pieces = split(x, std::vector<std::int64_t>{1, 4});
    return pieces[0] * pieces[1];
  });
  unary("chunk", "Embed", {2, 5}, [](V x) { return chunk(x, 2, 1)[1] * 3; });

  // Copies.
  unary("contiguous", "Copy", {2, 3}, [](V x) { return contiguous(transpose(x)); });
  unary("clone", "Copy", {2, 3}, [](V x) { return clone(x); });
  unary("astype", "Copy", {2, 3}, [](V x) { return astype(x, DataType::Float64) * x; });
  unary("to", "ToDevice", {2, 3}, [](V x) {
    return apply(table::ToDevice{DeviceType::CPU, DeviceType::CPU}, x)
        .to(DataType::Float64)
        .to(DeviceType::CPU);
  });

  // Reductions.
#define LMP_REDUCTION(function, Op)                                                  \
  unary(#function, Op, {2, 3}, [](V x) { return autograd::function(x); });           \
  unary(#function, Op, {2, 3}, [](V x) { return autograd::function(x, 1); });        \
  unary(#function, Op, {2, 3}, [](V x) { return autograd::function(x, 0, false); }); \
  unary(#function, Op, {2, 3, 2}, [](V x) { return autograd::function(x, {0, -1}, false); });
  LMP_REDUCTION(sum, "Sum")
  LMP_REDUCTION(mean, "Sum")
  LMP_REDUCTION(prod, "Prod")
  LMP_REDUCTION(max, "Extreme")
  LMP_REDUCTION(min, "Extreme")
  LMP_REDUCTION(var, "Var")
  LMP_REDUCTION(std, "Std")
  LMP_REDUCTION(norm, "Norm")
  LMP_REDUCTION(logsumexp, "LogSumExp")
#undef LMP_REDUCTION
  unary("prod", "Prod", {5}, [](V x) { return prod(x); });
  unary("prod", "Prod", {}, [](V x) { return prod(x); });
  unary("var", "Var", {4}, [](V x) { return var(x, IntList(), true, 0); });
  unary("std", "Std", {2, 4}, [](V x) { return std(x, 1, true, 2); });
  unary("cumsum", "Cumsum", {3, 2}, [](V x) { return cumsum(x, 0); });
  unary("softmax", "Softmax", {2, 3}, [](V x) { return softmax(x); });
  unary("softmax", "Softmax", {3, 2}, [](V x) { return softmax(x, 0); });
  unary("log_softmax", "LogSoftmax", {2, 3}, [](V x) { return log_softmax(x); });
  unary("log_softmax", "LogSoftmax", {3, 2}, [](V x) { return log_softmax(x, 0); });

  // Products.
  const auto product = [&](const Shape& a, const Shape& b) {
    add("matmul", {"Matmul"}, {a, b}, [](const Inputs& in) { return matmul(in[0], in[1]); });
  };
  product({2, 3}, {3, 2});
  product({3}, {3, 2});
  product({2, 3}, {3});
  product({3}, {3});
  product({2, 2, 3}, {2, 3, 2});
  product({2, 1, 2, 2}, {3, 2, 1});
  product({2, 2, 3}, {3, 2});
  product({2, 3}, {2, 3, 2});
  product({3}, {2, 3, 2});
  add("dot", {"Matmul"}, {{4}, {4}}, [](const Inputs& in) { return dot(in[0], in[1]); });
  add("outer", {}, {{2}, {3}}, [](const Inputs& in) { return outer(in[0], in[1]); });
  const auto contraction = [&](const char* equation, std::vector<Shape> shapes) {
    add("einsum", {"Matmul"}, std::move(shapes),
        [equation](const Inputs& in) { return einsum(equation, in); });
  };
  contraction("ij,jk->ik", {{2, 3}, {3, 2}});
  contraction("bij,bjk->bki", {{2, 2, 3}, {2, 3, 2}});
  contraction("ii->i", {{3, 3}});
  contraction("ii", {{3, 3}});
  contraction("ij->ji", {{2, 3}});
  contraction("i,j,ij", {{2}, {3}, {2, 3}});
  contraction("i,j->ij", {{2}, {3}});
  contraction("...ij,...jk->...ik", {{2, 2, 2}, {2, 2}});
  contraction("ij,ij->i", {{2, 3}, {2, 3}});

  // Linear algebra, of matrices whose diagonal dominates; halves are not taken.
  const auto wide = [](const Variable& x) {
    return x.type() == DataType::Float64 ? x : astype(x, DataType::Float32);
  };
  const auto regular = [wide](const Variable& x) {
    const Tensor unit = lmp::eye(static_cast<std::int64_t>(x.shape().back()));
    return 0.4 * wide(x) + Variable(3 * unit.astype(wide(x).type()));
  };
  const auto system = [&](const Shape& a, const Shape& b) {
    add("solve", {"Solve"}, {a, b},
        [=](const Inputs& in) { return solve(regular(in[0]), wide(in[1])); });
  };
  system({3, 3}, {3, 2});
  system({3, 3}, {3});
  system({2, 3, 3}, {3, 2});
  system({2, 2}, {3, 2, 1});
  system({2, 1, 2, 2}, {2, 2, 1});
  for (const Shape& shape : {Shape{3, 3}, Shape{2, 2, 2}}) {
    add("inv", {"Inverse"}, {shape}, [=](const Inputs& in) { return inv(regular(in[0])); });
    add("det", {"Determinant"}, {shape}, [=](const Inputs& in) { return det(regular(in[0])); });
    add("slogdet", {"LogDeterminant"}, {shape},
        [=](const Inputs& in) { return slogdet(regular(in[0])).second; });
    add("cholesky", {"Cholesky"}, {shape}, [=](const Inputs& in) {
      const Variable x = regular(in[0]);
      return cholesky(0.5 * (x + transpose(x)));
    });
  }

  // Joining and repeating.
  add("cat", {"Cat"}, {{2, 2}, {2, 3}, {2, 0}}, [](const Inputs& in) { return cat(in, 1); });
  add("cat", {"Cat"}, {{2, 2}}, [](const Inputs& in) { return cat({in[0], 2 * in[0]}); });
  add("stack", {"Cat"}, {{2, 3}, {2, 3}}, [](const Inputs& in) { return stack(in, -1); });
  unary("repeat", "Cat", {2, 2}, [](V x) { return repeat(x, {2, 1, 3}); });
  unary("roll", "Cat", {2, 4}, [](V x) { return roll(x, -3, 1); });
  unary("pad", "Embed", {2, 2}, [](V x) { return pad(x, {{1, 0}, {0, 2}}, 3); });

  // Indexing.
  unary("index_select", "IndexSelect", {3, 2}, [](V x) {
    return index_select(x, 0, indices({2, 0, 2, -1}, {4}));
  });
  unary("index_select", "IndexAdd", {2, 3}, [](V x) {
    return index_select(x, 1, indices({1, 1}, {2}));
  });
  unary("operator[]", "IndexSelect", {3, 2}, [](V x) { return x[indices({2, 0, 2, 0}, {2, 2})]; });
  unary("operator[]", "IndexSelect", {2, 3}, [](V x) {
    return x[Tensor({true, false, true, false, true, true}, {2, 3})];
  });
  unary("gather", "Gather", {3, 2}, [](V x) {
    return gather(x, 0, indices({0, 2, 0, 1, -1, 2}, {3, 2}));
  });
  unary("gather", "Gather", {3, 3}, [](V x) {
    return gather(x, 1, indices({0, 0, 2, 1}, {2, 2}));
  });
  add("scatter", {"Scatter"}, {{3, 2}, {2, 2}}, [](const Inputs& in) {
    return scatter(in[0], 0, indices({1, 0, 1, 2}, {2, 2}), in[1]);
  });
  add("scatter_add", {"ScatterAdd"}, {{3, 2}, {2, 2}}, [](const Inputs& in) {
    return scatter_add(in[0], 0, indices({1, 0, 1, 2}, {2, 2}), in[1]);
  });
  unary("masked_select", "IndexSelect", {2, 3}, [](V x) {
    return masked_select(x, Tensor({true, false, true}, {3}));
  });
  unary("masked_select", "IndexSelect", {3}, [](V x) {
    return masked_select(x, Tensor({true, false, true, true, true, false}, {2, 3}));
  });
  unary("take", "IndexSelect", {2, 3, 2}, [](V x) {
    return take(x, {indices({1, 0}, {2, 1}), indices({2, -1, 0}, {3})});
  });
  unary("sort", "Gather", {2, 4}, [](V x) { return sort(x).first; });
  unary("sort", "Gather", {4, 2}, [](V x) { return sort(x, 0, true).first; });
  unary("topk", "Gather", {2, 4}, [](V x) { return topk(x, 2).first; });
  unary("tril", "", {3, 3}, [](V x) { return tril(x, -1); });
  unary("triu", "", {2, 3, 4}, [](V x) { return triu(x, 1); });

  // What is made of pointwise ops.
  unary("masked_fill", "", {2, 3}, [](V x) {
    return masked_fill(x, Tensor({true, false, true}, {3}), 9);
  });
  unary("leaky_relu", "", {5}, [](V x) { return leaky_relu(x); });
  unary("clamp", "", {6}, [](V x) { return clamp(x, -1, 1.5); });
  unary("clamp", "", {6}, [](V x) { return clamp(x, std::nullopt, 1); });
  unary("where", "", {6}, [](V x) { return where(x > 0, x * x, 2); });
  unary("where", "", {6}, [](V x) { return where(x > 0, 2, x * x); });
  return cases;
}

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
      matches(source("src/ops/structured.hpp") + source("src/ops/linalg.hpp"),
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
