// What a Profiler records, on which thread, for how long, and what it does when things go wrong.

#include "lamppp/profiler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <locale>
#include <optional>
#include <sstream>
#include <thread>

#include "autograd_support.hpp"
#include "tensor/backend.hpp"
#include "tensor/text.hpp"

namespace lmp {
namespace {

using testing::contains;
using testing::message_of;

/// The events with this name.
std::vector<ProfileEvent> named(const std::vector<ProfileEvent>& events, const std::string& name,
                                const std::string& category = "kernel") {
  std::vector<ProfileEvent> out;
  for (const ProfileEvent& e : events)
    if (e.name == name && e.category == category) out.push_back(e);
  return out;
}

ProfileEvent only(const std::vector<ProfileEvent>& events, const std::string& name,
                  const std::string& category = "kernel") {
  const std::vector<ProfileEvent> found = named(events, name, category);
  EXPECT_EQ(found.size(), 1u) << category << ' ' << name;
  return found.empty() ? ProfileEvent() : found[0];
}

bool within(const ProfileEvent& inner, const ProfileEvent& outer) {
  return inner.thread == outer.thread && inner.depth > outer.depth && inner.start >= outer.start &&
         inner.start + inner.duration <= outer.start + outer.duration;
}

void wait_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

std::string printed(const Profiler& profiler) {
  std::ostringstream out;
  out << profiler;
  return out.str();
}

/// A file that is gone after the test.
struct TemporaryFile {
  std::string path = ::testing::TempDir() + "lamppp_profiler_test.json";
  ~TemporaryFile() { std::remove(path.c_str()); }
  std::string text() const {
    std::ostringstream out;
    out << std::ifstream(path).rdbuf();
    return out.str();
  }
};

/// A reader of JSON that knows no more than what is right: true if the whole text is one value.
class Json {
 public:
  explicit Json(const std::string& text) : at_(text.data()), end_(at_ + text.size()) {}
  bool valid() {
    const bool ok = value(0);
    space();
    return ok && at_ == end_;
  }

