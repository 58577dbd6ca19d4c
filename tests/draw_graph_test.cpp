// Pictures of graphs: what stands in the boxes, what the texts escape, where boxes lie, and graphs
// that are too deep for recursion.

#include <gtest/gtest.h>
#include <pthread.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <sstream>

#include "autograd_support.hpp"

namespace lmp {
namespace {

using autograd::GraphNode;
using testing::contains;
using testing::leaf;
using testing::message_of;
using testing::scalar_leaf;

Variable parameter(const Shape& shape) { return Variable(ones(shape), true); }

const GraphNode& only(const GraphDrawing& drawing, const std::string& op) {
  const GraphNode* found = nullptr;
  for (const GraphNode& node : drawing.nodes)
    if (node.op == op) {
      EXPECT_EQ(found, nullptr) << "two nodes are called " << op;
      found = &node;
    }
  if (!found) throw std::runtime_error("no node is called " + op);
  return *found;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

struct Box {
  double x, y, width, height;
};

std::vector<Box> boxes(const std::string& svg) {
  static const std::regex pattern(
      "translate\\((-?[0-9.]+) (-?[0-9.]+)\\)\">(?:<title>[^<]*</title>)?"
      "<rect x=\"(-[0-9.]+)\" width=\"([0-9.]+)\" height=\"([0-9.]+)\"");
  std::vector<Box> out;
  for (std::sregex_iterator i(svg.begin(), svg.end(), pattern), end; i != end; ++i)
    out.push_back({std::stod((*i)[1]) + std::stod((*i)[3]), std::stod((*i)[2]), std::stod((*i)[4]),
                   std::stod((*i)[5])});
  return out;
}

void expect_apart(const GraphDrawing& drawing) {
  const std::vector<Box> list = boxes(drawing.svg());
  ASSERT_EQ(list.size(), drawing.nodes.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      const Box &a = list[i], &b = list[k];
      EXPECT_FALSE(a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height &&
                   b.y < a.y + a.height)
          << "boxes " << i << " and " << k << " overlap";
    }
    for (const std::size_t to : drawing.nodes[i].inputs)
      EXPECT_LT(list[i].y + list[i].height, list[to].y) << i << " is not above " << to;
  }
}

void on_small_stack(const std::function<void()>& body) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 * 1024), 0);
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    (*static_cast<const std::function<void()>*>(argument))();
    return nullptr;
  };
  ASSERT_EQ(
      pthread_create(&thread, &attributes, run, const_cast<void*>(static_cast<const void*>(&body))),
      0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST(DrawGraph, NodesHaveNamesShapesTypesAndBytes) {
  const Variable w = parameter({3, 4}), b = parameter({4});
  const Variable scores = matmul(Variable(ones({2, 3})), w) + b;
  const Variable loss = sum(astype(exp(scores), DataType::Float64));
  const GraphDrawing drawing = draw_graph(loss, {.names = {{"w", w}, {"b", b}, {"loss", loss}}});

  ASSERT_EQ(drawing.nodes.size(), 7u);
  EXPECT_EQ(drawing.total_nodes, 7u);
  EXPECT_EQ(drawing.total_leaves, 2u);
  EXPECT_EQ(drawing.nodes[0].op, "sum");
  EXPECT_EQ(drawing.nodes[0].name, "loss");
  EXPECT_TRUE(drawing.nodes[0].root);
  EXPECT_EQ(drawing.nodes[0].type, DataType::Float64);
  EXPECT_EQ(drawing.nodes[0].shape, Shape({}));
  EXPECT_EQ(only(drawing, "astype").type, DataType::Float64);
  EXPECT_EQ(only(drawing, "astype").shape, Shape({2, 4}));
  EXPECT_EQ(only(drawing, "exp").type, DataType::Float32);
  // exp keeps its result, matmul the input that its weight's gradient needs and its weight, add
  // nothing.
  EXPECT_EQ(only(drawing, "exp").saved_bytes, 2u * 4 * 4);
  EXPECT_EQ(only(drawing, "add").saved_bytes, 0u);
  EXPECT_EQ(only(drawing, "matmul").saved_bytes, (2u * 3 + 3 * 4) * 4);
  EXPECT_EQ(drawing.total_saved_bytes, 32u + 72u);
  EXPECT_EQ(only(drawing, "matmul").inputs.size(), 1u) << "the constant has no node";
  const GraphNode& weight = drawing.nodes[only(drawing, "matmul").inputs[0]];
  EXPECT_TRUE(weight.leaf);
  EXPECT_EQ(weight.name, "w");
  EXPECT_EQ(weight.shape, Shape({3, 4}));
  EXPECT_EQ(drawing.nodes[only(drawing, "add").inputs[1]].name, "b");

  for (const std::string& text : {drawing.svg(), drawing.dot()}) {
    for (const char* part : {"loss = sum", "Float64 (2, 4)", "Float32 (3, 4)", "saves 32 B",
                             "saves 72 B", "7 nodes, 104 B saved"})
      EXPECT_TRUE(contains(text, part)) << part << " is not in\n" << text;
    EXPECT_FALSE(contains(text, "released"));
  }
  expect_apart(drawing);
}

TEST(DrawGraph, EqualGraphsMakeEqualPictures) {
  const auto draw = [] {
    const Variable x = parameter({8});
    const Variable a = exp(x);
    return draw_graph(sin(a) + cos(a) * sigmoid(a), {.names = {{"x", x}}});
  };
  const GraphDrawing first = draw(), second = draw();
  EXPECT_EQ(first.svg(), second.svg());
  EXPECT_EQ(first.dot(), second.dot());
  expect_apart(first);
}

TEST(DrawGraph, EveryUseIsAnEdge) {
  const Variable x = parameter({8});
  const GraphDrawing drawing = draw_graph(sum(x * x));
  EXPECT_EQ(only(drawing, "mul").inputs, (std::vector<std::size_t>{2, 2}));
  EXPECT_EQ(count(drawing.dot(), "n1 -> n2;"), 2u);
  EXPECT_EQ(count(drawing.svg(), "<path d=\"M"), 1u + 3u) << "the arrow head's and three edges";
}

struct Halves {
  static constexpr const char* name = "halves";
  std::vector<Variable> forward(FunctionContext&, const Variable& x) {
    return {narrow(x, 0, 0, 2), narrow(x, 0, 2, 2)};
  }
  std::vector<Variable> backward(FunctionContext&, const std::vector<Variable>& g) {
    return {cat(g, 0)};
  }
};

TEST(DrawGraph, ResultsOfAFunctionLeadToItsNode) {
  const Variable x = parameter({4});
  const std::vector<Variable> parts = apply(Halves{}, x);
  const GraphDrawing drawing = draw_graph(sum(parts[0] * parts[1]));
  const std::size_t function = only(drawing, "halves[0]").inputs.at(0);
  EXPECT_EQ(drawing.nodes[function].op, "halves");
  EXPECT_EQ(only(drawing, "halves[1]").inputs.at(0), function);
  EXPECT_EQ(drawing.nodes[function].inputs.size(), 1u);
  expect_apart(drawing);
}

TEST(DrawGraph, SeveralResultsShareTheirGraph) {
  const Variable x = parameter({4});
  const Variable h = exp(x);
  const GraphDrawing drawing = draw_graph({h, sum(h), mean(h)});
  EXPECT_EQ(only(drawing, "exp").root, true);
  EXPECT_EQ(drawing.total_leaves, 1u);
  expect_apart(drawing);
  EXPECT_EQ(draw_graph(x).nodes.size(), 1u);
  EXPECT_TRUE(contains(draw_graph(x).svg(), "1 leaf"));
}

TEST(DrawGraph, ReleasedGraphHoldsNothing) {
  const Variable x = parameter({8});
  const Variable loss = sum(x * x);
  loss.backward({.retain_graph = true});
  EXPECT_FALSE(only(draw_graph(loss), "mul").released);
  EXPECT_EQ(draw_graph(loss).total_saved_bytes, 64u);
  loss.backward();
  const GraphDrawing drawing = draw_graph(loss);
  EXPECT_TRUE(only(drawing, "mul").released);
  EXPECT_FALSE(only(drawing, "leaf").released);
  EXPECT_EQ(drawing.total_saved_bytes, 0u);
  EXPECT_EQ(count(drawing.svg(), ">released</text></g>"), 2u + 1u) << "two nodes and the legend";
  EXPECT_TRUE(contains(drawing.svg(), "3 nodes, 0 B saved"));
  EXPECT_EQ(count(drawing.dot(), "\\nreleased\""), 2u);
}

TEST(DrawGraph, NamesAreEscaped) {
  const Variable x = parameter({2});
  const auto draw = [&](const std::string& name) { return draw_graph(x, {.names = {{name, x}}}); };
  EXPECT_TRUE(contains(draw("a<b>&\"c\"").svg(), ">a&lt;b&gt;&amp;&quot;c&quot;</text>"));
  EXPECT_TRUE(contains(draw("\"\\N&lt;").dot(), "label=\"\\\"\\\\N&amp;lt;\\n"));
  for (const std::string& text :
       {draw("a\nb\x01\xff\xc0\xaf").svg(), draw("a\nb\x01\xff\xc0\xaf").dot()})
    EXPECT_TRUE(contains(text, "a\uFFFDb\uFFFD\uFFFD\uFFFD\uFFFD"));
  EXPECT_TRUE(contains(draw("gewichte_größe_重み").svg(), ">gewichte_größe_重み</text>"));
  const std::string endless = draw(std::string(500, 'm')).svg();
  EXPECT_TRUE(contains(endless, "<title>" + std::string(500, 'm') + "</title>"));
  EXPECT_TRUE(contains(endless, "m\u2026</text>"));
  EXPECT_FALSE(contains(endless, ">" + std::string(100, 'm') + "<"));
}

TEST(DrawGraph, NamesOfOthersAreIgnoredAndOfTheSameJoined) {
  const Variable x = parameter({2}), other = parameter({2}), constant(ones({2}));
  const GraphDrawing drawing =
      draw_graph(exp(x), {.names = {{"x", x}, {"other", other}, {"constant", constant}, {"y", x}}});
  EXPECT_EQ(only(drawing, "leaf").name, "x, y");
  EXPECT_EQ(only(drawing, "exp").name, "");
}

TEST(DrawGraph, WithoutAGraphIsAnError) {
  const Variable x = parameter({2}), constant(ones({2}));
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { draw_graph(constant); }), "draw_graph"));
  EXPECT_TRUE(contains(message_of<AutogradError>([&] { draw_graph(Variable()); }), "draw_graph"));
  EXPECT_TRUE(contains(message_of<AutogradError>([&] {
                         draw_graph({x, constant});
                       }),
                       "draw_graph"));
  EXPECT_TRUE(
      contains(message_of<ValueError>([&] { draw_graph(std::vector<Variable>()); }), "draw_graph"));
}

