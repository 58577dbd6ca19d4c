#pragma once

#include <span>
#include <vector>

#include "autograd/record.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/ops.hpp"
#include "ops/op_id.hpp"
#include "tensor/checks.hpp"

/// The ops that are not pointwise; see Note [Structured ops]. The functions that users call check
/// arguments and are in functions.inc; here stand what is computed and its gradient.
namespace lmp::table {

using autograd::kLinear;
using autograd::kMultilinear;
using autograd::kSavesResult;
using autograd::Mapped;
using autograd::Saves;
using autograd::Tangent;
using autograd::Variable;
using Variables = std::span<const Variable>;
using tensor::DataType;
using tensor::Device;
using tensor::IntList;
using tensor::Number;
using tensor::Shape;
using tensor::Tensor;

using autograd::in_lanes;

// ---- Views ----

/// A view by axes instead of raw strides, so that it can be taken of any tensor of the input's
/// shape: where each input axis starts, and of which input axes (none, one, or two for a diagonal)
/// each output axis is made.
struct ViewSpec {
  struct Source {
    std::int8_t axis[2] = {-1, -1};
    std::int64_t step = 1;
  };
  Shape shape;
  std::int64_t start[tensor::kMaxDims] = {};
  Source source[tensor::kMaxDims];

  /// The whole of an input of this shape.
  static ViewSpec all(const Shape& input);
  Tensor view(const Tensor& x) const;
  /// If every element of the input appears exactly once, the view that leads back.
  bool invert(const Shape& input, ViewSpec& back) const;
  /// The same view in each lane.
  ViewSpec shifted(std::int64_t lanes) const;
};

/// Zeros (or another number) of `whole`'s shape with x written at the view.
struct Embed;

struct View {
  static constexpr unsigned saves = 0;
  const char* name;
  ViewSpec spec;
  static constexpr Tangent tangent = kLinear;
  Tensor forward(const Tensor& x) const { return spec.view(x); }
  View shifted(std::int64_t lanes) const { return {name, spec.shifted(lanes)}; }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const;
};

struct Embed {
  static constexpr unsigned saves = 0;
  const char* name;
  ViewSpec spec;
  Shape whole;
  Number value = 0;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, apply(View{name, spec}, g));
  }
  Variable jvp(Variables, const Variable&, Variables t) const {
    return apply(Embed{name, spec, whole}, t[0]);
  }
  Embed shifted(std::int64_t lanes) const {
    return {name, spec.shifted(lanes), in_lanes(whole, lanes), value};
  }
};

template <class V>
void View::vjp(const Saves<V>& s, const V& g) const {
  ViewSpec back;
  if (spec.invert(s.pass.shape(0), back))
    s.pass.add(0, apply(View{name, back}, g));
  else
    s.pass.add(0, apply(Embed{name, spec, s.pass.shape(0)}, g));
}

struct Reshape {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "reshape";
  static constexpr Tangent tangent = kLinear;
  Shape shape;
  Tensor forward(const Tensor& x) const;
  Reshape shifted(std::int64_t lanes) const { return {in_lanes(shape, lanes)}; }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, reshape(g, s.pass.shape(0)));
  }
};

struct BroadcastTo {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "broadcast_to";
  static constexpr Tangent tangent = kLinear;
  Shape shape;
  Tensor forward(const Tensor& x) const;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const {
    return broadcast_to(autograd::with_rank(in[0], shape.ndim()), in_lanes(shape, lanes));
  }
  // The pass sums what was broadcast.
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g);
  }
};

// ---- Copies ----

/// Same values in other memory or of another type: the pass casts the gradient back.
struct Copy {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  const char* name;
  DataType type;
  Tensor forward(const Tensor& x) const;
  static constexpr bool leading_batch = true;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g);
  }
};

struct ToDevice {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "to";
  static constexpr Tangent tangent = kLinear;
  Device from, device;
  Tensor forward(const Tensor& x) const;
  static constexpr bool leading_batch = true;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, to(g, from));
  }
};

// ---- Reductions ----

/// The axes of a mask.
IntList axes_of(unsigned mask);

/// What a reduction is over, and what becomes of those axes.
struct Over {
  unsigned mask;
  bool keepdims = true;

