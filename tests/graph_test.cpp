// Graphs by shape: deep, wide and folded ones on a small stack, passes that fail, and threads.

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "graph_support.hpp"

namespace lmp {
namespace {

using testing::expect_linear;
using testing::leaf;
using testing::live_bytes;
using testing::on_small_stack;
using testing::on_threads;
using testing::scalar_leaf;
using testing::values;
using Values = std::vector<double>;

TEST(Graph, ChainOfAMillion) {
  expect_linear([](int n) {
    const Variable x = scalar_leaf(1.0);
    Variable y = x;
    for (int i = 0; i < n; ++i) y = y + 1.0;
    EXPECT_EQ(y.item(), n + 1.0);
    y.backward();
    EXPECT_EQ(x.grad().item(), 1);
  });
}

TEST(Graph, ChainThatSaves) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x;
        for (int i = 0; i < n; ++i) y = reshape(y * y, {1});
        sum(y).backward(BackwardOptions{.retain_graph = true});
        y = Variable();
      },
      300000);
}

TEST(Graph, ChainThatIsOnlyDestroyed) {
  expect_linear(
      [](int n) {
        Variable y = scalar_leaf(1.0);
        for (int i = 0; i < n; ++i) y = y * y;
      },
      300000);
}

TEST(Graph, FanOutOfAMillion) {
  expect_linear([](int n) {
    const Variable x = scalar_leaf(2.0);
    Variable total = x;
    for (int i = 1; i < n; ++i) total = total + x;
    total.backward();
    EXPECT_EQ(x.grad().item(), n);
  });
}

TEST(Graph, ManyResultsIntoOneNode) {
  expect_linear(
      [](int n) {
        const Variable x = leaf({1.0}, {1});
        std::vector<Variable> parts;
        for (int i = 0; i < n; ++i) parts.push_back(x * 2.0);
        const Variable all = cat(parts);
        parts.clear();
        EXPECT_EQ(all.numel(), static_cast<std::size_t>(n));
        sum(all).backward();
        EXPECT_EQ(x.grad().item(), 2.0 * n);
      },
      300000);
}

TEST(Graph, ManyRoots) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        std::vector<Variable> outputs;
        for (int i = 0; i < n; ++i) outputs.push_back(x * 3.0);
        EXPECT_EQ(grad(outputs, {x})[0].item(), 3.0 * n);
      },
      200000);
}

TEST(Graph, LadderOfDiamonds) {
  // Each rung doubles the number of paths; the node count is what may matter.
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x;
        for (int i = 0; i < n; ++i) y = y * 0.25 + y * 0.75;
        y.backward();
        EXPECT_NEAR(x.grad().item(), 1, 1e-9);
      },
      300000);
  const Variable x = scalar_leaf(1.0);
  Variable y = x;
  for (int i = 0; i < 60; ++i) y = y + y;
  y.backward();
  EXPECT_EQ(x.grad().item(), std::ldexp(1.0, 60));
}

TEST(Graph, DeepGrad) {
  expect_linear(
      [](int n) {
        const Variable x = scalar_leaf(1.0);
        Variable y = x, middle;
        for (int i = 0; i < n; ++i) {
          y = y * 1.0;
          if (i == n / 2) middle = y;
        }
        EXPECT_EQ(grad({y}, {middle}, {.retain_graph = true})[0].item(), 1);
        const Variable g = grad({y}, {x}, {.create_graph = true})[0];
        EXPECT_EQ(g.item(), 1);
      },
      100000);
}

TEST(Graph, GradOfManyInputs) {
  expect_linear(
      [](int n) {
        std::vector<Variable> inputs;
        for (int i = 0; i < n; ++i) inputs.push_back(leaf({double(i)}, {1}));
        const Variable y = sum(square(cat(inputs)));
        const auto gradients = grad({y}, inputs);
        for (int i = 0; i < n; i += 97)
          EXPECT_EQ(gradients[static_cast<std::size_t>(i)].item(), 2.0 * i);
      },
      40000);
}

TEST(Graph, SecondOrderOfAChain) {
  const std::int64_t before = live_bytes();
  on_small_stack([] {
    const Variable x = scalar_leaf(1.0);
    Variable y = x;
    for (int i = 0; i < 50000; ++i) y = y * 1.0 + x * 0.0;
    const Variable g = grad({y * y}, {x}, {.create_graph = true})[0];
    EXPECT_EQ(g.item(), 2);
    g.backward();
    EXPECT_EQ(x.grad().item(), 2);
  });
  EXPECT_EQ(live_bytes(), before);
}

// ---- Passes that fail ----

TEST(Graph, AFailedPassLeavesOldOrCompleteGradients) {
  // The node that throws can be anywhere; leaves before it in the order have all they get.
  for (int broken = 0; broken < 6; ++broken) {
    std::vector<Variable> leaves;
    std::vector<Values> old, complete;
    for (int i = 0; i < 4; ++i) leaves.push_back(leaf({1.0 + i, 2.0 - i}));
    const auto build = [&](std::vector<Variable>& middle) {
      Variable y = leaves[0];
      for (int i = 0; i < 6; ++i) {
        y = y * 1.5;
        middle.push_back(y);
        y = sin(y) + leaves[static_cast<std::size_t>(i % 4)] * y;
      }
      return sum(y);
    };
    std::vector<Variable> middle;
    for (const Variable& v : leaves) v.incr_grad(lmp::full({2}, 0.25));
    for (const Variable& v : leaves) old.push_back(values(v.grad()));
    build(middle).backward();
    for (const Variable& v : leaves) {
      complete.push_back(values(v.grad()));
      v.zero_grad();
      v.incr_grad(lmp::full({2}, 0.25));
    }
    middle.clear();
    const Variable y = build(middle);
    middle[static_cast<std::size_t>(broken)].data() += 1;
    EXPECT_THROW(y.backward(), AutogradError);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      const Values now = values(leaves[i].grad());
      EXPECT_TRUE(now == old[i] || now == complete[i]) << broken << ' ' << i;
    }
    EXPECT_THROW(y.backward(), AutogradError);
    // The leaves are as usable as before.
    for (const Variable& v : leaves) v.zero_grad();
    std::vector<Variable> again;
    build(again).backward();
    for (std::size_t i = 0; i < leaves.size(); ++i)
      for (std::size_t k = 0; k < 2; ++k)
        EXPECT_NEAR(values(leaves[i].grad())[k], complete[i][k] - 0.25, 1e-12);
  }
}

