#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lamppp/autograd/variable.hpp"
#include "lamppp/export.hpp"
#include "lamppp/tensor/update.hpp"

/// Optimisers: they move parameters, leaves that require a gradient, downhill.
namespace lmp::optim {

using autograd::Variable;
using tensor::Tensor;

/// What every optimiser has: parameters, and for each of them the state that it keeps between
/// steps, in Float32 (Float64 for Float64 parameters), so that halves do not lose what is small.
class LMP_API Optimizer {
 public:
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// In the order in which they were given.
  const std::vector<Variable>& parameters() const noexcept { return parameters_; }

  /// Drops all gradients. A parameter whose gradient no backward pass made is left out by step().
  void zero_grad() const;

  /// A copy of everything that the next steps depend on beside the parameters and the options: for
  /// parameter i what is kept for it, under the names below, and "i.step", how many steps that has
  /// seen (where nothing is kept, how many the parameter took), and "i.master" where there is one.
  /// What was not needed yet is not there.
  std::map<std::string, Tensor> state() const;
  /// Takes over what state() gave; training goes on as if it had not stopped. Throws ValueError for
  /// a name that no parameter has and for what is kept without its step, ShapeError for a tensor of
  /// another shape (TypeError for a step that is no integer); then nothing changed.
  void load_state(const std::map<std::string, Tensor>& state);

 protected:
  /// `name` is the class's, for messages; `first` and `second` name what is kept, null for nothing.
  Optimizer(const char* name, std::vector<Variable> parameters, const char* first,
            const char* second);
  ~Optimizer() = default;

  /// Calls f with the gradients that are there and the state that `kept` of the two tensors make. A
  /// step that throws does not count, and leaves the state as it was.
  template <class F>
  void run(int kept, bool masters, const F& f) {
    try {
      f(next_updates(kept, masters));
    } catch (...) {
      end_step(false);
      throw;
    }
    end_step(true);
  }
  /// Throws ValueError unless the condition holds.
  void check(bool condition, const char* option, double value, const char* range) const;

 private:
  const std::vector<tensor::ParameterUpdate>& next_updates(int kept, bool masters);
  void end_step(bool counts) noexcept;

  const char* name_;
  const char* kept_names_[2];
  std::vector<Variable> parameters_;
  std::vector<tensor::ParameterUpdate> updates_;
  std::vector<tensor::ParameterUpdate> previous_;  // while a step makes new state
  std::vector<std::uint32_t> versions_;  // of the parameters, when their masters were made
};

/// Stochastic gradient descent, with momentum and weight decay if asked for; see
/// tensor::ops::sgd_step for the formula and its source. Keeps "i.momentum".
///   optim::SGD sgd({weight, bias}, {.lr = 0.1, .momentum = 0.9});
///   loss.backward();
///   sgd.step();
///   sgd.zero_grad();
class LMP_API SGD : public Optimizer {
 public:
  /// Throws ValueError for no parameters or the same one twice, AutogradError for one that is no
  /// leaf that requires a gradient.
  explicit SGD(std::vector<Variable> parameters, const tensor::SgdRule& options = {});
  /// May be changed between steps, say by a learning-rate schedule.
  tensor::SgdRule& options() noexcept { return options_; }
  /// Updates all parameters in place, each in one pass, and records nothing. A momentum that
  /// is switched on between steps begins with the next gradient. Throws ValueError where an option
  /// is out of its range: lr, momentum and weight_decay at least 0; nesterov needs a momentum and
  /// no dampening. And as tensor::ops::sgd_step does, where parameters share elements.
  void step();

 private:
  tensor::SgdRule options_;
};

/// Adam; see tensor::ops::adam_step for the formula and its source. Keeps "i.first" and "i.second",
/// the moments.
class LMP_API Adam : public Optimizer {
 public:
  /// Throws as SGD does.
  explicit Adam(std::vector<Variable> parameters, const tensor::AdamRule& options = {});
  /// May be changed between steps.
  tensor::AdamRule& options() noexcept { return options_; }
  /// Updates all parameters in place, each in one pass, and records nothing. Throws ValueError
  /// where an option is out of its range: lr, eps and the decays at least 0, the betas in [0, 1).
  /// And as tensor::ops::adam_step does, where parameters share elements.
  void step();

 protected:
  /// For a class of another name, which messages show.
  Adam(const char* name, std::vector<Variable> parameters, const tensor::AdamRule& options);

 private:
  tensor::AdamRule options_;
};

/// What an AdamW is made with; the decay is there whatever else is named.
struct AdamWOptions {
  double lr = 0.001;           ///< learning rate
  double beta1 = 0.9;          ///< of the first moment
  double beta2 = 0.999;        ///< of the second moment
  double eps = 1e-8;           ///< added to the root of the second moment
  double weight_decay = 0.01;  ///< decoupled: p shrinks by lr times this in front of the step
  bool maximize = false;       ///< goes uphill
  bool masters = false;        ///< half parameters are kept in Float32; see ParameterUpdate
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay
/// regularization", ICLR 2019): Adam whose options().decoupled_decay is what is given as
/// weight_decay.
class LMP_API AdamW : public Adam {
 public:
  /// Throws as SGD does.
  explicit AdamW(std::vector<Variable> parameters, const AdamWOptions& options = {});
};

/// Scales the gradients of the parameters, each listed once, in place and all by one factor, so
/// that their norm taken together is at most `max_norm` (R. Pascanu, T. Mikolov and Y. Bengio, "On
/// the difficulty of training recurrent neural networks", ICML 2013). Returns what the norm was,
/// in Float64 where the first gradient is; where that is not finite nothing is scaled. On a GPU
/// nothing waits for it. Throws ValueError where max_norm is not above 0.
LMP_API tensor::Tensor clip_grad_norm(const std::vector<Variable>& parameters, double max_norm);

}  // namespace lmp::optim
