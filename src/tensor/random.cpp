#include "lamppp/tensor/random.hpp"

#include <cmath>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"
#include "tensor/generate.hpp"
#include "tensor/random_scope.hpp"

namespace lmp::tensor {

using detail::concat;
using detail::Distribution;

namespace {

__extension__ using Wide = unsigned __int128;

// The generator behind calls that name none: claiming a part of its stream is all that is locked.
struct Shared {
  std::mutex mutex;
  Generator generator;
};
Shared& shared() {
  static auto* instance = new Shared;
  return *instance;
}

std::uint64_t claim(Generator& generator, std::uint64_t blocks) {
  const std::uint64_t offset = generator.offset();
  generator.set_offset(offset + blocks);
  return offset;
}

constinit thread_local Generator* own_generator = nullptr;  // of a RandomScope

// Runs draw(generator) on a generator that stands at the shared one's place, which moves on by as
// much.
template <class F>
auto with_shared(F&& draw) {
  if (own_generator) return draw(*own_generator);
  Shared& s = shared();
  const std::lock_guard lock(s.mutex);
  return draw(s.generator);
}

Tensor draw(Distribution distribution, Generator& generator, const Shape& shape, Device device,
            DataType type, double mean, double deviation, const char* op) {
  if (!is_floating(type))
    throw TypeError(
        concat(op, ": ", type, " is not a floating type; randint and bernoulli draw integers"));
  Tensor out = detail::allocate(shape, type, device);
  const std::uint64_t per_block = type == DataType::Float64 ? 2 : 4;
  const std::uint64_t offset = claim(generator, (out.numel() + per_block - 1) / per_block);
  detail::backend(device).random(distribution, out, generator.seed(), offset, mean, deviation);
  return out;
}

}  // namespace

void manual_seed(std::uint64_t seed) { set_default_generator(Generator(seed)); }

Generator default_generator() {
  return with_shared([](Generator& generator) { return generator; });
}

void set_default_generator(const Generator& generator) {
  with_shared([&](Generator& shared) { return shared = generator; });
}

namespace detail {
RandomScope::RandomScope(const Generator& start) noexcept
    : generator_(start), previous_(std::exchange(own_generator, &generator_)) {}
RandomScope::~RandomScope() { own_generator = previous_; }

Generator claim_blocks(std::uint64_t blocks) {
  return with_shared([&](Generator& generator) {
    const Generator start = generator;
    claim(generator, blocks);
    return start;
  });
}
}  // namespace detail

inline namespace ops {

Tensor rand(Generator& generator, const Shape& shape, Device device, DataType type) {
  return draw(Distribution::Uniform, generator, shape, device, type, 0, 1, "rand");
}

Tensor randn(Generator& generator, double mean, double deviation, const Shape& shape, Device device,
             DataType type) {
  return draw(Distribution::Normal, generator, shape, device, type, mean, deviation, "randn");
}

Tensor randint(Generator& generator, std::int64_t low, std::int64_t high, const Shape& shape,
               Device device, DataType type) {
  if (low >= high) throw ValueError(concat("randint: no integers on [", low, ", ", high, ")"));
  // 64 random bits times the range, the upper half of the product: Lemire, "Fast random integer
  // generation in an interval", 2019, without the rejection, whose bias is below range / 2^64.
  const std::uint64_t range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  const auto n = static_cast<std::int64_t>(shape.numel());
  const std::uint64_t offset = claim(generator, (shape.numel() + 1) / 2);
  std::vector<std::uint32_t> words;
  return detail::generate<std::int64_t>(
             n, device, type,
             [&](std::vector<std::int64_t>& values, std::int64_t first) {
               const std::size_t blocks = (values.size() + 1) / 2;
               words.resize(4 * blocks);
               detail::backend(device).random_words(words.data(), blocks, generator.seed(),
                                                    offset + static_cast<std::uint64_t>(first / 2));
               for (std::size_t i = 0; i < values.size(); ++i) {
                 const std::uint64_t bits = std::uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
                 const auto scaled =
                     static_cast<std::uint64_t>(static_cast<Wide>(bits) * range >> 64);
                 values[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + scaled);
               }
             })
      .reshape(shape);
}

Tensor bernoulli(Generator& generator, double probability, const Shape& shape, Device device,
                 DataType type) {
  if (!(probability >= 0 && probability <= 1))
    throw ValueError(concat("bernoulli: probability ", probability, " is not in [0, 1]"));
  return lt(rand(generator, shape, device), probability).astype(type);
}

Tensor permutation(Generator& generator, std::int64_t n, Device device) {
  if (n < 0) throw ValueError(concat("permutation: ", n, " entries"));
  // Fisher and Yates' shuffle; each swap draws from what is left.
  const Tensor out = detail::allocate(Shape{n}, DataType::Int64, DeviceType::CPU);
  const std::span order(static_cast<std::int64_t*>(out.data()), out.numel());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  const std::size_t blocks = (order.size() + 1) / 2;
  std::vector<std::uint32_t> words(4 * blocks);
  detail::backend(device).random_words(words.data(), blocks, generator.seed(),
                                       claim(generator, blocks));
  for (std::size_t left = order.size(); left > 1; --left) {
    const std::size_t i = left - 1;
    const std::uint64_t bits = std::uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
    std::swap(order[i], order[static_cast<std::size_t>(static_cast<Wide>(bits) * left >> 64)]);
  }
  return out.to(device);
}

Tensor rand(const Shape& shape, Device device, DataType type) {
  return with_shared([&](Generator& g) { return rand(g, shape, device, type); });
}
Tensor randn(double mean, double deviation, const Shape& shape, Device device, DataType type) {
  return with_shared([&](Generator& g) { return randn(g, mean, deviation, shape, device, type); });
}
Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape, Device device,
               DataType type) {
  return with_shared([&](Generator& g) { return randint(g, low, high, shape, device, type); });
}
Tensor bernoulli(double probability, const Shape& shape, Device device, DataType type) {
  return with_shared([&](Generator& g) { return bernoulli(g, probability, shape, device, type); });
}
Tensor permutation(std::int64_t n, Device device) {
  return with_shared([&](Generator& g) { return permutation(g, n, device); });
}

}  // namespace ops
}  // namespace lmp::tensor
