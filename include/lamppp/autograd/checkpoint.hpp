#pragma once

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "lamppp/autograd/transforms.hpp"

namespace lmp::autograd {

namespace detail {

/// A part of a graph whose saved tensors are computed again when a backward pass needs them.
class LMP_API CheckpointRegion : public std::enable_shared_from_this<CheckpointRegion> {
 public:
  CheckpointRegion();
  CheckpointRegion(const CheckpointRegion&) = delete;
  CheckpointRegion& operator=(const CheckpointRegion&) = delete;
  virtual ~CheckpointRegion();
  /// Runs the function for the first time and gives its results.
  void run(const std::vector<Variable>& inputs);
  /// Calls the function and keeps what it returned.
  virtual void call(const std::vector<Variable>& inputs) = 0;
  /// What it returned, cut off from the region.
  virtual std::vector<Variable> results() const = 0;
  virtual void drop_results() = 0;

  struct State;

 private:
  std::unique_ptr<State> state_;
};

/// Whether the operations that follow save anything that could be computed again.
LMP_API bool checkpoint_saves() noexcept;

template <class F, class... A>
class CheckpointOf final : public CheckpointRegion {
 public:
  using Arguments = std::tuple<Kept<A>...>;
  using Result = Kept<decltype(std::apply(std::declval<F&>(), std::declval<const Arguments&>()))>;

  CheckpointOf(F f, Arguments arguments) : f_(std::move(f)), arguments_(std::move(arguments)) {
    // The Variables are handed in by the region, which may keep them packed.
    detail::each_variable(arguments_, [](Variable& v) { v = Variable(); });
  }
  void call(const std::vector<Variable>& inputs) override {
    const Arguments arguments = with_variables(arguments_, inputs);
    result_ = std::make_unique<Result>(kept(std::apply(f_, arguments)));
  }
  std::vector<Variable> results() const override { return variables_of(*result_); }
  void drop_results() override { result_.reset(); }
  Result take() { return std::move(*result_); }

 private:
  F f_;
  Arguments arguments_;
  std::unique_ptr<Result> result_;
};

}  // namespace detail

/// `f(inputs...)`, of which the graph keeps the inputs alone: what its operations would save for
/// the backward pass is dropped, and computed by another call of f when the pass comes there. That
/// trades a second evaluation for memory; gradients are the same, of Variables that f captures
/// too, and can be differentiated again. The second call draws the same numbers from the default
/// random stream. f must compute the same both times: where it does not, because what it reads was
/// changed since or because it draws from elsewhere, the pass throws AutogradError. It compares the
/// bits of the results and of all that f's operations save; of tensors on a GPU those of the
/// results alone, since each has to be read. Inputs are Variables, Tensors, lists and tuples of
/// them, anything else is handed on; f may return a Variable or a list or tuple of them. Regions
/// nest. Inside jvp and vmap, and where nothing is recorded, this is just the call.
template <class F, class... A>
auto checkpoint(F f, const A&... inputs) {
  using Region = detail::CheckpointOf<F, A...>;
  typename Region::Arguments arguments(detail::kept(inputs)...);
  if (!detail::checkpoint_saves()) return detail::kept(std::apply(f, std::as_const(arguments)));
  const std::vector<Variable> variables = detail::variables_of(arguments);
  const auto region = std::make_shared<Region>(std::move(f), std::move(arguments));
  region->run(variables);
  return region->take();
}

}  // namespace lmp::autograd
