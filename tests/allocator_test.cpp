#include "tensor/allocator.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "autograd_support.hpp"
#include "lamppp/error.hpp"
#include "lamppp/tensor/memory.hpp"

namespace lmp::tensor {
namespace {

using detail::cpu_allocate;
using detail::cpu_deallocate;
using lmp::testing::held;
using lmp::testing::MemoryLeft;

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;
constexpr std::size_t kSizes[] = {
    0,          1,    63,       64,       65,       192, 1000, 4096, 5000, 64 * kKiB, 64 * kKiB + 1,
    300 * kKiB, kMiB, kMiB + 1, 5 * kMiB, 40 * kMiB};

/// A block that is full of its tag, and checks that it still is when it goes.
class Block {
 public:
  Block(std::size_t bytes, unsigned char tag)
      : bytes_(bytes), tag_(tag), data_(static_cast<unsigned char*>(cpu_allocate(bytes))) {
    std::memset(data_, tag, bytes);
  }
  Block(Block&& other) noexcept
      : bytes_(other.bytes_), tag_(other.tag_), data_(std::exchange(other.data_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(tag_, other.tag_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Block() {
    if (data_ == nullptr) return;
    EXPECT_TRUE(intact());
    cpu_deallocate(data_, bytes_);
  }
  bool intact() const {
    return bytes_ == 0 || (data_[0] == tag_ && std::memcmp(data_, data_ + 1, bytes_ - 1) == 0);
  }
  unsigned char* data() const { return data_; }

 private:
  std::size_t bytes_;
  unsigned char tag_;
  unsigned char* data_;
};

bool caching() {
  cpu_deallocate(cpu_allocate(64), 64);
  return memory_stats().cached_bytes > 0;
}

TEST(Allocator, SizeClassesWasteAtMostAQuarter) {
  ASSERT_EQ(detail::class_bytes(detail::kSizeClasses - 1), detail::kSmallBytes);
  for (std::size_t bytes = 0; bytes <= detail::kSmallBytes; ++bytes) {
    const int index = detail::size_class(bytes);
    const std::size_t block = detail::class_bytes(index);
    ASSERT_GE(block, bytes);
    ASSERT_EQ(block % detail::kAlignment, 0U);
    ASSERT_TRUE(index == 0 || detail::class_bytes(index - 1) < bytes) << bytes;
    ASSERT_LE(4 * (block - bytes), std::max<std::size_t>(bytes, 4 * detail::kAlignment)) << bytes;
  }
}

TEST(Allocator, BlocksAreAlignedAndApart) {
  std::vector<Block> blocks;
  unsigned char tag = 0;
  for (int round = 0; round < 3; ++round) {
    for (const std::size_t bytes : kSizes) {
      blocks.emplace_back(bytes, ++tag);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().data()) % detail::kAlignment, 0U);
    }
    blocks.erase(blocks.begin(), blocks.begin() + 5);
  }
}

TEST(Allocator, CountsExactly) {
  for (const std::size_t bytes : kSizes) {
    const MemoryStats before = memory_stats();
    void* const block = cpu_allocate(bytes);
    const MemoryStats during = memory_stats();
    cpu_deallocate(block, bytes);
    const MemoryStats after = memory_stats();

    EXPECT_EQ(during.live_bytes - before.live_bytes, static_cast<std::int64_t>(bytes));
    EXPECT_EQ(during.allocations - before.allocations, 1);
    EXPECT_GE(during.peak_live_bytes, during.live_bytes);
    const std::int64_t taken = during.live_block_bytes - before.live_block_bytes;
    EXPECT_GE(taken, static_cast<std::int64_t>(bytes));
    EXPECT_LE(taken, static_cast<std::int64_t>(bytes + std::max<std::size_t>(bytes / 4, 8 * kKiB)));
    EXPECT_EQ(after.live_bytes, before.live_bytes);
    EXPECT_EQ(after.live_block_bytes, before.live_block_bytes);
    EXPECT_EQ(after.allocations, during.allocations);
    EXPECT_GE(after.cached_bytes, before.cached_bytes);
  }
}

TEST(Allocator, PeakIsKept) {
  const std::int64_t live = memory_stats().live_bytes;
  cpu_deallocate(cpu_allocate(90 * kMiB), 90 * kMiB);
  EXPECT_GE(memory_stats().peak_live_bytes, live + static_cast<std::int64_t>(90 * kMiB));
}

TEST(Allocator, SteadyStateAsksTheSystemForNothing) {
  if (!caching()) GTEST_SKIP();
  const auto step = [] {
    std::vector<Block> blocks;
    for (const std::size_t bytes : kSizes) blocks.emplace_back(std::min(bytes, 2 * kMiB), 7);
  };
  step();
  rusage before{}, after{};
  const MemoryStats first = memory_stats();
  getrusage(RUSAGE_SELF, &before);
  for (int i = 0; i < 200; ++i) step();
  getrusage(RUSAGE_SELF, &after);
  const MemoryStats last = memory_stats();
  EXPECT_EQ(last.live_bytes, first.live_bytes);
  EXPECT_EQ(last.live_block_bytes, first.live_block_bytes);
  EXPECT_EQ(last.cached_bytes, first.cached_bytes);
  EXPECT_EQ(last.system_allocations, first.system_allocations);
  EXPECT_LT(after.ru_minflt - before.ru_minflt, 100);  // one per step would be 200
}

TEST(Allocator, SmallBlocksComeBackLastInFirstOut) {
  if (!caching()) GTEST_SKIP();
  void* const a = cpu_allocate(200);
  void* const b = cpu_allocate(200);
  cpu_deallocate(a, 200);
  cpu_deallocate(b, 200);
  void* const c = cpu_allocate(250);
  void* const d = cpu_allocate(193);
  EXPECT_EQ(c, b);
  EXPECT_EQ(d, a);
  cpu_deallocate(c, 250);
  cpu_deallocate(d, 193);
}

TEST(Allocator, NeighboursMergeInAnyOrder) {
  if (!caching()) GTEST_SKIP();
  constexpr std::size_t kPart = 8 * kMiB;
  std::array<int, 3> order{0, 1, 2};
  do {
    empty_cache();
    std::array<void*, 3> parts{};
    for (void*& part : parts) part = cpu_allocate(kPart);
    for (std::size_t i = 1; i < 3; ++i) {
      ASSERT_LE(static_cast<char*>(parts[i]) - static_cast<char*>(parts[i - 1]),
                static_cast<std::ptrdiff_t>(kPart + 8 * kKiB));
    }
    for (const int i : order) cpu_deallocate(parts[static_cast<std::size_t>(i)], kPart);
    const std::int64_t asked = memory_stats().system_allocations;
    void* const whole = cpu_allocate(3 * kPart);
    EXPECT_EQ(whole, parts[0]);
    EXPECT_EQ(memory_stats().system_allocations, asked);
    cpu_deallocate(whole, 3 * kPart);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Allocator, TakesTheSmallestHoleThatFits) {
  if (!caching()) GTEST_SKIP();
  empty_cache();
  // Sizes next to each other and far apart; the third request of a row meets one hole only.
  constexpr std::array<std::size_t, 3> kHoles[] = {{9000, 5000, 7000}, {5900, 5300, 5600}};
  constexpr std::array<std::size_t, 3> kWanted[] = {{4900, 6000, 8000}, {5200, 5500, 5800}};
  for (std::size_t row = 0; row < 2; ++row) {
    std::array<void*, 3> holes{}, fences{}, got{};
    for (std::size_t i = 0; i < 3; ++i) {
      holes[i] = cpu_allocate(kHoles[row][i] * kKiB);
      fences[i] = cpu_allocate(2 * kMiB);
    }
    for (std::size_t i = 0; i < 3; ++i) cpu_deallocate(holes[i], kHoles[row][i] * kKiB);
    for (std::size_t i = 0; i < 3; ++i) got[i] = cpu_allocate(kWanted[row][i] * kKiB);
    EXPECT_EQ(got[0], holes[1]);
    EXPECT_EQ(got[1], holes[2]);
    EXPECT_EQ(got[2], holes[0]);
    for (std::size_t i = 0; i < 3; ++i) {
      cpu_deallocate(got[i], kWanted[row][i] * kKiB);
      cpu_deallocate(fences[i], 2 * kMiB);
    }
  }
}

TEST(Allocator, HeapSurvivesRandomUse) {
  std::mt19937 random(7);
  const MemoryStats before = memory_stats();
  {
    std::vector<Block> blocks;
    for (int i = 0; i < 3000; ++i) {
      if (blocks.size() > 40 || (!blocks.empty() && random() % 2 == 0)) {
        std::swap(blocks[random() % blocks.size()], blocks.back());
        blocks.pop_back();
      } else {
        blocks.emplace_back(random() % (random() % 4 == 0 ? 3 * kMiB : 200 * kKiB),
                            static_cast<unsigned char>(i));
      }
    }
  }
  const MemoryStats after = memory_stats();
  EXPECT_EQ(after.live_bytes, before.live_bytes);
  EXPECT_EQ(after.live_block_bytes, before.live_block_bytes);
}

TEST(Allocator, EmptyCacheGivesBackFreeSegmentsOnly) {
  const bool cached = caching();
  empty_cache();
  std::vector<Block> blocks;  // neighbours, of which the first and the last go
  for (unsigned char i = 0; i < 4; ++i) blocks.emplace_back(3 * kMiB, i);
  blocks.erase(blocks.begin());
  blocks.pop_back();
  void* const large = cpu_allocate(100 * kMiB);
  if (cached) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large) % (2 * kMiB), detail::kAlignment);
  }
  cpu_deallocate(large, 100 * kMiB);
  const std::int64_t before = memory_stats().cached_bytes;
  empty_cache();
  EXPECT_GE(before - memory_stats().cached_bytes, cached ? std::int64_t{100} << 20 : 0);
  for (const Block& block : blocks) EXPECT_TRUE(block.intact());
  blocks.emplace_back(3 * kMiB, 4);
  blocks.erase(blocks.begin(), blocks.begin() + 2);
}

TEST(Allocator, GrowingRequestsDoNotPileUp) {
  if (!caching()) GTEST_SKIP();
  empty_cache();
  const std::size_t before = held();
  for (std::size_t size = 100 * kMiB; size < 400 * kMiB; size += 10 * kMiB) {
    cpu_deallocate(cpu_allocate(size), size);
  }
  EXPECT_LT(held() - before, 500 * kMiB);
}

TEST(Allocator, LimitThrowsAndRecovers) {
  empty_cache();
  const MemoryStats before = memory_stats();
  {
    const MemoryLeft left(16 * kMiB);
    try {
      static_cast<void>(cpu_allocate(64 * kMiB));
      FAIL() << "the limit was ignored";
    } catch (const OutOfMemoryError& error) {
      const std::string message = error.what();
      for (const std::string& part :
           {std::to_string(64 * kMiB) + " bytes asked for",
            std::to_string(before.live_bytes) + " live", std::string(" cached"),
            "limit " + std::to_string(
                           static_cast<std::size_t>(before.live_block_bytes + before.cached_bytes) +
                           16 * kMiB)}) {
        EXPECT_NE(message.find(part), std::string::npos) << message;
      }
    }
    EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
    const Block fits(4 * kMiB, 1);
  }
  const Block unlimited(64 * kMiB, 2);
}

TEST(Allocator, SmallRequestsMeetTheLimitToo) {
  std::vector<void*> blocks;
  empty_cache();
  const MemoryLeft left(8 * kMiB);
  EXPECT_THROW(for (int i = 0; i < 1'000'000; ++i) blocks.push_back(cpu_allocate(300)),
               OutOfMemoryError);
  EXPECT_GT(blocks.size(), 8 * kMiB / 320 / 2);
  for (void* const block : blocks) cpu_deallocate(block, 300);
  const Block again(300, 3);
}

TEST(Allocator, CachedMemoryIsReturnedBeforeGivingUp) {
  if (!caching()) GTEST_SKIP();
  empty_cache();
  {
    std::vector<Block> medium;
    for (int i = 0; i < 40; ++i) medium.emplace_back(900 * kKiB, 4);
  }
  const MemoryLeft left(0);
  const Block large(20 * kMiB, 5);
}

TEST(Allocator, AbsurdSizesThrow) {
  const MemoryStats before = memory_stats();
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2, std::size_t{1} << 47}) {
    EXPECT_THROW(static_cast<void>(cpu_allocate(bytes)), OutOfMemoryError);
  }
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
  EXPECT_EQ(memory_stats().allocations, before.allocations);
}

