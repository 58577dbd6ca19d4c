#include <algorithm>
#include <charconv>
#include <cmath>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "lamppp/tensor/ops.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::tensor {
namespace {

// NumPy's print options.
constexpr std::size_t kThreshold = 1000;  // more elements than this are summarised
constexpr std::size_t kEdgeItems = 3;     // to so many at either end of each axis
constexpr std::size_t kLineWidth = 75;
constexpr int kDecimals = 8;

template <class Sizes>
std::string sizes_text(const Sizes& sizes) {
  std::string text = "(";
  for (const auto size : sizes) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + ')';
}

// The shortest text that reads back as `value`, but rounded to `decimals` where it has more.
template <class T>
std::string shortest(T value, std::chars_format format, int decimals) {
  char buffer[400];  // DBL_MAX takes 309 digits, the smallest double 324
  char* const end = buffer + sizeof buffer;
  std::string_view text(buffer, std::to_chars(buffer, end, value, format).ptr);
  const auto point = text.find('.');
  if (point == text.npos) return std::string(text);
  const auto exponent = std::min(text.find('e'), text.size());
  if (exponent - point - 1 <= static_cast<std::size_t>(decimals)) return std::string(text);
  text = {buffer, std::to_chars(buffer, end, value, format, decimals).ptr};
  const auto tail = std::min(text.find('e'), text.size());
  const std::string_view digits = text.substr(0, tail);
  const auto last = digits.find_last_not_of('0');
  return std::string(digits.substr(0, last + 1)) + std::string(text.substr(tail));
}

// A finite number as text, in the parts that a column aligns.
struct Parts {
  std::string whole, fraction, exponent;  // "-1", "25", "+07"

  template <class T>
  Parts(T value, bool scientific, int decimals) {
    const std::string text = shortest(
        value, scientific ? std::chars_format::scientific : std::chars_format::fixed, decimals);
    const auto e = std::min(text.find('e'), text.size());
    const auto point = std::min(text.find('.'), e);
    whole = text.substr(0, point);
    if (point < e) fraction = text.substr(point + 1, e - point - 1);
    if (e < text.size()) exponent = text.substr(e + 1);
    if (fraction.empty()) fraction = "0";
  }
};

std::string non_finite(double value) {
  return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.insert(0, width - text.size(), ' ');
  return text;
}

// The rules of NumPy's FloatingFormat (numpy/_core/arrayprint.py, floatmode 'maxprec_equal', the
// limits of NumPy 1.14 to 2.2), with one decimal at least: all elements get the same number of
// decimals, the most that any of them needs up to 8, and exponents where a column would be too wide
// or lose digits.
template <class T>
std::vector<std::string> words_of_floats(const std::vector<T>& values) {
  double largest = 0, smallest = HUGE_VAL;
  for (const T value : values) {
    const double magnitude = std::abs(static_cast<double>(value));
    if (!std::isfinite(magnitude) || magnitude == 0) continue;
    largest = std::max(largest, magnitude);
    smallest = std::min(smallest, magnitude);
  }
  const bool scientific =
      largest > 0 && (largest >= 1e8 || smallest < 1e-4 || largest / smallest > 1e3);

  std::vector<std::string> words;
  std::size_t fraction = 0, exponent = 0, width = 0;
  for (const T value : values) {
    if (!std::isfinite(static_cast<double>(value))) continue;
    const Parts parts(value, scientific, kDecimals);
    fraction = std::max(fraction, parts.fraction.size());
    exponent = std::max(exponent, parts.exponent.size());
  }
  for (const T value : values) {
    if (!std::isfinite(static_cast<double>(value))) {
      words.push_back(non_finite(static_cast<double>(value)));
    } else {
      Parts parts(value, scientific, kDecimals);
      parts.fraction.append(fraction - parts.fraction.size(), '0');
      std::string word = parts.whole + '.' + parts.fraction;
      if (scientific) {
        parts.exponent.insert(1, exponent - parts.exponent.size(), '0');
        word += 'e' + parts.exponent;
      }
      words.push_back(std::move(word));
    }
    width = std::max(width, words.back().size());
  }
  for (std::string& word : words) word = padded(std::move(word), width);
  return words;
}

// A single number shows all the digits that it takes to read it back.
template <class T>
std::string word_of_scalar(T value) {
  if (!std::isfinite(static_cast<double>(value))) return non_finite(static_cast<double>(value));
  const double magnitude = std::abs(static_cast<double>(value));
  const bool scientific = magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  const Parts parts(value, scientific, 400);
  return parts.whole + '.' + parts.fraction + (scientific ? 'e' + parts.exponent : "");
}

// What a human would write for a value of a short type: the shortest decimal that rounds to it.
template <class T>
T readable(T value) {
  return value;
}
template <class T>
requires(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) double readable(T value) {
  double decimal = value;
  for (int digits = 0; std::isfinite(decimal); ++digits) {
    char text[32];
    char* const end =
        std::to_chars(text, text + sizeof text, float{value}, std::chars_format::scientific, digits)
            .ptr;
    std::from_chars(text, end, decimal);
    if (T(static_cast<float>(decimal)).bits == value.bits) break;
  }
  return decimal;
}

template <class T>
std::vector<std::string> words_of_floats(const Tensor& x) {
  std::vector<decltype(readable(T()))> values;
  for (const T value : x.to_vector<T>()) values.push_back(readable(value));
  if (x.ndim() == 0) return {word_of_scalar(values[0])};
  return words_of_floats(values);
}

std::vector<std::string> words_of(const Tensor& x) {
  const DataType type = x.type();
  if (type == DataType::Float64) return words_of_floats<double>(x);
  if (type == DataType::Float32) return words_of_floats<float>(x);
  if (type == DataType::Float16) return words_of_floats<Half>(x);
  if (type == DataType::BFloat16) return words_of_floats<BFloat16>(x);
  std::vector<std::string> words;
  std::size_t width = 0;
  for (const std::int64_t value : x.to_vector<std::int64_t>()) {
    words.push_back(type != DataType::Bool ? std::to_string(value) : value ? "True" : "False");
    width = std::max(width, words.back().size());
  }
  if (type == DataType::Bool && x.ndim() > 0) width = 5;
  for (std::string& word : words) word = padded(std::move(word), width);
  return words;
}

// The layout of NumPy's _formatArray: each row broken at the line width, `axes - 1` line breaks
// between blocks.
class Layout {
 public:
  Layout(std::vector<std::string> words, const Shape& shape, bool summarised)
      : words_(std::move(words)), shape_(shape), summarised_(summarised) {}

