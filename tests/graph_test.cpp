// Graphs by shape: deep, wide and folded ones on a small stack, passes that fail, and threads.

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <thread>

#include "autograd_support.hpp"

namespace lmp {
namespace {

using testing::leaf;
using testing::live_bytes;
using testing::scalar_leaf;
using testing::values;
using Values = std::vector<double>;

/// Runs `body` on a thread with 256 KiB of stack.
void on_small_stack(const std::function<void()>& body) {
  struct Context {
    const std::function<void()>& body;
    std::exception_ptr error;
  } context{body, nullptr};
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 * 1024), 0);
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    auto* c = static_cast<Context*>(argument);
    try {
      c->body();
    } catch (...) {
      c->error = std::current_exception();
    }
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &context), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  if (context.error) std::rethrow_exception(context.error);
}

/// Builds, differentiates and destroys on a small stack; the time it took. Nothing may stay behind.
double seconds(const std::function<void()>& body) {
  const std::int64_t before = live_bytes();
  const auto start = std::chrono::steady_clock::now();
  on_small_stack(body);
  const double taken =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_EQ(live_bytes(), before);
  return taken;
}

/// `body(n)` for n and 4 n: not much more than four times as long. What disturbs a measurement does
/// so rarely twice.
void expect_linear(const std::function<void(int)>& body, int largest = 1000000) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  body(largest / 20);  // a sanitizer's time says nothing
  return;
#endif
  const double large = seconds([&] { body(largest); });
  const double small = seconds([&] { body(largest / 4); });
  if (large < 10 * small + 0.1) return;
  const double again = seconds([&] { body(largest); });
  EXPECT_LT(again, 10 * small + 0.1) << large << " s before, " << small << " s for a quarter";
}

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

void on_threads(int count, const std::function<void(int)>& body) {
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  for (int t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      ++ready;
      while (ready < count) std::this_thread::yield();
      try {
        body(t);
      } catch (...) {
        errors[static_cast<std::size_t>(t)] = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

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
