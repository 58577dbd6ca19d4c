#pragma once

#include "lamppp/tensor/random.hpp"

namespace lmp::tensor::detail {

/// While one is alive on a thread, the thread's default stream is its own: it starts at the given
/// place and leaves the one that all threads share alone.
class RandomScope {
 public:
  explicit RandomScope(const Generator& start) noexcept;
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;
  ~RandomScope();

 private:
  Generator generator_;
  Generator* previous_;
};

}  // namespace lmp::tensor::detail
