// Profiles a few training steps of a small network and draws its graph: prints where the time went,
// and writes trace.json (for https://ui.perfetto.dev) and graph.svg (for any browser) to the
// current folder or the one that is named.

#include <filesystem>
#include <fstream>

#include "lamppp/lamppp.hpp"

using lmp::Tensor;
using lmp::Variable;

constexpr std::size_t kImages = 128, kPixels = 64, kHidden = 32, kClasses = 10;
constexpr int kSteps = 20;

int main(int argc, char** argv) {
  const std::filesystem::path folder = argc > 1 ? argv[1] : ".";
  std::filesystem::create_directories(folder);

  lmp::manual_seed(1);
  const Tensor images = lmp::rand({kImages, kPixels});
  const Tensor labels = lmp::randint(0, kClasses, {kImages, 1});
  const Variable w1(0.1 * lmp::randn(0, 1, {kPixels, kHidden}), true);
  const Variable b1(lmp::zeros({kHidden}), true);
  const Variable w2(0.1 * lmp::randn(0, 1, {kHidden, kClasses}), true);
  const Variable b2(lmp::zeros({kClasses}), true);

  Variable loss, hidden;
  const auto forward = [&] {
    const lmp::ProfileRange range("forward");
    hidden = lmp::relu(lmp::matmul(images, w1) + b1);
    const Variable scores = lmp::log_softmax(lmp::matmul(hidden, w2) + b2);
    loss = -lmp::mean(lmp::gather(scores, 1, labels));
  };

  lmp::Profiler profiler;
  for (int step = 0; step < kSteps; ++step) {
    const lmp::ProfileRange range("step");
    forward();
    {
      const lmp::ProfileRange backward("backward");
      loss.backward();
    }
    const lmp::ProfileRange update("update");
    for (const Variable* p : {&w1, &b1, &w2, &b2}) {
      p->data() -= 0.5 * p->grad();
      p->zero_grad();
    }
  }
  profiler.stop();
  std::cout << profiler;
  profiler.write((folder / "trace.json").string());

  forward();  // a graph that still holds what a backward pass needs
  std::ofstream(folder / "graph.svg") << lmp::draw_graph(loss, {.names = {{"w1", w1},
                                                                          {"b1", b1},
                                                                          {"w2", w2},
                                                                          {"b2", b2},
                                                                          {"hidden", hidden},
                                                                          {"loss", loss}}})
                                             .svg();
  std::cout << "\nwrote " << (folder / "trace.json").string() << " and "
            << (folder / "graph.svg").string() << "\n";
}
