#include "lamppp/data/mnist.hpp"

#include <filesystem>
#include <initializer_list>
#include <system_error>

#include "lamppp/data/idx.hpp"
#include "lamppp/error.hpp"
#include "lamppp/tensor/ops.hpp"

namespace lmp::data {
namespace {

using tensor::DataType;

std::string find(const std::string& folder, std::initializer_list<const char*> sets,
                 const std::string& what, const std::string& kind) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw FileError(folder + ": there is no such folder");
  for (const std::string set : sets)
    for (const char* separator : {"-", "."})
      for (const char* suffix : {"", ".gz"}) {
        const fs::path path = fs::path(folder) / (set + what + separator + kind + suffix);
        if (fs::exists(path, error)) return path.string();
      }
  throw FileError(folder + ": there is no " + *sets.begin() + what + '-' + kind +
                  " (or the same with .gz) in this folder");
}

struct Set {
  Tensor images, labels;  // (count, height, width) and (count), UInt8
};

Set read_set(const std::string& folder, std::initializer_list<const char*> names) {
  const std::string images_path = find(folder, names, "-images", "idx3-ubyte");
  const std::string labels_path = find(folder, names, "-labels", "idx1-ubyte");
  Set set{read_idx(images_path), read_idx(labels_path)};
  if (set.images.type() != DataType::UInt8 || set.images.ndim() != 3 || set.images.numel() == 0)
    throw FileError(images_path + ", offset 0: images are bytes in 3 dimensions, none of them 0");
  if (set.labels.type() != DataType::UInt8 || set.labels.ndim() != 1)
    throw FileError(labels_path + ", offset 0: labels are bytes in 1 dimension");
  if (set.images.size(0) != set.labels.size(0))
    throw FileError(labels_path + ", offset 4: " + std::to_string(set.labels.size(0)) +
                    " labels for the " + std::to_string(set.images.size(0)) + " images of " +
                    images_path);
  const auto* labels = set.labels.data<unsigned char>();
  for (std::size_t i = 0; i < set.labels.numel(); ++i)
    if (labels[i] > 9)
      throw FileError(labels_path + ", offset " + std::to_string(8 + i) + ": label " +
                      std::to_string(labels[i]) + "; digits are 0 to 9");
  return set;
}

}  // namespace

Mnist load_mnist(const std::string& folder) {
  const Set train = read_set(folder, {"train"});
  const Set test = read_set(folder, {"t10k", "test"});
  const std::size_t height = train.images.size(1), width = train.images.size(2);
  if (test.images.size(1) != height || test.images.size(2) != width)
    throw FileError(folder + ": the test images differ in size from the training images");

  const double brightest = tensor::max(train.images).item();
  const auto pixels = [&](const Tensor& images) {
    return images.flatten(1).astype(DataType::Float32) / (brightest > 0 ? brightest : 1.0);
  };
  return {pixels(train.images),
          train.labels.astype(DataType::Int64),
          pixels(test.images),
          test.labels.astype(DataType::Int64),
          height,
          width};
}

}  // namespace lmp::data
