#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "lamppp/tensor/shape.hpp"

namespace lmp::tensor::detail {

/// The text as valid UTF-8: what is not becomes U+FFFD, and so do control characters.
std::string clean_text(std::string_view text);
/// The text as a string of JSON, with its quotes.
std::string json_string(std::string_view text);
/// How many characters of a UTF-8 text there are to see.
std::size_t count_characters(std::string_view text) noexcept;

/// "(2, 3)".
std::string shape_text(const Shape& shape);
/// "512 B", "1.5 KiB", "20.0 GiB".
std::string readable_bytes(std::uint64_t bytes);
/// "850 ns", "1.5 us", "20.0 ms", "3.2 s".
std::string readable_time(std::uint64_t nanoseconds);
/// "1,234,567".
std::string readable_count(std::uint64_t count);

}  // namespace lmp::tensor::detail
