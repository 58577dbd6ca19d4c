#include "tensor/parallel.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lamppp/error.hpp"
#include "lamppp/tensor/threads.hpp"

namespace lmp::tensor {
namespace {

using detail::in_parallel_region;
using detail::parallel_for;
using Chunks = std::vector<std::pair<std::int64_t, std::int64_t>>;

class NumThreads {
 public:
  explicit NumThreads(int count) { set_num_threads(count); }
  ~NumThreads() { set_num_threads(before_); }

 private:
  int before_ = get_num_threads();
};

Chunks chunks_of(std::int64_t n, std::int64_t chunk) {
  Chunks chunks;
  std::mutex mutex;
  parallel_for(n, chunk, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    chunks.emplace_back(begin, end);
  });
  std::sort(chunks.begin(), chunks.end());
  return chunks;
}

TEST(Parallel, ChunksDoNotDependOnThreads) {
  for (const auto& [n, chunk] :
       Chunks{{0, 4}, {1, 4}, {4, 4}, {5, 4}, {1000, 7}, {64, 1}, {3, 1}}) {
    Chunks expected;
    for (std::int64_t i = 0; i < n; i += chunk) expected.emplace_back(i, std::min(n, i + chunk));
    for (const int threads : {1, 2, 3, 8}) {
      const NumThreads guard(threads);
      EXPECT_EQ(chunks_of(n, chunk), expected) << n << ' ' << chunk << ' ' << threads;
    }
  }
}

TEST(Parallel, EndsDoNotOverflow) {
  constexpr std::int64_t kMost = INT64_MAX;
  const NumThreads guard(2);
  EXPECT_EQ(chunks_of(kMost, kMost - 1), (Chunks{{0, kMost - 1}, {kMost - 1, kMost}}));
}

TEST(Parallel, ThreadsRunAtTheSameTime) {
  const NumThreads guard(3);
  std::atomic<int> arrived{0};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
    ++arrived;
    while (arrived < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(arrived, 3);
  });
}

TEST(Parallel, NestedCallsStayOnTheirThread) {
  const NumThreads guard(2);
  EXPECT_FALSE(in_parallel_region());
  std::atomic<int> inner{0};
  parallel_for(4, 1, [&](std::int64_t, std::int64_t) {
    EXPECT_TRUE(in_parallel_region());
    const auto self = std::this_thread::get_id();
    parallel_for(10, 1, [&](std::int64_t, std::int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++inner;
    });
    EXPECT_TRUE(in_parallel_region());
  });
  EXPECT_EQ(inner, 40);
  EXPECT_FALSE(in_parallel_region());
}

TEST(Parallel, CarriesTheFirstException) {
  for (const int threads : {1, 2, 8}) {
    const NumThreads guard(threads);
    for (const std::int64_t bad : {0, 57, 99}) {
      try {
        parallel_for(100, 1, [&](std::int64_t begin, std::int64_t) {
          if (begin == bad) throw ShapeError("chunk " + std::to_string(begin));
        });
        ADD_FAILURE() << "nothing thrown";
      } catch (const ShapeError& error) {
        EXPECT_EQ(error.what(), "chunk " + std::to_string(bad));
      }
      EXPECT_FALSE(in_parallel_region());
    }
    EXPECT_THROW(
        parallel_for(100, 1, [](std::int64_t, std::int64_t) { throw std::runtime_error("all"); }),
        std::runtime_error);
    EXPECT_EQ(chunks_of(100, 1).size(), 100U);
  }
}

TEST(Parallel, CallersDoNotDisturbEachOther) {
  const NumThreads guard(2);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([] {
      for (int round = 0; round < 20; ++round) EXPECT_EQ(chunks_of(50, 1).size(), 50U);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(Parallel, AForkedChildRunsSerially) {
  const NumThreads guard(2);
  chunks_of(100, 1);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    const auto self = std::this_thread::get_id();
    bool right = get_num_threads() == 1;
    std::int64_t sum = 0;
    parallel_for(100, 1, [&](std::int64_t begin, std::int64_t) {
      right = right && std::this_thread::get_id() == self;
      sum += begin;
    });
    _exit(right && sum == 4950 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(get_num_threads(), 2);
}

TEST(Parallel, NumberOfThreadsIsChecked) {
  const NumThreads guard(2);
  for (const int count : {0, -1, 1025}) EXPECT_THROW(set_num_threads(count), ValueError);
  EXPECT_EQ(get_num_threads(), 2);
  set_num_threads(5);
  EXPECT_EQ(get_num_threads(), 5);
}

TEST(Parallel, EnvironmentCapsTheDefault) {
  if (std::getenv("LAMPPP_TEST_ONE_THREAD") != nullptr) {
    EXPECT_EQ(get_num_threads(), 1);
    return;
  }
  EXPECT_GE(get_num_threads(), 1);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  for (const std::string variable : {"LAMPPP_NUM_THREADS=1 ", "OMP_NUM_THREADS=1,4 "}) {
    const std::string command =
        variable + "LAMPPP_TEST_ONE_THREAD=1 '" + program +
        "' --gtest_brief=1 --gtest_filter=Parallel.EnvironmentCapsTheDefault";
    EXPECT_EQ(std::system(command.c_str()), 0) << variable;
  }
}

}  // namespace
}  // namespace lmp::tensor
