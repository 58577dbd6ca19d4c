#pragma once

#include <cstddef>
#include <vector>

#include "lamppp/tensor/random.hpp"

namespace lmp::tensor::detail {

/// The places in the default stream where one draw after another began.
using RandomPlaces = std::vector<Generator>;

/// While one is alive on a thread, the thread's default stream is its own and the one that all
/// threads share is left alone.
class RandomScope {
 public:
  /// A stream from the given place on.
  explicit RandomScope(const Generator& start) noexcept : RandomScope(start, nullptr) {}
  /// The draws that a RandomRecord saw, which other threads' draws may have come between.
  explicit RandomScope(const RandomPlaces& again) noexcept : RandomScope(Generator(), &again) {}
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;
  ~RandomScope();

  /// Where the thread's next draw begins.
  Generator& next() noexcept;

 private:
  RandomScope(const Generator& start, const RandomPlaces* again) noexcept;
  Generator generator_;
  const RandomPlaces* again_;
  std::size_t used_ = 0;
  RandomScope* outer_;
  class RandomRecord* unseen_;
};

/// While one is alive on a thread, notes where each of its draws from the default stream begins,
/// but for those in a RandomScope of its own.
class RandomRecord {
 public:
  explicit RandomRecord(RandomPlaces& places) noexcept;
  RandomRecord(const RandomRecord&) = delete;
  RandomRecord& operator=(const RandomRecord&) = delete;
  ~RandomRecord();

  /// Notes it here and in the records around.
  void add(const Generator& place);

 private:
  RandomPlaces& places_;
  RandomRecord* outer_;
};

/// Takes `blocks` of 128 bits off the thread's default stream; where they start.
Generator claim_blocks(std::uint64_t blocks);

}  // namespace lmp::tensor::detail
