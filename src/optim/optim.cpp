#include "lamppp/optim/optim.hpp"

#include <cmath>
#include <utility>

#include "lamppp/error.hpp"
#include "lamppp/tensor/ops.hpp"

namespace lmp::optim {

using tensor::ParameterUpdate;

Optimizer::Optimizer(const char* name, std::vector<Variable> parameters, const char* first,
                     const char* second)
    : name_(name), kept_names_{first, second}, parameters_(std::move(parameters)) {
  const std::string who = name;
  if (parameters_.empty()) throw ValueError(who + ": there are no parameters");
  std::map<const void*, std::size_t> numbers;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Variable& p = parameters_[i];
    if (!p.requires_grad() || !p.is_leaf())
      throw AutogradError(
          who + ": parameter " + std::to_string(i) +
          (p.requires_grad() ? " is the result of an operation" : " does not require a gradient") +
          "; give leaves, made with Variable(tensor, true)");
    updates_.push_back({.parameter = {}, .gradient = {}, .first = {}, .second = {}, .step = 0});
    if (p.numel() == 0) continue;
    const auto [same, is_new] = numbers.emplace(p.data().data(), i);
    if (!is_new)
      throw ValueError(who + ": parameters " + std::to_string(same->second) + " and " +
                       std::to_string(i) + " are the same; give each once");
  }
}

void Optimizer::zero_grad() const {
  for (const Variable& p : parameters_) p.zero_grad();
}

const std::vector<ParameterUpdate>& Optimizer::next_updates(int kept, bool masters) {
  versions_.resize(updates_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Variable& p = parameters_[i];
    ParameterUpdate& u = updates_[i];
    // A parameter's value may have been put in the place of another.
    u.parameter = p.data();
    if (!p.has_grad()) continue;
    const auto keep = [&] {
      if (previous_.empty()) previous_ = updates_;
    };
    Tensor* const states[2] = {&u.first, &u.second};
    for (int k = 0; k < kept; ++k)
      if (states[k]->shape() != u.parameter.shape() || !states[k]->defined()) {
        keep();
        *states[k] = tensor::zeros(u.parameter.shape(), u.parameter.device(),
                                   tensor::update_state_type(u.parameter.type()));
        u.step = 0;
      }
    // A parameter that was written since is what counts.
    const tensor::DataType wide = tensor::update_state_type(u.parameter.type());
    const bool has_master = masters && wide != u.parameter.type();
    if (has_master ? !u.master.defined() || versions_[i] != u.parameter.version()
                   : u.master.defined()) {
      keep();
      u.master = has_master ? u.parameter.contiguous().astype(wide) : Tensor();
    }
    u.gradient = p.grad();
    ++u.step;
  }
  return updates_;
}

void Optimizer::end_step(bool counts) noexcept {
  if (!counts && !previous_.empty()) updates_.swap(previous_);
  previous_.clear();
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    ParameterUpdate& u = updates_[i];
    if (u.gradient.defined() && !counts) --u.step;
    if (u.master.defined() && counts) versions_[i] = u.parameter.version();
    u.gradient = Tensor();  // so that the next pass may add to it in place
  }
}

void Optimizer::check(bool condition, const char* option, double value, const char* range) const {
  if (condition) return;
  throw ValueError(std::string(name_) + ": " + option + " is " + std::to_string(value) +
                   ", it has to be " + range);
}

std::map<std::string, Tensor> Optimizer::state() const {
  std::map<std::string, Tensor> state;
  for (std::size_t i = 0; i < updates_.size(); ++i) {
    const ParameterUpdate& u = updates_[i];
    const std::string prefix = std::to_string(i) + ".";
    state[prefix + "step"] = tensor::full({}, u.step);
    const Tensor* const kept[2] = {&u.first, &u.second};
    for (int k = 0; k < 2; ++k)
      if (kept[k]->defined()) state[prefix + kept_names_[k]] = kept[k]->clone();
    if (u.master.defined()) state[prefix + "master"] = u.master.clone();
  }
  return state;
}

