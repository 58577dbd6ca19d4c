// What a GPU can do at most: a kernel that does nothing, and copies.
#pragma once

#include <vector>

#include "../peers/rows.hpp"

namespace peers {

void launch_nothing();
/// Memory of a GPU, of this many bytes.
std::shared_ptr<void> gpu_memory(std::size_t bytes);
void copy_on_gpu(void* to, const void* from, std::size_t bytes);

inline void add_gpu_limits(std::vector<Row>& rows) {
  Row launch;
  launch.group = "limit";
  launch.name = "launch";
  launch.launches = 1;
  launch.setup = [] { return Body(launch_nothing); };
  rows.push_back(launch);
  for (const std::int64_t n : {1 << 24, 1 << 25, 1 << 26, 1 << 28}) {
    Row copy;
    copy.group = "limit";
    copy.name = "copy " + size_name(n);
    const auto bytes = static_cast<std::size_t>(4 * n);
    copy.moves(2.0 * static_cast<double>(bytes), static_cast<double>(bytes));
    copy.setup = [bytes]() -> Body {
      const auto to = gpu_memory(bytes), from = gpu_memory(bytes);
      return [=] { copy_on_gpu(to.get(), from.get(), bytes); };
    };
    rows.push_back(copy);
  }
}

}  // namespace peers
