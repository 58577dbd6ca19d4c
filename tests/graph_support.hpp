#pragma once

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "autograd_support.hpp"

/// Small stacks, times and threads, for tests of graphs.
namespace lmp::testing {

/// Runs `body` on a thread with 256 KiB of stack.
inline void on_small_stack(const std::function<void()>& body) {
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
inline double seconds(const std::function<void()>& body) {
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
inline void expect_linear(const std::function<void(int)>& body, int largest = 1000000) {
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

/// Runs `body(0)` ... `body(count - 1)` at once.
inline void on_threads(int count, const std::function<void(int)>& body) {
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

}  // namespace lmp::testing
