// Differentiates a deep network in less memory. Most of what such a program holds are the values
// that the backward pass will need. Here they are kept as they are, then in a file (hooks that pack
// and unpack saved tensors), then not at all (checkpoint computes them again).

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>

#include "lamppp/lamppp.hpp"

using lmp::Tensor;
using lmp::Variable;

constexpr std::size_t kLayers = 48, kBlock = 6;  // a block is what is computed again at once
constexpr std::int64_t kWidth = 64, kSamples = 4096;

// The most bytes that tensors held at the moments when look() was called, above those at the start.
class Meter {
 public:
  void look() { most_ = std::max(most_, lmp::memory_stats().live_bytes); }
  double megabytes() const { return static_cast<double>(most_ - start_) / 1e6; }

 private:
  std::int64_t start_ = lmp::memory_stats().live_bytes;
  std::int64_t most_ = start_;
};

// Keeps large tensors in a temporary file, which is gone when it is closed.
class Offloader {
 public:
  struct Place {
    long offset;
    lmp::Shape shape;
    lmp::DataType type;
  };

  // Small tensors stay where they are, such as the weights, which are in memory anyway.
  std::optional<Place> pack(const Tensor& tensor) {
    if (bytes_of(tensor) < 100'000) return std::nullopt;
    const Place place{end_, tensor.shape(), tensor.type()};
    const Tensor dense = tensor.contiguous();
    if (!file_ || std::fseek(file_.get(), end_, SEEK_SET) != 0 ||
        std::fwrite(dense.data(), bytes_of(dense), 1, file_.get()) != 1)
      throw std::runtime_error("cannot write to a temporary file");
    end_ += static_cast<long>(bytes_of(dense));
    return place;
  }

  Tensor unpack(const Place& place) const {
    const auto& [offset, shape, type] = place;
    Tensor tensor = lmp::empty(shape, lmp::DeviceType::CPU, type);
    if (std::fseek(file_.get(), offset, SEEK_SET) != 0 ||
        std::fread(tensor.data(), bytes_of(tensor), 1, file_.get()) != 1)
      throw std::runtime_error("cannot read from a temporary file");
    return tensor;
  }

  double megabytes() const { return static_cast<double>(end_) / 1e6; }

 private:
  static std::size_t bytes_of(const Tensor& tensor) {
    return tensor.numel() * lmp::tensor::size_of(tensor.type());
  }

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{std::tmpfile(), &std::fclose};
  long end_ = 0;
};

struct Network {
  std::vector<Variable> weights;
  Meter* meter = nullptr;

  // Some of the layers; each adds something to what it is given.
  Variable layers(Variable x, std::size_t first, std::size_t count) const {
    for (std::size_t i = first; i < first + count; ++i) {
      x = x + lmp::tanh(lmp::matmul(x, weights[i]));
      meter->look();
    }
    return x;
  }

  Variable forward(const Tensor& input) const { return layers(input, 0, kLayers); }

  Variable forward_in_blocks(const Tensor& input) const {
    Variable x = input;
    for (std::size_t first = 0; first < kLayers; first += kBlock)
      x = lmp::checkpoint([this, first](const Variable& in) { return layers(in, first, kBlock); },
                          x);
    return x;
  }
};

struct Run {
  std::vector<Variable> gradients;
  double megabytes = 0, milliseconds = 0;
};

// Differentiates the mean square of what `forward` computes.
template <class F>
Run run(Network& network, F forward) {
  Meter meter;
  network.meter = &meter;
  const auto start = std::chrono::steady_clock::now();
  const Variable loss = lmp::mean(lmp::square(forward()));
  std::vector<Variable> gradients = lmp::grad({loss}, network.weights);
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  return {std::move(gradients), meter.megabytes(), time.count()};
}

int main() {
  lmp::manual_seed(1);
  const Tensor input = lmp::randn(0, 1, {kSamples, kWidth});
  Network network;
  for (std::size_t i = 0; i < kLayers; ++i)
    network.weights.emplace_back(lmp::randn(0, 0.05, {kWidth, kWidth}), true);

  const auto plainly = [&] { return network.forward(input); };
  run(network, plainly);  // so that the next one finds its memory warm
  const Run plain = run(network, plainly);

  // Hooks are called as long as the graph lives, so they share what they work with.
  const auto offloader = std::make_shared<Offloader>();
  const Run offloaded = run(network, [&] {
    const lmp::SavedTensorHooksGuard hooks(
        [offloader](const Tensor& tensor) { return offloader->pack(tensor); },
        [offloader, meter = network.meter](const Offloader::Place& place) {
          Tensor tensor = offloader->unpack(place);
          meter->look();
          return tensor;
        });
    return network.forward(input);
  });

  const Run checkpointed = run(network, [&] { return network.forward_in_blocks(input); });

  std::printf("%zu layers of %d units, %d samples\n\n", kLayers, int(kWidth), int(kSamples));
  std::puts("saved values are     most memory       time   gradients");
  bool fine = true;
  const auto report = [&](const char* how, const Run& it) {
    bool same = true;
    for (std::size_t i = 0; i < kLayers; ++i)
      same = same && lmp::array_equal(it.gradients[i], plain.gradients[i]);
    fine = fine && same && (&it == &plain || it.megabytes < plain.megabytes / 2);
    std::printf("%-18s   %8.1f MB   %5.0f ms   %s\n", how, it.megabytes, it.milliseconds,
                &it == &plain ? ""
                : same        ? "the same, bit by bit"
                              : "NOT the same");
  };
  report("kept", plain);
  report("kept in a file", offloaded);
  report("computed again", checkpointed);
  std::printf("\nThe file held %.1f MB.\n", offloader->megabytes());
  if (!fine) std::puts("NOT what was expected: less than half the memory, and the same gradients");
  return fine ? 0 : 1;
}
