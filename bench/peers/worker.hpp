// A program that times the rows of one library, driven by compare.py through its standard input and
// output, so that the rounds of several libraries interleave:
//   list             a line of JSON for each row
//   time ROW SECONDS runs the row for about that long; prints the seconds that one execution took
//   drop             forgets the operands of the row last timed
#pragma once

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "rows.hpp"

namespace peers {

/// `wait` lets a device finish what it was given; bodies on a device only give it work.
inline double seconds_of(const Body& body, long count, const Body& wait) {
  if (wait) wait();
  const auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < count; ++i) body();
  if (wait) wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline int serve(const std::vector<Row>& rows, const Body& wait = nullptr) {
  std::size_t current = rows.size();
  Body body;
  long count = 1;
  std::string command;
  while (std::cin >> command) {
    try {
      if (command == "list") {
        constexpr const char* units[] = {"fp32", "fp64", "bf16"};
        for (const Row& row : rows)
          std::printf(
              R"({"group": "%s", "name": "%s", "bytes": %.0f, "written": %.0f, "flops": %.0f, "unit": "%s", "launches": %g, "must": %g, "ahead": %g})"
              "\n",
              row.group.c_str(), row.name.c_str(), row.bytes, row.written, row.flops,
              units[static_cast<int>(row.unit)], row.launches, row.must, row.ahead);
        std::printf("\n");
      } else if (command == "time") {
        std::size_t index = 0;
        double seconds = 0;
        std::cin >> index >> seconds;
        if (index != current) {
          body = nullptr;
          body = rows.at(index).setup();
          current = index;
          // Warm: pages, caches, clocks, primitives that are made for a shape, on a GPU after it
          // was met a few times.
          for (int i = 0; i < (wait ? 8 : 1); ++i) body();
          count = 1;
          double took = seconds_of(body, count, wait);
          while (took < seconds / 4 && count < (1L << 40))
            took = seconds_of(body, count *= 2, wait);
          count = std::max(1L, static_cast<long>(static_cast<double>(count) * seconds / took));
        }
        std::printf("%.9g\n", seconds_of(body, count, wait) / static_cast<double>(count));
      } else if (command == "drop") {
        body = nullptr;
        current = rows.size();
        std::printf("dropped\n");
      } else {
        std::printf("error: unknown command %s\n", command.c_str());
      }
    } catch (const std::exception& error) {
      std::printf("error: %s\n", error.what());
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace peers
