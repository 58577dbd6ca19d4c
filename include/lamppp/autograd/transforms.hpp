#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/variable.hpp"

/// Functions of functions. Each takes an ordinary callable of Variables and uses it as a function
/// in the mathematical sense: what it returns has to depend on its arguments, not on what was
/// called before. They compose in any order and to any depth: hessian is jvp of value_and_grad
/// under vmap. Where an argument is a Tensor it becomes a Variable; lists (`std::vector`), pairs,
/// tuples and arrays of them are taken apart, as are structs with a member `each_variable(f)` that
/// calls f for each of their Variables; anything else is handed on.
namespace lmp::autograd {

namespace detail {

// What an argument or a result is kept as: Variables in the place of Tensors.
template <class T>
struct AsVariables {
  using type = T;
};
template <>
struct AsVariables<Tensor> {
  using type = Variable;
};
template <class T>
struct AsVariables<std::vector<T>> {
  using type = std::vector<typename AsVariables<T>::type>;
};
template <class T, std::size_t N>
struct AsVariables<std::array<T, N>> {
  using type = std::array<typename AsVariables<T>::type, N>;
};
template <class A, class B>
struct AsVariables<std::pair<A, B>> {
  using type = std::pair<typename AsVariables<A>::type, typename AsVariables<B>::type>;
};
template <class... T>
struct AsVariables<std::tuple<T...>> {
  using type = std::tuple<typename AsVariables<T>::type...>;
};
template <class T>
using Kept = typename AsVariables<std::remove_cvref_t<T>>::type;

template <class T>
Kept<T> kept(const T& value) {
  if constexpr (std::is_same_v<Kept<T>, T> || std::is_same_v<T, Tensor>) {
    return value;
  } else if constexpr (requires { std::tuple_size<T>::value; }) {
    return std::apply([](const auto&... part) { return Kept<T>{kept(part)...}; }, value);
  } else {
    Kept<T> all;
    for (const auto& part : value) all.push_back(kept(part));
    return all;
  }
}

// f(Variable&) for every Variable of a value.
template <class T, class F>
void each_variable(T& value, F&& f) {
  if constexpr (std::is_same_v<T, Variable>) {
    f(value);
  } else if constexpr (requires { value.each_variable(f); }) {
    value.each_variable(f);
  } else if constexpr (requires { std::tuple_size<T>::value; }) {
    std::apply([&](auto&... part) { (each_variable(part, f), ...); }, value);
  } else if constexpr (requires { typename T::allocator_type; }) {
    if constexpr (!std::is_arithmetic_v<typename T::value_type>)
      for (auto& part : value) each_variable(part, f);
  }
}

// Whether each_variable may find any in a value of this type.
template <class T>
constexpr bool holds_variables() {
  if constexpr (std::is_same_v<T, Variable>) {
    return true;
  } else if constexpr (requires(T & value, void (&f)(Variable&)) { value.each_variable(f); }) {
    return true;
  } else if constexpr (requires { std::tuple_size<T>::value; }) {
    return []<std::size_t... I>(std::index_sequence<I...>) {
      return (holds_variables<std::remove_cv_t<std::tuple_element_t<I, T>>>() || ...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>());
  } else if constexpr (requires { typename T::allocator_type; }) {
    return holds_variables<typename T::value_type>();
  } else {
    return false;
  }
}
// What is differentiated has to be found: anything else would come back as its own gradient.
template <class T>
constexpr void require_variables() {
  static_assert(holds_variables<T>(),
                "an argument to differentiate has to be a Variable or Tensor, or a list or tuple "
                "of them; a struct needs a member each_variable(f) that calls f for each of its "
                "Variables");
}

template <class T>
std::vector<Variable> variables_of(const T& value) {
  std::vector<Variable> all;
  T copy = value;
  each_variable(copy, [&](Variable& v) { all.push_back(v); });
  return all;
}

// A value of the shape of `like` with other Variables, in order.
template <class T>
T with_variables(T like, const std::vector<Variable>& variables) {
  std::size_t next = 0;
  each_variable(like, [&](Variable& v) { v = variables[next++]; });
  return like;
}

/// The inputs of a function that is differentiated in reverse, and what comes of it.
class LMP_API ReverseInputs {
 public:
  /// Throws AutogradError in inference mode. The thread has to record while inputs are made and the
  /// function is called; where it does not when this is made, nothing outside gets a derivative.
  explicit ReverseInputs(const char* name);
  /// The argument to call the function with in the place of `v`: an input of its own, connected to
  /// whatever `v` depends on.
  Variable make(const Variable& v);
  /// The value of the function without what only these inputs need.
  Variable outer(const Variable& value) const;
  /// The gradients of `value`, which has to be a single element, with respect to the inputs; zeros
  /// where it does not depend on one.
  std::vector<Variable> gradients(const Variable& value) const;
  /// The same for a value of any shape, weighted by `seed`. The graph is kept.
  std::vector<Variable> pull(const Variable& value, const Variable& seed) const;

 private:
  std::vector<Variable> run(const Variable& value, const Variable& seed) const;
  bool leads_elsewhere(const Variable& value) const;
  const char* name_;
  bool recorded_;
  bool connected_ = false;
  std::vector<Variable> inputs_;
};

/// Dual numbers while it lives.
class LMP_API ForwardScope {
 public:
  explicit ForwardScope(const char* name);
  ForwardScope(const ForwardScope&) = delete;
  ForwardScope& operator=(const ForwardScope&) = delete;
  ~ForwardScope();
  Variable input(const Variable& v, const Variable& tangent) const;
  Variable value(const Variable& result) const;
  Variable tangent(const Variable& result) const;

 private:
  const char* name_;
  alignas(8) unsigned char trace_[48];
};

/// Lanes while it lives.
class LMP_API LanesScope {
 public:
  /// Throws ValueError for -1, where no argument had lanes.
  explicit LanesScope(std::int64_t lanes);
  LanesScope(const LanesScope&) = delete;
  LanesScope& operator=(const LanesScope&) = delete;
  ~LanesScope();
  static std::int64_t lanes_of(const Variable& v, int axis, std::int64_t so_far,
                               std::size_t argument);
  Variable enter(const Variable& v, int axis) const;
  /// Result number `result` of the function, with the lanes along `axis`, or without lanes.
  Variable leave(const Variable& v, std::optional<int> axis, std::size_t result) const;

 private:
  alignas(8) unsigned char trace_[48];
};

/// A callable of one Variable that returns one, of any type.
class FunctionRef {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>) FunctionRef(F& f)
      : context_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* context, const Variable& x) {
          return Variable((*static_cast<F*>(context))(x));
        }) {}
  Variable operator()(const Variable& x) const { return call_(context_, x); }

