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

/// Takes `blocks` of 128 bits off the thread's default stream; where they start.
Generator claim_blocks(std::uint64_t blocks);

}  // namespace lmp::tensor::detail