 private:
  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  bool take(char c) {
    space();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool text() {
    if (!take('"')) return false;
    for (; at_ != end_ && *at_ != '"'; ++at_) {
      if (static_cast<unsigned char>(*at_) < 0x20) return false;
      if (*at_ != '\\') continue;
      if (++at_ == end_) return false;
      if (*at_ == 'u') {
        for (int i = 0; i < 4; ++i)
          if (++at_ == end_ || !std::isxdigit(static_cast<unsigned char>(*at_))) return false;
      } else if (std::string("\"\\/bfnrt").find(*at_) == std::string::npos) {
        return false;
      }
    }
    return take('"');
  }
  bool number() {
    const char* const start = at_;
    if (at_ != end_ && *at_ == '-') ++at_;
    int digits = 0, points = 0;
    for (; at_ != end_ && (std::isdigit(static_cast<unsigned char>(*at_)) || *at_ == '.'); ++at_)
      ++(*at_ == '.' ? points : digits);
    return at_ != start && digits > 0 && points <= 1 && at_[-1] != '.';
  }
  bool list(char last, bool named, int depth) {
    if (take(last)) return true;
    do {
      if (named && !(text() && take(':'))) return false;
      if (!value(depth + 1)) return false;
    } while (take(','));
    return take(last);
  }
  bool value(int depth) {
    space();
    if (at_ == end_ || depth > 20) return false;
    if (*at_ == '"') return text();
    if (take('{')) return list('}', true, depth);
    if (take('[')) return list(']', false, depth);
    return number();
  }
  const char* at_;
  const char* end_;
};

TEST(Profiler, RecordsTheKernelsOfAProgram) {
  const Tensor a = ones({2, 3}), b = ones({3});
  const Tensor index({1, 0}, Shape({2}), DeviceType::CPU, DataType::Int64);
  Profiler profiler;
  const Tensor c = a + b;
  const Tensor d = exp(c) * 2;
  sum(d);
  max(d, 1);
  matmul(a, transpose(a));
  index_select(a, 0, index);
  argmax(a, 0);
  c.fill(1);
  a.copy(c);
  profiler.stop();
  add(a, b);
  const std::vector<ProfileEvent> events = profiler.events();

  const ProfileEvent add = only(events, "add");
  EXPECT_EQ(add.type, DataType::Float32);
  EXPECT_EQ(add.shapes, (std::vector<Shape>{{2, 3}, {2, 3}, {3}}));
  EXPECT_EQ(add.bytes, (6u + 6 + 3) * 4);
  EXPECT_EQ(add.thread, 0);
  EXPECT_EQ(add.depth, 0);
  EXPECT_GT(add.duration, 0);
  EXPECT_EQ(add.self, add.duration);
  EXPECT_EQ(only(events, "exp").shapes, (std::vector<Shape>{{2, 3}, {2, 3}}));
  EXPECT_EQ(only(events, "mul").shapes, (std::vector<Shape>{{2, 3}, {2, 3}, {}}));
  EXPECT_EQ(only(events, "mul").bytes, 12u * 4) << "a number has no memory";
  EXPECT_EQ(only(events, "sum").shapes, (std::vector<Shape>{{1, 1}, {2, 3}}));
  EXPECT_EQ(only(events, "matmul").shapes, (std::vector<Shape>{{2, 2}, {2, 3}, {3, 2}}));
  EXPECT_EQ(only(events, "index_select").bytes, 6u * 4 + 6 * 4 + 2 * 8);
  for (const char* name : {"max", "argmax", "fill", "copy"}) only(events, name);
  for (std::size_t i = 1; i < events.size(); ++i)
    EXPECT_GE(events[i].start, events[i - 1].start + events[i - 1].duration);
}

TEST(Profiler, EveryEntryOfTheTableIsRecorded) {
  const Tensor a({4.0, 1.0, 1.0, 3.0}, Shape({2, 2}), DeviceType::CPU, DataType::Float64);
  const Tensor index({1, 0, 0, 1}, Shape({2, 2}), DeviceType::CPU, DataType::Int64);
  Generator generator(1);
  Profiler profiler;
  rand(generator, {2}), randn(generator, 0, 1, {2}), permutation(generator, 4), Tensor({1.0F}, {1});
  cumsum(a, 0), argsort(a, 0, false), nonzero(a), prod(a), min(a), argmin(a, 0);
  gather(a, 0, index), scatter(a, 0, index, a), scatter_add(a, 0, index, a);
  solve(a, a), inv(a), cholesky(a), det(a), slogdet(a), cat({a, a});
  profiler.stop();
  const std::vector<ProfileEvent> events = profiler.events();
  for (const char* name :
       {"rand", "randn",    "random_words", "cumsum",  "argsort", "count_nonzero", "nonzero",
        "prod", "min",      "argmin",       "gather",  "scatter", "scatter_add",   "solve",
        "inv",  "cholesky", "det",          "slogdet", "upload",  "copy",          "cat"})
    EXPECT_FALSE(named(events, name).empty()) << name;
  // No function of the table is left out, nor left as it is.
  constexpr std::size_t kEntries = sizeof(tensor::detail::Backend) / sizeof(void (*)());
  using Entries = std::array<void (*)(), kEntries>;
  const auto plain = std::bit_cast<Entries>(cpu::backend);
  const Profiler again;
  const auto recording = std::bit_cast<Entries>(tensor::detail::backend(Device{}));
  for (std::size_t i = 0; i < kEntries; ++i) {
    EXPECT_NE(recording[i], nullptr) << i;
    EXPECT_NE(recording[i], plain[i]) << i;
  }
}

TEST(Profiler, NothingIsRecordedBeforeAndAfter) {
  const Tensor a = ones({4});
  add(a, a);
  Profiler profiler;
  EXPECT_TRUE(profiler.running());
  EXPECT_TRUE(profiler.events().empty());
  profiler.stop();
  profiler.stop();
  EXPECT_FALSE(profiler.running());
  add(a, a);
  const ProfileRange range("late");
  EXPECT_TRUE(profiler.events().empty());
  EXPECT_EQ(&tensor::detail::backend(Device{}), &cpu::backend);
}

TEST(Profiler, NodesOfABackwardPassHoldTheirKernels) {
  const Variable x(ones({8}), true);
  const Variable loss = sum(exp(x * x));
  Profiler profiler;
  loss.backward();
  profiler.stop();
  const std::vector<ProfileEvent> events = profiler.events();
  const ProfileEvent node = only(events, "exp", "backward");
  only(events, "sum", "backward");
  only(events, "mul", "backward");
  const ProfileEvent kernel = only(events, "backward of exp", "backward");
  EXPECT_TRUE(within(kernel, node));
  EXPECT_EQ(kernel.depth, 1);
  EXPECT_EQ(kernel.type, DataType::Float32);
  EXPECT_EQ(kernel.shapes[0], Shape({8}));
  EXPECT_FALSE(node.type.has_value());
  EXPECT_LE(node.self, node.duration - kernel.duration);
  EXPECT_TRUE(within(only(events, "backward of mul", "backward"), only(events, "mul", "backward")));
  EXPECT_EQ(x.grad().to_vector<float>()[0], 2 * std::exp(1.0F));
}

struct Twice {
  static constexpr const char* name = "a name too long for a small string";
  Variable forward(FunctionContext&, const Variable& x) { return x * 2; }
  std::vector<Variable> backward(FunctionContext&, const Variable& g) { return {g * 2}; }
};

TEST(Profiler, NamesOutliveTheirNodes) {
  Profiler profiler;
  {
    const Variable x(ones({2}), true);
    sum(apply(Twice{}, x)).backward();
  }
  profiler.stop();
  only(profiler.events(), Twice::name, "backward");
}

TEST(Profiler, NodesOfARecordedPassHoldForwardKernels) {
  const Variable x(ones({8}), true);
  const Variable y = sum(exp(x));
  Profiler profiler;
  grad({y}, {x}, {.create_graph = true});
  const std::vector<ProfileEvent> events = profiler.events();
  EXPECT_TRUE(within(only(events, "mul"), only(events, "exp", "backward")));
}

TEST(Profiler, RangesNestAndKnowTheirOwnTime) {
  Profiler profiler;
  {
    const ProfileRange outer("outer");
    wait_a_little();
    for (int i = 0; i < 3; ++i) {
      const ProfileRange inner("inner");
      wait_a_little();
    }
    add(ones({2}), 1);
  }
  profiler.stop();
  const std::vector<ProfileEvent> events = profiler.events();
  const ProfileEvent outer = only(events, "outer", "range");
  const std::vector<ProfileEvent> inner = named(events, "inner", "range");
  ASSERT_EQ(inner.size(), 3u);
  std::int64_t inside = only(events, "add").duration + only(events, "fill").duration;
  for (const ProfileEvent& e : inner) {
    EXPECT_TRUE(within(e, outer));
    EXPECT_EQ(e.depth, 1);
    EXPECT_GE(e.duration, 2'000'000);
    EXPECT_EQ(e.self, e.duration);
    inside += e.duration;
  }
  EXPECT_EQ(outer.self, outer.duration - inside);
  EXPECT_GE(outer.self, 2'000'000);
  EXPECT_EQ(only(events, "add").depth, 1);
}

TEST(Profiler, OtherThreadsAreThere) {
  Profiler profiler;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([] {
      const ProfileRange range("worker");
      const Tensor a = ones({16});
      for (int i = 0; i < 100; ++i) add(a, a);
    });
  }
  for (std::thread& thread : threads) thread.join();
  profiler.stop();
  std::vector<int> seen;
  for (const ProfileEvent& range : named(profiler.events(), "worker", "range")) {
    seen.push_back(range.thread);
    int adds = 0;
    for (const ProfileEvent& e : named(profiler.events(), "add")) adds += within(e, range) ? 1 : 0;
    EXPECT_EQ(adds, 100);
  }
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2}));
}