TEST(Allocator, InjectedFailureHitsTheNthAllocation) {
  const MemoryStats before = memory_stats();
  {
    const Block early(100, 1);
    detail::fail_allocation_in(3);
    const Block first(100, 2), second(2 * kMiB, 3);
    EXPECT_THROW(Block(100, 4), OutOfMemoryError);
    const Block third(100, 5);
    detail::fail_allocation_in(0);
    const Block fourth(100, 6);
  }
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
  EXPECT_EQ(memory_stats().live_block_bytes, before.live_block_bytes);
  EXPECT_EQ(memory_stats().allocations, before.allocations + 5);
}

TEST(Allocator, ThreadsPassBlocksAround) {
  const MemoryStats before = memory_stats();
  {
    std::mutex mutex;
    std::vector<Block> pool;
    const auto churn = [&](unsigned seed) {
      std::mt19937 random(seed);
      for (int i = 0; i < 3000; ++i) {
        Block fresh(random() % (random() % 64 == 0 ? 300 * kKiB : 3000),
                    static_cast<unsigned char>(random()));
        const std::lock_guard lock(mutex);
        if (pool.size() < 200) {
          pool.push_back(std::move(fresh));
        } else {
          std::swap(pool[random() % pool.size()], fresh);
        }
      }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(churn, i);
    for (std::thread& thread : threads) thread.join();
  }
  const MemoryStats after = memory_stats();
  EXPECT_EQ(after.live_bytes, before.live_bytes);
  EXPECT_EQ(after.live_block_bytes, before.live_block_bytes);
  EXPECT_EQ(after.allocations - before.allocations, 4 * 3000);
}

TEST(Allocator, BlocksFreedElsewhereFlowBack) {
  if (!caching()) GTEST_SKIP();
  const auto round = [] {
    std::vector<void*> blocks(1000);
    for (void*& block : blocks) block = cpu_allocate(192);
    std::thread([&] {
      for (void* const block : blocks) cpu_deallocate(block, 192);
    }).join();
  };
  round();
  const std::size_t before = held();
  for (int i = 0; i < 200; ++i) round();
  EXPECT_EQ(held(), before);  // 38 MB if nothing came back
}

TEST(Allocator, ReadersOfTheCountersMeetNoTornState) {
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    while (!stop) const Block block(192, 1);
  });
  for (int i = 0; i < 2000; ++i) EXPECT_GE(memory_stats().live_bytes, 0);
  stop = true;
  worker.join();
}

