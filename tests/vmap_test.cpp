// vmap against a loop over the lanes: every operation, mapped in every combination of operands,
// with its derivatives inside and outside, nested, and what vmap says where it cannot.

#include <optional>
#include <sstream>
#include <string>
#include <tuple>

#include "transforms_support.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::expect_near;
using testing::leaf;
using testing::live_bytes;
using testing::message_of;
using testing::scalar;
using testing::uniform;
using testing::Values;
using testing::values;
using testing::vector_of;

using List = std::vector<Variable>;
using AxisList = std::vector<std::optional<int>>;
using ListFunction = std::function<Variable(const List&)>;

// ---- Every operation ----

/// vmap and what it stands for.
Variable mapped(const ListFunction& f, const AxisList& axes, const List& in, int out) {
  switch (in.size()) {
    case 1:
      return vmap([&](const Variable& a) { return f({a}); }, {axes[0]}, out)(in[0]);
    case 2:
      return vmap(
          [&](const Variable& a, const Variable& b) {
            return f({a, b});
          },
          {axes[0], axes[1]}, out)(in[0], in[1]);
    default:
      return vmap(
          [&](const Variable& a, const Variable& b, const Variable& c) {
            return f({a, b, c});
          },
          {axes[0], axes[1], axes[2]}, out)(in[0], in[1], in[2]);
  }
}
Variable looped(const ListFunction& f, const AxisList& axes, const List& in, int out) {
  std::size_t lanes = 0;
  for (std::size_t k = 0; k < in.size(); ++k)
    if (axes[k]) lanes = in[k].size(*axes[k]);
  List results;
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    List one;
    for (std::size_t k = 0; k < in.size(); ++k)
      one.push_back(axes[k] ? lmp::select(in[k], *axes[k], static_cast<std::int64_t>(lane))
                            : in[k]);
    results.push_back(f(one));
  }
  return lmp::stack(results, out);
}

bool floating(const Variable& v) {
  return v.type() == DataType::Float64 || v.type() == DataType::Float32;
}

/// The function of the floating operands alone.
ListFunction of_floating(const ListFunction& f, const List& all) {
  return [f, all](const List& some) {
    List in;
    std::size_t next = 0;
    for (const Variable& v : all) in.push_back(floating(v) ? some[next++] : v);
    return f(in);
  };
}
List floating_of(const List& all) {
  List some;
  for (const Variable& v : all)
    if (floating(v)) some.push_back(v);
  return some;
}
Variable flat(const List& list) {
  List parts;
  for (const Variable& v : list) parts.push_back(lmp::reshape(v, {-1}));
  return lmp::cat(parts);
}

/// The gradients of all floating operands, and the derivative along a direction, as one function.
ListFunction reverse_of(const ListFunction& f) {
  return [f](const List& in) {
    const auto pullback = vjp(of_floating(f, in), floating_of(in));
    // A seed that is not the same for all elements.
    Variable seed = lmp::cumsum(
        Variable(lmp::ones({pullback.value.numel()}, DeviceType::CPU, DataType::Float64)), 0);
    return flat(pullback(lmp::reshape(lmp::sin(seed), IntList(pullback.value.shape()))));
  };
}
ListFunction forward_of(const ListFunction& f) {
  return [f](const List& in) {
    List x = floating_of(in), t;
    for (const Variable& v : x) t.push_back(lmp::cos(v) + 0.5);
    return jvp(of_floating(f, in), x, t).tangent;
  };
}

/// What lies in an operand's elements.
struct Operand {
  Shape shape;  // in one lane
  enum class Kind { Float, Index, Mask } kind = Kind::Float;
  std::int64_t size = 0;  // of the axis that indices are for
};
Operand index_of(const Shape& shape, std::int64_t size) {
  return {shape, Operand::Kind::Index, size};
}
Operand mask_of(const Shape& shape) { return {shape, Operand::Kind::Mask}; }

Variable draw(Generator& generator, const Operand& operand, const Shape& shape) {
  switch (operand.kind) {
    case Operand::Kind::Index:
      return Variable(lmp::floor(uniform(generator, shape, -static_cast<double>(operand.size),
                                         static_cast<double>(operand.size)))
                          .astype(DataType::Int64));
    case Operand::Kind::Mask:
      return Variable(uniform(generator, shape) > 0);
    default:
      return Variable(uniform(generator, shape));
  }
}

struct OpCase {
  const char* name;
  ListFunction f;
  std::vector<Operand> operands;
  bool differentiable = true;
};

Shape with_axis(const Shape& shape, int axis, std::int64_t lanes) {
  IntList sizes;
  for (int d = 0; d <= shape.ndim(); ++d) {
    if (d == axis) sizes.push_back(lanes);
    if (d < shape.ndim()) sizes.push_back(shape.dim(d));
  }
  return Shape(sizes);
}

#define ONE(call)                  \
  [](const List& in) -> Variable { \
    const Variable& x = in[0];     \
    return call;                   \
  }
#define TWO(call)                          \
  [](const List& in) -> Variable {         \
    const Variable &x = in[0], &y = in[1]; \
    return call;                           \
  }
#define THREE(call)                                    \
  [](const List& in) -> Variable {                     \
    const Variable &x = in[0], &y = in[1], &z = in[2]; \
    return call;                                       \
  }

Variable regular(const Variable& x) {
  const auto n = x.shape().dim(x.ndim() - 1);
  return 0.3 * x + 2 * lmp::eye(n, n, DeviceType::CPU, DataType::Float64);
}
Variable positive(const Variable& x) { return lmp::matmul(x, lmp::transpose(x)) + regular(0 * x); }
Variable as_double(const Variable& x) { return x.astype(DataType::Float64); }

