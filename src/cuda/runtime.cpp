#include "cuda/runtime.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "lamppp/error.hpp"
#include "tensor/checks.hpp"
#include "tensor/format.hpp"

namespace lmp::cuda {

using tensor::detail::concat;

namespace {

struct Gpu {
  Properties properties{};
  IndexReport* report = nullptr;       // in host memory
  IndexReport* report_seen = nullptr;  // the same, as the GPU sees it
  std::atomic<bool> lost = false;
};

struct Gpus {
  int count = 0;
  std::string absent;  // why there is none
  std::array<std::atomic<Gpu*>, kMaxDevices> at{};
  std::mutex mutex;
};

// Never destroyed: tensors may outlive everything else.
Gpus& gpus() {
  static Gpus* const instance = [] {
    auto* all = new Gpus;
    if (const cudaError_t status = cudaGetDeviceCount(&all->count); status != cudaSuccess) {
      cudaGetLastError();
      all->count = 0;
      all->absent = cudaGetErrorString(status);
    }
    all->count = std::min(all->count, kMaxDevices);
    return all;
  }();
  return *instance;
}

Gpu& gpu(int index) {
  Gpus& all = gpus();
  if (Gpu* known = all.at[static_cast<std::size_t>(index)].load(std::memory_order_acquire))
      [[likely]]
    return *known;
  const std::lock_guard lock(all.mutex);
  auto& slot = all.at[static_cast<std::size_t>(index)];
  if (Gpu* known = slot.load(std::memory_order_relaxed)) return *known;
  auto made = std::make_unique<Gpu>();
  int previous = 0;
  check(cudaGetDevice(&previous), "cudaGetDevice");
  check(cudaSetDevice(index), "cudaSetDevice");
  const auto attribute = [&](cudaDeviceAttr what) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, what, index), "cudaDeviceGetAttribute");
    return value;
  };
  made->properties = {attribute(cudaDevAttrMultiProcessorCount),
                      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  void* host = nullptr;
  check(cudaHostAlloc(&host, sizeof(IndexReport), cudaHostAllocMapped | cudaHostAllocPortable),
        "cudaHostAlloc");
  made->report = new (host) IndexReport{};
  void* seen = nullptr;
  check(cudaHostGetDevicePointer(&seen, host, 0), "cudaHostGetDevicePointer");
  made->report_seen = static_cast<IndexReport*>(seen);
  check(cudaSetDevice(previous), "cudaSetDevice");
  slot.store(made.get(), std::memory_order_release);
  return *made.release();
}

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorUnknown:
    case cudaErrorContextIsDestroyed:
      return true;
    default:
      return false;
  }
}

constinit thread_local Streams streams{};
constinit std::atomic<std::int64_t> launches = 0;
constinit std::array<std::atomic<int>, kMaxDevices> generations{};

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // or the next call would report it once more
  const std::string said = concat(cudaGetErrorName(status), ", ", cudaGetErrorString(status));
  if (status == cudaErrorMemoryAllocation)
    throw OutOfMemoryError(concat(what, ": the GPU has no memory left (", said, ")"));
  if (is_sticky(status)) {
    int index = 0;
    if (cudaGetDevice(&index) == cudaSuccess && index < gpus().count) gpu(index).lost = true;
    throw DeviceLostError(
        concat(what, ": CUDA:", index, " failed (", said,
               ") and is of no use until lmp::cuda::reset_device(). The failure may come from an "
               "op before "
               "this one; run with CUDA_LAUNCH_BLOCKING=1 to have each op wait for its kernels"));
  }
  throw DeviceError(concat(what, ": ", said));
}

int device_count() noexcept { return gpus().count; }

void check_device(int index) {
  const Gpus& all = gpus();
  if (index >= 0 && index < all.count) [[likely]]
    return;
  if (all.count == 0)
    throw DeviceError(concat("CUDA:", index, ": no GPU can be used here (", all.absent,
                             "); use DeviceType::CPU"));
  throw DeviceError(concat("CUDA:", index, ": this machine has ", all.count,
                           all.count == 1 ? " GPU, CUDA:0" : " GPUs, from CUDA:0 on"));
}

void check_gpu(tensor::Device device, const char* what) {
  if (device.type != tensor::DeviceType::CUDA)
    throw DeviceError(concat(what, ": ", device, " is not a GPU; name DeviceType::CUDA"));
  check_device(device.index);
}

void check_alive(int index) {
  if (gpu(index).lost.load(std::memory_order_relaxed)) [[unlikely]]
    throw DeviceLostError(concat("CUDA:", index,
                                 " failed earlier and is of no use any more; "
                                 "lmp::cuda::reset_device() starts anew, without its tensors"));
}

int generation(int index) noexcept {
  return generations[static_cast<std::size_t>(index)].load(std::memory_order_relaxed);
}
void forget_gpu(int index) noexcept {
  gpus().at[static_cast<std::size_t>(index)] = nullptr;
  ++generations[static_cast<std::size_t>(index)];
}

const Properties& properties(int index) { return gpu(index).properties; }

Streams& current_streams() noexcept { return streams; }

Context::Context(tensor::Device device)
    : index(device.index), stream(current_stream(device.index)) {
  check_alive(index);
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  if (current != index) [[unlikely]] {
    check(cudaSetDevice(index), "cudaSetDevice");
    previous_ = current;
  }
}

Scratch::Scratch(const Context& context, std::size_t bytes)
    : memory_(allocate_bytes(context.index, context.stream, bytes)) {}
Scratch::~Scratch() { free_bytes(memory_.block); }

std::int64_t launch_count() noexcept { return launches.load(std::memory_order_relaxed); }
void count_launch() noexcept { launches.fetch_add(1, std::memory_order_relaxed); }

IndexReport* index_report(int index) { return gpu(index).report_seen; }

void synchronize(const Context& context, const char* what) {
  check_not_capturing(what);
  check(cudaStreamSynchronize(context.stream), what);
  throw_reported(context);
}

void throw_reported(const Context& context) {
  IndexReport& report = *gpu(context.index).report;
  const std::atomic_ref state(report.state);
  if (state.load(std::memory_order_acquire) != IndexReport::kWhole) [[likely]]
    return;
  const IndexReport found = report;
  state.store(IndexReport::kNone, std::memory_order_release);
  const std::string when =
      concat("; reported by CUDA:", context.index, " after the op was started");
  if (found.size == IndexReport::kDivisionByZero)
    throw ValueError(concat(tensor::detail::kDivisionByZero, when));
  if (found.size == IndexReport::kNegativePower)
    throw ValueError(concat(tensor::detail::kNegativePower, when));
  throw IndexError(
      concat(found.op, ": index ", found.value, " is out of range for size ", found.size, when));
}

}  // namespace lmp::cuda
