#!/usr/bin/env bash
# blocks.sh DIR PAGE...: writes every ```cpp block of the pages to DIR as a program, PAGE_NUMBER.cpp.
# A block without a main is the body of one, after its includes. A file whose text is as it was is not touched.
set -euo pipefail
dir=$1 && shift
fresh=$(mktemp -d) && trap 'rm -rf "$fresh"' EXIT
for page in "$@"; do
  awk -v stem="$fresh/$(basename "$page" .md)" '
    /^```cpp$/ { inside = 1; text = includes = body = ""; next }
    inside && /^```$/ {
      inside = 0
      if (text !~ /int main\(/)
        text = includes "#include \"lamppp/lamppp.hpp\"\n\nint main() {\n" body "}\n"
      printf "%s", text > (stem "_" ++count ".cpp")
    }
    inside && /^#include/ { includes = includes $0 "\n" }
    inside && !/^#include/ { body = body $0 "\n" }
    inside { text = text $0 "\n" }' "$page"
done
mkdir -p "$dir"
for old in "$dir"/*.cpp; do [ -e "$fresh/${old##*/}" ] || rm -f "$old"; done
for new in "$fresh"/*.cpp; do
  [ ! -e "$new" ] || cmp -s "$new" "$dir/${new##*/}" || cp "$new" "$dir"
done