 private:
  void* context_;
  Variable (*call_)(void*, const Variable&);
};

// A callable that may change inside a const one.
template <class F>
struct Held {
  mutable F f;
};

LMP_API Variable jacobian(FunctionRef f, const Variable& x);
LMP_API Variable hessian(FunctionRef f, const Variable& x);
LMP_API void check_tangents(const char* name, std::size_t values, std::size_t tangents);
LMP_API void check_axes(const char* which, std::size_t axes, std::size_t values, const char* what);

}  // namespace detail

// ---- Reverse mode ----

/// What value_and_grad's callable returns: `auto [value, gradient] = ...`.
template <class G>
struct ValueAndGrad {
  Variable value;  ///< of the function, a single element
  G gradient;      ///< made like the argument: a Variable, or a list or tuple of them
  /// Visits the Variables, so that vmap can return it.
  template <class F>
  void each_variable(F&& f) {
    f(value);
    detail::each_variable(gradient, f);
  }
};

namespace detail {

template <class F, std::size_t... I>
class ValueAndGradOf {
 public:
  explicit ValueAndGradOf(F f, const char* name = "value_and_grad")
      : f_(std::move(f)), name_(name) {}

  template <class... A>
  auto operator()(const A&... arguments) const {
    static_assert(((I < sizeof...(A)) && ...), "value_and_grad: there is no such argument");
    std::tuple<Kept<A>...> all(kept(arguments)...);
    (require_variables<std::tuple_element_t<I, std::tuple<Kept<A>...>>>(), ...);
    ReverseInputs inputs(name_);
    const Variable value = [&]() -> Variable {
      const EnableGradGuard recording;
      (detail::each_variable(std::get<I>(all), [&](Variable& v) { v = inputs.make(v); }), ...);
      return std::apply(f_, std::as_const(all));
    }();
    const std::vector<Variable> gradients = inputs.gradients(value);
    if constexpr (sizeof...(I) == 1) {
      return ValueAndGrad<std::tuple_element_t<(I + ...), std::tuple<Kept<A>...>>>{
          inputs.outer(value), with_variables(std::get<I>(all)..., gradients)};
    } else {
      std::tuple<std::tuple_element_t<I, std::tuple<Kept<A>...>>...> chosen(std::get<I>(all)...);
      return ValueAndGrad<decltype(chosen)>{inputs.outer(value),
                                            with_variables(std::move(chosen), gradients)};
    }
  }

 private:
  mutable F f_;
  const char* name_;
};

}  // namespace detail

