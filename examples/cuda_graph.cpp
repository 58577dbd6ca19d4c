// Trains a small network on a GPU, step by step and as a graph, and says what a step takes.

#include <chrono>
#include <cstdio>

#include "lamppp/cuda.hpp"
#include "lamppp/lamppp.hpp"

using lmp::Tensor;
using lmp::Variable;

constexpr std::int64_t kInputs = 784, kHidden = 512, kClasses = 10, kBatch = 128;
constexpr int kSteps = 2000;

struct Training {
  lmp::Device device = lmp::DeviceType::CUDA;
  // Each batch is copied into these, so that a graph finds it where it was.
  Tensor images = lmp::zeros({kBatch, kInputs}, device);
  Tensor labels = lmp::zeros({kBatch}, device, lmp::DataType::Int64);
  Variable w1{lmp::randn(0, 0.05, {kHidden, kInputs}, device), true};
  Variable b1{lmp::zeros({kHidden}, device), true};
  Variable w2{lmp::randn(0, 0.05, {kClasses, kHidden}, device), true};
  Variable b2{lmp::zeros({kClasses}, device), true};
  lmp::optim::Adam adam{{w1, b1, w2, b2}, {.lr = 0.001}};
  Variable loss;

  void step() {
    adam.zero_grad();
    const Variable hidden = lmp::linear(images, w1, b1, lmp::Activation::Relu);
    loss = lmp::cross_entropy(lmp::linear(hidden, w2, b2), labels);
    loss.backward();
    adam.step();
  }

  // Random images, whose label is where the first of them is brightest.
  void next_batch() {
    const Tensor fresh = lmp::rand({kBatch, kInputs}, device);
    images.copy(fresh);
    labels.copy(lmp::argmax(lmp::slice(fresh, 1, 0, kClasses), 1));
  }
};

template <class Step>
void measure(const char* name, Training& training, Step&& step) {
  const double before = training.loss.item();  // waits for what came before
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kSteps; ++i) {
    if (i % 10 == 0) training.next_batch();
    step();
  }
  const double after = training.loss.item();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  std::printf("%-12s %6.1f us a step, loss %.3f to %.3f\n", name, took.count() / kSteps, before,
              after);
}

int main() {
  if (!lmp::cuda::is_available()) {
    std::puts("There is no GPU here that CUDA can use.");
    return 0;
  }
  try {
    lmp::manual_seed(0);
    Training training;
    training.next_batch();
    for (int i = 0; i < 5; ++i) training.step();
    measure("step by step", training, [&] { training.step(); });
    lmp::cuda::Graph graph;
    graph.capture([&] { training.step(); });
    measure("as a graph", training, [&] { graph.replay(); });
  } catch (const lmp::Error& error) {
    std::fprintf(stderr, "cuda_graph: %s\n", error.what());
    return 2;
  }
}