  IntList axes() const { return axes_of(mask); }
  /// Reductions that keep the axes at size 1. Of a 0-dimensional operand nothing is reduced; its
  /// lanes have an axis, which the functions would take for one of all when they are given none.
  template <class V>
  V sum_of(const V& x, bool keep = true) const {
    return mask == 0 ? x : sum(x, axes(), keep);
  }
  template <class V>
  V mean_of(const V& x) const {
    return mask == 0 ? x : mean(x, axes());
  }
  Over shifted() const { return {mask << 1, keepdims}; }
  /// Elements per result.
  std::int64_t count(const Shape& input) const;
  Shape shape(const Shape& input) const {
    return tensor::detail::reduced_shape(input, mask, keepdims);
  }
  /// A result, or a gradient of one, with the reduced axes at size 1.
  template <class V>
  V kept(const V& v, const Shape& input) const {
    return keepdims ? v : reshape(v, tensor::detail::reduced_shape(input, mask, true));
  }
  /// The result as asked for, from one with the reduced axes at size 1.
  Tensor drop(const Tensor& t, const Shape& input) const {
    return keepdims ? t : t.reshape(shape(input));
  }
};

struct Sum {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "sum";
  static constexpr Tangent tangent = kLinear;
  Over over;
  Tensor forward(const Tensor& x) const;
  Sum shifted(std::int64_t) const { return {over.shifted()}; }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const Shape& shape = s.pass.shape(0);
    s.pass.add(0, spread(over.kept(g, shape), shape));
  }
  /// g repeated to `shape`. Small ones and those of short rows are made dense, since the kernels
  /// that follow are fastest on that.
  static Tensor spread(const Tensor& g, const Shape& shape);
  static Variable spread(const Variable& g, const Shape& shape) { return broadcast_to(g, shape); }
};

/// Of floating elements; integers add up exactly first. Halves are divided before they are rounded.
struct Mean {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "mean";
  static constexpr Tangent tangent = kLinear;
  Over over;
  Tensor forward(const Tensor& x) const;
  Mean shifted(std::int64_t) const { return {over.shifted()}; }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const Shape& shape = s.pass.shape(0);
    const auto n = static_cast<double>(over.count(shape));
    s.pass.add(0, Sum::spread(over.kept(g / n, shape), shape));
  }
};

/// In Float32 at least: counts, squares and quotients may lie beyond the halves' range.
template <class V>
V widened(const V& x) {
  return astype(x, tensor::detail::at_least_float(x.type()));
}

/// A reduction whose derivative is an element for an element says `weigh(x, y, g)`: g times the
/// derivative, for the result y with the reduced axes at size 1. With a gradient for g that is the
/// gradient; with a tangent, the sum of it is the tangent. Halves may come out widened.
template <class Op, class V>
void weighed_vjp(const Op& op, const Saves<V>& s, const V& g) {
  const V x = s.input(0);
  V y;
  if constexpr ((Op::saves & kSavesResult) != 0) y = op.over.kept(s.result(), x.shape());
  s.pass.add(0, astype(op.weigh(x, y, op.over.kept(g, x.shape())), x.type()));
}
template <class Op>
Variable weighed_jvp(const Op& op, Variables x, const Variable& y, Variables t) {
  const Variable weighed = op.weigh(x[0], op.over.kept(y, x[0].shape()), t[0]);
  return astype(op.over.sum_of(weighed, op.over.keepdims), y.type());
}
#define LMP_WEIGHED()                                               \
  template <class V>                                                \
  void vjp(const Saves<V>& s, const V& g) const {                   \
    weighed_vjp(*this, s, g);                                       \
  }                                                                 \
  Variable jvp(Variables x, const Variable& y, Variables t) const { \
    return weighed_jvp(*this, x, y, t);                             \
  }                                                                 \
  auto shifted(std::int64_t) const {                                \
    auto op = *this;                                                \
    op.over = over.shifted();                                       \
    return op;                                                      \
  }

