#include "lamppp/autograd/guards.hpp"

#include <utility>

#include "autograd/node.hpp"

namespace lmp::autograd {

NoGradGuard::NoGradGuard() noexcept : previous_(std::exchange(autograd_thread.recording, false)) {}
NoGradGuard::~NoGradGuard() { autograd_thread.recording = previous_; }

EnableGradGuard::EnableGradGuard() noexcept
    : previous_(std::exchange(autograd_thread.recording, !autograd_thread.inference)) {}
EnableGradGuard::~EnableGradGuard() { autograd_thread.recording = previous_; }

InferenceModeGuard::InferenceModeGuard() noexcept
    : recording_(std::exchange(autograd_thread.recording, false)),
      inference_(std::exchange(autograd_thread.inference, true)) {}
InferenceModeGuard::~InferenceModeGuard() {
  autograd_thread.recording = recording_;
  autograd_thread.inference = inference_;
}

AnomalyGuard::AnomalyGuard() noexcept {
  ++autograd_thread.anomaly;
  autograd_thread.update();
}
AnomalyGuard::~AnomalyGuard() {
  --autograd_thread.anomaly;
  autograd_thread.update();
}

bool is_grad_enabled() noexcept { return autograd_thread.recording; }
bool is_inference_mode() noexcept { return autograd_thread.inference; }

}  // namespace lmp::autograd
