#pragma once

// What the examples show in a terminal: a progress bar, small grey pictures and plots.

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

/// A line through points, or the points themselves where there is a mark to draw them with.
struct Series {
  std::vector<double> x, y;
  const char* name = "";
  char mark = 0;
};

/// Draws series over common axes, the later ones on top: lines as dots of Braille where the
/// terminal shows them (2 by 4 in a character), else as full stops.
inline void plot(const std::vector<Series>& all, std::size_t columns = 70, std::size_t rows = 16) {
  const auto limits = [&](std::vector<double> Series::*axis) {
    std::pair<double, double> range{INFINITY, -INFINITY};
    for (const Series& series : all) {
      for (const double value : series.*axis) {
        if (!std::isfinite(value)) continue;
        range.first = std::min(range.first, value);
        range.second = std::max(range.second, value);
      }
    }
    if (range.first == range.second) range = {range.first - 1, range.second + 1};
    return range;
  };
  const auto [left, right] = limits(&Series::x);
  const auto [low, high] = limits(&Series::y);
  if (left > right || low > high) return;

  // Each cell is a mark, or, above 255, which of its dots are set.
  constexpr std::array<unsigned, 8> kDots = {1, 2, 4, 64, 8, 16, 32, 128};  // down, then right
  std::vector<unsigned> cells(columns * rows, 0);
  const auto at = [](double part, std::size_t count) {  // of an axis with so many dots
    return static_cast<std::size_t>(std::lround(part * static_cast<double>(count - 1)));
  };
  const auto set = [&, x0 = left, x1 = right, y0 = low, y1 = high](double x, double y, char mark) {
    if (!std::isfinite(x) || !std::isfinite(y)) return;
    const std::size_t column = at((x - x0) / (x1 - x0), 2 * columns);
    const std::size_t row = at((y1 - y) / (y1 - y0), 4 * rows);
    unsigned& cell = cells[row / 4 * columns + column / 2];
    if (mark != 0)
      cell = static_cast<unsigned char>(mark);
    else
      cell = (cell > 255 ? cell : 256) | kDots[column % 2 * 4 + row % 4];
  };
  for (const Series& series : all) {
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (series.mark != 0) set(series.x[i], series.y[i], series.mark);
      // A line: enough steps from the last point that no dot is left out
      for (int step = 0; series.mark == 0 && i > 0 && step <= 200; ++step) {
        const double t = step / 200.0;
        set(series.x[i - 1] + t * (series.x[i] - series.x[i - 1]),
            series.y[i - 1] + t * (series.y[i] - series.y[i - 1]), 0);
      }
    }
  }

  for (std::size_t row = 0; row < rows; ++row) {
    if (row == 0 || row == rows - 1)
      std::printf("%8.3g ", row == 0 ? high : low);
    else
      std::printf("%9s", "");
    std::fputs(has_utf8() ? "│" : "|", stdout);
    for (std::size_t column = 0; column < columns; ++column) {
      const unsigned cell = cells[row * columns + column];
      if (cell <= 255)
        std::putchar(cell == 0 ? ' ' : static_cast<int>(cell));
      else if (!has_utf8())
        std::putchar('.');
      else  // U+2800 and the dots, in UTF-8
        std::printf("\xE2%c%c", static_cast<int>(0xA0 | (cell & 255) >> 6),
                    static_cast<int>(0x80 | (cell & 63)));
    }
    std::puts("");
  }
  std::printf("%10s", "");
  for (std::size_t column = 0; column < columns; ++column)
    std::fputs(has_utf8() ? "─" : "-", stdout);
  const int width = static_cast<int>(columns);
  std::printf("\n%10s%-*.3g%*.3g\n%10s", "", width / 2, left, width - width / 2, right, "");
  for (const Series& series : all) {
    if (series.mark != 0)
      std::printf("%c %s   ", series.mark, series.name);
    else
      std::printf("%s %s   ", has_utf8() ? "⠤⠤" : "..", series.name);
  }
  std::puts("\n");
}

}  // namespace terminal
