#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lamppp/export.hpp"
#include "lamppp/tensor/data_type.hpp"
#include "lamppp/tensor/shape.hpp"

namespace lmp {

/// Options of Profiler.
struct ProfilerOptions {
  /// The most events that are recorded. Those that begin later are counted and dropped.
  std::size_t max_events = 1'000'000;
};

/// Something that took time while a Profiler ran.
struct ProfileEvent {
  /// A kernel's op, a node's name, or what a ProfileRange was given.
  std::string name;
  /// "kernel"; "backward" for a node of a backward pass and for a kernel that computes gradients
  /// ("backward of mul"); "range" for a ProfileRange.
  std::string category;
  /// Counts the threads from 0, in the order of their first events.
  int thread = 0;
  /// How many events of the same thread this one lies in.
  int depth = 0;
  /// When it began, in nanoseconds since the Profiler started.
  std::int64_t start = 0;
  /// How long it took, in nanoseconds, and of that what no event inside it took.
  std::int64_t duration = 0;
  /// See `duration`.
  std::int64_t self = 0;
  /// Of a kernel: the element type it computes in.
  std::optional<tensor::DataType> type;
  /// Of a kernel: the shapes of its result and operands; of one that computes gradients, the
  /// incoming gradient's first. That of a number is ().
  std::vector<tensor::Shape> shapes;
  /// Of a kernel: the bytes of all these tensors.
  std::uint64_t bytes = 0;
};

/// Records what runs while it is alive: the kernels of every thread, the nodes of backward passes,
/// and the parts of the program that a ProfileRange marks.
///
///     lmp::Profiler profiler;
///     train();
///     profiler.stop();
///     std::cout << profiler;         // a table by name
///     profiler.write("trace.json");  // for https://ui.perfetto.dev or chrome://tracing
///
/// An event costs some hundred nanoseconds, so times of small ops are too long. Without a Profiler
/// an op costs what it always does. There is one at a time, and one thread at a time uses it.
class LMP_API Profiler {
 public:
  /// Starts recording. Throws Error while another Profiler runs.
  explicit Profiler(const ProfilerOptions& options = {});
  /// Stops recording.
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  /// Stops recording, once for all; other threads may go on computing. An event that has begun ends
  /// here.
  void stop();
  /// Whether it still records.
  bool running() const noexcept;
  /// What was recorded up to now, thread by thread, in the order of beginning.
  std::vector<ProfileEvent> events() const;
  /// How many events there was no room for.
  std::uint64_t dropped() const;
  /// Writes the events in Chrome's trace format. Throws FileError where the file cannot be written.
  void write(const std::string& path) const;

 private:
  friend LMP_API std::ostream& operator<<(std::ostream& out, const Profiler& profiler);
  struct Recording;
  std::unique_ptr<Recording> recording_;
};

/// Prints calls and times by name, those with the most time of their own first.
LMP_API std::ostream& operator<<(std::ostream& out, const Profiler& profiler);

/// Marks what this thread does while one is alive as one event, "forward" for instance. Ranges
/// nest. Nothing happens where no Profiler runs.
class LMP_API ProfileRange {
 public:
  /// Begins the range. Copies the name.
  explicit ProfileRange(std::string_view name) noexcept;
  /// Ends it, on the thread that began it.
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  std::uint64_t session_;
  std::uint64_t buffer_;
  std::size_t index_;
};

}  // namespace lmp
