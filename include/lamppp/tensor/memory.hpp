#pragma once

#include <cstddef>
#include <cstdint>

#include "lamppp/export.hpp"
#include "lamppp/tensor/device_type.hpp"

namespace lmp::tensor {

/// What a device's allocator holds. Exact while no other thread allocates or frees.
struct MemoryStats {
  std::int64_t live_bytes = 0;          ///< asked for and not yet freed
  std::int64_t live_block_bytes = 0;    ///< the blocks that hold them, rounding included
  std::int64_t cached_bytes = 0;        ///< obtained from the system, free to be used again
  std::int64_t peak_live_bytes = 0;     ///< highest live_bytes, give or take what a thread caches
  std::int64_t allocations = 0;         ///< blocks handed out since the program started
  std::int64_t system_allocations = 0;  ///< requests made to the system since the program started
};

/// The counters of a device's allocator. A device that is not there is a DeviceError.
LMP_API MemoryStats memory_stats(Device device = DeviceType::CPU);

/// Gives memory that no tensor uses back to the system, on all devices. Freed tensors are kept for
/// reuse, so a program calls this only to make room for something else. Memory of small tensors (up
/// to 64 KiB) stays.
LMP_API void empty_cache();

/// Bounds the memory that a device holds for tensors, live and cached, to `bytes`; 0 lifts the
/// bound. An allocation that would exceed it empties the cache, tries again and throws
/// OutOfMemoryError. What is held already stays; memory comes in segments of 2 MiB and more.
LMP_API void set_memory_limit(std::size_t bytes, Device device = DeviceType::CPU);

}  // namespace lmp::tensor
