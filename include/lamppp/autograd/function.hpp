#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "lamppp/autograd/transforms.hpp"
#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

/// What a function of one's own is handed along with its operands; see apply.
class LMP_API FunctionContext {
 public:
  /// Keeps what backward will read: operands, results, or anything else (Tensors or Variables).
  /// They are protected: backward throws where one was changed in place since. What is an operand
  /// or a result stays connected to the graph, so that second derivatives see it; anything else
  /// counts as a constant. Called once, in forward.
  void save_for_backward(std::vector<Variable> values) { saved_ = std::move(values); }
  /// What was saved, in order, in backward.
  const std::vector<Variable>& saved() const noexcept { return saved_; }
  /// Whether a gradient for operand i will be asked for (in forward) or is (in backward).
  bool needs_input_grad(std::size_t i) const noexcept { return i < needs_.size() && needs_[i]; }
  /// These results have no gradient: they will not require one. Called in forward.
  void mark_non_differentiable(std::vector<Variable> results) {
    non_differentiable_ = std::move(results);
  }

 private:
  friend struct FunctionAccess;
  std::vector<Variable> saved_, non_differentiable_;
  std::vector<bool> needs_;
};

namespace detail {

/// A function of a user's as the library sees it.
class LMP_API AnyFunction {
 public:
  AnyFunction() = default;
  AnyFunction(const AnyFunction&) = delete;
  AnyFunction& operator=(const AnyFunction&) = delete;
  virtual ~AnyFunction();
  virtual std::vector<Variable> forward(FunctionContext& context,
                                        const std::vector<Variable>& in) = 0;
  virtual std::vector<Variable> backward(FunctionContext& context,
                                         const std::vector<Variable>& gradients) = 0;
  std::string name;
  bool forward_takes_variables = false, backward_takes_variables = false;
};

LMP_API std::string demangled(const char* name);
LMP_API std::vector<Variable> apply_function(const std::shared_ptr<AnyFunction>& f,
                                             const std::vector<Variable>& in);

template <class T, std::size_t>
struct Repeat {
  using type = T;
};

// forward(context, one, two, ...) or forward(context, list), of Variables or else of Tensors.
template <class F, class I>
struct Calls;
template <class F, std::size_t... I>
struct Calls<F, std::index_sequence<I...>> {
  static constexpr bool kVariables = requires(F f, FunctionContext& c, const Variable& v) {
    f.forward(c, static_cast<typename Repeat<const Variable&, I>::type>(v)...);
  };
  static constexpr bool kTensors = requires(F f, FunctionContext& c, const Tensor& t) {
    f.forward(c, static_cast<typename Repeat<const Tensor&, I>::type>(t)...);
  };
  static decltype(auto) forward(F& f, FunctionContext& c, const std::vector<Variable>& in) {
    if constexpr (kVariables)
      return f.forward(c, in[I]...);
    else
      return f.forward(c, in[I].data()...);
  }
};
struct List {};
template <class F>
struct Calls<F, List> {
  static constexpr bool kVariables =
      requires(F f, FunctionContext& c, const std::vector<Variable>& v) {
    f.forward(c, v);
  };
  static constexpr bool kTensors = false;
  static decltype(auto) forward(F& f, FunctionContext& c, const std::vector<Variable>& in) {
    return f.forward(c, in);
  }
};

template <class F, class I>
class FunctionOf final : public AnyFunction {
 public:
  using Result = std::remove_cvref_t<decltype(Calls<F, I>::forward(
      std::declval<F&>(), std::declval<FunctionContext&>(),
      std::declval<const std::vector<Variable>&>()))>;
  static constexpr bool kOne = std::is_same_v<Kept<Result>, Variable>;

  explicit FunctionOf(F f) : f_(std::move(f)) {
    if constexpr (requires { F::name; })
      name = F::name;
    else
      name = demangled(typeid(F).name());
    forward_takes_variables = Calls<F, I>::kVariables;
    backward_takes_variables = kBackwardOfVariables;
  }
  std::vector<Variable> forward(FunctionContext& c, const std::vector<Variable>& in) override {
    return variables_of(kept(Calls<F, I>::forward(f_, c, in)));
  }
  std::vector<Variable> backward(FunctionContext& c, const std::vector<Variable>& g) override {
    if constexpr (kOne && kBackwardOfVariables) {
      return variables_of(kept(f_.backward(c, g[0])));
    } else if constexpr (kOne) {
      return variables_of(kept(f_.backward(c, g[0].data())));
    } else {
      return variables_of(kept(f_.backward(c, g)));
    }
  }

 private:
  static constexpr bool kBackwardOfVariables = [] {
    if constexpr (kOne) return requires(F f, FunctionContext & c, const Variable& g) {
        f.backward(c, g);
      };
    else
      return true;
  }();
  F f_;
};

}  // namespace detail

/// A function with a gradient of one's own. F is a struct with two members (static or not; further
/// members are its attributes, and the struct lives as long as the graph needs it):
///
///   Tensor forward(FunctionContext& context, const Tensor& x, const Tensor& y);
///   std::vector<Variable> backward(FunctionContext& context, const Variable& gradient);
///
/// forward takes the operands as Variables or Tensors, computes without recording, and returns one
/// result or a list of them (`std::vector`, pair, tuple). backward takes the gradient of the
/// result, or of several a `const std::vector<Variable>&` (zeros where none arrived), and returns
/// one for each operand, of its shape; undefined where there is none. Written in Variables it can
/// be differentiated again, and jvp works too. Under vmap forward runs on all lanes if it takes
/// Variables. A member `name` says what errors and drawings call it; without one it is F.
///
/// `apply(F{...}, x, y)` calls it on Variables or Tensors, `apply(F{...}, list)` on a
/// `std::vector<Variable>`. Throws, naming the function: ValueError for a wrong number of
/// gradients, ShapeError for one of another shape, AutogradError where backward is written in
/// Tensors and is to be differentiated, and where a saved value was changed in place.
template <class F, class... A>
requires(
    detail::Calls<F, std::index_sequence_for<A...>>::kVariables ||
    detail::Calls<F, std::index_sequence_for<A...>>::kTensors) auto apply(F f,
                                                                          const A&... operands) {
  using Function = detail::FunctionOf<F, std::index_sequence_for<A...>>;
  std::vector<Variable> out =
      detail::apply_function(std::make_shared<Function>(std::move(f)), {Variable(operands)...});
  if constexpr (Function::kOne)
    return std::move(out.front());
  else
    return out;
}

/// The same for a list of operands.
template <class F>
requires(detail::Calls<F, detail::List>::kVariables) auto apply(
    F f, const std::vector<Variable>& operands) {
  using Function = detail::FunctionOf<F, detail::List>;
  std::vector<Variable> out =
      detail::apply_function(std::make_shared<Function>(std::move(f)), operands);
  if constexpr (Function::kOne)
    return std::move(out.front());
  else
    return out;
}
/// The same; std::apply, which is found along with the list, would fit better than the one above.
template <class F>
requires(detail::Calls<F, detail::List>::kVariables) auto apply(F f,
                                                                std::vector<Variable>& operands) {
  return autograd::apply(std::move(f), std::as_const(operands));
}
/// The same.
template <class F>
requires(detail::Calls<F, detail::List>::kVariables) auto apply(F f,
                                                                std::vector<Variable>&& operands) {
  return autograd::apply(std::move(f), std::as_const(operands));
}

}  // namespace lmp::autograd