// A weight that every step uses has one line, beside the steps.
TEST(DrawGraph, LongEdgesRunTogether) {
  const Variable x = parameter({8});
  Variable y = x;
  for (int i = 0; i < 12; ++i) y = y * x + 0.5;
  const GraphDrawing drawing = draw_graph(y);
  expect_apart(drawing);
  const std::vector<Box> list = boxes(drawing.svg());
  for (std::size_t i = 1; i < list.size(); ++i) {
    if (drawing.nodes[i].leaf) continue;
    EXPECT_NEAR(list[i].x + list[i].width / 2, list[0].x + list[0].width / 2, 0.2)
        << "the chain is not straight at " << i;
  }
  // Eleven uses join the line, the twelfth is two edges; then the line itself.
  EXPECT_EQ(count(drawing.svg(), "<path d=\"M"), 1u + 23u + 11u + 2u + 1u);
}

TEST(DrawGraph, BoxesLieApartInAnyGraph) {
  Generator generator(5);
  for (int round = 0; round < 30; ++round) {
    std::vector<Variable> made = {parameter({2}), parameter({2}), parameter({2})};
    const std::vector<std::int64_t> picks =
        randint(generator, 0, 1 << 20, {60}).to_vector<std::int64_t>();
    for (std::size_t i = 0; i + 2 < picks.size(); i += 3) {
      const auto pick = [&](std::int64_t n) {
        return made[static_cast<std::size_t>(n) % made.size()];
      };
      made.push_back(picks[i + 2] % 4 == 0 ? exp(pick(picks[i]))
                                           : pick(picks[i]) * pick(picks[i + 1]));
    }
    expect_apart(draw_graph(std::vector<Variable>(made.end() - 3, made.end())));
    if (HasFailure()) FAIL() << "in round " << round;
  }
}

