#!/usr/bin/env bash
# macros.sh ROOT COMPILER: LMP_API is the one macro that lamppp.hpp leaves behind.
set -euo pipefail
cd "$1/include"
# Every macro that a header of ours defines, looked for among those alive after lamppp.hpp.
ours=$(grep -rhoE '^[[:space:]]*#[[:space:]]*define[[:space:]]+[A-Za-z_0-9]+' lamppp | awk '{print $NF}' | sort -u)
alive=$(echo '#include "lamppp/lamppp.hpp"' | "$2" -std=c++20 -I. -dM -E -x c++ - |
  awk '{sub(/\(.*/, "", $2); print $2}' | sort -u)
left=$(comm -12 <(echo "$ours") <(echo "$alive"))
[ "$left" = LMP_API ] || { echo "macros left behind:" $left; exit 1; }