std::vector<OpCase> op_cases() {
  const Shape cube = {2, 3, 2};
  std::vector<OpCase> all = {
      // Pointwise, and broadcasting of different ranks.
      {"exp of a number", ONE(lmp::exp(x)), {{{}}}},
      {"sin", ONE(lmp::sin(x) * x), {{{2, 3}}}},
      {"numbers", ONE(2 / (x * x + 1) - 3 * x), {{{2}}}},
      {"add vector and matrix", TWO(x + y * x), {{{3}}, {{2, 3}}}},
      {"mul number and matrix", TWO(x * y), {{{}}, {{2, 3}}}},
      {"mul column and row", TWO(x * y), {{{2, 1}}, {{3}}}},
      {"div of ranks 3 and 1", TWO(x / (2.5 + lmp::abs(y))), {{{2, 3, 1}}, {{4}}}},
      {"atan2", TWO(lmp::atan2(x, y + 3)), {{{2}}, {{2}}}},
      {"maximum", TWO(lmp::maximum(x, y)), {{{2, 3}}, {{3}}}},
      {"pow", TWO(lmp::pow(lmp::abs(x) + 1, y)), {{{2}}, {{3, 1}}}},
      {"comparison", TWO(as_double(x < y) + as_double(x >= 0)), {{{2, 3}}, {{3}}}, false},
      {"where", THREE(lmp::where(x, y, z * z)), {mask_of({3}), {{2, 3}}, {{}}}},
      {"where with numbers",
       TWO(lmp::where(x, y, 3) + lmp::where(x, 2, y * y)),
       {mask_of({2, 1}), {{3}}}},
      {"where by value", TWO(lmp::where(x > y, x * y, y)), {{{2, 3}}, {{3}}}},
      {"clamp", THREE(lmp::clamp(x, y - 1, z + 1)), {{{2, 3}}, {{3}}, {{2, 1}}}},
      {"clamp by numbers", ONE(lmp::clamp(x, -0.5, 1)), {{{4}}}},
      {"masked_fill", TWO(lmp::masked_fill(x * x, y.data(), 7)), {{{2, 3}}, mask_of({3})}},
      {"logic",
       TWO(as_double(lmp::logical_and(x, lmp::logical_not(y)))),
       {mask_of({2}), mask_of({3, 1})},
       false},
      {"integers", TWO(as_double(x * 2 + y)), {index_of({2}, 9), index_of({}, 5)}, false},
      {"Bool times Float", TWO(x * y), {mask_of({3}), {{2, 3}}}},
      {"Float32 times Float64", TWO(x.astype(DataType::Float32) * y), {{{3}}, {{3}}}},
      // Views.
      {"reshape", ONE(lmp::reshape(x * x, {3, -1})), {{{2, 3}}}},
      {"flatten", ONE(lmp::flatten(x * x, 1)), {{cube}}},
      {"transpose", ONE(lmp::transpose(x) * 2), {{cube}}},
      {"transpose of axes", ONE(lmp::transpose(x, 0, -1) * x), {{{2, 3, 2}}}},
      {"permute", ONE(lmp::permute(x, {2, 0, 1}) * 2), {{cube}}},
      {"movedim", ONE(lmp::movedim(x, 0, -1) * 2), {{cube}}},
      {"squeeze", ONE(lmp::squeeze(x * x)), {{{1, 3, 1}}}},
      {"squeeze axis", ONE(lmp::squeeze(x * x, -3)), {{{1, 3, 1}}}},
      {"expand_dims", ONE(lmp::expand_dims(x, 0) * lmp::expand_dims(x, -1)), {{{3}}}},
      {"broadcast_to", ONE(lmp::broadcast_to(x * x, {4, 2, 3})), {{{2, 1}}}},
      {"slice", ONE(lmp::slice(x, -1, -1, std::nullopt, -2) * 2), {{{2, 5}}}},
      {"select", ONE(lmp::select(x, -2, -1) * x[0][1]), {{cube}}},
      {"narrow", ONE(lmp::narrow(x, 1, 1, 2) * 2), {{cube}}},
      {"diagonal", ONE(lmp::diagonal(x * x, 1, -1, 0)), {{{3, 2, 3}}}},
      {"flip", ONE(lmp::flip(x * x, {0, -1})), {{cube}}},
      {"flip all", ONE(lmp::flip(x * x, {})), {{{2, 3}}}},
      {"split and chunk", ONE(lmp::split(x, 2, 0)[1] * lmp::chunk(x, 3, 0)[0]), {{{3, 2}}}},
      {"tril and triu", ONE(lmp::tril(x * x) + 2 * lmp::triu(x, 1)), {{{2, 3, 3}}}},
      {"contiguous and clone",
       ONE(lmp::contiguous(lmp::transpose(x)) * lmp::clone(lmp::transpose(x))),
       {{{2, 3}}}},
      {"astype", ONE(x.astype(DataType::Float32).astype(DataType::Float64) * x), {{{3}}}},
      // Other reductions; those by name and axes follow.
      {"any and all",
       ONE(as_double(lmp::any(x)) + as_double(lmp::all(x, {0}))),
       {mask_of({2, 2})},
       false},
      {"all of a number", ONE(as_double(lmp::all(x))), {mask_of({})}, false},
      {"argmax", ONE(as_double(lmp::argmax(x))), {{cube}}, false},
      {"argmin by axis", ONE(as_double(lmp::argmin(x, -2))), {{cube}}, false},
      {"argmax kept", ONE(as_double(lmp::argmax(x, 0, true))), {{cube}}, false},
      {"cumsum", ONE(lmp::cumsum(x * x, 1)), {{cube}}},
      {"softmax", ONE(lmp::softmax(x, 0) * lmp::softmax(x)), {{{2, 3}}}},
      {"log_softmax", ONE(lmp::log_softmax(x, -2) * x), {{{2, 3}}}},
      // Products.
      {"matmul 1 1", TWO(lmp::matmul(x, y)), {{{3}}, {{3}}}},
      {"matmul 2 1", TWO(lmp::matmul(x, y)), {{{2, 3}}, {{3}}}},
      {"matmul 1 2", TWO(lmp::matmul(x, y)), {{{3}}, {{3, 2}}}},
      {"matmul 2 2", TWO(lmp::matmul(x, y)), {{{2, 3}}, {{3, 2}}}},
      {"matmul 3 2", TWO(lmp::matmul(x, y)), {{{4, 2, 3}}, {{3, 2}}}},
      {"matmul 2 3", TWO(lmp::matmul(x, y)), {{{2, 3}}, {{4, 3, 2}}}},
      {"matmul 3 3", TWO(lmp::matmul(x, y)), {{{4, 2, 3}}, {{4, 3, 2}}}},
      {"matmul 1 3", TWO(lmp::matmul(x, y)), {{{3}}, {{4, 3, 2}}}},
      {"matmul 3 1", TWO(lmp::matmul(x, y)), {{{4, 2, 3}}, {{3}}}},
      {"matmul 4 3", TWO(lmp::matmul(x, y)), {{{2, 1, 2, 3}}, {{4, 3, 2}}}},
      {"matmul Float32", TWO(lmp::matmul(x.astype(DataType::Float32), y)), {{{2, 3}}, {{3}}}},
      {"dot", TWO(lmp::dot(x, y)), {{{3}}, {{3}}}},
      {"outer", TWO(lmp::outer(x, y)), {{{3}}, {{2}}}},
      {"einsum ij,jk", TWO(lmp::einsum("ij,jk->ik", {x, y})), {{{2, 3}}, {{3, 2}}}},
      {"einsum bij,bjk", TWO(lmp::einsum("bij,bjk->ikb", {x, y})), {{{2, 2, 3}}, {{2, 3, 2}}}},
      {"einsum ii", ONE(lmp::einsum("ii->i", {x * x})), {{{3, 3}}}},
      {"einsum trace", ONE(lmp::einsum("ii", {x * x})), {{{3, 3}}}},
      {"einsum ij->j", ONE(lmp::einsum("ij->j", {x * x})), {{{2, 3}}}},
      {"einsum i,j,k", THREE(lmp::einsum("i,j,k->kij", {x, y, z})), {{{2}}, {{3}}, {{2}}}},
      {"einsum dots", TWO(lmp::einsum("...i,ij->...j", {x, y})), {{{2, 2, 3}}, {{3, 2}}}},
      {"einsum inner", TWO(lmp::einsum("ij,ij->", {x, y})), {{{2, 3}}, {{2, 3}}}},
      {"einsum iji", TWO(lmp::einsum("iji,j->i", {x, y})), {{{2, 3, 2}}, {{3}}}},
      // Linear algebra.
      {"solve vector", TWO(lmp::solve(regular(x), y)), {{{3, 3}}, {{3}}}},
      {"solve matrix", TWO(lmp::solve(regular(x), y)), {{{3, 3}}, {{3, 2}}}},
      {"solve batch and vector", TWO(lmp::solve(regular(x), y)), {{{2, 3, 3}}, {{3}}}},
      {"solve batch and matrix", TWO(lmp::solve(regular(x), y)), {{{2, 3, 3}}, {{3, 2}}}},
      {"solve matrix and batch", TWO(lmp::solve(regular(x), y)), {{{3, 3}}, {{2, 3, 1}}}},
      {"inv", ONE(lmp::inv(regular(x))), {{{2, 3, 3}}}},
      {"cholesky", ONE(lmp::cholesky(positive(x))), {{{3, 3}}}},
      {"det", ONE(lmp::det(regular(x))), {{{3, 3}}}},
      {"det of a batch", ONE(lmp::det(regular(x))), {{{2, 2, 2}}}},
      {"slogdet",
       ONE(lmp::slogdet(regular(x)).first * lmp::slogdet(regular(x)).second),
       {{{2, 3, 3}}}},
      // Joining.
      {"cat", TWO(lmp::cat({x, y, x}, 0)), {{{2, 3}}, {{1, 3}}}},
      {"cat last", TWO(lmp::cat({x, y}, -1)), {{{2, 3}}, {{2, 1}}}},
      {"cat of types", TWO(lmp::cat({x.astype(DataType::Float32), y})), {{{2}}, {{2}}}},
      {"cat with indices", TWO(lmp::cat({x, y})), {{{2}}, index_of({2}, 3)}},
      {"stack", TWO(lmp::stack({x, y, x * y}, 0)), {{{2, 3}}, {{2, 3}}}},
      {"stack last", TWO(lmp::stack({x, y}, -1)), {{{3}}, {{3}}}},
      {"stack of numbers", TWO(lmp::stack({x, y, x * x})), {{{}}, {{}}}},
      {"repeat", ONE(lmp::repeat(x * x, {2, 1, 3})), {{{2, 2}}}},
      {"roll", ONE(lmp::roll(x * x, -1, -1)), {{{2, 3}}}},
      {"pad", ONE(lmp::pad(x * x, {{1, 0}, {0, 2}}, 5)), {{{2, 3}}}},
      // Indexing.
      {"gather", TWO(lmp::gather(x * x, 0, y.data())), {{{3, 2}}, index_of({4, 2}, 3)}},
      {"gather last", TWO(lmp::gather(x * x, -1, y.data())), {{{2, 3}}, index_of({1, 2}, 3)}},
      {"index_select", TWO(lmp::index_select(x * x, 0, y.data())), {{{3, 2}}, index_of({4}, 3)}},
      {"index_select last",
       TWO(lmp::index_select(x * x, -1, y.data())),
       {{{2, 3}}, index_of({2}, 3)}},
      {"index_select middle",
       TWO(lmp::index_select(x * x, 1, y.data())),
       {{{2, 3, 2}}, index_of({5}, 3)}},
      {"x[index]", TWO((x * x)[y.data()]), {{{3, 2}}, index_of({2, 2}, 3)}},
      {"x[number]", TWO((x * x)[y.data()]), {{{3, 2}}, index_of({}, 3)}},
      {"take one", TWO(lmp::take(x * x, {y.data()})), {{{3, 2}}, index_of({2}, 3)}},
      {"take two",
       THREE(lmp::take(x * x, {y.data(), z.data()})),
       {{{3, 2, 2}}, index_of({2, 1}, 3), index_of({3}, 2)}},
      {"scatter",
       THREE(lmp::scatter(x * x, 0, y.data(), z * z)),
       {{{3, 2}}, index_of({2, 2}, 3), {{2, 2}}}},
      {"scatter_add",
       THREE(lmp::scatter_add(x * x, 1, y.data(), z * z)),
       {{{2, 3}}, index_of({2, 4}, 3), {{2, 4}}}},
      {"one_hot", TWO(lmp::sum(lmp::one_hot(lmp::abs(x), 4) * y)), {index_of({2}, 3), {{2, 4}}}},
      {"sort", ONE(lmp::sort(x * x, 0).first), {{{4, 2}}}},
      {"sort descending", ONE(lmp::sort(x, -1, true).first * x), {{{2, 4}}}},
      {"sort indices", ONE(as_double(Variable(lmp::sort(x, 0).second))), {{{4, 2}}}, false},
      {"argsort", ONE(as_double(Variable(lmp::argsort(x, 0)))), {{{4, 2}}}, false},
      {"topk", ONE(lmp::topk(x * x, 2, 0).first), {{{4, 2}}}},
      {"topk indices", ONE(as_double(Variable(lmp::topk(x, 2).second))), {{{2, 4}}}, false},
      {"cross entropy",
       TWO(-lmp::sum(lmp::gather(lmp::log_softmax(x), 1, lmp::expand_dims(y, 1).data()))),
       {{{2, 3}}, index_of({2}, 3)}},
  };
  using Reduce = Variable (*)(const Variable&, const IntList&, bool);
  const std::pair<const char*, Reduce> reductions[] = {
      {"sum", [](const Variable& x, const IntList& a, bool k) { return lmp::sum(x * x, a, k); }},
      {"mean", [](const Variable& x, const IntList& a, bool k) { return lmp::mean(x * x, a, k); }},
      {"prod", [](const Variable& x, const IntList& a, bool k) { return lmp::prod(x, a, k); }},
      {"max", [](const Variable& x, const IntList& a, bool k) { return lmp::max(x, a, k); }},
      {"min", [](const Variable& x, const IntList& a, bool k) { return lmp::min(x, a, k); }},
      {"var", [](const Variable& x, const IntList& a, bool k) { return lmp::var(x, a, k, 0); }},
      {"std", [](const Variable& x, const IntList& a, bool k) { return lmp::std(x, a, k, 0); }},
      {"norm", [](const Variable& x, const IntList& a, bool k) { return lmp::norm(x, a, k); }},
      {"logsumexp",
       [](const Variable& x, const IntList& a, bool k) { return lmp::logsumexp(x, a, k); }}};
  const IntList axes[] = {{}, {0}, {-1}, {0, 2}, {-2, -3}};
  for (const auto& [name, reduce] : reductions) {
    for (const IntList& over : axes)
      for (const bool keep : {true, false})
        all.push_back(
            {name,
             [reduce = reduce, over, keep](const List& in) { return reduce(in[0], over, keep); },
             {{cube}}});
    all.push_back(
        {name, [reduce = reduce](const List& in) { return reduce(in[0], {}, false); }, {{{}}}});
  }
  return all;
}
#undef ONE
#undef TWO
#undef THREE

