#!/usr/bin/env bash
# eigen.sh OBJECT...: the library's Eigen is in a namespace of its own, so that the linker never takes
# it for that of a program.
set -euo pipefail
symbols=$(nm "$@")
grep -q 'lmp_private_eigen' <<<"$symbols" || { echo 'no Eigen at all?'; exit 1; }
foreign=$(grep -E '[^a-z_]5Eigen' <<<"$symbols" || true)
[ -z "$foreign" ] || { echo 'symbols of a namespace Eigen:'; c++filt <<<"$foreign"; exit 1; }
