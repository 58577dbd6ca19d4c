#pragma once

#include <span>
#include <vector>

#include "autograd/pass.hpp"

namespace lmp::autograd {

/// A result to start from and its seed.
template <class V>
struct Root {
  Node* node;
  V seed;
};

/// A gradient to hand out instead of accumulating into leaves.
template <class V>
struct Capture {
  Node* node;
  V gradient;
};

/// Runs a pass from `roots`, whose seeds it takes. Without captures every leaf gets its gradient
/// added; with captures only the nodes on the way to them run, and leaves stay as they are.
/// `create_graph` (of a pass of Variables) gives the gradients a graph of their own, and implies
/// `retain_graph`.
template <class V>
void run_pass(std::span<Root<V>> roots, std::vector<Capture<V>>* captures, bool retain_graph,
              bool create_graph = false);

extern template void run_pass(std::span<Root<Tensor>>, std::vector<Capture<Tensor>>*, bool, bool);
extern template void run_pass(std::span<Root<Variable>>, std::vector<Capture<Variable>>*, bool,
                              bool);

}  // namespace lmp::autograd
