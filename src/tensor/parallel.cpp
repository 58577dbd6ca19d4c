#include "tensor/parallel.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>

#include "lamppp/error.hpp"
#include "lamppp/tensor/threads.hpp"

// The thread sanitizer knows nothing of libgomp's synchronisation and reports races that are not
// there.
#if defined(__SANITIZE_THREAD__)
#define LMP_USE_OPENMP 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LMP_USE_OPENMP 0
#endif
#endif
#if !defined(LMP_USE_OPENMP)
#if defined(_OPENMP)
#define LMP_USE_OPENMP 1
#else
#define LMP_USE_OPENMP 0
#endif
#endif

#if LMP_USE_OPENMP
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace lmp::tensor {
namespace {

constexpr int kMaxThreads = 1024;

constinit thread_local bool in_region = false;
constinit std::atomic<bool> forked{false};

int available_cores() noexcept {
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
#endif
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

std::atomic<int>& thread_count() noexcept {
  static constinit std::atomic<int> count{0};
  [[maybe_unused]] static const bool ready = [] {
    int threads = available_cores();
    for (const char* name : {"LAMPPP_NUM_THREADS", "OMP_NUM_THREADS"}) {
      const char* const text = std::getenv(name);
      const long cap = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
      if (cap > 0 && cap < threads) threads = static_cast<int>(cap);
    }
    count.store(std::clamp(threads, 1, kMaxThreads), std::memory_order_relaxed);
    // A pool of threads does not survive a fork.
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
    return true;
  }();
  return count;
}

/// One call of parallel_chunks.
class Region {
 public:
  Region(std::int64_t n, std::int64_t chunk, void (*body)(void*, std::int64_t, std::int64_t),
         void* context)
      : n_(n), chunk_(chunk), chunks_((n - 1) / chunk + 1), body_(body), context_(context) {}

  std::int64_t chunks() const noexcept { return chunks_; }

  /// The share of thread `index` of `count`: neighbouring chunks.
  void run(int index, int count) noexcept {
    const bool outer = std::exchange(in_region, true);
    const std::int64_t share = chunks_ / count;
    const std::int64_t more = chunks_ % count;
    const std::int64_t first = index * share + std::min<std::int64_t>(index, more);
    const std::int64_t last = first + share + (index < more ? 1 : 0);
    try {
      for (std::int64_t i = first; i < last && !failed_.load(std::memory_order_relaxed); ++i) {
        body_(context_, i * chunk_, i * chunk_ + std::min(chunk_, n_ - i * chunk_));
      }
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
    in_region = outer;
  }

  void rethrow() {
    if (error_ != nullptr) std::rethrow_exception(std::move(error_));
  }

 private:
  std::int64_t n_;
  std::int64_t chunk_;
  std::int64_t chunks_;
  void (*body_)(void*, std::int64_t, std::int64_t);
  void* context_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

void run_threads(Region& region, int count) {
#if LMP_USE_OPENMP
#pragma omp parallel num_threads(count)
  region.run(omp_get_thread_num(), omp_get_num_threads());
#else
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(count - 1));
  try {
    while (static_cast<int>(threads.size()) < count - 1) {
      threads.emplace_back(&Region::run, &region, static_cast<int>(threads.size()) + 1, count);
    }
  } catch (const std::exception&) {
    // No more threads to be had: this one takes the shares left over.
  }
  region.run(0, count);
  for (int i = static_cast<int>(threads.size()) + 1; i < count; ++i) region.run(i, count);
  for (std::thread& thread : threads) thread.join();
#endif
}

}  // namespace

void set_num_threads(int count) {
  if (count < 1 || count > kMaxThreads) {
    throw ValueError("set_num_threads: the number of threads must be 1 to " +
                     std::to_string(kMaxThreads) + ", not " + std::to_string(count));
  }
  thread_count().store(count, std::memory_order_relaxed);
}

int get_num_threads() noexcept {
  const int count = thread_count().load(std::memory_order_relaxed);
  return forked.load(std::memory_order_relaxed) ? 1 : count;
}

namespace detail {

void parallel_chunks(std::int64_t n, std::int64_t chunk,
                     void (*body)(void*, std::int64_t, std::int64_t), void* context) {
  if (n <= 0) return;
  Region region(n, chunk, body, context);
  const auto count =
      static_cast<int>(std::min<std::int64_t>(in_region ? 1 : get_num_threads(), region.chunks()));
  if (count == 1) {
    region.run(0, 1);
  } else {
    run_threads(region, count);
  }
  region.rethrow();
}

bool in_parallel_region() noexcept { return in_region; }

}  // namespace detail
}  // namespace lmp::tensor