TEST(Profiler, MayStopWhileOthersCompute) {
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  std::atomic<int> ready = 0;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      const Variable x(ones({16}), true);
      while (!done) {
        const ProfileRange range("step");
        sum(x * x).backward();
        ++ready;
      }
    });
  }
  for (int round = 0; round < 30; ++round) {
    Profiler profiler;
    for (const int before = ready; ready < before + 10;) std::this_thread::yield();
    EXPECT_FALSE(profiler.events().empty());
    profiler.stop();
    const std::vector<ProfileEvent> events = profiler.events();
    EXPECT_FALSE(named(events, "mul").empty());
    for (const ProfileEvent& e : events) {
      EXPECT_GE(e.start, 0);
      EXPECT_GE(e.duration, 0);
      EXPECT_GE(e.self, 0);
    }
    EXPECT_EQ(profiler.events().size(), events.size());
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}

TEST(Profiler, WhatHasBegunEndsWithIt) {
  const ProfileRange before("before");
  std::optional<Profiler> profiler(std::in_place);
  std::optional<ProfileRange> range(std::in_place, "open");
  wait_a_little();
  EXPECT_GE(only(profiler->events(), "open", "range").duration, 2'000'000);
  profiler->stop();
  const std::int64_t duration = only(profiler->events(), "open", "range").duration;
  range.reset();
  EXPECT_EQ(only(profiler->events(), "open", "range").duration, duration);
  EXPECT_EQ(profiler->events().size(), 1u);
  // A range of an earlier session leaves the next alone.
  range.emplace("nothing");
  profiler.reset();
  range.emplace("nothing");
  profiler.emplace();
  range.reset();
  add(ones({2}), 1);
  EXPECT_EQ(only(profiler->events(), "add").depth, 0);
}