/// Along the last axis, for each entry the product of all others: right where entries are 0, unlike
/// product / entry. Products of what lies before and after, each by doubling steps.
template <class V>
V products_of_others(const V& x) {
  const auto n = static_cast<std::int64_t>(x.shape().back());
  const std::vector<std::pair<std::int64_t, std::int64_t>> none(
      static_cast<std::size_t>(x.ndim() - 1));
  const auto shifted = [&](const V& v, std::int64_t by) {
    auto widths = none;
    widths.push_back({by, 0});
    return pad(narrow(v, -1, 0, n - by), widths, 1);
  };
  const auto before = [&](const V& v) {
    V product = shifted(v, 1);
    for (std::int64_t step = 1; step < n; step *= 2) product = product * shifted(product, step);
    return product;
  };
  return before(x) * flip(before(flip(x, {-1})), {-1});
}

struct Prod {
  static constexpr unsigned saves = 1;
  static constexpr const char* name = "prod";
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  V weigh(const V& x, const V&, const V& g) const {
    if (x.numel() == 0) return broadcast_to(g, x.shape());
    IntList order, back;
    for (int d = 0; d < x.ndim(); ++d)
      if (!(over.mask >> d & 1)) order.push_back(d);
    const int kept = static_cast<int>(order.size());
    for (std::int64_t d : over.axes()) order.push_back(d);
    for (int d = 0; d < x.ndim(); ++d)
      for (int i = 0; i < x.ndim(); ++i)
        if (order[static_cast<std::size_t>(i)] == d) back.push_back(i);
    if (kept == x.ndim()) return g;
    const V rows = permute(x, order);
    return g * permute(reshape(products_of_others(flatten(rows, kept, -1)), rows.shape()), back);
  }
  LMP_WEIGHED()
};

/// x and values for each result, in one pass over memory where no graph is made of it; `op` is one
/// of those without gradients in them.
template <class V>
V spread_by_ops(Spread op, const V& x, const V& a, const V& b) {
  switch (op) {
    case Spread::Scaled:
      return (x - a) * b;
    case Spread::Ties:
      return astype(eq(x, a), b.type()) * b;
    default:
      return exp(x - a) * b;
  }
}
Tensor spread(Spread op, const Tensor& x, const Tensor& a, const Tensor& b);
inline Variable spread(Spread op, const Variable& x, const Variable& a, const Variable& b) {
  return spread_by_ops(op, x, a, b);
}

/// How many elements of x are equal to the result y.
Tensor count_equal(const Tensor& x, const Tensor& y, const Over& over);
inline Variable count_equal(const Variable& x, const Variable& y, const Over& over) {
  return over.sum_of(astype(eq(x, y), tensor::detail::at_least_float(y.type())));
}
/// At least in Float32.
Tensor mean_of(const Tensor& x, const Over& over);
inline Variable mean_of(const Variable& x, const Over& over) { return over.mean_of(widened(x)); }

struct Extreme {
  static constexpr unsigned saves = 1 | kSavesResult;
  const char* name;
  bool largest;
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  V weigh(const V& x, const V& y, const V& g) const {
    return spread(Spread::Ties, x, y, g / count_equal(x, y, over));
  }
  LMP_WEIGHED()
};

struct Var {
  static constexpr unsigned saves = 1;
  static constexpr const char* name = "var";
  Over over;
  int correction;
  Tensor forward(const Tensor& x) const;
  /// The same in another type, of at least Float32.
  Tensor in(const Tensor& x, DataType type) const;
  template <class V>
  V weigh(const V& x, const V&, const V& g) const {
    const auto n = static_cast<double>(over.count(x.shape()) - correction);
    return spread(Spread::Scaled, x, mean_of(x, over), widened(g) * (2 / n));
  }
  LMP_WEIGHED()
};

struct Std {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "std";
  Over over;
  int correction;
  Tensor forward(const Tensor& x) const;
  template <class V>
  V weigh(const V& x, const V& y, const V& g) const {
    const auto n = static_cast<double>(over.count(x.shape()) - correction);
    return spread(Spread::Scaled, x, mean_of(x, over),
                  where(y == 0, 0, widened(g) / (where(y == 0, 1, widened(y)) * n)));
  }
  LMP_WEIGHED()
};