/// The function that computes `f`, which has to return a single element, and its gradient with
/// respect to its first argument: `auto [value, gradient] = value_and_grad(f)(x, more...)`. The
/// gradient is made like the argument, which may be a list or tuple of Variables.
/// `value_and_grad<0, 2>(f)` differentiates with respect to arguments 0 and 2 and gives a tuple.
/// Zero where the value does not depend on an argument. The arguments need no gradient themselves;
/// where one has one, or f uses Variables that have, value and gradient can be differentiated
/// again, unless a NoGradGuard is alive where they are computed. Throws ShapeError for a value of
/// more than one element, TypeError for an argument that is not floating.
template <std::size_t... I, class F>
auto value_and_grad(F f) {
  if constexpr (sizeof...(I) == 0)
    return detail::ValueAndGradOf<F, 0>(std::move(f));
  else
    return detail::ValueAndGradOf<F, I...>(std::move(f));
}

/// What vjp returns: the value of a function and the map from a gradient of it to the gradient of
/// the argument.
template <class X>
class Vjp {
 public:
  Variable value;  ///< of the function
  /// The gradient of the argument for the gradient `g` of the value, of its shape: g times the
  /// Jacobian. As often as you like; the graph lives as long as this object. A derivative of the
  /// result flows to g as well.
  X operator()(const Variable& g) const {
    return detail::with_variables(argument_, inputs_->pull(graph_, g));
  }

  /// Made by vjp.
  Vjp(Variable v, Variable graph, X argument, std::shared_ptr<detail::ReverseInputs> inputs)
      : value(std::move(v)),
        graph_(std::move(graph)),
        argument_(std::move(argument)),
        inputs_(std::move(inputs)) {}

 private:
  Variable graph_;
  X argument_;
  std::shared_ptr<detail::ReverseInputs> inputs_;
};

/// Reverse mode in two steps: `auto pullback = vjp(f, x)` evaluates f; `pullback.value` is its
/// value, of any shape, and `pullback(g)` the gradient of x for the gradient g of that. x is a
/// Variable, or a list or tuple of them.
template <class F, class X>
auto vjp(F&& f, const X& x) {
  detail::require_variables<detail::Kept<X>>();
  auto inputs = std::make_shared<detail::ReverseInputs>("vjp");
  const EnableGradGuard recording;
  detail::Kept<X> argument = detail::kept(x);
  detail::each_variable(argument, [&](Variable& v) { v = inputs->make(v); });
  const Variable value = f(std::as_const(argument));
  Variable outer = inputs->outer(value);
  return Vjp<detail::Kept<X>>(std::move(outer), value, std::move(argument), std::move(inputs));
}

// ---- Forward mode ----

/// What jvp returns: `auto [value, tangent] = ...`.
template <class Y>
struct ValueAndTangent {
  Y value;    ///< of the function
  Y tangent;  ///< of its value, made like it
  /// Visits the Variables, so that vmap can return it.
  template <class F>
  void each_variable(F&& f) {
    detail::each_variable(value, f);
    detail::each_variable(tangent, f);
  }
};

namespace detail {

template <class F, class X, class T>
auto jvp(const char* name, F&& f, const X& x, const T& tangent) {
  require_variables<Kept<X>>();
  Kept<X> dual = kept(x);
  const std::vector<Variable> tangents = variables_of(kept(tangent));
  check_tangents(name, variables_of(dual).size(), tangents.size());
  const ForwardScope scope(name);
  std::size_t next = 0;
  each_variable(dual, [&](Variable& v) { v = scope.input(v, tangents[next++]); });
  auto value = kept(f(std::as_const(dual)));
  auto moved = value;
  each_variable(moved, [&](Variable& v) { v = scope.tangent(v); });
  each_variable(value, [&](Variable& v) { v = scope.value(v); });
  return ValueAndTangent<decltype(value)>{std::move(value), std::move(moved)};
}

}  // namespace detail

/// Forward mode: `f(x)` and its derivative along the direction `tangent`, both in one go, from the
/// same rules as the gradient and without a graph: the Jacobian times `tangent`. x and tangent are
/// made alike (a Variable, or a list or tuple of them) with the same shapes; f may return a
/// Variable, or a list or tuple of them. Costs about two to three evaluations of f, however many
/// elements x and the value have. The argument's value can be read inside f. Throws ShapeError
/// where x and tangent do not fit, TypeError for an argument that is not floating.
template <class F, class X, class T>
auto jvp(F&& f, const X& x, const T& tangent) {
  return detail::jvp("jvp", f, x, tangent);
}

// ---- Whole matrices of derivatives ----

/// The function that computes the Jacobian of `f` at a Variable, of shape (value's shape) +
/// (argument's shape): entry [i..., j...] is the derivative of value i by argument j. Forward mode,
/// all directions at once under vmap, where the value has more elements than the argument, else
/// reverse mode likewise. Further arguments of the call are handed to f as they are.
template <class F>
auto jacobian(F f) {
  return [held = detail::Held<F>{std::move(f)}](const Variable& x, const auto&... more) {
    const auto partial = [&](const Variable& at) { return held.f(at, more...); };
    return detail::jacobian(partial, x);
  };
}