  std::string text() {
    append(0);
    return std::move(text_);
  }

 private:
  bool shortened(std::size_t axis) const { return summarised_ && shape_[axis] > 2 * kEdgeItems; }

  void append(std::size_t axis) {
    if (axis == shape_.size()) {
      text_ += words_[next_++];
      return;
    }
    const bool innermost = axis + 1 == shape_.size();
    const std::size_t count = shortened(axis) ? 2 * kEdgeItems : shape_[axis];
    text_ += '[';
    column_ = axis + 1;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) separate(axis);
      if (shortened(axis) && i == kEdgeItems) {
        if (innermost) break_before(3, axis);
        text_ += "...";
        column_ += 3;
        separate(axis);
      }
      if (innermost) {
        break_before(words_[next_].size(), axis);
        column_ += words_[next_].size();
      }
      append(axis + 1);
    }
    text_ += ']';
  }

  void separate(std::size_t axis) {
    const std::size_t below = shape_.size() - axis - 1;
    if (below == 0) {
      text_ += ' ';
      ++column_;
    } else {
      text_.append(below, '\n').append(axis + 1, ' ');
    }
  }

  // Closing brackets have to fit behind the last word of a row.
  void break_before(std::size_t width, std::size_t axis) {
    if (column_ + width <= kLineWidth - shape_.size() || column_ <= axis + 1) return;
    text_.erase(text_.find_last_not_of(' ') + 1);
    text_ += '\n';
    text_.append(axis + 1, ' ');
    column_ = axis + 1;
  }

  std::vector<std::string> words_;
  Shape shape_;
  bool summarised_;
  std::size_t next_ = 0;
  std::size_t column_ = 0;
  std::string text_;
};

// What is left of x when the middle of every long axis from `axis` on is dropped. Only what is left
// is ever copied.
Tensor edges(const Tensor& x, int axis = 0) {
  if (axis == x.ndim()) return x;
  if (x.size(axis) <= 2 * kEdgeItems) return edges(x, axis + 1);
  const std::int64_t count = kEdgeItems;
  return cat({edges(x.slice(axis, 0, count), axis + 1),
              edges(x.slice(axis, -count, std::nullopt), axis + 1)},
             axis);
}

std::string text_of(const Tensor& x) {
  if (!x.defined()) return "<undefined>";
  std::string text = "[]";
  if (x.numel() > 0) {
    const bool summarised = x.numel() > kThreshold;
    text = Layout(words_of(summarised ? edges(x) : x), x.shape(), summarised).text();
  }
  const bool plain_empty = x.ndim() == 1 || x.numel() > 0;
  if (x.type() != DataType::Float32 || !plain_empty)
    text.append(" ").append(name_of(x.type())).append(" ").append(sizes_text(x.shape()));
  return text;
}

}  // namespace

const char* name_of(DataType type) noexcept {
  constexpr const char* names[kDataTypeCount] = {"Bool",    "UInt8",  "Int8",    "Int16",
                                                 "Int32",   "Int64",  "Float16", "BFloat16",
                                                 "Float32", "Float64"};
  return names[static_cast<int>(type)];
}

std::ostream& operator<<(std::ostream& out, DataType type) { return out << name_of(type); }

std::ostream& operator<<(std::ostream& out, DeviceType type) {
  return out << (type == DeviceType::CPU ? "CPU" : "CUDA");
}

std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.type == DeviceType::CPU) return out << device.type;
  return out << "CUDA:" + std::to_string(device.index);
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << sizes_text(shape); }

std::ostream& operator<<(std::ostream& out, const IntList& list) { return out << sizes_text(list); }

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  const std::string text = text_of(tensor);
  return out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

}  // namespace lmp::tensor
