#include "lamppp/profiler.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <ostream>
#include <span>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "lamppp/error.hpp"
#include "profiler/recording.hpp"
#include "tensor/backend.hpp"
#include "tensor/format.hpp"
#include "tensor/profile_scope.hpp"
#include "tensor/text.hpp"

/// Note [Profiler]
/// While a Profiler runs, `cpu_backend` points to a table whose functions record an event around
/// those of cpu::backend; nodes and ranges ask `profile_session`. Memory comes from the same two
/// functions in both tables, so it may be freed whenever.
///
/// A thread records into a buffer of its own, under the buffer's lock, and only after it has seen
/// there that the session still runs. stop() ends the session first and then takes every buffer's
/// lock to carry its events away: nothing is recorded afterwards, and nobody waits for longer than
/// one event is written down. A mark names session, buffer and event, so the end of an event whose
/// buffer was carried away finds nothing. An event has its place from its beginning on: it stands
/// before those inside it, and where there is no more room the outer ones are there.
namespace lmp {

using tensor::DataType;
using tensor::Shape;
using tensor::Tensor;
using tensor::detail::profile_session;
using tensor::detail::ProfileKind;
using tensor::detail::ProfileMark;

namespace tensor::detail {
constinit std::atomic<std::uint64_t> profile_session{0};
}

namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
constexpr std::int64_t kOpen = -1;

struct Record {
  const char* name;
  std::int64_t start;
  std::int64_t duration;
  std::size_t parent;
  std::size_t words;  // where its tensors are described
  std::uint8_t tensors;
  DataType type;
  ProfileKind kind;
};

// What a thread recorded. A tensor takes a word with type and rank and one for each dimension.
struct Track {
  int thread = 0;
  std::vector<Record> records;
  std::vector<std::uint64_t> words;
  std::unordered_set<std::string> names;
};
constexpr std::uint64_t kNumberWord = 0xFF00;

struct Buffer {
  std::mutex mutex;
  std::uint64_t serial = 0;
  std::uint64_t session = 0;
  std::size_t innermost = kNone;
  bool retired = false;
  Track track;
};

struct Registry {
  std::mutex mutex;
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::uint64_t serials = 0;
  std::uint64_t sessions = 0;
  std::atomic<std::uint64_t> most = 0;
  std::atomic<std::uint64_t> begun = 0;
  std::atomic<std::uint64_t> dropped = 0;
  std::atomic<int> threads = 0;
};

// Never destroyed: threads may end after everything else.
Registry& registry() {
  static auto* instance = new Registry;
  return *instance;
}

std::int64_t now() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

constinit thread_local Buffer* thread_buffer = nullptr;
constinit thread_local bool thread_ends = false;

struct BufferOwner {
  BufferOwner() {
    auto buffer = std::make_unique<Buffer>();
    Registry& r = registry();
    const std::lock_guard lock(r.mutex);
    buffer->serial = ++r.serials;
    r.buffers.push_back(std::move(buffer));
    thread_buffer = r.buffers.back().get();
  }
  BufferOwner(const BufferOwner&) = delete;
  // Events outlive their thread.
  ~BufferOwner() {
    Buffer* const buffer = std::exchange(thread_buffer, nullptr);
    thread_ends = true;
    Registry& r = registry();
    const std::lock_guard lock(r.mutex);
    {
      const std::lock_guard buffer_lock(buffer->mutex);
      buffer->retired = buffer->session != 0 && !buffer->track.records.empty();
      if (buffer->retired) return;
    }
    std::erase_if(r.buffers, [&](const auto& b) { return b.get() == buffer; });
  }
};

Buffer* own_buffer() {
  if (thread_buffer || thread_ends) return thread_buffer;
  thread_local const BufferOwner owner;
  return thread_buffer;
}

}  // namespace

ProfileMark profiler::begin(ProfileKind kind, std::string_view name, bool copies_name,
                            DataType type, std::span<const Tensor* const> tensors) noexcept {
  try {
    Buffer* const buffer = own_buffer();
    if (!buffer) return {};
    Registry& r = registry();
    const std::lock_guard lock(buffer->mutex);
    const std::uint64_t session = profile_session.load(std::memory_order_relaxed);
    if (session == 0) return {};
    if (r.begun.fetch_add(1, std::memory_order_relaxed) >= r.most.load(std::memory_order_relaxed)) {
      r.dropped.fetch_add(1, std::memory_order_relaxed);
      return {};
    }
    Track& track = buffer->track;
    if (buffer->session != session) {
      buffer->session = session;
      buffer->innermost = kNone;
      track = Track{};
      track.thread = r.threads.fetch_add(1, std::memory_order_relaxed);
    }
    Record record{name.data(), 0, kOpen, buffer->innermost, track.words.size(), 0, type, kind};
    if (copies_name) record.name = track.names.emplace(name).first->c_str();
    for (const Tensor* t : tensors) {
      if (t && !t->defined()) continue;
      ++record.tensors;
      if (!t) {
        track.words.push_back(kNumberWord);
        continue;
      }
      track.words.push_back(static_cast<std::uint64_t>(t->type()) << 8 | t->shape().size());
      track.words.insert(track.words.end(), t->shape().begin(), t->shape().end());
    }
    const std::size_t index = track.records.size();
    track.records.push_back(record);
    buffer->innermost = index;
    track.records.back().start = now();
    return {session, buffer->serial, index};
  } catch (...) {
    registry().dropped.fetch_add(1, std::memory_order_relaxed);  // no memory for it
    return {};
  }
}