void* late_block = nullptr;

TEST(Allocator, ThreadsMayUseItAfterTheirCacheIsGone) {
  const MemoryStats before = memory_stats();
  // Keys are destroyed in the order of their creation, so this comes after the allocator's own.
  pthread_key_t key;
  ASSERT_EQ(pthread_key_create(&key,
                               [](void* block) {
                                 cpu_deallocate(block, 500);
                                 late_block = cpu_allocate(500);
                               }),
            0);
  std::thread([&] {
    const Block block(500, 1);
    pthread_setspecific(key, cpu_allocate(500));
  }).join();
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes + 500);
  cpu_deallocate(std::exchange(late_block, nullptr), 500);
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
  EXPECT_EQ(memory_stats().live_block_bytes, before.live_block_bytes);
  pthread_key_delete(key);
}

TEST(Allocator, AnEndedThreadLeavesItsBlocksToOthers) {
  if (!caching()) GTEST_SKIP();
  constexpr std::size_t kBytes = 448;
  std::atomic<bool> attached{false}, ended{false};
  void* found = nullptr;
  std::thread heir([&] {
    cpu_deallocate(cpu_allocate(64), 64);
    attached = true;
    while (!ended) std::this_thread::yield();
    found = cpu_allocate(kBytes);
    cpu_deallocate(found, kBytes);
  });
  while (!attached) std::this_thread::yield();
  std::vector<void*> blocks(100);
  std::thread([&] {
    for (void*& block : blocks) block = cpu_allocate(kBytes);
    for (void* const block : blocks) cpu_deallocate(block, kBytes);
  }).join();
  ended = true;
  heir.join();
  EXPECT_NE(std::find(blocks.begin(), blocks.end(), found), blocks.end());
}

TEST(Allocator, ForkedChildrenMayAllocate) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own allocator may be locked in a forked child";
#endif
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    // Most of its time it holds a lock.
    while (!stop) cpu_deallocate(cpu_allocate(100 * kKiB), 100 * kKiB);
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(20);
      bool intact = true;
      for (const std::size_t bytes : {std::size_t{10}, std::size_t{3000}, 100 * kKiB, 2 * kMiB}) {
        for (int k = 0; k < 100; ++k) intact = Block(bytes, 5).intact() && intact;
      }
      memory_stats();
      empty_cache();
      _exit(intact ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  worker.join();
}

TEST(Allocator, OtherDevicesHaveNoStats) {
  EXPECT_THROW(memory_stats(DeviceType::CUDA), DeviceError);
}

TEST(Allocator, AllOfThisHoldsWithoutTheCache) {
  if (!caching()) GTEST_SKIP();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  EXPECT_EQ(std::system(("LAMPPP_ALLOCATOR_CACHE=0 '" + program +
                         "' --gtest_brief=1 --gtest_filter='Allocator.*'")
                            .c_str()),
            0);
}

}  // namespace
}  // namespace lmp::tensor
