#pragma once

#include <vector>

#include "autograd/record.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/ops.hpp"
#include "tensor/checks.hpp"

/// The ops that are not pointwise; see Note [Structured ops]. The functions that users call check
/// arguments and are in functions.inc; here stand what is computed and its gradient.
namespace lmp::table {

using autograd::kSavesResult;
using autograd::Saves;
using autograd::Variable;
using tensor::DataType;
using tensor::Device;
using tensor::IntList;
using tensor::Number;
using tensor::Shape;
using tensor::Tensor;

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
};

/// Zeros (or another number) of `whole`'s shape with x written at the view.
struct Embed;

struct View {
  static constexpr unsigned saves = 0;
  const char* name;
  ViewSpec spec;
  Tensor forward(const Tensor& x) const { return spec.view(x); }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const;
};

struct Embed {
  static constexpr unsigned saves = 0;
  const char* name;
  ViewSpec spec;
  Shape whole;
  Number value = 0;
  Tensor forward(const Tensor& x) const {
    Tensor out = tensor::full(whole, value, x.device(), x.type());
    spec.view(out).copy(x);
    return out;
  }
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, apply(View{name, spec}, g));
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
  Shape shape;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, reshape(g, s.pass.shape(0)));
  }
};

struct BroadcastTo {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "broadcast_to";
  Shape shape;
  Tensor forward(const Tensor& x) const;
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
  const char* name;
  DataType type;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g);
  }
};

struct ToDevice {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "to";
  Device from, device;
  Tensor forward(const Tensor& x) const;
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
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const Shape& shape = s.pass.shape(0);
    s.pass.add(0, spread(over.kept(g, shape), shape));
  }
  /// g repeated to `shape`. Small ones are made dense, since the kernels that follow are fastest on
  /// that.
  static Tensor spread(const Tensor& g, const Shape& shape);
  static Variable spread(const Variable& g, const Shape& shape) { return broadcast_to(g, shape); }
};

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
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0);
    if (x.numel() == 0) return;
    IntList order, back;
    for (int d = 0; d < x.ndim(); ++d)
      if (!(over.mask >> d & 1)) order.push_back(d);
    const int kept = static_cast<int>(order.size());
    for (std::int64_t d : over.axes()) order.push_back(d);
    for (int d = 0; d < x.ndim(); ++d)
      for (int i = 0; i < x.ndim(); ++i)
        if (order[static_cast<std::size_t>(i)] == d) back.push_back(i);
    const V rows = permute(x, order);
    const V others = kept == x.ndim() ? V(tensor::ones_like(value(rows))) : others_of(rows, kept);
    s.pass.add(0, over.kept(g, x.shape()) * permute(others, back));
  }

 private:
  static const Tensor& value(const Tensor& t) { return t; }
  static const Tensor& value(const Variable& v) { return v.data(); }
  template <class V>
  static V others_of(const V& rows, int kept) {
    return reshape(products_of_others(flatten(rows, kept, -1)), rows.shape());
  }
};

struct Extreme {
  static constexpr unsigned saves = 1 | kSavesResult;
  const char* name;
  bool largest;
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0);
    const V ties = astype(eq(x, over.kept(s.result(), x.shape())), g.type());
    s.pass.add(0, ties * (over.kept(g, x.shape()) / sum(ties, over.axes())));
  }
};

struct Var {
  static constexpr unsigned saves = 1;
  static constexpr const char* name = "var";
  Over over;
  int correction;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0);
    const auto n = static_cast<double>(over.count(x.shape()) - correction);
    s.pass.add(0, (over.kept(g, x.shape()) * (2 / n)) * (x - mean(x, over.axes())));
  }
};

struct Std {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "std";
  Over over;
  int correction;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0), y = over.kept(s.result(), x.shape());
    const auto n = static_cast<double>(over.count(x.shape()) - correction);
    const V slope = where(y == 0, 0, over.kept(g, x.shape()) / (where(y == 0, 1, y) * n));
    s.pass.add(0, slope * (x - mean(x, over.axes())));
  }
};