namespace {

// ---- What was recorded ----

// f(type, shape) for each of a record's tensors; a number has a null type.
template <class F>
void each_tensor(const Track& track, const Record& record, F&& f) {
  const std::uint64_t* word = track.words.data() + record.words;
  for (int i = 0; i < record.tensors; ++i) {
    const std::uint64_t head = *word++;
    const auto type = static_cast<DataType>(head >> 8);
    tensor::IntList sizes;
    for (std::uint64_t rank = head & 0xFF; rank > 0; --rank)
      sizes.push_back(static_cast<std::int64_t>(*word++));
    f(head == kNumberWord ? nullptr : &type, Shape(sizes));
  }
}

std::uint64_t bytes_of(const Track& track, const Record& record) {
  std::uint64_t bytes = 0;
  each_tensor(track, record, [&](const DataType* type, const Shape& shape) {
    if (type) bytes += shape.numel() * size_of(*type);
  });
  return bytes;
}

bool is_kernel(const Record& record) {
  return record.kind == ProfileKind::Kernel || record.kind == ProfileKind::BackwardKernel;
}

const char* category_of(const Record& record) {
  return record.kind == ProfileKind::Kernel  ? "kernel"
         : record.kind == ProfileKind::Range ? "range"
                                             : "backward";
}

std::string name_of(const Record& record) {
  return (record.kind == ProfileKind::BackwardKernel ? "backward of " : "") +
         std::string(record.name);
}

std::vector<std::int64_t> self_times(const Track& track) {
  std::vector<std::int64_t> self;
  self.reserve(track.records.size());
  for (const Record& record : track.records) {
    self.push_back(record.duration);
    if (record.parent != kNone) self[record.parent] -= record.duration;
  }
  for (std::int64_t& time : self) time = std::max<std::int64_t>(time, 0);
  return self;
}

// Microseconds with three decimals, in any locale.
std::string microseconds(std::int64_t nanoseconds) {
  const std::string rest = std::to_string(nanoseconds % 1000);
  return std::to_string(nanoseconds / 1000) + '.' + std::string(3 - rest.size(), '0') + rest;
}

}  // namespace

namespace tensor::detail {

ProfileMark profile_begin(ProfileKind kind, std::string_view name) noexcept {
  return profiler::begin(kind, name, true, DataType::Float32, {});
}

void profile_end(const ProfileMark& mark) noexcept {
  const std::int64_t end = now();
  Buffer* const buffer = thread_buffer;
  if (!buffer || buffer->serial != mark.buffer) return;
  const std::lock_guard lock(buffer->mutex);
  if (buffer->session != mark.session) return;
  Record& record = buffer->track.records[mark.index];
  record.duration = end - record.start;
  std::size_t& innermost = buffer->innermost;
  while (innermost != kNone && buffer->track.records[innermost].duration != kOpen)
    innermost = buffer->track.records[innermost].parent;
}

}  // namespace tensor::detail

// ---- Profiler ----

struct Profiler::Recording {
  std::uint64_t session = 0;
  std::size_t most = 0;
  std::int64_t start = 0;
  std::int64_t end = 0;
  bool running = true;
  std::vector<Track> tracks;
  std::uint64_t dropped = 0;

  // What each thread has, up to `time`; with the registry locked. Names come along only where the
  // rest is carried away, else they stay in the buffers.
  std::vector<Track> collect(std::int64_t time, bool carries_away) const {
    std::vector<Track> out;
    for (const auto& buffer : registry().buffers) {
      const std::lock_guard lock(buffer->mutex);
      if (buffer->session != session) continue;
      if (carries_away) {
        out.push_back(std::exchange(buffer->track, Track{}));
        buffer->session = 0;
        buffer->innermost = kNone;
      } else {
        out.push_back({buffer->track.thread, buffer->track.records, buffer->track.words, {}});
      }
      for (Record& record : out.back().records)
        if (record.duration == kOpen)
          record.duration = std::max<std::int64_t>(time - record.start, 0);
    }
    std::sort(out.begin(), out.end(),
              [](const Track& a, const Track& b) { return a.thread < b.thread; });
    return out;
  }

