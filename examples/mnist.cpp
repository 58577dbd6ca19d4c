// Trains a neural network with one hidden layer to read handwritten digits.

#include <CLI/CLI.hpp>
#include <chrono>

#include "lamppp/lamppp.hpp"
#include "terminal.hpp"

#ifndef LAMPPP_DATA_DIR
#define LAMPPP_DATA_DIR "data"
#endif

using lmp::Tensor;
using lmp::Variable;

constexpr int kDigits = 10;

struct Options {
  std::string data = LAMPPP_DATA_DIR "/digits";
  std::size_t epochs = 30;
  std::size_t batch = 32;
  float lr = 0.2f;
  std::uint64_t seed = 0;
  std::string device = "cpu";
  std::size_t hidden = 128;
};

// Uniform on [-limit, limit), the limit such that signals neither fade nor explode from layer to
// layer (He et al., "Delving deep into rectifiers", 2015).
Variable make_weights(std::size_t inputs, std::size_t outputs, lmp::Device device) {
  const double limit = std::sqrt(6.0 / static_cast<double>(inputs));
  Variable weights = (2 * lmp::autograd::rand({outputs, inputs}, device) - 1) * limit;
  weights.requires_grad_();
  return weights;
}

Variable make_bias(std::size_t outputs, lmp::Device device) {
  return lmp::autograd::zeros({outputs}, device, lmp::DataType::Float32, true);
}

struct Network {
  Variable weights1, bias1, weights2, bias2;
  // The same four again: copies of a Variable share its value and its gradient.
  std::vector<Variable> parameters;

  Network(std::size_t pixels, std::size_t hidden, lmp::Device device)
      : weights1(make_weights(pixels, hidden, device)),
        bias1(make_bias(hidden, device)),
        weights2(make_weights(hidden, kDigits, device)),
        bias2(make_bias(kDigits, device)),
        parameters{weights1, bias1, weights2, bias2} {}

  // For every image a score for each digit.
  Variable forward(const Variable& images) const {
    Variable hidden = lmp::linear(images, weights1, bias1, lmp::Activation::Relu);
    return lmp::linear(hidden, weights2, bias2);
  }
};

void train(Network& network, const lmp::data::DataLoader& data_loader, const Options& options) {
  for (std::size_t epoch = 1; epoch <= options.epochs; ++epoch) {
    terminal::ProgressBar progress("epoch", epoch, options.epochs, data_loader.size());
    double total_loss = 0, correct = 0, seen = 0;

    for (auto& batch : data_loader) {
      // Clear gradients from the previous iteration
      for (auto& parameter : network.parameters) parameter.zero_grad();

      // Forward pass
      Variable output = network.forward(batch.input);
      // Minus the mean logarithm of the probability that the right digit is given
      Variable loss = lmp::cross_entropy(output, batch.target);

      // Backward pass
      loss.backward();

      // Update parameters
      for (auto& parameter : network.parameters) parameter.data() -= options.lr * parameter.grad();

      const auto size = static_cast<double>(batch.target.numel());
      total_loss += loss.item() * size;
      correct += lmp::sum(lmp::argmax(output.data(), 1) == batch.target).item();
      seen += size;
      progress.step();
    }
    progress.finish({{"loss", total_loss / seen}, {"accuracy", correct / seen}});
    if (!std::isfinite(total_loss))
      throw lmp::ValueError("the loss is not a number any more; try a smaller --lr");
  }
}

// Prints how many test images are read correctly, and draws a few, a mistake among them.
void test(const Network& network, const lmp::data::Mnist& data, lmp::Device device) {
  const lmp::NoGradGuard no_grad;
  const Tensor probabilities = lmp::softmax(network.forward(data.test_images.to(device)).data(), 1);
  const Tensor guesses = lmp::argmax(probabilities, 1).to(lmp::DeviceType::CPU);
  const Tensor confidence = lmp::max(probabilities, 1, false).to(lmp::DeviceType::CPU);
  const Tensor right = guesses == data.test_labels;
  std::printf("test accuracy %.3f\n\n", lmp::mean(right).item());

  // The first mistake, should there be one, and the first images beside it
  std::vector<std::int64_t> shown = {lmp::argmin(right).item<std::int64_t>()};
  for (std::int64_t i = 0; shown.size() < 4 && i < right.shape().dim(0); ++i)
    if (i != shown.front()) shown.push_back(i);

  std::vector<terminal::Picture> pictures;
  for (const std::int64_t i : shown) {
    char says[32];
    std::snprintf(says, sizeof says, "%d, %.0f%% sure", static_cast<int>(guesses.index({i})),
                  100 * confidence.index({i}));
    const auto label = static_cast<int>(data.test_labels.index({i}));
    const bool is_right = right.index({i}) != 0;
    pictures.push_back({data.test_images[i].to_vector<float>(),
                        data.height,
                        data.width,
                        {says, is_right ? "right" : "WRONG: it is " + std::to_string(label)}});
  }
  terminal::draw(pictures);
}

void run(const Options& options) {
  const lmp::Device device =
      options.device == "cuda" ? lmp::DeviceType::CUDA : lmp::DeviceType::CPU;
  lmp::manual_seed(options.seed);

  const lmp::data::Mnist data = lmp::data::load_mnist(options.data);
  const lmp::data::DataLoader data_loader(
      data.train_images.to(device), data.train_labels.to(device),
      {.batch_size = options.batch, .shuffle = true, .seed = options.seed});
  std::printf("%zu images to train on, %zu to test on, %zu x %zu pixels each\n",
              data.train_labels.numel(), data.test_labels.numel(), data.height, data.width);

  Network network(data.height * data.width, options.hidden, device);
  const auto start = std::chrono::steady_clock::now();
  train(network, data_loader, options);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("trained in %.1f s\n", seconds.count());
  test(network, data, device);
}

// What app.exit() prints may throw, and then there is nobody to tell.
int main(int argc, char** argv) {  // NOLINT(bugprone-exception-escape)
  const CLI::Validator positive(
      [](const std::string& text) {
        const double value = std::strtod(text.c_str(), nullptr);
        return value > 0 && value <= 1e9 ? ""
                                         : "a number above 0 (up to 1e9) is needed, not " + text;
      },
      "");

  Options options;
  CLI::App app("Trains a neural network to read handwritten digits.");
  app.option_defaults()->always_capture_default();
  app.add_option("--data", options.data, "folder with the four IDX files of MNIST, gzipped or not");
  app.add_option("--epochs", options.epochs, "passes over the training images")->check(positive);
  app.add_option("--batch", options.batch, "images in a batch")->check(positive);
  app.add_option("--lr", options.lr, "learning rate")->check(positive);
  app.add_option("--seed", options.seed, "seed of the random numbers");
  app.add_option("--device", options.device, "where to compute")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--hidden", options.hidden, "units in the hidden layer")->check(positive);
  try {
    app.parse(argc, argv);
    run(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "mnist: %s\n", error.what());
    return 2;
  }
}
