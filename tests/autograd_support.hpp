#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lamppp/lamppp.hpp"

/// What the tests share.
namespace lmp::testing {

/// What the CPU's allocator has from the system.
inline std::size_t held() {
  const tensor::MemoryStats stats = memory_stats();
  return static_cast<std::size_t>(stats.live_block_bytes + stats.cached_bytes);
}
/// While it is alive, the allocator gets `more` bytes beside them. empty_cache() before makes it
/// all that is left.
struct MemoryLeft {
  explicit MemoryLeft(std::size_t more) { set_memory_limit(held() + more); }
  MemoryLeft(const MemoryLeft&) = delete;
  MemoryLeft& operator=(const MemoryLeft&) = delete;
  ~MemoryLeft() { set_memory_limit(0); }
};

inline std::vector<double> values(const Tensor& t) { return t.to_vector<double>(); }
inline std::vector<double> values(const Variable& v) { return v.to_vector<double>(); }

inline Tensor uniform(Generator& generator, const Shape& shape, double low = -2, double high = 2) {
  return lmp::rand(generator, shape, DeviceType::CPU, DataType::Float64) * (high - low) + low;
}

inline Variable leaf(const std::vector<double>& data, const Shape& shape,
                     DataType type = DataType::Float64) {
  return Variable(Tensor(data, shape, DeviceType::CPU, type), true);
}
inline Variable leaf(const std::vector<double>& data) { return leaf(data, {data.size()}); }
inline Variable scalar_leaf(double value) { return leaf({value}, {}); }

inline std::int64_t live_bytes() { return memory_stats().live_bytes; }

/// What `f` throws as an E; fails where it throws nothing or something else.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace lmp::testing