void compare(const std::string& what, const ListFunction& f, const AxisList& axes, const List& in,
             int out, double tolerance) {
  SCOPED_TRACE(what);
  try {
    expect_near(mapped(f, axes, in, out), looped(f, axes, in, out), tolerance);
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
}

/// Which operands are mapped, and along which axes, in all ways that could matter.
std::vector<AxisList> all_axes(const OpCase& c) {
  std::vector<AxisList> out;
  const std::size_t n = c.operands.size();
  for (unsigned which = 1; which < 1u << n; ++which)
    for (int variant = 0; variant < 3; ++variant) {
      AxisList axes(n);
      for (std::size_t k = 0; k < n; ++k) {
        if (!(which >> k & 1)) continue;
        const int ndim = c.operands[k].shape.ndim();
        axes[k] = variant == 0 ? 0 : variant == 1 ? -1 : std::min(1 + static_cast<int>(k), ndim);
      }
      if (variant == 0 || axes != out.back()) out.push_back(axes);
    }
  return out;
}

std::string text_of(const AxisList& axes) {
  std::string text;
  for (const auto& a : axes) text += a ? " " + std::to_string(*a) : std::string(" -");
  return text;
}

TEST(Lanes, EveryOperationAgreesWithALoop) {
  Generator generator(21);
  for (const OpCase& c : op_cases()) {
    SCOPED_TRACE(c.name);
    const double tolerance =
        contains(c.name, "Float32") || contains(c.name, "types") ? 1e-5 : 1e-10;
    for (const AxisList& axes : all_axes(c)) {
      SCOPED_TRACE("in_axes" + text_of(axes));
      List in;
      for (std::size_t k = 0; k < axes.size(); ++k) {
        const Operand& o = c.operands[k];
        const int axis = axes[k] ? (*axes[k] < 0 ? o.shape.ndim() : *axes[k]) : -1;
        in.push_back(draw(generator, o, axes[k] ? with_axis(o.shape, axis, 3) : o.shape));
      }
      compare("value", c.f, axes, in, 0, tolerance);
      compare("value, lanes last", c.f, axes, in, -1, tolerance);
      if (!c.differentiable) continue;
      compare("gradient in each lane", reverse_of(c.f), axes, in, 0, tolerance);
      compare("jvp in each lane", forward_of(c.f), axes, in, 0, tolerance);
      // Through vmap: the same function as a loop, so the same derivatives.
      const ListFunction by_vmap = [&](const List&all) { return mapped(c.f, axes, all, 0); },
                         by_loop = [&](const List&all) { return looped(c.f, axes, all, 0); };
      try {
        expect_near(reverse_of(by_vmap)(in), reverse_of(by_loop)(in), tolerance);
        expect_near(forward_of(by_vmap)(in), forward_of(by_loop)(in), tolerance);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "through vmap: " << error.what();
      }
    }
  }
}

TEST(Lanes, EveryOperationInTwoNestedVmaps) {
  Generator generator(22);
  for (const OpCase& c : op_cases()) {
    SCOPED_TRACE(c.name);
    const double tolerance =
        contains(c.name, "Float32") || contains(c.name, "types") ? 1e-5 : 1e-10;
    const std::size_t n = c.operands.size();
    // Everything at both levels; the first operand outside and the others inside; the other way.
    for (int variant = 0; variant < 3; ++variant) {
      SCOPED_TRACE(variant);
      AxisList outer(n), inner(n);
      List in;
      for (std::size_t k = 0; k < n; ++k) {
        const bool outside = n == 1 || variant == 0 || (k == 0) == (variant == 1);
        const bool inside = n == 1 || variant == 0 || (k == 0) == (variant == 2);
        Shape shape = c.operands[k].shape;
        if (inside) {
          inner[k] = -1;
          shape = with_axis(shape, shape.ndim(), 3);
        }
        if (outside) {
          outer[k] = 0;
          shape = with_axis(shape, 0, 2);
        }
        in.push_back(draw(generator, c.operands[k], shape));
      }
      const auto nested = [&](const ListFunction& f, bool loops) -> ListFunction {
        return [f, loops, &inner](const List& lane) {
          return loops ? looped(f, inner, lane, 0) : mapped(f, inner, lane, 0);
        };
      };
      try {
        expect_near(mapped(nested(c.f, false), outer, in, 0),
                    looped(nested(c.f, true), outer, in, 0), tolerance);
        if (!c.differentiable) continue;
        const ListFunction gradient = reverse_of(c.f);
        expect_near(mapped(nested(gradient, false), outer, in, 0),
                    looped(nested(gradient, true), outer, in, 0), tolerance);
        // Between the two.
        expect_near(mapped(reverse_of(nested(c.f, false)), outer, in, 0),
                    looped(reverse_of(nested(c.f, true)), outer, in, 0), tolerance);
        expect_near(mapped(forward_of(nested(c.f, false)), outer, in, 0),
                    looped(forward_of(nested(c.f, true)), outer, in, 0), tolerance);
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
}

TEST(Lanes, NoneAndOne) {
  Generator generator(23);
  for (const OpCase& c : op_cases()) {
    SCOPED_TRACE(c.name);
    const std::size_t n = c.operands.size();
    const AxisList axes(n, 0);
    List one, none;
    for (const Operand& o : c.operands) {
      one.push_back(draw(generator, o, with_axis(o.shape, 0, 1)));
      none.push_back(one.back().narrow(0, 0, 0));
    }
    try {
      const Variable single = mapped(c.f, axes, one, 0);
      expect_near(single, looped(c.f, axes, one, 0), 1e-5);
      IntList shape(single.shape());
      shape[0] = 0;
      const Variable empty = mapped(c.f, axes, none, 0);
      EXPECT_EQ(empty.shape(), Shape(shape));
      EXPECT_EQ(empty.type(), single.type());
      if (!c.differentiable) continue;
      EXPECT_EQ(mapped(reverse_of(c.f), axes, none, 0).size(0), 0u);
      EXPECT_EQ(mapped(forward_of(c.f), axes, none, 0).shape(), Shape(shape));
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

// ---- Arguments and results ----

TEST(Vmap, ListsTuplesAndPairs) {
  const Variable a = vector_of({1, 2, 3, 4}, {2, 2}), b = vector_of({10, 20});
  // One axis for all in a list; a Tensor becomes a Variable.
  const auto of_list = vmap([](const std::vector<Variable>& v) {
    return std::vector<Variable>{v[0] * v[1], v[1], lmp::sum(v[0])};
  })(std::vector<Tensor>{a.data(), b.data()});
  ASSERT_EQ(of_list.size(), 3u);
  expect_near(of_list[0], vector_of({10, 20, 60, 80}, {2, 2}));
  expect_near(of_list[1], b);
  expect_near(of_list[2], vector_of({3, 7}));
  const auto of_tuple = vmap(
      [](const std::tuple<Variable, Variable>& t, const Variable& c) {
        return std::make_pair(std::get<0>(t) + c, std::make_tuple(std::get<1>(t) * c, c));
      },
      {0, std::nullopt}, {-1, 0, std::nullopt})(std::make_tuple(a, b), scalar(5));
  expect_near(of_tuple.first, vector_of({6, 8, 7, 9}, {2, 2}));  // lanes last
  expect_near(std::get<0>(of_tuple.second), vector_of({50, 100}));
  expect_near(std::get<1>(of_tuple.second), scalar(5));  // without lanes
  // Anything else is handed on.
  const auto further =
      vmap([](const Variable& x, int n, const std::string& s,
              std::vector<int> list) { return x * n * static_cast<double>(s.size()) * list.at(1); },
           0)(b, 2, std::string("abc"), std::vector<int>{0, 5});
  expect_near(further, vector_of({300, 600}));
}

TEST(Vmap, TensorsAndUnmappedResults) {
  const Variable x = vector_of({1, 2, 3});
  // A Tensor result of a function that has one: indices, labels.
  const auto order = vmap([](const Variable& row) { return lmp::argsort(row); })(
      vector_of({3, 1, 2, 1, 2, 3}, {2, 3}));
  expect_near(values(order), {1, 2, 0, 0, 1, 2});
  // What does not depend on the lane is repeated.
  const Variable same = vmap([](const Variable&) { return Variable(lmp::ones({2})); }, 0, 1)(x);
  EXPECT_EQ(same.shape(), Shape({2, 3}));
  const Tensor plain = lmp::arange(0, 2);
  const auto both = vmap([&](const Variable& v) { return std::make_pair(v * 2, plain); }, 0,
                         {0, std::nullopt})(x);
  EXPECT_EQ(both.second.shape(), Shape({2}));
  EXPECT_EQ(both.second.type(), DataType::Int64);
  // In a nested vmap what is mapped outside alone is not mapped inside.
  const Variable outer_only = vmap([&](const Variable& v) {
    return vmap([&](const Variable&) { return v * 2; }, 0, autograd::Axes({std::nullopt}))(x);
  })(x);
  expect_near(outer_only, vector_of({2, 4, 6}));
}

TEST(Vmap, IsAFunctionToKeep) {
  int calls = 0;
  const auto f = vmap([&calls](const Variable& v) {
    ++calls;
    return v * v;
  });
  expect_near(f(vector_of({1, 2})), vector_of({1, 4}));
  expect_near(f(vector_of({1, 2, 3})), vector_of({1, 4, 9}));
  EXPECT_EQ(calls, 2);  // once for all lanes
}

TEST(Vmap, UpToEightDimensions) {
  Generator generator(31);
  const Variable x(uniform(generator, {2, 1, 2, 1, 2, 1, 1, 3}));  // 7 and the lanes
  expect_near(vmap([](const Variable& v) { return lmp::softmax(v) * v; }, 2, -1)(x),
              looped([](const List& in) { return lmp::softmax(in[0]) * in[0]; }, {2}, {x}, -1));
  Variable deep = x;
  const auto nested = vmap(
      vmap(vmap(vmap(vmap(vmap(vmap(vmap([](const Variable& v) { return lmp::sum(v * v); }))))))));
  expect_near(nested(deep), x * x);
  const std::string wide = message_of<ShapeError>(
      [&] { vmap([](const Variable& v) { return lmp::expand_dims(v, 0); })(x); });
  EXPECT_TRUE(contains(wide, "vmap: a value of 8 dimensions leaves none for the lanes")) << wide;
  const Variable eight(lmp::ones({1, 1, 1, 1, 1, 1, 1, 1}));
  for (const auto& f : std::vector<std::function<Variable(const Variable&)>>{
           [&](const Variable& v) { return v * eight; },
           [&](const Variable& v) {
             return lmp::matmul(eight, lmp::reshape(v, {1, 1}));
           },
           [&](const Variable& v) { return lmp::broadcast_to(v, eight.shape()); },
           [&](const Variable& v) {
             return lmp::reshape(v, {1, 1, 1, 1, 1, 1, 1, 1});
           },
           [&](const Variable&) { return eight; }}) {
    const std::string message = message_of<ShapeError>([&] { vmap(f)(vector_of({1, 2})); });
    EXPECT_TRUE(contains(message, "leaves none for the lanes")) << message;
    EXPECT_TRUE(contains(message, "merge some with reshape")) << message;
  }
}

// ---- With other transforms ----

TEST(Vmap, PerSampleGradientsOfAClassifier) {
  Generator generator(41);
  const Variable w1(uniform(generator, {4, 5})), b1(uniform(generator, {5})),
      w2(uniform(generator, {5, 3}));
  const Variable images(uniform(generator, {6, 4}));
  const Variable labels(Tensor({0, 2, 1, 1, 0, 2}, {6}));
  const auto loss = [](const std::vector<Variable>& p, const Variable& image,
                       const Variable& label) {
    const Variable logits = lmp::matmul(lmp::tanh(lmp::matmul(image, p[0]) + p[1]), p[2]);
    return -lmp::log_softmax(logits)[label.data()];
  };
  const std::vector<Variable> parameters = {w1, b1, w2};
  const auto each = vmap(value_and_grad(loss), {std::nullopt, 0, 0})(parameters, images, labels);
  ASSERT_EQ(each.gradient.size(), 3u);
  EXPECT_EQ(each.value.shape(), Shape({6}));
  for (std::int64_t i = 0; i < 6; ++i) {
    const auto one = value_and_grad(loss)(parameters, images[i], Variable(labels.data()[i]));
    EXPECT_NEAR(values(each.value)[static_cast<std::size_t>(i)], one.value.item(), 1e-12);
    for (std::size_t k = 0; k < 3; ++k) expect_near(each.gradient[k][i], one.gradient[k], 1e-12);
  }
  // Their mean is the gradient of the mean, by leaves and backward().
  std::vector<Variable> leaves;
  for (const Variable& p : parameters) leaves.emplace_back(p.data(), true);
  const auto losses = vmap(loss, {std::nullopt, 0, 0})(leaves, images, labels);
  lmp::mean(losses).backward();
  for (std::size_t k = 0; k < 3; ++k)
    expect_near(values(leaves[k].grad()), values(lmp::mean(each.gradient[k], {0}, false)), 1e-12);
  // The norm of each gradient, differentiated again by what lies outside.
  const auto norms = [&](const std::vector<Variable>& p) {
    const auto grads = vmap(value_and_grad(loss), {std::nullopt, 0, 0})(p, images, labels).gradient;
    return lmp::sum(lmp::square(grads[0])) + lmp::sum(lmp::square(grads[2]));
  };
  const auto by_loop = [&](const std::vector<Variable>& p) {
    Variable total = scalar(0);
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto g = value_and_grad(loss)(p, images[i], Variable(labels.data()[i])).gradient;
      total = total + lmp::sum(lmp::square(g[0])) + lmp::sum(lmp::square(g[2]));
    }
    return total;
  };
  const auto a = value_and_grad(norms)(parameters), b = value_and_grad(by_loop)(parameters);
  for (std::size_t k = 0; k < 3; ++k) expect_near(a.gradient[k], b.gradient[k]);
}

TEST(Vmap, OfEveryOtherTransform) {
  Generator generator(42);
  const Variable xs(uniform(generator, {5, 3})), ts(uniform(generator, {5, 3}));
  const auto f = [](const Variable& x) { return lmp::sum(lmp::sin(x) * lmp::cumsum(x, 0)); };
  const auto g = [](const Variable& x) { return lmp::outer(lmp::softmax(x), x); };
  const auto narrow = [](const Variable& x) { return lmp::stack({lmp::norm(x), lmp::prod(x)}); };
  const auto check = [&](const char* what, const auto& two) {
    SCOPED_TRACE(what);
    expect_near(vmap(two)(xs, ts),
                looped([&](const List& in) { return two(in[0], in[1]); }, {0, 0}, {xs, ts}, 0));
    // Only one of them mapped.
    expect_near(vmap(two, {0, std::nullopt})(xs, ts[1]),
                looped([&](const List& in) { return two(in[0], in[1]); }, {0, std::nullopt},
                       {xs, ts[1]}, 0));
    expect_near(vmap(two, {std::nullopt, 0})(xs[1], ts),
                looped([&](const List& in) { return two(in[0], in[1]); }, {std::nullopt, 0},
                       {xs[1], ts}, 0));
  };
  using V = const Variable&;
  check("jvp", [&](V x, V t) { return jvp(g, x, t).tangent; });
  check("hvp", [&](V x, V t) { return hvp(f, x, t); });
  check("vjp", [&](V x, V t) { return vjp(g, x)(lmp::outer(t, t)); });
  check("value_and_grad", [&](V x, V t) { return value_and_grad(f)(x * t).gradient; });
  check("hessian", [&](V x, V t) { return hessian(f)(x * t); });
  check("jacobian forward", [&](V x, V t) { return jacobian(g)(x * t); });
  check("jacobian reverse", [&](V x, V t) { return jacobian(narrow)(x * t); });
  check("jacobian of a capture",
        [&](V x, V t) { return jacobian([&](V y) { return narrow(x * y); })(t); });
  check("vmap of jvp of vmap", [&](V x, V t) {
    return jvp([&](V y) { return vmap([&](V e) { return e * e * lmp::sum(y); })(y); }, x, t)
        .tangent;
  });
  check("grad", [&](V x, V t) {
    const Variable y(x.data(), true);
    return lmp::grad({lmp::sum(y * y * t)}, {y})[0];
  });
  // The pullback from outside, for many gradients at once.
  const auto pullback = vjp(g, xs[0]);
  const Variable seeds(uniform(generator, {4, 3, 3}));
  expect_near(vmap(pullback)(seeds),
              looped([&](const List& in) { return pullback(in[0]); }, {0}, {seeds}, 0));
  // And what ValueAndTangent holds.
  const auto both = vmap([&](V x, V t) { return jvp(f, x, t); })(xs, ts);
  EXPECT_EQ(both.value.shape(), Shape({5}));
  EXPECT_EQ(both.tangent.shape(), Shape({5}));
}

TEST(Vmap, CapturedValuesOfEveryKind) {
  const Variable w = leaf({2, 3}), xs = vector_of({1, 2, 3});
  Variable recorded = w * w;
  const Variable plain = vector_of({10, 20});
  const Tensor tensor({1.0, 1.0}, {2});
  const Variable out = vmap([&](const Variable& x) {
    return lmp::sum(recorded * x + w * x * x) + lmp::sum(plain * tensor) * x;
  })(xs);
  // 13 x + 5 x^2 + 30 x
  expect_near(out, vector_of({48, 106, 174}));
  lmp::sum(out).backward();
  // by w: 2 w sum(x) + sum(x^2)
  expect_near(values(w.grad()), {2 * 2 * 6 + 14, 2 * 3 * 6 + 14});
  // Nothing is recorded where nothing requires a gradient.
  EXPECT_FALSE(vmap([&](const Variable& x) { return x * plain; })(xs).requires_grad());
  {
    const NoGradGuard guard;
    EXPECT_FALSE(vmap([&](const Variable& x) { return x * w; })(xs).requires_grad());
  }
  const Variable inside = vmap([&](const Variable& x) {
    const NoGradGuard guard;
    return x * w;
  })(xs);
  EXPECT_FALSE(inside.requires_grad());
}

// ---- Values inside, and errors ----

TEST(VmapErrors, ValuesCannotBeRead) {
  const Variable xs = vector_of({1, 2, 3, 4, 5, 6}, {3, 2});
  using V = const Variable&;
  const std::pair<const char*, std::function<void(V)>> reads[] = {
      {"item", [](V x) { (void)x[0].item(); }},
      {"item<T>()", [](V x) { (void)x[0].item<double>(); }},
      {"index", [](V x) { (void)x.index({0}); }},
      {"", [](V x) { (void)x.to_vector<double>(); }},
      {"mul", [](V x) { (void)(x.data() * 2); }},
      {"sum", [](V x) { (void)lmp::sum(x.data()); }},
      {"nonzero", [](V x) { (void)lmp::nonzero(x); }},
      {"allclose", [](V x) { (void)lmp::allclose(x, x); }},
      {"masked_select", [](V x) { (void)lmp::masked_select(x, (x > 0).data()); }},
      {"", [](V x) { (void)x[(x > 0).data()]; }},
  };
  for (const auto& entry : reads)
    for (const bool deeper : {false, true}) {
      const auto& op = entry.first;
      const auto& read = entry.second;
      SCOPED_TRACE(op);
      const std::string message = message_of<AutogradError>([&] {
        vmap([&](V x) {
          if (deeper)
            jvp([&](V y) { return read(y), y; }, x, x);
          else
            read(x);
          return x;
        })(xs);
      });
      EXPECT_TRUE(message.starts_with(op)) << message;
      EXPECT_TRUE(contains(message, "under vmap")) << message;
      EXPECT_TRUE(contains(message, "the values of all lanes")) << message;
      EXPECT_TRUE(contains(message, "where() for an if")) << message;
    }
  // Shapes, types and ranks can be; so can what is not mapped.
  vmap(
      [&](V x, V same) {
        EXPECT_EQ(x.shape(), Shape({2}));
        EXPECT_EQ(x.type(), DataType::Float64);
        EXPECT_EQ(same.item(), 7);
        EXPECT_EQ((same * 2).item(), 14);
        return x * same;
      },
      {0, std::nullopt})(xs, scalar(7));
}

TEST(VmapErrors, WhatOutlivesItsCallIsRefused) {
  const Variable xs = vector_of({1, 2});
  const Variable both = vector_of({1, 2, 3, 4}, {2, 2});
  Variable escaped, recorded, inner, squared, label;
  const std::int64_t before = live_bytes();
  vmap([&](const Variable& x) {
    escaped = x * 2;
    recorded = Variable(x.data(), true) * 3;
    inner = Variable(x.data(), true);
    squared = inner * inner;
    label = lmp::reshape(x, {1}).astype(DataType::Int64);
    return x;
  })(xs);
  using V = const Variable&;
  const std::function<void()> uses[] = {
      [&] { (void)(escaped + 1); },
      [&] { (void)escaped.item(); },
      [&] { (void)(escaped.data() + 1); },
      [&] { (void)vmap([&](V x) { return x * escaped; })(xs); },
      [&] { (void)jvp([&](V x) { return x * escaped; }, xs, xs); },
      [&] { (void)jvp([](V x) { return x * 2; }, escaped, escaped); },
      [&] { (void)value_and_grad([&](V x) { return lmp::sum(x * escaped); })(xs); },
      [&] { (void)(escaped.detach() * 2); },
      [&] { (void)(recorded + 1); },
      [&] {
        (void)lmp::cat({lmp::expand_dims(escaped, 0), xs});
      },
      [&] { (void)lmp::matmul(xs, lmp::broadcast_to(escaped, {2})); },
      [&] { (void)lmp::solve(Variable(lmp::eye(2)), lmp::broadcast_to(escaped, {2})); },
      [&] { (void)lmp::sum(escaped); },
      [&] { (void)escaped.clone(); },
      [&] { (void)lmp::norm(escaped); },
      [&] { (void)lmp::index_select(xs, 0, label.data()); },
      [&] { (void)lmp::gather(xs, 0, label.data()); },
      [&] { (void)vmap([&](V x) { return lmp::index_select(x, 0, label.data()); }, 1)(both); },
      [&] {
        (void)vmap([&](V x) { return lmp::cat({lmp::reshape(escaped, {1}), x}); }, 1)(both);
      },
      [&] { squared.backward(); },
      [&] { (void)lmp::grad({squared}, {inner}); },
      [&] { xs.copy(escaped); },
      [&] { xs.data() += escaped.data(); },
      [&] { escaped.fill(0); },
      [&] { escaped += 1; },
  };
  int k = 0;
  for (const auto& use : uses) {
    SCOPED_TRACE(k++);
    EXPECT_THROW(use(), AutogradError);
  }
  // In an inner call, while the outer one runs, too.
  Variable from_inner;
  EXPECT_THROW(vmap([&](V x) {
                 vmap([&](V y) { return from_inner = x * y; })(xs);
                 return from_inner + x;
               })(xs),
               AutogradError);
  EXPECT_NO_THROW(vmap([](V x) { return x * 2; })(xs));
  escaped = recorded = inner = squared = label = from_inner = Variable();
  EXPECT_EQ(live_bytes(), before);
}

TEST(VmapErrors, GraphsThatOutliveTheirCallAreRefused) {
  const Variable xs(Tensor({1.0, 2.0, 3.0, 4.0}, {2, 2}));
  const auto refused = [](const auto& run) {
    const std::string message = message_of<Error>(run);
    EXPECT_TRUE(contains(message, "mul: under vmap")) << message;
  };
  Variable loss, input;
  std::function<Variable(const Variable&)> pull;
  vmap([&](const Variable& x) {
    const auto pullback = vjp([](const Variable& at) { return at * at; }, x);
    pull = [pullback](const Variable& g) { return pullback(g); };
    input = x;
    input.requires_grad_();
    loss = sum(input * input);
    return x;
  })(xs);
  refused([&] { pull(lmp::ones({2})); });
  refused([&] { loss.backward({.retain_graph = true}); });
  refused([&] { grad({loss}, {input}, {.retain_graph = true}); });
  refused([&] { grad({loss}, {input}, {.create_graph = true}); });
  // Also where it is a vmap outside that still runs.
  vmap([&](const Variable& x) {
    const Variable y = [&] {
      Variable w = x;
      w.requires_grad_();
      const Variable squared = w * w;
      vmap([&](const Variable& v) {
        loss = sum(squared * v);
        return v;
      })(xs);
      return x;
    }();
    EXPECT_THROW(loss.backward(), Error);
    return y;
  })(xs);
}

TEST(VmapErrors, HooksReturnValues) {
  Variable kept;
  vmap([&](const Variable& x) { return kept = x; })(lmp::ones({3, 2}));
  const Variable w = testing::leaf({1, 2}), y = w * w;
  y.register_hook([&](const Variable&) { return kept; });
  EXPECT_THROW((y * y).backward(), AutogradError);
  EXPECT_FALSE(w.has_grad());
}

TEST(VmapErrors, SayWhatWasGivenAndWhatToDo) {
  const Variable xs = vector_of({1, 2, 3});
  using V = const Variable&;
  const auto twice = [](V x) { return x * 2; };
  const auto says = [](const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
      EXPECT_TRUE(contains(message, part))
          << "\"" << message << "\" does not say \"" << part << "\"";
  };
  says(message_of<ValueError>([&] { vmap(twice, {std::nullopt})(xs); }),
       {"vmap: no argument has an axis", "in_axes"});
  says(message_of<ValueError>([&] { vmap([](int n) { return scalar(n); })(3); }),
       {"vmap: no argument has an axis", "Variable or Tensor"});
  says(message_of<ValueError>([&] {
         vmap(twice, {0, 0})(xs);
       }),
       {"vmap: in_axes lists 2 for 1 argument;", "give one for each", "nullopt"});
  says(message_of<ValueError>([&] {
         vmap(twice, 0, {0, 0, 0})(xs);
       }),
       {"vmap: out_axes lists 3 for 1 result;", "give one for each"});
  says(message_of<ShapeError>([&] {
         vmap([](V x, V y) { return x * y; })(xs, vector_of({1, 2}));
       }),
       {"axis 0 of argument 1", "shape (2)", "has 2 lanes", "those before have 3"});
  says(message_of<ShapeError>([&] {
         vmap([](const std::vector<Variable>& x) { return x[0]; })(
             std::vector<Variable>{xs, vector_of({1})});
       }),
       {"axis 0 of argument 0", "has 1 lanes"});
  says(message_of<IndexError>([&] {
         vmap([](V x, V y) { return x * y; }, {0, 1})(xs, xs);
       }),
       {"vmap: in_axes of argument 1", "axis 1 is out of range for 1 dimension"});
  says(message_of<IndexError>([&] { vmap(twice)(scalar(3)); }),
       {"vmap: argument 0 is 0-dimensional", "nullopt"});
  says(message_of<IndexError>([&] { vmap(twice, 0, -2)(xs); }),
       {"vmap: out_axes of result 0", "axis -2 is out of range"});
  says(message_of<ValueError>([&] {
         vmap([](V x) { return std::make_pair(x, x * 2); }, 0, {0, std::nullopt})(xs);
       }),
       {"vmap: result 1", "differs from lane to lane", "out_axes"});
  says(message_of<Error>([&] { vmap([](V) { return Variable(); })(xs); }),
       {"vmap: the function returned an undefined Variable as result 0"});
  says(message_of<Error>([&] { vmap(twice)(Variable()); }), {"vmap: undefined"});
  says(message_of<AutogradError>([&] {
         vmap([](V x) {
           const Variable y(x.data(), true);
           lmp::sum(y * y).backward();
           return x;
         })(xs);
       }),
       {"backward: inside jvp or vmap", "use grad or value_and_grad"});
  // Errors of operations are in the terms of one lane.
  says(message_of<ShapeError>([&] {
         vmap([](V x) { return lmp::matmul(x, x); })(lmp::ones({3, 2, 4}));
       }),
       {"matmul: shapes (2, 4) and (2, 4)"});
  says(message_of<IndexError>([&] {
         vmap([](V x) { return lmp::sum(x, {1}); })(lmp::ones({3, 2}));
       }),
       {"sum: axis 1 is out of range for 1 dimension"});
  says(message_of<IndexError>([&] {
         vmap([](V x, V i) { return lmp::take(x, {i.data()}); })(
             lmp::ones({2, 3}), Variable(Tensor({0, 1, 2, 3}, {2, 2})));
       }),
       {"take: an index for axis 0 is out of range for size 3"});
  EXPECT_THROW(vmap([](V x, V i) { return lmp::gather(x, 0, i.data()); })(
                   lmp::ones({2, 3}), Variable(Tensor({0, 1, 2, 3}, {2, 2}))),
               IndexError);
  EXPECT_THROW(vmap([](V x) { return lmp::solve(x, lmp::ones({2})); })(lmp::zeros({3, 2, 2})),
               LinAlgError);
  expect_near(vmap(twice)(xs), vector_of({2, 4, 6}));
}

TEST(Vmap, PrintsAllLanes) {
  std::ostringstream out;
  vmap([&](const Variable& x) {
    out << x;
    return x;
  })(vector_of({1, 2}));
  EXPECT_TRUE(contains(out.str(), "all lanes of vmap")) << out.str();
  EXPECT_TRUE(contains(out.str(), "[1.0 2.0]")) << out.str();
}

}  // namespace
}  // namespace lmp
