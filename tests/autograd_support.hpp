#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lamppp/lamppp.hpp"

/// What the tests of autograd share.
namespace lmp::testing {

/// While it is alive, `more` bytes of the CPU's memory are left.
struct MemoryLeft {
  explicit MemoryLeft(std::int64_t more) {
    empty_cache();
    const tensor::MemoryStats now = memory_stats();
    set_memory_limit(static_cast<std::size_t>(now.live_block_bytes + now.cached_bytes + more));
  }
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
