#pragma once

#include <cstdint>

#include "lamppp/tensor/tensor.hpp"

namespace lmp::tensor {

/// A stream of random numbers: Philox4x32-10 keyed by a seed (Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011). It is counter-based: element i of a call depends only on
/// the seed, on how much was drawn before and on i, so it is the same on any number of threads and
/// on any device. A Generator is a value; it is not shared between threads.
class Generator {
 public:
  /// A stream from its start.
  explicit Generator(std::uint64_t seed = 0) noexcept : seed_(seed) {}
  /// What it was seeded with.
  std::uint64_t seed() const noexcept { return seed_; }
  /// Blocks of 128 bits drawn so far; set it to repeat or to skip.
  std::uint64_t offset() const noexcept { return offset_; }
  /// Goes to a place in the stream.
  void set_offset(std::uint64_t offset) noexcept { offset_ = offset; }

 private:
  std::uint64_t seed_;
  std::uint64_t offset_ = 0;
};

/// Seeds the generator that is used where none is given, and starts it over. All threads share it.
LMP_API void manual_seed(std::uint64_t seed);
/// The generator that is used where none is given, at the place in its stream where it is now.
LMP_API Generator default_generator();
/// Goes on with another one, or at another place: `set_default_generator(saved)` repeats what was
/// drawn since `saved = default_generator()`.
LMP_API void set_default_generator(const Generator& generator);

inline namespace ops {

/// Uniform on [0, 1): multiples of 2^-24 (Float32 and halves, rounded down) or 2^-53 (Float64).
LMP_API Tensor rand(const Shape& shape, Device device = DeviceType::CPU,
                    DataType type = DataType::Float32);
/// The same from a stream of your own.
LMP_API Tensor rand(Generator& generator, const Shape& shape, Device device = DeviceType::CPU,
                    DataType type = DataType::Float32);
/// Normal with the given mean and standard deviation, by Box and Muller's transform.
LMP_API Tensor randn(double mean, double deviation, const Shape& shape,
                     Device device = DeviceType::CPU, DataType type = DataType::Float32);
/// The same from a stream of your own.
LMP_API Tensor randn(Generator& generator, double mean, double deviation, const Shape& shape,
                     Device device = DeviceType::CPU, DataType type = DataType::Float32);
/// Integers on [low, high), Int64 unless `type` says otherwise. Throws ValueError where there are
/// none, or where the type does not reach as far.
LMP_API Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape,
                       Device device = DeviceType::CPU, DataType type = DataType::Int64);
/// The same from a stream of your own.
LMP_API Tensor randint(Generator& generator, std::int64_t low, std::int64_t high,
                       const Shape& shape, Device device = DeviceType::CPU,
                       DataType type = DataType::Int64);
/// 1 with the given probability, else 0.
LMP_API Tensor bernoulli(double probability, const Shape& shape, Device device = DeviceType::CPU,
                         DataType type = DataType::Float32);
/// The same from a stream of your own.
LMP_API Tensor bernoulli(Generator& generator, double probability, const Shape& shape,
                         Device device = DeviceType::CPU, DataType type = DataType::Float32);
/// 0 .. n-1 in random order, Int64.
LMP_API Tensor permutation(std::int64_t n, Device device = DeviceType::CPU);
/// The same from a stream of your own.
LMP_API Tensor permutation(Generator& generator, std::int64_t n, Device device = DeviceType::CPU);

}  // namespace ops
}  // namespace lmp::tensor