  // f(tracks, time since the start)
  template <class F>
  void look(F&& f) const {
    if (!running) {
      f(tracks, end - start);
      return;
    }
    std::unique_lock lock(registry().mutex);
    const std::int64_t time = now();
    const std::vector<Track> up_to_now = collect(time, false);
    lock.unlock();
    f(up_to_now, time - start);
  }

  std::uint64_t lost() const noexcept { return running ? registry().dropped.load() : dropped; }
};

Profiler::Profiler(const ProfilerOptions& options) : recording_(std::make_unique<Recording>()) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (profile_session.load() != 0)
    throw Error("Profiler: another one is running; stop() it before the next one starts");
  recording_->most = options.max_events;
  recording_->session = ++r.sessions;
  r.most = options.max_events;
  r.begun = 0;
  r.dropped = 0;
  r.threads = 0;
  recording_->start = now();
  profile_session = recording_->session;
  tensor::detail::cpu_backend = &profiler::kRecordingBackend;
#ifdef LAMPPP_HAVE_CUDA
  cuda::record_events(true);
#endif
}

Profiler::~Profiler() {
  try {
    stop();
  } catch (...) {  // without memory for the events nobody will ask for them
  }
}

void Profiler::stop() {
  Recording& own = *recording_;
  if (!own.running) return;
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  tensor::detail::cpu_backend = &cpu::backend;
#ifdef LAMPPP_HAVE_CUDA
  cuda::record_events(false);
#endif
  profile_session = 0;
  own.running = false;
  own.end = now();
  own.tracks = own.collect(own.end, true);
  own.dropped = r.dropped;
  std::erase_if(r.buffers, [](const auto& buffer) { return buffer->retired; });
}

bool Profiler::running() const noexcept { return recording_->running; }

std::uint64_t Profiler::dropped() const { return recording_->lost(); }

std::vector<ProfileEvent> Profiler::events() const {
  std::vector<ProfileEvent> out;
  recording_->look([&](const std::vector<Track>& tracks, std::int64_t) {
    for (const Track& track : tracks) {
      const std::vector<std::int64_t> self = self_times(track);
      const std::size_t first = out.size();
      for (std::size_t i = 0; i < track.records.size(); ++i) {
        const Record& record = track.records[i];
        ProfileEvent& event = out.emplace_back();
        event.name = name_of(record);
        event.category = category_of(record);
        event.thread = track.thread;
        event.depth = record.parent == kNone ? 0 : out[first + record.parent].depth + 1;
        event.start = record.start - recording_->start;
        event.duration = record.duration;
        event.self = self[i];
        if (!is_kernel(record)) continue;
        event.type = record.type;
        event.bytes = bytes_of(track, record);
        each_tensor(track, record,
                    [&](const DataType*, const Shape& shape) { event.shapes.push_back(shape); });
      }
    }
  });
  return out;
}

void Profiler::write(const std::string& path) const {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  const auto check = [&] {
    if (file) return;
    const int code = errno;
    throw FileError(path + ": the trace cannot be written" +
                    (code != 0 ? std::string(": ") + std::strerror(code) : std::string()));
  };
  check();
  const auto put = [&](std::string& text) {
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    check();
    text.clear();
  };
  recording_->look([&](const std::vector<Track>& tracks, std::int64_t) {
    std::string text = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"max_events\":" +
                       std::to_string(recording_->most) +
                       ",\"dropped_events\":" + std::to_string(recording_->lost()) +
                       "},\"traceEvents\":[";
    text += R"(
{"name":"process_name","ph":"M","pid":1,"tid":0,"args":{"name":"Lamp++"}})";
    for (const Track& track : tracks) {
      text += tensor::detail::concat(
          ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":", track.thread,
          ",\"args\":{\"name\":\"thread ", track.thread, "\"}}");
      for (const Record& record : track.records) {
        text += ",\n{\"name\":" + tensor::detail::json_string(name_of(record)) + ",\"cat\":\"" +
                category_of(record) +
                "\",\"ph\":\"X\",\"ts\":" + microseconds(record.start - recording_->start) +
                ",\"dur\":" + microseconds(record.duration) +
                ",\"pid\":1,\"tid\":" + std::to_string(track.thread) + ",\"args\":{";
        if (is_kernel(record)) {
          text += std::string("\"type\":\"") + tensor::name_of(record.type) + "\",\"shapes\":[";
          const char* separator = "";
          each_tensor(track, record, [&](const DataType* type, const Shape& shape) {
            text += separator;
            text += type ? '"' + tensor::detail::shape_text(shape) + '"' : "\"number\"";
            separator = ",";
          });
          text += "],\"bytes\":" + std::to_string(bytes_of(track, record));
        }
        text += "}}";
        if (text.size() > std::size_t{1} << 20) put(text);
      }
    }
    text += "\n]}\n";
    put(text);
  });
  errno = 0;
  file.close();
  check();
}

