#pragma once

#include "lamppp/export.hpp"

namespace lmp::autograd {

/// While one is alive on a thread, that thread records nothing: results need no gradient.
class LMP_API NoGradGuard {
 public:
  /// Stops recording on this thread.
  NoGradGuard() noexcept;
  /// Puts back what was before: guards nest.
  ~NoGradGuard();
  NoGradGuard(const NoGradGuard&) = delete;
  NoGradGuard& operator=(const NoGradGuard&) = delete;

 private:
  bool previous_;
};

/// While one is alive on a thread, that thread records, also inside a NoGradGuard (but not inside
/// an InferenceModeGuard).
class LMP_API EnableGradGuard {
 public:
  /// Starts recording on this thread.
  EnableGradGuard() noexcept;
  /// Puts back what was before: guards nest.
  ~EnableGradGuard();
  EnableGradGuard(const EnableGradGuard&) = delete;
  EnableGradGuard& operator=(const EnableGradGuard&) = delete;

 private:
  bool previous_;
};

/// While one is alive on a thread, nothing that runs there can record: an EnableGradGuard inside
/// changes nothing, and whatever needs a graph throws AutogradError: backward, grad,
/// value_and_grad, vjp, jacobian, hessian, hvp, and jvp of a function of one's own, whose tangent
/// comes from its backward. For code that must not build graphs, whatever it calls.
class LMP_API InferenceModeGuard {
 public:
  /// Stops recording on this thread for good.
  InferenceModeGuard() noexcept;
  /// Puts back what was before: guards nest.
  ~InferenceModeGuard();
  InferenceModeGuard(const InferenceModeGuard&) = delete;
  InferenceModeGuard& operator=(const InferenceModeGuard&) = delete;

 private:
  bool recording_, inference_;
};

/// While one is alive on a thread, operations note where they were called, and a backward pass run
/// by the thread looks at every gradient that it computes: the first one that is NaN or infinite is
/// an AutogradError that names the operation, the line that called it (where it was called under a
/// guard) and the element. It costs a look at every gradient; results are the same.
class LMP_API AnomalyGuard {
 public:
  /// Starts looking.
  AnomalyGuard() noexcept;
  /// Guards nest; the last one to go stops it.
  ~AnomalyGuard();
  AnomalyGuard(const AnomalyGuard&) = delete;
  AnomalyGuard& operator=(const AnomalyGuard&) = delete;
};

/// Whether this thread records.
LMP_API bool is_grad_enabled() noexcept;
/// Whether an InferenceModeGuard is alive on this thread.
LMP_API bool is_inference_mode() noexcept;

}  // namespace lmp::autograd
