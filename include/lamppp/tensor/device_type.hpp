#pragma once

#include <cstdint>
#include <iosfwd>

#include "lamppp/export.hpp"

namespace lmp::tensor {

/// A kind of device.
enum class DeviceType : std::uint8_t { CPU, CUDA };

/// A device: its kind and, where there are several, its index. A DeviceType converts to the first
/// of its kind; there is no conversion back.
struct Device {
  DeviceType type = DeviceType::CPU;  ///< its kind
  std::int8_t index = 0;              ///< which one of its kind

  /// The CPU.
  constexpr Device() = default;
  /// The first, or number `which`, of a kind.
  constexpr Device(DeviceType kind, int which = 0) noexcept
      : type(kind), index(static_cast<std::int8_t>(which)) {}

  /// The same kind and index.
  friend constexpr bool operator==(Device a, Device b) noexcept {
    return a.type == b.type && a.index == b.index;
  }
};

/// "CPU" or "CUDA:0".
LMP_API std::ostream& operator<<(std::ostream& out, Device device);
/// "CPU" or "CUDA".
LMP_API std::ostream& operator<<(std::ostream& out, DeviceType type);

}  // namespace lmp::tensor
