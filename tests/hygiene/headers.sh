#!/usr/bin/env bash
# headers.sh ROOT COMPILER: every public header compiles alone, twice included, without a warning.
set -uo pipefail
command -v "$2" >/dev/null || { echo "no $2 here"; exit 77; }
cd "$1/include"
failed=0
while IFS= read -r header; do
  printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
    "$2" -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I. \
      -x c++ - || { echo "^ $header"; failed=1; }
done < <(find lamppp -name '*.hpp' | sort)
exit $failed