TEST(Profiler, RecordsNoMoreThanMaxEvents) {
  const Tensor a = ones({4});
  Profiler profiler({.max_events = 10});
  {
    const ProfileRange range("all");
    for (int i = 0; i < 25; ++i) add(a, a);
  }
  EXPECT_EQ(profiler.dropped(), 16u);
  profiler.stop();
  EXPECT_EQ(profiler.events().size(), 10u);
  EXPECT_EQ(profiler.dropped(), 16u);
  EXPECT_EQ(only(profiler.events(), "all", "range").start, profiler.events()[0].start);
  EXPECT_TRUE(contains(printed(profiler), "16 more events dropped (max_events = 10)"));
  const TemporaryFile file;
  profiler.write(file.path);
  EXPECT_TRUE(contains(file.text(), "\"dropped_events\":16"));
  Profiler none({.max_events = 0});
  add(a, a);
  none.stop();
  EXPECT_TRUE(none.events().empty());
  EXPECT_EQ(none.dropped(), 1u);
}

TEST(Profiler, OneAtATime) {
  std::optional<Profiler> first(std::in_place);
  EXPECT_TRUE(contains(message_of<Error>([] { Profiler(); }), "Profiler"));
  add(ones({2}), 1);
  EXPECT_EQ(named(first->events(), "add").size(), 1u) << "the first goes on";
  first->stop();
  Profiler second;
  first.reset();
  EXPECT_TRUE(second.running());
  add(ones({2}), 1);
  EXPECT_EQ(named(second.events(), "add").size(), 1u);
}

TEST(Profiler, ExceptionsEndEvents) {
  const Tensor a = ones({3});
  const Tensor index({7}, Shape({1}), DeviceType::CPU, DataType::Int64);
  const Variable x(ones({2}), true);
  const Variable y = x * x;
  Profiler profiler;
  EXPECT_THROW(index_select(a, 0, index), IndexError);
  x.fill(3);
  EXPECT_THROW(y.backward(), AutogradError);
  EXPECT_THROW(
      {
        const ProfileRange range("range");
        add(ones({2}), ones({3}));
      },
      ShapeError);
  add(a, a);
  profiler.stop();
  const std::vector<ProfileEvent> events = profiler.events();
  EXPECT_EQ(only(events, "index_select").depth, 0);
  EXPECT_EQ(only(events, "mul", "backward").depth, 0);
  EXPECT_EQ(only(events, "range", "range").depth, 0);
  EXPECT_EQ(only(events, "add").depth, 0);
}