void Optimizer::load_state(const std::map<std::string, Tensor>& state) {
  std::vector<ParameterUpdate> loaded(updates_.size());
  for (ParameterUpdate& u : loaded) u.step = 0;
  for (const auto& [name, value] : state) {
    bool known = false;
    for (std::size_t i = 0; i < loaded.size() && !known; ++i) {
      const std::string prefix = std::to_string(i) + ".";
      if (name == prefix + "step") {
        loaded[i].step = value.item<std::int64_t>();
        known = true;
      }
      Tensor* const kept[3] = {&loaded[i].first, &loaded[i].second, &loaded[i].master};
      const char* const names[3] = {kept_names_[0], kept_names_[1], "master"};
      for (int k = 0; k < 3; ++k) {
        if (names[k] == nullptr || name != prefix + names[k]) continue;
        const Tensor& parameter = parameters_[i].data();
        if (k == 2 && tensor::update_state_type(parameter.type()) == parameter.type()) continue;
        if (value.shape() != parameter.shape())
          throw ShapeError(std::string(name_) + "::load_state: \"" + name +
                           "\" is not of the shape of parameter " + std::to_string(i));
        *kept[k] = value.to(parameter.device())
                       .astype(tensor::update_state_type(parameter.type()))
                       .clone();
        known = true;
      }
    }
    if (!known)
      throw ValueError(std::string(name_) + "::load_state: there is nothing called \"" + name +
                       "\" here; the state is of another optimiser or other parameters");
  }
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    const ParameterUpdate& u = loaded[i];
    const bool kept = u.first.defined() || u.second.defined();
    const bool whole = u.first.defined() && (u.second.defined() || kept_names_[1] == nullptr);
    constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;
    if (u.step < 0 || u.step > kMostSteps || (kept && (u.step == 0 || !whole)))
      throw ValueError(
          std::string(name_) + "::load_state: of the state of parameter " + std::to_string(i) +
          " a part is missing or its step is out of range; give all that state() gave");
  }
  updates_ = std::move(loaded);
  versions_.clear();
  for (const Variable& p : parameters_) versions_.push_back(p.data().version());
}

SGD::SGD(std::vector<Variable> parameters, const tensor::SgdRule& options)
    : Optimizer("SGD", std::move(parameters), "momentum", nullptr), options_(options) {}

void SGD::step() {
  check(options_.lr >= 0, "lr", options_.lr, "at least 0");
  check(options_.momentum >= 0, "momentum", options_.momentum, "at least 0");
  check(options_.weight_decay >= 0, "weight_decay", options_.weight_decay, "at least 0");
  check(!options_.nesterov || options_.momentum > 0, "momentum", options_.momentum,
        "above 0 with nesterov");
  check(!options_.nesterov || options_.dampening == 0, "dampening", options_.dampening,
        "0 with nesterov");
  run(options_.momentum != 0 ? 1 : 0, options_.masters,
      [&](const auto& updates) { tensor::sgd_step(updates, options_); });
}

Adam::Adam(const char* name, std::vector<Variable> parameters, const tensor::AdamRule& options)
    : Optimizer(name, std::move(parameters), "first", "second"), options_(options) {}

Adam::Adam(std::vector<Variable> parameters, const tensor::AdamRule& options)
    : Adam("Adam", std::move(parameters), options) {}

AdamW::AdamW(std::vector<Variable> parameters, const AdamWOptions& options)
    : Adam("AdamW", std::move(parameters),
           {.lr = options.lr,
            .beta1 = options.beta1,
            .beta2 = options.beta2,
            .eps = options.eps,
            .decoupled_decay = options.weight_decay,
            .maximize = options.maximize,
            .masters = options.masters}) {}

void Adam::step() {
  const auto fraction = [](double beta) { return beta >= 0 && beta < 1; };
  check(options_.lr >= 0, "lr", options_.lr, "at least 0");
  check(fraction(options_.beta1), "beta1", options_.beta1, "in [0, 1)");
  check(fraction(options_.beta2), "beta2", options_.beta2, "in [0, 1)");
  check(options_.eps >= 0, "eps", options_.eps, "at least 0");
  check(options_.weight_decay >= 0, "weight_decay", options_.weight_decay, "at least 0");
  check(options_.decoupled_decay >= 0, "decoupled_decay", options_.decoupled_decay, "at least 0");
  run(2, options_.masters, [&](const auto& updates) { tensor::adam_step(updates, options_); });
}

Tensor clip_grad_norm(const std::vector<Variable>& parameters, double max_norm) {
  if (!(max_norm > 0))
    throw ValueError("clip_grad_norm: max_norm is " + std::to_string(max_norm) +
                     ", it has to be above 0");
  Tensor squares;
  for (const Variable& p : parameters) {
    if (!p.has_grad()) continue;
    const Tensor own = tensor::sum(tensor::square(p.grad().astype(tensor::DataType::Float64)));
    squares = squares.defined() ? squares + own.to(squares.device()) : own;
  }
  if (!squares.defined()) return tensor::zeros({}, {}, tensor::DataType::Float64);
  const Tensor total = tensor::sqrt(squares);
  const bool is_cpu = total.device().type == tensor::DeviceType::CPU;
  if (is_cpu && !(total.item() > max_norm && std::isfinite(total.item()))) return total;
  // On a GPU nothing waits to see whether there is something to scale.
  const Tensor large = tensor::logical_and(total > max_norm, tensor::isfinite(total));
  const Tensor factor = tensor::where(large, max_norm / total, 1);
  for (const Variable& p : parameters) {
    if (!p.has_grad()) continue;
    const Tensor gradient = p.grad();
    gradient *= factor.to(gradient.device()).astype(tensor::update_state_type(gradient.type()));
  }
  return total;
}

}  // namespace lmp::optim
