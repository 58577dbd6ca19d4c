#pragma once

// What the examples show in a terminal: a progress bar and small grey pictures.

#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace terminal {

/// Whether the terminal shows more than ASCII.
inline bool has_utf8() {
  static const bool utf8 =
      std::setlocale(LC_CTYPE, "") && nl_langinfo(CODESET) == std::string("UTF-8");
  return utf8;
}

/// A bar that redraws itself in a terminal and gives way to a line of results; in a pipe there is
/// only that line.
class ProgressBar {
 public:
  /// Labelled "what part/parts".
  ProgressBar(const std::string& what, std::size_t part, std::size_t parts, std::size_t steps)
      : steps_(steps) {
    const std::string number = std::to_string(part), last = std::to_string(parts);
    label_ = what + ' ' + std::string(last.size() - number.size(), ' ') + number + '/' + last;
    draw();
  }
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void step() {
    ++done_;
    draw();
  }

  void finish(const std::vector<std::pair<const char*, double>>& results) {
    clear();
    std::fputs(label_.c_str(), stdout);
    for (const auto& [name, value] : results) std::printf("  %s %.4f", name, value);
    std::puts("");
    std::fflush(stdout);
  }

 private:
  void clear() {
    if (shown_) std::fputs("\r\033[K", stdout);
    shown_ = false;
  }

  void draw() {
    constexpr std::size_t kWidth = 40;
    const std::size_t filled = steps_ == 0 ? kWidth : done_ * kWidth / steps_;
    if (!shown_ || filled == drawn_) return;
    drawn_ = filled;
    std::string bar;
    for (std::size_t i = 0; i < kWidth; ++i)
      bar += i < filled ? (has_utf8() ? "█" : "#") : (has_utf8() ? "░" : ".");
    std::printf("\r%s  %s", label_.c_str(), bar.c_str());
    std::fflush(stdout);
  }

  std::string label_;
  std::size_t steps_;
  std::size_t done_ = 0;
  std::size_t drawn_ = static_cast<std::size_t>(-1);
  bool shown_ = isatty(STDOUT_FILENO) == 1;
};

/// A grey picture, row by row from 0 (empty) to 1, with lines of ASCII below it.
struct Picture {
  std::vector<float> pixels;
  std::size_t height = 0, width = 0;
  std::vector<std::string> caption;
};

/// Draws pictures of the same size side by side, as many as fit into 80 columns.
inline void draw(const std::vector<Picture>& pictures) {
  static constexpr std::array<const char*, 5> kAscii = {" ", ".", "+", "%", "@"};
  static constexpr std::array<const char*, 5> kBlocks = {" ", "░", "▒", "▓", "█"};
  const auto& shades = has_utf8() ? kBlocks : kAscii;
  if (pictures.empty()) return;

  // A character is about twice as high as it is wide: it shows half a pixel of a small picture, and
  // two of a large one.
  const auto& [_, height, width, caption] = pictures.front();
  const bool small = width <= 16;
  const std::size_t rows = small ? height : (height + 1) / 2;
  const std::size_t columns = small ? 2 * width : width;
  const std::size_t fitting = std::clamp<std::size_t>(80 / (columns + 2), 1, pictures.size());

  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < fitting; ++i) {
      const std::vector<float>& pixels = pictures[i].pixels;
      for (std::size_t column = 0; column < columns; ++column) {
        const std::size_t x = small ? column / 2 : column;
        const std::size_t upper = small ? row : 2 * row;
        const std::size_t lower = small ? row : std::min(2 * row + 1, height - 1);
        const float grey = (pixels[upper * width + x] + pixels[lower * width + x]) / 2;
        std::fputs(shades[static_cast<std::size_t>(std::lround(std::min(grey, 1.0f) * 4))], stdout);
      }
      std::fputs("  ", stdout);
    }
    std::puts("");
  }
  for (std::size_t line = 0; line < caption.size(); ++line) {
    for (std::size_t i = 0; i < fitting; ++i)
      std::printf("%-*s  ", static_cast<int>(columns), pictures[i].caption[line].c_str());
    std::puts("");
  }
}

}  // namespace terminal