struct Norm {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "norm";
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  V weigh(const V& x, const V& y, const V& g) const {
    return x * where(y == 0, 0, widened(g) / where(y == 0, 1, widened(y)));
  }
  LMP_WEIGHED()
};

struct LogSumExp {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "logsumexp";
  Over over;
  Tensor forward(const Tensor& x) const;
  // exp(x - y) is softmax(x); where y is infinite it is 0 or undefined, as the sum is.
  template <class V>
  V weigh(const V& x, const V& y, const V& g) const {
    return spread(Spread::ScaledExp, x, where(isinf(y), 0, y), g);
  }
  LMP_WEIGHED()
};
#undef LMP_WEIGHED

/// Positions of the extremes; no gradient.
struct ArgExtreme {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  const char* name;
  bool largest;
  int axis;
  bool keepdims;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>&, const V&) const {}
  ArgExtreme shifted(std::int64_t) const { return {name, largest, axis + 1, keepdims}; }
};

/// Positions that sort, the first `keep` of them; no gradient.
struct ArgSort {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "argsort";
  int axis;
  bool descending;
  std::int64_t keep;
  /// The elements there too, unless `values` is null.
  Tensor forward(const Tensor& x, Tensor* values = nullptr) const;
  template <class V>
  void vjp(const Saves<V>&, const V&) const {}
  ArgSort shifted(std::int64_t) const { return {axis + 1, descending, keep}; }
};

/// Labels as rows of an identity matrix; no gradient.
struct OneHot {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "one_hot";
  std::int64_t classes;
  Tensor forward(const Tensor& labels) const { return tensor::ops::one_hot(labels, classes); }
  template <class V>
  void vjp(const Saves<V>&, const V&) const {}
  static constexpr bool leading_batch = true;
};

struct Cumsum {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "cumsum";
  static constexpr Tangent tangent = kLinear;
  int axis;
  Tensor forward(const Tensor& x) const;
  Cumsum shifted(std::int64_t) const { return {axis + 1}; }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, flip(cumsum(flip(g, {axis}), axis), {axis}));
  }
};

/// The gradient of softmax or log_softmax, which for the first is also its tangent, out of its
/// result.
Tensor softmax_gradient(bool log, const Tensor& y, const Tensor& g, int axis);
inline Variable softmax_gradient(bool log, const Variable& y, const Variable& g, int axis) {
  if (log) return g - exp(y) * sum(g, axis);
  return y * (g - sum(g * y, axis));
}

struct Softmax {
  static constexpr unsigned saves = kSavesResult;
  static constexpr const char* name = "softmax";
  int axis;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, softmax_gradient(false, s.result(), g, axis));
  }
  // The Jacobian diag(y) - y y^T is its own transpose.
  Variable jvp(Variables, const Variable& y, Variables t) const {
    return softmax_gradient(false, y, t[0], axis);
  }
  Softmax shifted(std::int64_t) const { return {axis + 1}; }
};

struct LogSoftmax {
  static constexpr unsigned saves = kSavesResult;
  static constexpr const char* name = "log_softmax";
  int axis;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, softmax_gradient(true, s.result(), g, axis));
  }
  Variable jvp(Variables, const Variable& y, Variables t) const {
    return t[0] - sum(exp(y) * t[0], axis);
  }
  LogSoftmax shifted(std::int64_t) const { return {axis + 1}; }
};

// ---- Products ----

/// The gradient a b, of matrices, of operand i, whose shape or rows it has. It is added to the
/// gradient that the operand has so far in the product itself.
void add_product(autograd::Pass<Tensor>& pass, int i, const Tensor& a, const Tensor& b);
void add_product(autograd::Pass<Variable>& pass, int i, const Variable& a, const Variable& b);

/// Operands of at least 2 dimensions and one type.
struct Matmul {
  static constexpr unsigned saves = 1 | 2;
  static constexpr const char* name = "matmul";
  static constexpr Tangent tangent = kMultilinear;
  Tensor forward(const Tensor& a, const Tensor& b) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    if (s.pass.wants(0)) add_product(s.pass, 0, g, transpose(s.input(1)));
    if (s.pass.wants(1)) add_product(s.pass, 1, transpose(s.input(0)), g);
  }
  Variable batch(std::span<const Mapped> in, std::int64_t) const {
    int rank = 0;
    for (const Mapped& m : in) rank = std::max(rank, m.value.ndim() - (m.mapped ? 1 : 0));
    return matmul(autograd::with_rank(in[0], rank), autograd::with_rank(in[1], rank));
  }
};