TEST(Profiler, MemoryMayOutliveIt) {
  const std::int64_t before = testing::live_bytes();
  {
    Tensor made;
    {
      const Profiler profiler;
      made = ones({1000}) + 1;
    }
    const Tensor earlier = ones({1000});
    {
      const Profiler profiler;
      made = earlier * 2;
    }
    EXPECT_EQ(made.to_vector<float>()[0], 2.0F);
  }
  EXPECT_EQ(testing::live_bytes(), before);
}

TEST(Profiler, TableIsSortedAndAligned) {
  const Tensor a = ones({1000, 1000});
  Profiler profiler;
  {
    const ProfileRange range("größe");
    add(a, a);
    add(a, 1);
    const ProfileRange inner("größe");
    wait_a_little();
  }
  profiler.stop();
  const std::string text = printed(profiler);
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 4u) << text;
  EXPECT_EQ(lines[0].find("name"), 0u);
  // In columns as wide as the characters: the o and the s of the name take two bytes each.
  for (std::size_t i = 1; i < 3; ++i)
    EXPECT_EQ(lines[i].size() - (contains(lines[i], "größe") ? 2 : 0), lines[0].size()) << text;
  const std::string& adds = contains(lines[1], "add") ? lines[1] : lines[2];
  EXPECT_TRUE(contains(adds, "19.0 MiB")) << text;
  // The inner range of the same name adds nothing to the total.
  std::int64_t own[2] = {};
  for (const ProfileEvent& e : profiler.events()) own[e.name == "add" ? 0 : 1] += e.self;
  EXPECT_TRUE(contains(lines[1], own[0] > own[1] ? "add" : "größe")) << text;
  const std::int64_t total = profiler.events()[0].duration;
  EXPECT_EQ(total, own[0] + own[1]);
  EXPECT_TRUE(
      contains(contains(lines[1], "add") ? lines[2] : lines[1],
               ' ' + tensor::detail::readable_time(static_cast<std::uint64_t>(total)) + ' '))
      << text;
  EXPECT_EQ(lines[3].find("4 events on 1 thread, "), 0u) << text;
}

TEST(Profiler, TraceIsJsonWhateverTheNames) {
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale previous = std::locale::global(std::locale(std::locale(), new Comma));
  const Variable x(ones({2, 3}), true);
  Profiler profiler;
  {
    const ProfileRange quoted("a \"quoted\\name\"\n\t\x01\x7f");
    const ProfileRange broken("\xff\xc0\xaf\xed\xa0\x80 größe 重み");
    std::thread([&] { sum(x * 2).backward(); }).join();
    wait_a_little();
  }
  profiler.stop();
  const TemporaryFile file;
  profiler.write(file.path);
  std::locale::global(previous);
  const std::string text = file.text();
  EXPECT_TRUE(Json(text).valid()) << text;
  EXPECT_FALSE(Json(text + "]").valid());
  EXPECT_TRUE(contains(text, R"("a \"quoted\\name\"\u000a\u0009\u0001\u007f","cat":"range")"));
  EXPECT_TRUE(contains(text, "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD größe 重み"));
  EXPECT_TRUE(contains(text, R"("name":"mul","cat":"kernel","ph":"X","ts":)"));
  EXPECT_TRUE(contains(
      text, R"~("tid":1,"args":{"type":"Float32","shapes":["(2, 3)","(2, 3)","number"],)~"))
      << text;
  EXPECT_TRUE(contains(text, R"("bytes":48}})"));
  EXPECT_TRUE(contains(text, R"({"name":"thread_name","ph":"M","pid":1,"tid":1,)"));
}

TEST(Profiler, FilesThatCannotBeWrittenAreErrors) {
  Profiler profiler;
  add(ones({2}), 1);
  profiler.stop();
  const std::string missing = ::testing::TempDir() + "no/such/folder/trace.json";
  EXPECT_TRUE(contains(message_of<FileError>([&] { profiler.write(missing); }), missing));
  EXPECT_TRUE(
      contains(message_of<FileError>([&] { profiler.write(::testing::TempDir()); }), "trace"));
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_TRUE(contains(message_of<FileError>([&] { profiler.write("/dev/full"); }), "/dev/full"));
}

}  // namespace
}  // namespace lmp