/// The function that computes the matrix of second derivatives of `f`, which has to return a single
/// element, at a Variable: of shape (argument's shape) twice. Forward over reverse mode.
template <class F>
auto hessian(F f) {
  return [held = detail::Held<F>{std::move(f)}](const Variable& x, const auto&... more) {
    const auto partial = [&](const Variable& at) { return held.f(at, more...); };
    return detail::hessian(partial, x);
  };
}

/// The Hessian of `f` at `x` times `v`, without the Hessian: the derivative of the gradient along
/// v. f has to return a single element; x and v are made alike. Costs about four evaluations of f.
template <class F, class X, class T>
auto hvp(F&& f, const X& x, const T& v) {
  auto call = [&](const auto& at) { return f(at); };
  const detail::ValueAndGradOf<decltype(call), 0> both(call, "hvp");
  return detail::jvp(
             "hvp", [&](const auto& at) { return both(at).gradient; }, x, v)
      .tangent;
}

// ---- vmap ----

/// Which axis of an argument (or result) of a function under vmap runs over the lanes; nullopt
/// where every lane gets the same.
class Axes {
 public:
  /// The same axis for all.
  Axes(int axis) : all_(axis) {}
  /// One for each, in order. Lists and tuples count as one argument.
  Axes(std::initializer_list<std::optional<int>> axes) : each_(axes), listed_(true) {}
  /// Of argument i.
  std::optional<int> operator[](std::size_t i) const { return listed_ ? each_.at(i) : all_; }
  /// How many are listed; nothing for the same axis for all.
  std::optional<std::size_t> size() const {
    return listed_ ? std::optional<std::size_t>(each_.size()) : std::nullopt;
  }

 private:
  std::optional<int> all_;
  std::vector<std::optional<int>> each_;
  bool listed_ = false;
};

namespace detail {

template <class F>
class Vmapped {
 public:
  Vmapped(F f, Axes in, Axes out) : f_(std::move(f)), in_(std::move(in)), out_(std::move(out)) {}

  template <class... A>
  auto operator()(const A&... arguments) const {
    std::tuple<Kept<A>...> all(kept(arguments)...);
    if (in_.size()) check_axes("in_axes", *in_.size(), sizeof...(A), "argument");
    std::int64_t lanes = -1;
    each_argument(all, [&](Variable& v, std::optional<int> axis, std::size_t i) {
      if (axis) lanes = LanesScope::lanes_of(v, *axis, lanes, i);
    });
    const LanesScope scope(lanes);
    each_argument(all, [&](Variable& v, std::optional<int> axis, std::size_t) {
      if (axis) v = scope.enter(v, *axis);
    });
    auto result = kept(std::apply(f_, std::as_const(all)));
    if (out_.size()) check_axes("out_axes", *out_.size(), variables_of(result).size(), "result");
    std::size_t next = 0;
    detail::each_variable(result, [&](Variable& v) {
      v = scope.leave(v, out_[next], next);
      ++next;
    });
    return result;
  }

 private:
  template <class T, class Visit>
  void each_argument(T& all, Visit&& visit) const {
    std::size_t i = 0;
    std::apply(
        [&](auto&... argument) {
          ((detail::each_variable(argument, [&](Variable& v) { visit(v, in_[i], i); }), ++i), ...);
        },
        all);
  }

  mutable F f_;
  Axes in_, out_;
};

}  // namespace detail

/// The function that runs `f` for many values at once: `f` is written for one, without a batch
/// axis, and `vmap(f)(xs)` is what stacking f(xs[0]), f(xs[1]), ... would give, computed by
/// operations on all lanes together. in_axes says which axis of each argument runs over the lanes
/// (nullopt: every lane gets the whole argument), out_axes where they go in each result (nullopt:
/// nowhere, for a result that no argument with lanes has a part in):
/// `vmap(value_and_grad(loss), {std::nullopt, 0, 0})(w, xs, ys)` are the gradients of each sample.
/// Works through every operation that has a rule, backward passes and other transforms; an
/// operation without one is an error that names it. Values cannot be read inside f (item(),
/// data()), since there are many. Throws ValueError where no argument has lanes or a result has
/// some that should not, ShapeError where their numbers differ.
template <class F>
auto vmap(F f, Axes in_axes = 0, Axes out_axes = 0) {
  return detail::Vmapped<F>(std::move(f), std::move(in_axes), std::move(out_axes));
}

}  // namespace lmp::autograd
