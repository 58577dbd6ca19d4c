#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "cuda/allocator.hpp"
#include "lamppp/cuda.hpp"

/// The way to the CUDA runtime, for host code and for kernels' launchers.
namespace lmp::cuda {

/// Throws what `status` says where it is not success: OutOfMemoryError, DeviceLostError for what no
/// call after it survives, else DeviceError. `what` names the op or the call.
void check(cudaError_t status, const char* what);

/// Throws DeviceError where there is no such GPU, and says why.
void check_device(int index);
/// The same, for a call that only GPUs answer.
void check_gpu(tensor::Device device, const char* what);
/// Throws DeviceLostError where an earlier failure has made the GPU useless.
void check_alive(int index);

/// How often a GPU was reset: what was made before is of no use.
int generation(int index) noexcept;
/// Forgets what is known of a GPU, in a new generation.
void forget_gpu(int index) noexcept;

/// What launches look up of a GPU.
struct Properties {
  int multiprocessors;
  int shared_bytes;  // that a block may ask for
};
const Properties& properties(int index);

inline constexpr int kMaxDevices = 64;

/// The streams that this thread's ops go to, by GPU.
using Streams = std::array<cudaStream_t, kMaxDevices>;
Streams& current_streams() noexcept;
inline cudaStream_t current_stream(int index) noexcept {
  return current_streams()[static_cast<std::size_t>(index)];
}

/// Throws DeviceError while a Graph captures what this thread does: `what` cannot be part of it.
void check_not_capturing(const char* what);

/// Where an op runs: its GPU, which is the calling thread's current one while this lives, and the
/// stream.
class Context {
 public:
  explicit Context(tensor::Device device);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() {
    if (previous_ >= 0) [[unlikely]]
      cudaSetDevice(previous_);
  }
  int index;
  cudaStream_t stream;

 private:
  int previous_ = -1;
};

/// Memory of a GPU that lives until the ops of this stream that were launched before the end of the
/// scope have run.
class Scratch {
 public:
  Scratch(const Context& context, std::size_t bytes);
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  template <class T = std::byte>
  T* as() const noexcept {
    return static_cast<T*>(memory_.data);
  }

 private:
  Memory memory_;
};

/// Kernels launched by this process, for tests and profiles.
std::int64_t launch_count() noexcept;
void count_launch() noexcept;

/// Waits for the stream, then throws what kernels have reported: see IndexReport.
void synchronize(const Context& context, const char* what);
/// Throws what kernels have reported, once they have run.
void throw_reported(const Context& context);

/// Where kernels report the first bad index that they met, in host memory that the GPU can write.
/// They clamp it and go on; it is thrown at the next read or synchronize(). The same goes for
/// integers that an op has no answer for, which have a `size` below 0.
struct IndexReport {
  static constexpr std::int64_t kDivisionByZero = -1, kNegativePower = -2;
  static constexpr int kNone = 0, kBegun = 1, kWhole = 2;
  int state;
  const char* op;  // a literal of the host
  std::int64_t value;
  std::int64_t size;
};
/// The report of a GPU, as kernels see it.
IndexReport* index_report(int index);

}  // namespace lmp::cuda