TEST(Graph, FailedPassesLeaveNothingBehind) {
  const Variable x = leaf({1, 2});
  x.incr_grad(lmp::zeros({2}));
  const std::int64_t before = live_bytes();
  for (int i = 0; i < 100; ++i) {
    const Variable a = x * 2, b = a * a, y = exp(b) + sin(a) * b;
    a.data().fill(1);
    EXPECT_THROW(y.backward(), AutogradError);
    EXPECT_THROW(grad({y}, {x}), AutogradError);
    EXPECT_THROW(grad({y}, {x}, {.create_graph = true}), AutogradError);
  }
  EXPECT_EQ(live_bytes(), before);
}

// ---- Threads ----

TEST(GraphThreads, SharedLeaves) {
  // Whole numbers, so that the order of additions does not show.
  constexpr int kThreads = 16, kPasses = 100;
  const Variable w = leaf({1, 2, 3}), b = leaf({1});
  for (const Variable& v : {w, b}) {
    v.backward();
    v.zero_grad();
  }
  const std::int64_t before = live_bytes();
  on_threads(kThreads, [&](int t) {
    for (int i = 0; i < kPasses; ++i) {
      Variable y = w * (t + 1.0) + b;
      y = y + w;
      y.backward();
      if (i % 7 == 0) {
        EXPECT_EQ(w.grad().numel(), 3u);
      }
    }
  });
  EXPECT_EQ(values(w.grad()), Values(3, kPasses * (kThreads * (kThreads + 1) / 2.0 + kThreads)));
  EXPECT_EQ(values(b.grad()), Values(1, 3.0 * kPasses * kThreads));
  w.zero_grad();
  b.zero_grad();
  EXPECT_EQ(live_bytes(), before);
}

TEST(GraphThreads, OneSharedSubgraph) {
  constexpr int kThreads = 8, kPasses = 100;
  const Variable x = leaf({1, 2});
  Variable shared = x;
  for (int i = 0; i < 20; ++i) shared = shared + x * 2.0;  // 41 x
  shared = shared * shared;                                // 1681 x^2
  const Variable all = sum(shared);
  on_threads(kThreads, [&](int t) {
    for (int i = 0; i < kPasses; ++i) {
      if (i % 2 == 0)
        all.backward(BackwardOptions{.retain_graph = true});
      else
        (shared * double(t)).backward(BackwardOptions{.retain_graph = true});
      const Variable g = grad({all}, {x}, {.retain_graph = true})[0];
      EXPECT_EQ(values(g), (Values{2 * 1681, 4 * 1681}));
      if (i % 10 == 0) {
        const Variable h = grad({all}, {x}, {.create_graph = true})[0];
        EXPECT_EQ(values(grad({h}, {x}, {.retain_graph = true})[0]), (Values{2 * 1681, 2 * 1681}));
      }
    }
  });
  const double passes = kPasses / 2 * (kThreads + kThreads * (kThreads - 1) / 2.0);
  EXPECT_EQ(values(x.grad()), (Values{2 * 1681 * passes, 4 * 1681 * passes}));
}

TEST(GraphThreads, IndependentGraphs) {
  std::vector<Values> results(8);
  on_threads(8, [&](int t) {
    const Variable x = leaf({1.0 + t, 2});
    for (int i = 0; i < 50; ++i) {
      Variable y = x;
      for (int k = 0; k < 20; ++k) y = sin(y) * x;
      x.zero_grad();
      sum(y).backward();
    }
    results[static_cast<std::size_t>(t)] = values(x.grad());
  });
  for (int t = 0; t < 8; ++t) {
    const Variable x = leaf({1.0 + t, 2});
    Variable y = x;
    for (int k = 0; k < 20; ++k) y = sin(y) * x;
    sum(y).backward();
    EXPECT_EQ(results[static_cast<std::size_t>(t)], values(x.grad()));
  }
}

TEST(GraphThreads, BuiltHereRunThereDestroyedElsewhere) {
  const std::int64_t before = live_bytes();
  {
    const Variable x = leaf({1, 2});
    Variable y;
    std::thread([&] {
      Variable built = x;
      for (int i = 0; i < 200000; ++i) built = built + x;
      y = built;
    }).join();
    // Numbers of this thread's nodes are still low: those of the other thread's have to count.
    Variable z = y * y;
    std::thread([&] { z.backward(); }).join();
    EXPECT_EQ(values(x.grad()), (Values{2.0 * 200001 * 200001, 4.0 * 200001 * 200001}));
    std::thread([&] {
      y = Variable();
      z = Variable();
    }).join();
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(GraphThreads, GuardsAreAThreadsOwn) {
  const Variable x = scalar_leaf(2.0);
  const NoGradGuard guard;
  std::thread([&] {
    EXPECT_TRUE(is_grad_enabled());
    EXPECT_TRUE((x * x).requires_grad());
  }).join();
  EXPECT_FALSE(is_grad_enabled());
}

}  // namespace
}  // namespace lmp