TEST(DrawGraph, DrawsNoMoreThanAsked) {
  const Variable x = parameter({4});
  Variable y = x;
  for (int i = 0; i < 50; ++i) y = exp(y);
  const GraphDrawing drawing = draw_graph(y, {.names = {{"x", x}}, .max_nodes = 10});
  EXPECT_EQ(drawing.nodes.size(), 10u);
  EXPECT_EQ(drawing.total_nodes, 51u);
  EXPECT_EQ(drawing.total_saved_bytes, 50u * 16);
  EXPECT_TRUE(drawing.nodes[9].cut);
  EXPECT_FALSE(drawing.nodes[8].cut);
  EXPECT_TRUE(contains(drawing.svg(), "51 nodes, 800 B saved; 10 nodes drawn"));
  EXPECT_TRUE(contains(drawing.dot(), "51 nodes (10 drawn)"));
  EXPECT_EQ(draw_graph(y, {.max_nodes = 0}).nodes.size(), 1u);
}

TEST(DrawGraph, ChainOfAMillionOnASmallStack) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kSteps = 20'000;
#else
  constexpr int kSteps = 1'000'000;
#endif
  on_small_stack([] {
    const Variable x = scalar_leaf(1);
    Variable y = x;
    for (int i = 0; i < kSteps / 2; ++i) y = (y + 1.0) * x;
    const GraphDrawing drawing = draw_graph(y, {.max_nodes = kSteps + 1});
    ASSERT_EQ(drawing.nodes.size(), kSteps + 1u);
    EXPECT_GT(drawing.svg().size(), 200u * kSteps);
    EXPECT_GT(drawing.dot().size(), 50u * kSteps);
    EXPECT_EQ(draw_graph(y).nodes.size(), 10'000u);
  });
}

