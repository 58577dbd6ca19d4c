#!/usr/bin/env bash
# run.sh installed|subproject|isolation ROOT BUILD: a project outside the tree uses the library.
# CXX and CMAKE_GENERATOR come from the environment, as for any user.
set -euo pipefail
mode=$1 root=$2 build=$3
here=$root/tests/consumer
work=$build/consumer/$mode
mkdir -p "$work"
fail() { echo "$*"; exit 1; }
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; fail "failed: $*"; }; }

# consume DIR CMAKE_ARGUMENTS...: the consumer builds, runs, and was compiled with flags of its own alone.
consume() {
  local dir=$1 && shift
  quietly cmake -S "$here" -B "$dir" "$@"
  quietly cmake --build "$dir" --parallel 2
  "$dir/strict" && "$dir/fast"
  local commands
  commands=$(grep '"command"' "$dir/compile_commands.json" | grep -F "$here/") ||
    fail "no compile commands to look at"
  ! grep -E -- '-march|-fopenmp|-fno-|-ffp-contract|-fvisibility|-D *LMP_|-D *LAMPPP_|/src[ /"]' \
    <<<"${commands//-DLAMPPP_SHARED/}" || fail "flags of the library arrived in the consumer"
}

# same_headers PREFIX: what is installed is include/, and nothing private. cuda.hpp is there where GPUs are.
same_headers() { diff -r -x cuda.hpp "$root/include/lamppp" "$1/include/lamppp"; }

case $mode in
  installed)
    rm -rf "$work"/{prefix,consumer}
    quietly cmake --install "$build" --prefix "$work/prefix"
    same_headers "$work/prefix"
    consume "$work/consumer" -DCMAKE_PREFIX_PATH="$work/prefix"
    ;;
  subproject) # as a shared library without GPUs, whose installed package is tried as well
    rm -rf "$work"/{prefix,consumer}
    consume "$work/build" -DCMAKE_BUILD_TYPE=Release -DLAMPPP_SOURCE="$root" \
      -DBUILD_SHARED_LIBS=ON -DLAMPPP_INSTALL=ON -DLAMPPP_CUDA=OFF
    quietly cmake --install "$work/build" --prefix "$work/prefix"
    same_headers "$work/prefix"
    consume "$work/consumer" -DCMAKE_PREFIX_PATH="$work/prefix"
    library=$(find "$work/prefix" -name 'liblamppp.so' | xargs readlink -f)
    strip -o "$work/stripped.so" "$library"
    size=$(stat -c %s "$work/stripped.so")
    echo "stripped shared library: $size bytes"
    ((size < 8000000)) || fail "that is too much: the limit is 8 MB"
    ;;
  isolation) # below a project that has fast-math for all, and wants neither tests nor an install
    rm -rf "$work/build"
    quietly cmake -S "$here" -B "$work/build" -DLAMPPP_SOURCE="$root" -DCMAKE_CXX_FLAGS=-ffast-math
    ours=$(grep '"command"' "$work/build/compile_commands.json" | grep -F "$root/src/" | grep -v '[.]cu[" ]')
    ! grep -vE -- '-ffast-math.* -fno-fast-math' <<<"$ours" || fail "compiled with -ffast-math"
    [ ! -e "$work/build/_deps/lamppp-build/tests" ] || fail "tests in a subproject"
    [ ! -e "$work/build/_deps/lamppp-build/examples" ] || fail "examples in a subproject"
    ! grep -i 'lamppp-targets\|\.hpp' "$work/build/_deps/lamppp-build/cmake_install.cmake" ||
      fail "an install in a subproject"
    ;;
esac
