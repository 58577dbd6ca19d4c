#include "tensor/text.hpp"

#include <algorithm>
#include <span>

namespace lmp::tensor::detail {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// How many bytes at the start of `text` make one character; 0 for none, and for one above ASCII
// that is not to be seen.
std::size_t character(std::string_view text) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  std::uint32_t code = first & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0U) != 0x80U) return 0;
    code = code << 6 | (at(i) & 0x3FU);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool shown = code >= kLeast[length] && code <= 0x10FFFF && code >= 0xA0 &&
                     (code < 0xD800 || code > 0xDFFF) && code != 0xFFFE && code != 0xFFFF;
  return shown ? length : 0;
}

bool is_control(std::string_view c) noexcept {
  return c.size() == 1 && (static_cast<unsigned char>(c[0]) < 0x20 || c[0] == 0x7F);
}

// f(c) for each character, with U+FFFD where there is none.
template <class F>
void each_character(std::string_view text, F&& f) {
  while (!text.empty()) {
    const std::size_t length = character(text);
    f(length > 0 ? text.substr(0, length) : kReplacement);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
}

// With one digit behind the point, rounded down.
std::string with_tenth(std::uint64_t value, std::uint64_t unit, const char* name) {
  const std::uint64_t whole = value / unit, tenth = (value % unit) / ((unit + 9) / 10);
  return std::to_string(whole) + '.' + std::to_string(tenth) + ' ' + name;
}

struct Unit {
  std::uint64_t size;
  const char* name;
};

std::string in_units(std::uint64_t value, const char* smallest, std::span<const Unit> units) {
  const Unit* best = nullptr;
  for (const Unit& unit : units)
    if (value >= unit.size) best = &unit;
  return best ? with_tenth(value, best->size, best->name) : std::to_string(value) + ' ' + smallest;
}

}  // namespace

std::string clean_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_character(text, [&](std::string_view c) { out += is_control(c) ? kReplacement : c; });
  return out;
}

std::string json_string(std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "\"";
  each_character(text, [&](std::string_view c) {
    if (is_control(c)) {
      const auto code = static_cast<unsigned char>(c[0]);
      out += "\\u00";
      out += kDigits[code >> 4];
      out += kDigits[code & 15];
    } else {
      if (c == "\"" || c == "\\") out += '\\';
      out += c;
    }
  });
  return out + '"';
}

std::size_t count_characters(std::string_view text) noexcept {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned>(c) & 0xC0U) != 0x80U;
  }));
}

std::string shape_text(const Shape& shape) {
  std::string text = "(";
  for (const std::size_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + ')';
}

std::string readable_bytes(std::uint64_t bytes) {
  static constexpr Unit kUnits[] = {
      {1ULL << 10, "KiB"}, {1ULL << 20, "MiB"}, {1ULL << 30, "GiB"}, {1ULL << 40, "TiB"}};
  return in_units(bytes, "B", kUnits);
}

std::string readable_time(std::uint64_t nanoseconds) {
  static constexpr Unit kUnits[] = {{1000, "us"}, {1000000, "ms"}, {1000000000, "s"}};
  return in_units(nanoseconds, "ns", kUnits);
}

std::string readable_count(std::uint64_t count) {
  std::string out = std::to_string(count);
  for (std::size_t i = out.size(); i > 3;) {
    i -= 3;
    out.insert(i, 1, ',');
  }
  return out;
}

}  // namespace lmp::tensor::detail