namespace {

struct Row {
  std::string name;
  const char* category = "";
  std::uint64_t calls = 0;
  std::int64_t total = 0;
  std::int64_t self = 0;
  std::uint64_t bytes = 0;
  std::int64_t busy_until = 0;
};

std::vector<Row> rows_of(const std::vector<Track>& tracks) {
  std::unordered_map<std::string, Row> rows;
  for (const Track& track : tracks) {
    for (auto& [key, row] : rows) row.busy_until = std::numeric_limits<std::int64_t>::min();
    const std::vector<std::int64_t> self = self_times(track);
    for (std::size_t i = 0; i < track.records.size(); ++i) {
      const Record& record = track.records[i];
      const std::string name = name_of(record);
      const char* const category = category_of(record);
      Row& row = rows[category + name];
      if (row.calls++ == 0) {
        row.name = tensor::detail::clean_text(name);
        row.category = category;
        row.busy_until = std::numeric_limits<std::int64_t>::min();
      }
      row.self += self[i];
      row.bytes += bytes_of(track, record);
      if (record.start < row.busy_until) continue;  // within another one of its name
      row.total += record.duration;
      row.busy_until = record.start + record.duration;
    }
  }
  std::vector<Row> out;
  out.reserve(rows.size());
  for (auto& [key, row] : rows) out.push_back(std::move(row));
  std::sort(out.begin(), out.end(), [](const Row& a, const Row& b) {
    return std::tuple(-a.self, a.name, std::string_view(a.category)) <
           std::tuple(-b.self, b.name, std::string_view(b.category));
  });
  return out;
}

std::string time_text(std::int64_t time) {
  return tensor::detail::readable_time(static_cast<std::uint64_t>(time));
}

// In tenths of a percent, rounded.
std::string percent(std::int64_t part, std::int64_t whole) {
  const auto tenths = static_cast<std::int64_t>(
      whole > 0 ? 1000 * static_cast<double>(part) / static_cast<double>(whole) + 0.5 : 0.0);
  return std::to_string(tenths / 10) + '.' + std::to_string(tenths % 10) + '%';
}

std::string plural(std::uint64_t count, const char* what) {
  return tensor::detail::readable_count(count) + ' ' + what + (count == 1 ? "" : "s");
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Profiler& profiler) {
  using Line = std::array<std::string, 8>;
  std::vector<Line> lines = {
      {"name", "category", "calls", "total", "self", "share", "mean", "bytes"}};
  std::string footer;
  const Profiler::Recording& recording = *profiler.recording_;
  recording.look([&](const std::vector<Track>& tracks, std::int64_t time) {
    const std::vector<Row> rows = rows_of(tracks);
    std::int64_t whole = 0;
    std::uint64_t events = 0;
    for (const Row& row : rows) {
      whole += row.self;
      events += row.calls;
    }
    for (const Row& row : rows)
      lines.push_back({row.name, row.category, tensor::detail::readable_count(row.calls),
                       time_text(row.total), time_text(row.self), percent(row.self, whole),
                       time_text(row.total / static_cast<std::int64_t>(row.calls)),
                       row.bytes > 0 ? tensor::detail::readable_bytes(row.bytes) : "-"});
    footer = plural(events, "event") + " on " + plural(tracks.size(), "thread") + ", " +
             time_text(whole) + " of " + time_text(time);
    if (const std::uint64_t lost = recording.lost(); lost > 0)
      footer += "; " + plural(lost, "more event") +
                " dropped (max_events = " + std::to_string(recording.most) + ")";
  });
  std::array<std::size_t, std::tuple_size_v<Line>> widths{};
  for (const Line& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i)
      widths[i] = std::max(widths[i], tensor::detail::count_characters(line[i]));
  std::string text;
  for (const Line& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - tensor::detail::count_characters(line[i]), ' ');
      const bool left = i < 2;
      if (i > 0) text += "  ";
      text += left ? line[i] + space : space + line[i];
    }
    text += '\n';
  }
  text += footer + '\n';
  return out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

// ---- ProfileRange ----

ProfileRange::ProfileRange(std::string_view name) noexcept : session_(0), buffer_(0), index_(0) {
  if (profile_session.load(std::memory_order_relaxed) == 0) return;
  const ProfileMark mark = tensor::detail::profile_begin(ProfileKind::Range, name);
  session_ = mark.session;
  buffer_ = mark.buffer;
  index_ = mark.index;
}

ProfileRange::~ProfileRange() {
  if (session_ != 0) tensor::detail::profile_end({session_, buffer_, index_});
}

}  // namespace lmp