// ---- Joining ----

struct Cat {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "cat";
  static constexpr Tangent tangent = kLinear;
  int axis;
  Tensor forward(const std::vector<Tensor>& list) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    std::int64_t start = 0;
    for (int i = 0; i < s.pass.node().num_edges(); ++i) {
      const std::int64_t length = s.pass.shape(i).dim(axis);
      if (s.pass.wants(i)) s.pass.add(i, narrow(g, axis, start, length));
      start += length;
    }
  }
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const {
    std::vector<Variable> list;
    for (const Mapped& m : in) list.push_back(autograd::stacked(m, lanes));
    return cat(list, axis + 1);
  }
};

// ---- Indexing: indices are dense Int64 tensors of the op's own ----

/// An index tensor that must not change between forward and backward.
struct HeldIndex {
  Tensor tensor;
  std::uint32_t version;
  explicit HeldIndex(Tensor t) : tensor(std::move(t)), version(autograd::version_of(tensor)) {}
  const Tensor& get(const char* op) const {
    if (autograd::version_of(tensor) != version)
      throw AutogradError(tensor::detail::concat(
          op, ": the index was changed in place before backward; pass a clone()"));
    return tensor;
  }
};

/// An index along `axis` of a tensor of `shape`, repeated over its other axes: what gather and
/// scatter take. The lanes of vmap lead in both.
Variable spread_index(const Variable& index, const Shape& shape, int axis);

struct IndexAdd;

struct IndexSelect {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "index_select";
  int axis;
  HeldIndex index;
  Tensor forward(const Tensor& x) const;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const;
};

/// Zeros of `whole`'s shape with x added at the indices along `axis`.
struct IndexAdd {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "index_add";
  int axis;
  HeldIndex index;
  Shape whole;
  Tensor forward(const Tensor& x) const;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, apply(IndexSelect{axis, index}, g));
  }
};

template <class V>
void IndexSelect::vjp(const Saves<V>& s, const V& g) const {
  s.pass.add(0, apply(IndexAdd{axis, HeldIndex(index.get(name)), s.pass.shape(0)}, g));
}

struct Gather {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "gather";
  int axis;
  HeldIndex index;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V zero(tensor::zeros({}, g.device(), g.type()));
    s.pass.add(0, scatter_add(expand(zero, s.pass.shape(0)), axis, index.get(name), g));
  }
};

struct ScatterAdd {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "scatter_add";
  int axis;
  HeldIndex index;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
  Tensor forward(const Tensor& x, const Tensor& source) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g);
    if (s.pass.wants(1)) s.pass.add(1, gather(g, axis, index.get(name)));
  }
};

struct Scatter {
  static constexpr unsigned saves = 0;
  static constexpr Tangent tangent = kLinear;
  static constexpr const char* name = "scatter";
  int axis;
  HeldIndex index;
  Variable batch(std::span<const Mapped> in, std::int64_t lanes) const;
  Tensor forward(const Tensor& x, const Tensor& source) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const Tensor& at = index.get(name);
    const auto filled = [&](const Shape& shape, Number value, DataType type) {
      return V(tensor::full(shape, value, g.device(), type));
    };
    if (s.pass.wants(0)) {
      const V kept =
          scatter(filled(s.pass.shape(0), 1, g.type()), axis, at, filled(at.shape(), 0, g.type()));
      s.pass.add(0, g * kept);
    }
    if (s.pass.wants(1)) {
      // The entries of the source that stayed: the last written to each place.
      const V order(tensor::arange(0, static_cast<std::int64_t>(at.numel()), 1, g.device())
                        .reshape(at.shape()));
      const V last = scatter(filled(s.pass.shape(0), 0, DataType::Int64), axis, at, order);
      const V stayed = astype(eq(gather(last, axis, at), order), g.type());
      s.pass.add(1, gather(g, axis, at) * stayed);
    }
  }
};

}  // namespace lmp::table