struct Norm {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "norm";
  Over over;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0), y = over.kept(s.result(), x.shape());
    s.pass.add(0, x * where(y == 0, 0, over.kept(g, x.shape()) / where(y == 0, 1, y)));
  }
};

struct LogSumExp {
  static constexpr unsigned saves = 1 | kSavesResult;
  static constexpr const char* name = "logsumexp";
  Over over;
  Tensor forward(const Tensor& x) const;
  // exp(x - y) is softmax(x); where y is infinite it is 0 or undefined, as the sum is.
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V x = s.input(0), y = over.kept(s.result(), x.shape());
    s.pass.add(0, over.kept(g, x.shape()) * exp(x - where(isinf(y), 0, y)));
  }
};

struct Cumsum {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "cumsum";
  int axis;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, flip(cumsum(flip(g, {axis}), axis), {axis}));
  }
};

struct Softmax {
  static constexpr unsigned saves = kSavesResult;
  static constexpr const char* name = "softmax";
  int axis;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V y = s.result();
    s.pass.add(0, y * (g - sum(g * y, axis)));
  }
};

struct LogSoftmax {
  static constexpr unsigned saves = kSavesResult;
  static constexpr const char* name = "log_softmax";
  int axis;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g - exp(s.result()) * sum(g, axis));
  }
};

// ---- Products ----

/// Operands of at least 2 dimensions and one type.
struct Matmul {
  static constexpr unsigned saves = 1 | 2;
  static constexpr const char* name = "matmul";
  Tensor forward(const Tensor& a, const Tensor& b) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    if (s.pass.wants(0)) s.pass.add(0, matmul(g, transpose(s.input(1))));
    if (s.pass.wants(1)) s.pass.add(1, matmul(transpose(s.input(0)), g));
  }
};

// ---- Joining ----

struct Cat {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "cat";
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
};

// ---- Indexing: indices are dense Int64 tensors of the op's own ----

/// An index tensor that must not change between forward and backward.
struct HeldIndex {
  Tensor tensor;
  std::uint32_t version;
  explicit HeldIndex(Tensor t) : tensor(std::move(t)), version(tensor.version()) {}
  const Tensor& get(const char* op) const {
    if (tensor.version() != version)
      throw AutogradError(tensor::detail::concat(
          op, ": the index was changed in place before backward; pass a clone()"));
    return tensor;
  }
};

struct IndexAdd;

struct IndexSelect {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "index_select";
  int axis;
  HeldIndex index;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const;
};

/// Zeros of `whole`'s shape with x added at the indices along `axis`.
struct IndexAdd {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "index_add";
  int axis;
  HeldIndex index;
  Shape whole;
  Tensor forward(const Tensor& x) const;
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
  static constexpr const char* name = "gather";
  int axis;
  HeldIndex index;
  Tensor forward(const Tensor& x) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const V zeros(tensor::zeros(s.pass.shape(0), g.device(), g.type()));
    s.pass.add(0, scatter_add(zeros, axis, index.get(name), g));
  }
};

struct ScatterAdd {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "scatter_add";
  int axis;
  HeldIndex index;
  Tensor forward(const Tensor& x, const Tensor& source) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    s.pass.add(0, g);
    if (s.pass.wants(1)) s.pass.add(1, gather(g, axis, index.get(name)));
  }
};

struct Scatter {
  static constexpr unsigned saves = 0;
  static constexpr const char* name = "scatter";
  int axis;
  HeldIndex index;
  Tensor forward(const Tensor& x, const Tensor& source) const;
  /// 1 for the entries of the source that stayed: the last written to each place.
  Tensor winners(const Shape& whole, DataType type) const;
  template <class V>
  void vjp(const Saves<V>& s, const V& g) const {
    const Tensor& at = index.get(name);
    if (s.pass.wants(0)) {
      const V kept(tensor::ops::scatter(tensor::ones(s.pass.shape(0), g.device(), g.type()), axis,
                                        at, tensor::zeros(at.shape(), g.device(), g.type())));
      s.pass.add(0, g * kept);
    }
    if (s.pass.wants(1)) s.pass.add(1, gather(g, axis, at) * V(winners(s.pass.shape(0), g.type())));
  }
};

}  // namespace lmp::table
