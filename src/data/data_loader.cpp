#include "lamppp/data/data_loader.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "lamppp/error.hpp"
#include "lamppp/tensor/ops.hpp"

namespace lmp::data {
namespace {

std::size_t length_of(const Tensor& samples, const char* what) {
  if (!samples.defined() || samples.ndim() == 0)
    throw ShapeError(
        "DataLoader: " + std::string(what) +
        " need a first axis, along which the samples lie; got a tensor without dimensions");
  return samples.size(0);
}

}  // namespace

DataLoader::DataLoader(Tensor inputs, Tensor targets, const DataLoaderOptions& options)
    : inputs_(std::move(inputs)),
      targets_(std::move(targets)),
      options_(options),
      generator_(options.seed) {
  const std::size_t given = length_of(inputs_, "inputs");
  const std::size_t expected = length_of(targets_, "targets");
  if (given != expected)
    throw ShapeError("DataLoader: " + std::to_string(given) + " inputs, but " +
                     std::to_string(expected) + " targets; every input needs its target");
  if (options_.batch_size == 0)
    throw ValueError("DataLoader: batch_size is 0; a batch holds at least one sample");
}

DataLoader::Iterator DataLoader::begin() const {
  const auto count = static_cast<std::int64_t>(inputs_.size(0));
  const tensor::Device device = inputs_.device();
  return Iterator(*this, options_.shuffle ? tensor::permutation(generator_, count, device)
                                          : tensor::arange(0, count, 1, device));
}

std::size_t DataLoader::size() const noexcept {
  const std::size_t count = inputs_.shape().front();
  const bool rest = count % options_.batch_size != 0 && !options_.drop_last;
  return count / options_.batch_size + (rest ? 1 : 0);
}

DataLoader::Iterator::Iterator(const DataLoader& loader, Tensor order)
    : loader_(&loader), order_(std::move(order)) {
  ++*this;
}

DataLoader::Iterator& DataLoader::Iterator::operator++() {
  if (next_ < loader_->size()) {
    const std::size_t size = loader_->options_.batch_size;
    const std::size_t start = next_ * size;
    const std::size_t length = std::min(size, order_.numel() - start);
    const Tensor samples =
        order_.narrow(0, static_cast<std::int64_t>(start), static_cast<std::int64_t>(length));
    batch_ = {tensor::index_select(loader_->inputs_, 0, samples),
              tensor::index_select(loader_->targets_, 0, samples)};
  }
  ++next_;
  return *this;
}

}  // namespace lmp::data
