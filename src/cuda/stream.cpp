#include <mutex>
#include <vector>

#include "cuda/runtime.hpp"
#include "lamppp/cuda.hpp"

namespace lmp::cuda {

using tensor::Device;

namespace {

// Streams are used again and never destroyed, as memory that was used on one belongs to it.
struct Idle {
  std::mutex mutex;
  std::vector<std::pair<int, cudaStream_t>> streams;
};
Idle& idle() {
  static auto* const instance = new Idle;
  return *instance;
}

cudaStream_t take_stream(Device device) {
  {
    Idle& all = idle();
    const std::lock_guard lock(all.mutex);
    for (auto& entry : all.streams)
      if (entry.first == device.index) {
        const cudaStream_t stream = entry.second;
        std::swap(entry, all.streams.back());
        all.streams.pop_back();
        return stream;
      }
  }
  const Context context(device);
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "Stream");
  return made;
}

void give_stream(int index, cudaStream_t stream) noexcept {
  Idle& all = idle();
  const std::lock_guard lock(all.mutex);
  all.streams.emplace_back(index, stream);
}

cudaStream_t of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

}  // namespace

void synchronize(Device device) {
  check_gpu(device, "synchronize");
  const Context context(device);
  check_not_capturing("synchronize");
  check(cudaDeviceSynchronize(), "synchronize");
  throw_reported(context);
}

Stream::Stream(Device device) : device_(device) {
  check_gpu(device, "Stream");
  const int index = device.index;
  handle_ = std::shared_ptr<void>(take_stream(device), [index](void* stream) {
    give_stream(index, static_cast<cudaStream_t>(stream));
  });
}

Stream Stream::wrap(void* stream, Device device) {
  check_gpu(device, "Stream::wrap");
  return {std::shared_ptr<void>(stream, [](void*) {}), device};
}

Stream Stream::current(Device device) {
  check_gpu(device, "Stream::current");
  return wrap(current_stream(device.index), device);
}

void Stream::synchronize() const {
  Context context(device_);
  context.stream = of(*this);
  cuda::synchronize(context, "synchronize");
}

void Stream::wait(const Stream& other) const {
  if (handle() == other.handle() && device_ == other.device_) return;
  cudaEvent_t event = nullptr;
  {
    const Context context(other.device_);
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "Stream::wait");
    check(cudaEventRecord(event, of(other)), "Stream::wait");
  }
  const Context context(device_);
  check(cudaStreamWaitEvent(of(*this), event, 0), "Stream::wait");
  check(cudaEventDestroy(event), "Stream::wait");
}

StreamGuard::StreamGuard(Stream stream)
    : stream_(std::move(stream)),
      previous_(exchange_stream(stream_.device().index, of(stream_))) {}

StreamGuard::~StreamGuard() {
  exchange_stream(stream_.device().index, static_cast<cudaStream_t>(previous_));
}

}  // namespace lmp::cuda
