#pragma once

#include <cstdint>
#include <vector>

#include "cuda/runtime.hpp"

/// What ops have to know of a Graph that captures them.
namespace lmp::cuda {

/// The numbers of an optimiser's step that change from one replay to the next. They lie on the GPU,
/// where a kernel of the graph moves them on in front of the step.
struct Pace {
  double lr;
  std::int64_t step;
};

/// What a Graph keeps for ops that it has captured, until it is destroyed.
class Capture {
 public:
  explicit Capture(tensor::Device device) : device_(device) {}
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture();

  /// Memory of the GPU for `value`, which it holds from the next replay on.
  template <class T>
  T* keep(const T& value) {
    return static_cast<T*>(keep_bytes(&value, sizeof value));
  }
  /// A Pace that set_lr() reaches.
  Pace* keep_pace(const Pace& pace) { return paces_.emplace_back(keep(pace)); }
  const std::vector<Pace*>& paces() const noexcept { return paces_; }

  /// Where kernels find by how much the stream of random numbers has moved since the capture;
  /// `blocks` of it are drawn.
  const std::uint64_t* moved(std::uint64_t blocks) {
    if (!moved_) moved_ = keep(std::uint64_t{0});
    drawn_ += blocks;
    return moved_;
  }
  std::uint64_t drawn() const noexcept { return drawn_; }
  std::uint64_t* moved() const noexcept { return moved_; }

 private:
  void* keep_bytes(const void* value, std::size_t bytes);

  tensor::Device device_;
  std::vector<Memory> memory_;
  std::vector<Pace*> paces_;
  std::uint64_t* moved_ = nullptr;
  std::uint64_t drawn_ = 0;
};

/// The one that this thread's ops are captured for, or null.
Capture* current_capture() noexcept;

/// A place in the stream of random numbers, for kernels.
struct Place {
  std::uint64_t first;
  const std::uint64_t* moved;
  Place(std::uint64_t offset, std::int64_t blocks)
      : first(offset),
        moved(current_capture() ? current_capture()->moved(static_cast<std::uint64_t>(blocks))
                                : nullptr) {}
#ifdef __CUDACC__
  __device__ __forceinline__ std::uint64_t operator()() const {
    return moved ? first + *moved : first;
  }
#endif
};

}  // namespace lmp::cuda
