#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "lamppp/export.hpp"
#include "lamppp/tensor/tensor.hpp"

/// Data sets and loaders, built on the public headers alone.
namespace lmp::data {

using tensor::Tensor;

/// Reads an IDX file, the format of MNIST: UInt8, Int8, Int16, Int32, Float32 or Float64 elements
/// of any shape up to 8 dimensions. A file compressed with gzip is recognised by its content.
/// Throws FileError, which names the file, the offset (behind the decompression) and the rule, for
/// a file that is missing, longer or shorter than its header says, or anything else; never reads
/// part of one.
LMP_API Tensor read_idx(const std::string& path);
/// The same from memory; `name` stands for the file in messages.
LMP_API Tensor read_idx(std::span<const std::byte> bytes, const std::string& name = "IDX data");

}  // namespace lmp::data
