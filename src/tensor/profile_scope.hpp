#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

/// What the library tells a running Profiler; see Note [Profiler] in profiler/profiler.cpp.
namespace lmp::tensor::detail {

/// The number of the profiler that runs; 0 where none does.
extern constinit std::atomic<std::uint64_t> profile_session;

enum class ProfileKind : std::uint8_t { Kernel, BackwardKernel, Node, Range };

/// Where an event that has begun is recorded; nowhere if the session is 0.
struct ProfileMark {
  std::uint64_t session;
  std::uint64_t buffer;
  std::size_t index;
};

/// Begins an event of this thread. Copies the name.
ProfileMark profile_begin(ProfileKind kind, std::string_view name) noexcept;
/// Ends it, on the same thread.
void profile_end(const ProfileMark& mark) noexcept;

/// While one is alive, a node of a backward pass runs.
class NodeScope {
 public:
  explicit NodeScope(const char* name) noexcept : mark_(profile_begin(ProfileKind::Node, name)) {}
  ~NodeScope() {
    if (mark_.session != 0) profile_end(mark_);
  }
  NodeScope(const NodeScope&) = delete;
  NodeScope& operator=(const NodeScope&) = delete;

 private:
  ProfileMark mark_;
};

/// Calls f(), as an event with the node's name while a profiler runs.
template <class Node, class F>
void profiled(const Node& node, F&& f) {
  if (profile_session.load(std::memory_order_relaxed) == 0) [[likely]]
    return f();
  const NodeScope scope(node.name());
  f();
}

}  // namespace lmp::tensor::detail
