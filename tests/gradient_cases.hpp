#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd_support.hpp"
#include "ops/composites.hpp"
#include "ops/linalg.hpp"
#include "ops/pointwise_run.hpp"
#include "ops/structured.hpp"
#include "tensor/random_scope.hpp"

/// Every differentiable op as a function of Float64 inputs: the pointwise ones from the op table,
/// the others from a list that a test checks against the sources. The sweeps run over them.
namespace lmp::testing {

using Inputs = std::vector<Variable>;
using Function = std::function<Variable(const Inputs&)>;

inline Inputs leaves(const std::vector<Tensor>& tensors) {
  Inputs out;
  for (const Tensor& t : tensors) out.emplace_back(t.clone(), true);
  return out;
}

/// A way to make a tensor of a given shape as a view of another one.
struct Layout {
  const char* name;
  Shape (*base)(const Shape&);
  Variable (*view)(const Variable&, const Shape&);
};

inline IntList reversed_axes(std::size_t n) {
  IntList axes;
  for (std::size_t i = n; i-- > 0;) axes.push_back(static_cast<std::int64_t>(i));
  return axes;
}

inline const Layout kLayouts[] = {
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

struct PointwiseCase {
  std::string name;
  table::OpId id;
  Function call;
  // Binary ops: the number on the right, and on the left.
  std::function<Variable(const Variable&, double)> right, left;
  const table::PointwiseOp& op() const { return table::pointwise_op(id); }
};

inline std::vector<PointwiseCase> pointwise_cases() {
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
inline std::vector<PointwiseCase> differentiable_cases() {
  std::vector<PointwiseCase> cases;
  for (PointwiseCase c : pointwise_cases()) {
    if (!c.op().differentiable) continue;
    if (c.op().info.condition & 1)
      c.call = [call = c.call](const Inputs& in) { return call({in[0] > 0, in[1], in[2]}); };
    cases.push_back(c);
  }
  return cases;
}

struct StructuredCase {
  std::string function;
  /// The structs of structured.hpp, linalg.hpp and composites.hpp that it exercises, forward or as
  /// another's gradient.
  std::vector<std::string> structs;
  std::vector<Shape> shapes;
  Function call;
  double low = -2, high = 2;
};

inline Tensor indices(const std::vector<std::int64_t>& data, const Shape& shape) {
  return Tensor(data, shape);
}
/// The same where x is.
inline Tensor indices_for(const Variable& x, const std::vector<std::int64_t>& data,
                          const Shape& shape) {
  return Tensor(data, shape, x.device());
}
inline Tensor mask_for(const Variable& x, std::initializer_list<bool> data, const Shape& shape) {
  return Tensor(data, shape, x.device());
}

inline std::vector<StructuredCase> structured_cases() {
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
    return apply(table::ToDevice{x.device(), x.device()}, x)
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
  LMP_REDUCTION(mean, "Mean")
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

  const auto affine = [&](std::vector<Shape> shapes, Activation activation) {
    add("linear", {"Linear"}, std::move(shapes), [activation](const Inputs& in) {
      return linear(in[0], in[1], in.size() > 2 ? in[2] : Variable(), activation);
    });
  };
  for (const Activation activation :
       {Activation::None, Activation::Relu, Activation::Gelu, Activation::GeluTanh,
        Activation::Silu, Activation::Sigmoid, Activation::Tanh})
    affine({{2, 3}, {4, 3}, {4}}, activation);
  affine({{3}, {2, 3}, {2}}, Activation::Tanh);
  affine({{2, 3}, {2, 3}}, Activation::Sigmoid);
  affine({{2, 2, 3}, {2, 3}}, Activation::None);

  // Losses.
  const auto loss = [&](const Shape& shape, const Tensor& labels,
                        const CrossEntropyOptions& options) {
    add("cross_entropy", {"CrossEntropy"}, {shape}, [labels, options](const Inputs& in) {
      return cross_entropy(in[0], labels.to(in[0].device()), options);
    });
  };
  for (const LossReduction reduction :
       {LossReduction::Mean, LossReduction::Sum, LossReduction::None}) {
    loss({4, 3}, indices({2, -100, 0, 2}, {4}), {.reduction = reduction});
    loss({2, 2, 3}, indices({1, 2, 1, 0}, {2, 2}),
         {.reduction = reduction, .ignore_index = 2, .label_smoothing = 0.2});
    loss({3}, indices({1}, {}), {.reduction = reduction});
  }

  // Layers.
  for (const Shape& shape : {Shape{3, 4}, Shape{4}, Shape{2, 2, 4}}) {
    add("layer_norm", {"Normalize"}, {shape, {4}, {4}},
        [](const Inputs& in) { return layer_norm(in[0], in[1], in[2], 0.1); });
    add("rms_norm", {"Normalize"}, {shape, {4}},
        [](const Inputs& in) { return rms_norm(in[0], in[1], 0.1); });
  }
  add("layer_norm", {"Normalize"}, {{2, 3}, {3}},
      [](const Inputs& in) { return layer_norm(in[0], in[1], Variable(), 0.2); });
  add("add_layer_norm", {"Normalize"}, {{3, 4}, {3, 4}, {4}, {4}}, [](const Inputs& in) {
    const auto [y, sum] = add_layer_norm(in[0], in[1], in[2], in[3], 0.1);
    return y + square(sum);
  });
  add("add_rms_norm", {"Normalize"}, {{2, 2, 4}, {2, 2, 4}, {4}}, [](const Inputs& in) {
    const auto [y, sum] = add_rms_norm(in[0], in[1], in[2], 0.1);
    return sum * y;
  });
  unary("dropout", "Dropout", {3, 4}, [](V x) {
    const tensor::detail::RandomScope same(Generator(7));
    return dropout(x, 0.3);
  });
  unary("embedding", "IndexSelect", {4, 2}, [](V x) {
    return embedding(x, indices_for(x, {1, 0, 3, 1}, {2, 2}));
  });

  // Linear algebra, of matrices whose diagonal dominates; halves are not taken.
  const auto wide = [](const Variable& x) {
    return x.type() == DataType::Float64 ? x : astype(x, DataType::Float32);
  };
  const auto regular = [wide](const Variable& x) {
    const Tensor unit = lmp::eye(static_cast<std::int64_t>(x.shape().back()), -1, x.device());
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
  unary("repeat", "BroadcastTo", {2, 2}, [](V x) { return repeat(x, {2, 1, 3}); });
  unary("roll", "Cat", {2, 4}, [](V x) { return roll(x, -3, 1); });
  unary("pad", "Embed", {2, 2}, [](V x) { return pad(x, {{1, 0}, {0, 2}}, 3); });

  // Indexing.
  unary("index_select", "IndexSelect", {3, 2}, [](V x) {
    return index_select(x, 0, indices_for(x, {2, 0, 2, -1}, {4}));
  });
  unary("index_select", "IndexAdd", {2, 3}, [](V x) {
    return index_select(x, 1, indices_for(x, {1, 1}, {2}));
  });
  unary("operator[]", "IndexSelect", {3, 2}, [](V x) {
    return x[indices_for(x, {2, 0, 2, 0}, {2, 2})];
  });
  unary("operator[]", "IndexSelect", {2, 3}, [](V x) {
    return x[mask_for(x, {true, false, true, false, true, true}, {2, 3})];
  });
  unary("gather", "Gather", {3, 2}, [](V x) {
    return gather(x, 0, indices_for(x, {0, 2, 0, 1, -1, 2}, {3, 2}));
  });
  unary("gather", "Gather", {3, 3}, [](V x) {
    return gather(x, 1, indices_for(x, {0, 0, 2, 1}, {2, 2}));
  });
  add("scatter", {"Scatter"}, {{3, 2}, {2, 2}}, [](const Inputs& in) {
    return scatter(in[0], 0, indices_for(in[0], {1, 0, 1, 2}, {2, 2}), in[1]);
  });
  add("scatter_add", {"ScatterAdd"}, {{3, 2}, {2, 2}}, [](const Inputs& in) {
    return scatter_add(in[0], 0, indices_for(in[0], {1, 0, 1, 2}, {2, 2}), in[1]);
  });
  unary("masked_select", "IndexSelect", {2, 3}, [](V x) {
    return masked_select(x, mask_for(x, {true, false, true}, {3}));
  });
  unary("masked_select", "IndexSelect", {3}, [](V x) {
    return masked_select(x, mask_for(x, {true, false, true, true, true, false}, {2, 3}));
  });
  unary("take", "IndexSelect", {2, 3, 2}, [](V x) {
    return take(x, {indices_for(x, {1, 0}, {2, 1}), indices_for(x, {2, -1, 0}, {3})});
  });
  unary("sort", "Gather", {2, 4}, [](V x) { return sort(x).first; });
  unary("sort", "Gather", {4, 2}, [](V x) { return sort(x, 0, true).first; });
  unary("topk", "Gather", {2, 4}, [](V x) { return topk(x, 2).first; });
  unary("tril", "", {3, 3}, [](V x) { return tril(x, -1); });
  unary("triu", "", {2, 3, 4}, [](V x) { return triu(x, 1); });

  // What is made of pointwise ops.
  unary("masked_fill", "", {2, 3}, [](V x) {
    return masked_fill(x, mask_for(x, {true, false, true}, {3}), 9);
  });
  unary("leaky_relu", "", {5}, [](V x) { return leaky_relu(x); });
  unary("clamp", "", {6}, [](V x) { return clamp(x, -1, 1.5); });
  unary("clamp", "", {6}, [](V x) { return clamp(x, std::nullopt, 1); });
  unary("where", "", {6}, [](V x) { return where(x > 0, x * x, 2); });
  unary("where", "", {6}, [](V x) { return where(x > 0, 2, x * x); });
  return cases;
}

}  // namespace lmp::testing
