#pragma once

#include <cstddef>
#include <string>

#include "lamppp/export.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::data {

using tensor::Tensor;

/// Pictures of digits, and which digit each of them shows.
struct Mnist {
  Tensor train_images;     ///< Float32 of shape (count, height * width), from 0 to 1
  Tensor train_labels;     ///< Int64 of shape (count), from 0 to 9
  Tensor test_images;      ///< as the training images, divided by the same number
  Tensor test_labels;      ///< as the training labels
  std::size_t height = 0;  ///< of an image, in pixels
  std::size_t width = 0;   ///< of an image, in pixels
};

/// Reads the four IDX files of MNIST, or of a data set in its form, from a folder:
/// {train,t10k}-{images-idx3,labels-idx1}-ubyte. Each may be gzipped (.gz), have a dot in the place
/// of the dash before "idx", and "test" in that of "t10k". Pixels are divided by the largest of the
/// training set (255, or 16 for the digits that come with Lamp++). Throws FileError where a file is
/// missing, broken or does not fit the others.
LMP_API Mnist load_mnist(const std::string& folder);

}  // namespace lmp::data
