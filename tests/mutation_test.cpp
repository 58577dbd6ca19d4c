// The checks are checked: every gradient that a backward formula gives, for each operand of every
// op, is made slightly wrong, and the sweep's check has to fail. The same for what a pass records
// when it creates a graph.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "autograd/node.hpp"
#include "gradient_cases.hpp"

namespace lmp {
namespace {

using autograd::Node;
using testing::Function;
using testing::Inputs;
using testing::leaves;
using testing::uniform;

/// An operand of the op of a node.
using Formula = std::pair<std::string, int>;

std::vector<const Node*> nodes_of(const Variable& y) {
  std::vector<const Node*> found;
  std::set<const Node*> seen;
  std::vector<const Node*> stack;
  const auto visit = [&](const Node* node) {
    if (node && seen.insert(node).second) stack.push_back(node);
  };
  visit(y.grad_fn());
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    found.push_back(node);
    for (int i = 0; i < node->num_edges(); ++i) visit(node->edge(i).node);
  }
  return found;
}

std::set<Formula> formulas_of(const Variable& y) {
  std::set<Formula> found;
  for (const Node* node : nodes_of(y))
    for (int i = 0; i < node->num_edges(); ++i)
      if (node->edge(i).node && node->edge(i).shape.numel() > 0) found.emplace(node->name(), i);
  return found;
}

/// f, with the gradient of one formula wrong wherever it occurs.
Function mutant(const Function& f, const Formula& formula) {
  return [f, formula](const Inputs& in) {
    const Variable y = f(in);
    for (const Node* node : nodes_of(y)) {
      if (node->name() != formula.first) continue;
      register_node_hook(*node, [i = formula.second](const Inputs& gradients, const Variable&) {
        Inputs changed(gradients.size());
        const auto at = static_cast<std::size_t>(i);
        if (at < gradients.size() && gradients[at].defined())
          changed[at] = gradients[at] * 1.03 + 0.02;
        return changed;
      });
    }
    return y;
  };
}

struct Survivors {
  std::set<Formula> formulas;
  std::map<Formula, std::string> survived;  // and in which case
  void hunt(const std::string& name, const Function& f, const std::vector<Tensor>& at) {
    const Shape shape = f(leaves(at)).shape();
    if (shape.numel() == 0) return;  // nothing flows
    Generator generator(5);
    const Variable seed(uniform(generator, shape, 0.5, 1.5));
    const auto recorded = [&](const Function& g) {
      const Inputs x = leaves(at);
      return grad({g(x)}, x, {.grad_outputs = {seed}, .create_graph = true, .allow_unused = true});
    };
    const Inputs right = recorded(f);
    for (const Formula& formula : formulas_of(f(leaves(at)))) {
      formulas.insert(formula);
      const Function g = mutant(f, formula);
      const Inputs wrong = recorded(g);
      bool same = true;
      for (std::size_t i = 0; i < right.size(); ++i)
        same &= !right[i].defined() || allclose(right[i], wrong[i], 1e-6, 1e-8);
      if (same || gradcheck(g, leaves(at))) survived.emplace(formula, name);
    }
  }
};

TEST(Mutation, EveryGradientFormulaIsChecked) {
  Survivors survivors;
  Generator generator(21);
  std::size_t operands = 0;
  for (const testing::PointwiseCase& c : testing::differentiable_cases()) {
    std::vector<Tensor> at;
    for (int i = 0; i < c.op().arity; ++i)
      at.push_back(
          uniform(generator, {2, 3}, c.op().info.domains[i].low, c.op().info.domains[i].high));
    const bool condition = c.op().info.condition & 1;
    survivors.hunt(c.name, c.call, at);
    for (int i = 0; i < c.op().arity; ++i) {
      if (condition && i == 0) continue;
      ++operands;
      EXPECT_TRUE(survivors.formulas.contains({c.op().info.name, i}))
          << c.name << ", operand " << i;
    }
  }
  for (const testing::StructuredCase& c : testing::structured_cases()) {
    std::vector<Tensor> at;
    for (const Shape& shape : c.shapes) at.push_back(uniform(generator, shape, c.low, c.high));
    survivors.hunt(c.function, c.call, at);
  }
  for (const auto& [formula, where] : survivors.survived)
    ADD_FAILURE() << "the gradient of '" << formula.first << "' for operand " << formula.second
                  << " can be wrong in the case " << where << " and no check fails";
  EXPECT_GT(operands, 50u);
  EXPECT_GT(survivors.formulas.size(), operands + 30);
}

}  // namespace
}  // namespace lmp
