#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

/// Options of draw_graph.
struct DrawOptions {
  /// What Variables are called. One that is not in the graph is ignored.
  std::vector<std::pair<std::string, Variable>> names = {};
  /// The most nodes that are drawn, those nearest to the results first. A picture of many thousands
  /// is of use to nobody; the rest is counted.
  std::size_t max_nodes = 10'000;
};

/// A node of a GraphDrawing.
struct GraphNode {
  /// The operation, "mul"; "leaf" where there is none.
  std::string op;
  /// As given in DrawOptions; else empty.
  std::string name;
  /// Of the node's result.
  DataType type = DataType::Float32;
  /// Of the node's result.
  Shape shape;
  /// The bytes of the tensors that are kept for the backward pass.
  std::uint64_t saved_bytes = 0;
  /// True where a backward pass has released what was kept.
  bool released = false;
  /// True for a leaf.
  bool leaf = false;
  /// True for a Variable that draw_graph was given.
  bool root = false;
  /// True where some inputs are beyond max_nodes.
  bool cut = false;
  /// The nodes of the inputs, as places in GraphDrawing::nodes. Inputs without a gradient have
  /// none.
  std::vector<std::size_t> inputs = {};
};

/// What a graph looked like when draw_graph saw it. Holds nothing of the graph itself.
class LMP_API GraphDrawing {
 public:
  /// In the order of their distance from the results.
  std::vector<GraphNode> nodes;
  /// How many nodes there are, with those that are not drawn.
  std::size_t total_nodes = 0;
  /// How many of them are leaves.
  std::size_t total_leaves = 0;
  /// The sum of saved_bytes over all nodes.
  std::uint64_t total_saved_bytes = 0;

  /// The text of a Graphviz file: `dot -Tpdf graph.dot`.
  std::string dot() const;
  /// The text of a picture that any browser shows: `std::ofstream("graph.svg") << drawing.svg()`.
  std::string svg() const;
};

/// Draws the graph from results back to the leaves: a box a node, with its operation, the type and
/// shape of its result, and what it keeps for the backward pass. Arrows point where gradients flow.
/// Equal graphs make equal pictures. No other thread may run a backward pass over the graph
/// meanwhile. Throws AutogradError where nothing requires a gradient.
///
///     std::ofstream("graph.svg") << lmp::draw_graph(loss, {.names = {{"w", w}}}).svg();
LMP_API GraphDrawing draw_graph(const Variable& result, const DrawOptions& options = {});
/// The same from several results.
LMP_API GraphDrawing draw_graph(const std::vector<Variable>& results,
                                const DrawOptions& options = {});

}  // namespace lmp::autograd
