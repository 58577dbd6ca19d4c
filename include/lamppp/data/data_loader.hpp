#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "lamppp/export.hpp"
#include "lamppp/tensor/random.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::data {

using tensor::Tensor;

/// Some samples of a data set.
struct Batch {
  /// The samples, batch first.
  Tensor input;
  /// What belongs to each sample.
  Tensor target;
};

/// Options of DataLoader.
struct DataLoaderOptions {
  /// Samples in a batch.
  std::size_t batch_size = 32;
  /// Whether each epoch goes through the samples in a new random order.
  bool shuffle = false;
  /// Whether a last batch that would be smaller than the others is left out.
  bool drop_last = false;
  /// The same seed gives the same batches in the same order, epoch for epoch.
  std::uint64_t seed = 0;
};

/// Hands out a data set in batches, copies of the samples along the first axis:
/// `for (auto& batch : loader)` is one epoch. A loader draws from a random stream of its own, so it
/// is not to be used by several threads at once; it has to outlive its iterators.
class LMP_API DataLoader {
 public:
  class Iterator;

  /// Throws ShapeError where inputs and targets differ in length, ValueError where batch_size is 0.
  DataLoader(Tensor inputs, Tensor targets, const DataLoaderOptions& options = {});

  /// The first batch of a new epoch, in a new order where shuffled.
  Iterator begin() const;
  /// The end of every epoch.
  std::default_sentinel_t end() const noexcept { return {}; }
  /// Batches in an epoch.
  std::size_t size() const noexcept;

 private:
  Tensor inputs_;
  Tensor targets_;
  DataLoaderOptions options_;
  mutable tensor::Generator generator_;
};

/// An input iterator: it holds the batch that it stands at.
class LMP_API DataLoader::Iterator {
 public:
  /// What an iterator has to name.
  using value_type = Batch;
  /// What an iterator has to name.
  using difference_type = std::ptrdiff_t;

  /// The batch that it stands at; the next one replaces it.
  Batch& operator*() const noexcept { return batch_; }
  /// The batch that it stands at.
  Batch* operator->() const noexcept { return &batch_; }
  /// Goes on to the next batch.
  Iterator& operator++();
  /// Goes on to the next batch.
  void operator++(int) { ++*this; }
  /// Whether the epoch is over.
  friend bool operator==(const Iterator& it, std::default_sentinel_t) noexcept {
    return it.next_ > it.loader_->size();
  }

 private:
  friend class DataLoader;
  Iterator(const DataLoader& loader, Tensor order);

  const DataLoader* loader_;
  Tensor order_;
  std::size_t next_ = 0;
  mutable Batch batch_;
};

}  // namespace lmp::data
