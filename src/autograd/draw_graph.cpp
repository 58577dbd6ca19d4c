#include "lamppp/autograd/draw_graph.hpp"

#include <algorithm>
#include <span>
#include <unordered_map>

#include "autograd/node.hpp"
#include "lamppp/error.hpp"
#include "tensor/format.hpp"
#include "tensor/text.hpp"

namespace lmp::autograd {

using tensor::detail::concat;
using tensor::detail::readable_bytes;

namespace {

std::uint64_t saved_bytes(const Node& node) {
  std::uint64_t bytes = 0;
  for (int i = 0; i < node.num_saved(); ++i)
    if (const Tensor& t = node.saved(i).tensor; t.defined()) bytes += t.numel() * size_of(t.type());
  return bytes;
}

GraphDrawing draw(std::span<const Variable> results, const DrawOptions& options) {
  GraphDrawing drawing;
  std::unordered_map<const Node*, std::size_t> places;
  std::vector<const Node*> found;
  const std::size_t most = std::max<std::size_t>(options.max_nodes, 1);
  const auto place_of = [&](const Node* node, DataType type, const Shape& shape) {
    const auto [at, fresh] = places.try_emplace(node, found.size());
    if (!fresh) return at->second;
    found.push_back(node);
    const std::uint64_t bytes = saved_bytes(*node);
    drawing.total_leaves += node->is_leaf() ? 1 : 0;
    drawing.total_saved_bytes += bytes;
    if (at->second < most) {
      GraphNode& drawn = drawing.nodes.emplace_back();
      drawn.op = node->name();
      drawn.type = type;
      drawn.shape = shape;
      drawn.saved_bytes = bytes;
      drawn.released = node->released();
      drawn.leaf = node->is_leaf();
    }
    return at->second;
  };

  for (const Variable& v : results) {
    const Node* const node = VariableAccess::node(v);
    if (!node)
      throw AutogradError(
          "draw_graph: a result requires no gradient, so there is no graph; make a Variable with "
          "requires_grad = true, and compute outside NoGradGuard");
    const std::size_t place = place_of(node, v.type(), v.shape());
    if (place < most) drawing.nodes[place].root = true;
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (int k = 0; k < found[i]->num_edges(); ++k) {
      const Edge& edge = found[i]->edge(k);
      if (!edge.node) continue;
      const std::size_t place = place_of(edge.node, edge.type, edge.shape);
      if (i >= most) continue;
      if (place < most)
        drawing.nodes[i].inputs.push_back(place);
      else
        drawing.nodes[i].cut = true;
    }
  }
  drawing.total_nodes = found.size();

  for (const auto& [name, variable] : options.names) {
    const auto at = places.find(VariableAccess::node(variable));
    if (at == places.end() || at->second >= most) continue;
    std::string& given = drawing.nodes[at->second].name;
    given += given.empty() ? name : ", " + name;
  }
  return drawing;
}

// A label of Graphviz, which knows escapes and HTML's entities in it.
std::string dot_text(std::string_view text) {
  std::string out;
  for (const char c : tensor::detail::clean_text(text)) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

}  // namespace

GraphDrawing draw_graph(const Variable& result, const DrawOptions& options) {
  return draw({&result, 1}, options);
}

GraphDrawing draw_graph(const std::vector<Variable>& results, const DrawOptions& options) {
  if (results.empty()) throw ValueError("draw_graph: no results; give one Variable or more");
  return draw(results, options);
}

std::string GraphDrawing::dot() const {
  std::string out =
      "digraph autograd {\n"
      "  bgcolor=\"transparent\";\n"
      "  node [shape=box, style=\"filled,rounded\", fontname=\"Helvetica\", fontsize=11, "
      "color=\"#64748b\", fillcolor=\"#f8fafc\"];\n"
      "  edge [color=\"#7c8aa0\", arrowsize=0.7];\n";
  out += concat("  label=\"", total_nodes, total_nodes == 1 ? " node" : " nodes",
                nodes.size() < total_nodes ? concat(" (", nodes.size(), " drawn)") : "", ", ",
                readable_bytes(total_saved_bytes), " saved\";\n");
  out += "  fontname=\"Helvetica\"; fontsize=11; fontcolor=\"#7c8aa0\";\n";
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const GraphNode& node = nodes[i];
    const std::string title = node.name.empty() ? node.op
                              : node.leaf       ? node.name
                                                : node.name + " = " + node.op;
    out += "  n" + std::to_string(i) + " [label=\"" + dot_text(title) + "\\n" + name_of(node.type) +
           ' ' + tensor::detail::shape_text(node.shape);
    if (node.released)
      out += "\\nreleased";
    else if (node.saved_bytes > 0)
      out += "\\nsaves " + readable_bytes(node.saved_bytes);
    out += '"';
    if (node.leaf)
      out += ", shape=ellipse, style=\"filled\", color=\"#2f855a\", fillcolor=\"#e6f6ec\"";
    else if (node.released)
      out += ", style=\"filled,rounded,dashed\"";
    if (node.root && !node.leaf) out += ", color=\"#3b5bdb\", fillcolor=\"#e7edff\", penwidth=2";
    out += "];\n";
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::string from = std::to_string(i);
    for (const std::size_t to : nodes[i].inputs)
      out += "  n" + from + " -> n" + std::to_string(to) + ";\n";
    if (nodes[i].cut)
      out += "  c" + from +
             " [label=\"...\", shape=plaintext, style=\"\", fontcolor=\"#7c8aa0\"];\n" + "  n" +
             from + " -> c" + from + " [style=dashed];\n";
  }
  out += "}\n";
  return out;
}

}  // namespace lmp::autograd