// docs/graph.svg is what docs/autograd.md says it is.
TEST(DrawGraph, PictureOfTheDocs) {
  manual_seed(1);
  const Variable w1 = parameter({64, 32}), b1 = parameter({32});
  const Variable w2 = parameter({32, 10}), b2 = parameter({10});
  const Tensor images = ones({128, 64}), labels = zeros({128, 1}, DeviceType::CPU, DataType::Int64);
  const Variable hidden = relu(matmul(images, w1) + b1);
  const Variable scores = log_softmax(matmul(hidden, w2) + b2);
  const Variable loss = -mean(gather(scores, 1, labels));
  const std::string svg = draw_graph(loss, {.names = {{"w1", w1},
                                                      {"b1", b1},
                                                      {"w2", w2},
                                                      {"b2", b2},
                                                      {"hidden", hidden},
                                                      {"loss", loss}}})
                              .svg();
  const std::string path = std::string(LAMPPP_TEST_DIR) + "/../docs/graph.svg";
  if (std::getenv("LAMPPP_UPDATE_DOCS")) std::ofstream(path) << svg;
  std::ostringstream stored;
  stored << std::ifstream(path).rdbuf();
  EXPECT_TRUE(stored.str() == svg) << "run the tests with LAMPPP_UPDATE_DOCS=1 to write it anew";
}

}  // namespace
}  // namespace lmp
