#pragma once

#include <memory>
#include <utility>

#include "lamppp/tensor/tensor.hpp"

/// What a program says to GPUs beside the ops that it runs there. Lamp++ has this header, and what
/// it declares, where it was built with a CUDA toolkit; whether there is a GPU to use shows when
/// the program runs.
///
/// Ops on a GPU return before they have run. What reads values (to_vector(), item(), printing, the
/// first look at what to(DeviceType::CPU) has returned) waits for them, and so do ops whose shape
/// depends on values (nonzero, masked_select, unique), and copies of more than 8 MiB to the CPU;
/// nothing else does.
namespace lmp::cuda {

/// GPUs that can be used; 0 where there is no GPU or no driver.
LMP_API int device_count() noexcept;
/// Whether there is one.
inline bool is_available() noexcept { return device_count() > 0; }

/// Waits for all that a GPU has been given, on all streams. Throws IndexError where an op has met
/// an index out of range since the last time that the program waited, naming the op and the index;
/// ValueError where `remainder` has met an integer 0, or `pow` a negative power of integers, in a
/// tensor; and DeviceLostError where the GPU has failed.
LMP_API void synchronize(tensor::Device device = tensor::DeviceType::CUDA);

/// A queue of work for a GPU: what one is given runs in order, and beside what others are given.
/// A copy is the same queue.
///
/// A tensor belongs to the stream that was current when it was made. Another stream may use it once
/// it waits for that one; its memory then stays until both are done with it.
class LMP_API Stream {
 public:
  /// A new one. DeviceError where there is no such GPU.
  explicit Stream(tensor::Device device = tensor::DeviceType::CUDA);
  /// One that the program has made itself, a cudaStream_t, and that outlives its use here.
  static Stream wrap(void* stream, tensor::Device device = tensor::DeviceType::CUDA);
  /// The one that ops of this thread go to: CUDA's default stream unless a StreamGuard says else.
  static Stream current(tensor::Device device = tensor::DeviceType::CUDA);

  /// The cudaStream_t.
  void* handle() const noexcept { return handle_.get(); }
  /// The GPU it belongs to.
  tensor::Device device() const noexcept { return device_; }
  /// Waits for all that it has been given; throws as lmp::cuda::synchronize() does.
  void synchronize() const;
  /// What it is given from now on runs after all that `other` has been given so far. The program
  /// does not wait.
  void wait(const Stream& other) const;

 private:
  Stream(std::shared_ptr<void> handle, tensor::Device device)
      : handle_(std::move(handle)), device_(device) {}
  std::shared_ptr<void> handle_;
  tensor::Device device_;
};

/// While one is alive, this thread's ops on the stream's GPU go to the stream.
class LMP_API StreamGuard {
 public:
  /// Makes it the current one.
  explicit StreamGuard(Stream stream);
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;
  /// Makes the one before it the current one.
  ~StreamGuard();

 private:
  Stream stream_;
  void* previous_;
};

/// While one is alive, its GPU is the current one of the CUDA runtime on this thread, for CUDA code
/// that the program has of its own. Ops of Lamp++ go to where their tensors are, and leave it.
class LMP_API DeviceGuard {
 public:
  /// DeviceError where there is no such GPU.
  explicit DeviceGuard(tensor::Device device);
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  /// Makes the one before it the current one.
  ~DeviceGuard();

 private:
  int previous_ = 0;
};

/// A training step, or any other work of a GPU, recorded once and run again at the cost of a single
/// launch:
///
///   step();  // once or more as usual, so that what is set up at first use is there
///   lmp::cuda::Graph graph;
///   graph.capture(step);
///   for (...) { input.copy(batch); graph.replay(); }
///
/// A replay does what the captured ops do, with the same tensors: what changes between steps is
/// written into tensors that stay, as `input` above, and results are read from tensors that the
/// step leaves. Random numbers go on in the default generator's stream. Optimisers' steps go on in
/// their count of steps, on the GPU; the optimiser object itself does not see it, so take a
/// state_dict() of counted steps from a run without a graph. Nothing in the step may read values on
/// the host, or copy from it: that throws DeviceError, naming the op, and the graph stays as it
/// was.
class LMP_API Graph {
 public:
  /// For work on the GPU.
  explicit Graph(tensor::Device device = tensor::DeviceType::CUDA);
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  /// Waits for replays that still run.
  ~Graph();

  /// Records what `step` gives this thread's current GPU work to do, and runs none of it.
  template <class F>
  void capture(F&& step) {
    begin();
    try {
      std::forward<F>(step)();
    } catch (...) {
      abandon();
      throw;
    }
    end();
  }
  /// Runs what was captured, after what the current stream was given before; does not wait.
  void replay();
  /// The learning rate of the optimisers' steps in it from now on.
  void set_lr(double lr);

 private:
  void begin();
  void end();
  void abandon() noexcept;
  struct State;
  std::unique_ptr<State> state_;
};

/// How exact products of Float32 are.
enum class MatmulPrecision {
  Highest,  ///< in Float32
  High,  ///< in TF32, which has 10 bits of mantissa in the place of 23, and is several times faster
};

/// How exact products of Float32 are from now on, in all threads; Highest at first.
LMP_API void set_float32_matmul_precision(MatmulPrecision precision) noexcept;

/// Gives up everything that the program has on a GPU, and starts anew with it: the way on after a
/// DeviceLostError. Tensors that were there, and graphs and streams, are of no use from then on:
/// what they are used in throws DeviceLostError. No other thread may use the GPU meanwhile.
LMP_API void reset_device(tensor::Device device = tensor::DeviceType::CUDA);

/// Whether products use the same kernels in each run of the program, rather than the fastest ones
/// measured while it runs: off at first. All other ops are deterministic anyway.
LMP_API void set_deterministic(bool deterministic) noexcept;

}  // namespace lmp::cuda
