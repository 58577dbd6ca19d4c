#include "lamppp/tensor/random.hpp"

#include <cmath>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "lamppp/tensor/ops.hpp"
#include "ops/pointwise_run.hpp"
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

// Last of all: a draw that throws moves nothing.
void claim(Generator& generator, std::uint64_t blocks) {
  generator.set_offset(generator.offset() + blocks);
}

void check_drawn(std::int64_t value, DataType type) {
  ops::check_number_fits("randint", value, type);
  constexpr std::int64_t kHalfMax = 65504;
  if (type == DataType::Float16 && (value > kHalfMax || value < -kHalfMax))
    throw ValueError(concat("randint: ", value, " is beyond Float16; draw a wider type"));
}

constinit thread_local detail::RandomScope* scope = nullptr;
constinit thread_local detail::RandomRecord* record = nullptr;

// Runs draw(generator) on the thread's default generator, alone.
template <class F>
auto with_shared(F&& draw) {
  const auto noted = [&](Generator& generator) {
    if (record) record->add(generator);
    return draw(generator);
  };
  if (scope) return noted(scope->next());
  Shared& s = shared();
  const std::lock_guard lock(s.mutex);
  return noted(s.generator);
}

Tensor draw(Distribution distribution, Generator& generator, const Shape& shape, Device device,
            DataType type, double mean, double deviation, const char* op) {
  if (!is_floating(type))
    throw TypeError(
        concat(op, ": ", type, " is not a floating type; randint and bernoulli draw integers"));
  Tensor out = detail::allocate(shape, type, device);
  const std::uint64_t per_block = type == DataType::Float64 ? 2 : 4;
  detail::backend(device).random(distribution, out, generator.seed(), generator.offset(), mean,
                                 deviation);
  claim(generator, (out.numel() + per_block - 1) / per_block);
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
RandomScope::RandomScope(const Generator& start, const RandomPlaces* again) noexcept
    : generator_(start),
      again_(again),
      outer_(std::exchange(scope, this)),
      unseen_(std::exchange(record, nullptr)) {}
RandomScope::~RandomScope() {
  scope = outer_;
  record = unseen_;
}
Generator& RandomScope::next() noexcept {
  if (again_ && used_ < again_->size()) generator_ = (*again_)[used_++];
  return generator_;
}

RandomRecord::RandomRecord(RandomPlaces& places) noexcept
    : places_(places), outer_(std::exchange(record, this)) {}
RandomRecord::~RandomRecord() { record = outer_; }
void RandomRecord::add(const Generator& place) {
  for (RandomRecord* r = this; r; r = r->outer_) r->places_.push_back(place);
}

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
  check_drawn(low, type);
  check_drawn(high - 1, type);
  // 64 random bits times the range, the upper half of the product: Lemire, "Fast random integer
  // generation in an interval", 2019, without the rejection, whose bias is below range / 2^64.
  const std::uint64_t range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  const auto n = static_cast<std::int64_t>(shape.numel());
  std::vector<std::uint32_t> words;
  Tensor out =
      detail::generate<std::int64_t>(
          n, device, type,
          [&](std::vector<std::int64_t>& values, std::int64_t first) {
            const std::size_t blocks = (values.size() + 1) / 2;
            words.resize(4 * blocks);
            detail::backend(device).random_words(
                words.data(), blocks, generator.seed(),
                generator.offset() + static_cast<std::uint64_t>(first / 2));
            for (std::size_t i = 0; i < values.size(); ++i) {
              const std::uint64_t bits = std::uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
              const auto scaled = static_cast<std::uint64_t>(static_cast<Wide>(bits) * range >> 64);
              values[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + scaled);
            }
          })
          .reshape(shape);
  claim(generator, (shape.numel() + 1) / 2);
  return out;
}

Tensor bernoulli(Generator& generator, double probability, const Shape& shape, Device device,
                 DataType type) {
  if (!(probability >= 0 && probability <= 1))
    throw ValueError(concat("bernoulli: probability ", probability, " is not in [0, 1]"));
  Generator ahead = generator;
  Tensor out = lt(rand(ahead, shape, device), probability).astype(type);
  generator = ahead;
  return out;
}

Tensor permutation(Generator& generator, std::int64_t n, Device device) {
  if (n < 0) throw ValueError(concat("permutation: ", n, " entries"));
  // Fisher and Yates' shuffle; each swap draws from what is left.
  const Tensor out = detail::allocate(Shape{n}, DataType::Int64, DeviceType::CPU);
  const std::span order(static_cast<std::int64_t*>(out.data()), out.numel());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  const std::size_t blocks = (order.size() + 1) / 2;
  std::vector<std::uint32_t> words(4 * blocks);
  detail::backend(device).random_words(words.data(), blocks, generator.seed(), generator.offset());
  for (std::size_t left = order.size(); left > 1; --left) {
    const std::size_t i = left - 1;
    const std::uint64_t bits = std::uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
    std::swap(order[i], order[static_cast<std::size_t>(static_cast<Wide>(bits) * left >> 64)]);
  }
  Tensor there = out.to(device);
  claim(generator, blocks);
  return there;
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
