#include <algorithm>
#include <mutex>
#include <vector>

#include "cuda/matmul.hpp"
#include "cuda/runtime.hpp"
#include "cuda/staging.hpp"
#include "lamppp/cuda.hpp"
#include "lamppp/error.hpp"
#include "tensor/backend.hpp"
#include "tensor/queue.hpp"

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

void forget_streams(int index) {
  {
    Idle& all = idle();
    const std::lock_guard lock(all.mutex);
    std::erase_if(all.streams, [&](const auto& entry) { return entry.first == index; });
  }
  current_streams()[static_cast<std::size_t>(index)] = nullptr;
}

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
  const int index = device.index, born = generation(index);
  handle_ = std::shared_ptr<void>(take_stream(device), [index, born](void* stream) {
    if (born == generation(index)) give_stream(index, static_cast<cudaStream_t>(stream));
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

namespace {

// What the numbers of tensor/queue.hpp stand for.
struct Queues {
  std::mutex mutex;
  std::vector<Streams> known{Streams{}};
};
Queues& queues() {
  static auto* const instance = new Queues;
  return *instance;
}

std::uint16_t number_of(const Streams& streams) {
  Queues& all = queues();
  const std::lock_guard lock(all.mutex);
  const auto found = std::find(all.known.begin(), all.known.end(), streams);
  if (found != all.known.end()) return static_cast<std::uint16_t>(found - all.known.begin());
  if (all.known.size() > UINT16_MAX)
    throw DeviceError("StreamGuard: 65536 combinations of streams were current; use fewer streams");
  all.known.push_back(streams);
  return static_cast<std::uint16_t>(all.known.size() - 1);
}

// From here on memory may be used on several streams, or after a reset, which has to be noted.
void begin_to_record() {
  static const bool once = (record_events(true), true);
  (void)once;
}

}  // namespace

void change_queues(std::uint16_t to) {
  Streams next;
  {
    Queues& all = queues();
    const std::lock_guard lock(all.mutex);
    next = all.known[to];
  }
  for (int i = 0; i < device_count(); ++i) {
    const cudaStream_t before = current_stream(i), after = next[static_cast<std::size_t>(i)];
    if (before == after) continue;
    const Device device(tensor::DeviceType::CUDA, i);
    Stream::wrap(after, device).wait(Stream::wrap(before, device));
  }
  current_streams() = next;
  tensor::detail::current_queues = to;
}

void reset_device(Device device) {
  check_gpu(device, "reset_device");
  check_not_capturing("reset_device");
  begin_to_record();
  int previous = 0;
  check(cudaGetDevice(&previous), "reset_device");
  check(cudaSetDevice(device.index), "reset_device");
  forget_staging(device.index);
  const cudaError_t status = cudaDeviceReset();
  forget_memory(device.index);
  forget_streams(device.index);
  forget_library(device.index);
  forget_gpu(device.index);
  check(cudaSetDevice(previous), "reset_device");
  check(status, "reset_device");
}

DeviceGuard::DeviceGuard(Device device) {
  check_gpu(device, "DeviceGuard");
  check(cudaGetDevice(&previous_), "DeviceGuard");
  check(cudaSetDevice(device.index), "DeviceGuard");
}

DeviceGuard::~DeviceGuard() { cudaSetDevice(previous_); }

StreamGuard::StreamGuard(Stream stream)
    : stream_(std::move(stream)), previous_(current_stream(stream_.device().index)) {
  begin_to_record();
  Streams next = current_streams();
  next[static_cast<std::size_t>(stream_.device().index)] = of(stream_);
  tensor::detail::current_queues = number_of(next);
  current_streams() = next;
}

StreamGuard::~StreamGuard() {
  Streams& streams = current_streams();
  streams[static_cast<std::size_t>(stream_.device().index)] = static_cast<cudaStream_t>(previous_);
  tensor::detail::current_queues = number_of(streams);  // known already
}

}  // namespace lmp::cuda
