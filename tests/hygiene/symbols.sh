#!/usr/bin/env bash
# symbols.sh ISA OBJECT...: all that the kernels of an instruction set define for others to see names
# lmp::cpu::ISA. The linker keeps one copy of a symbol that several objects define, and the copy made
# for AVX-512 would crash on an older CPU.
set -euo pipefail
isa=$1 && shift
# Neither of these two holds vector code: a pointer, and a call of std::terminate.
symbols=$(nm --defined-only --extern-only "$@")
foreign=$(awk 'NF == 3 {print $3}' <<<"$symbols" | sort -u |
  grep -vE "3cpu${#isa}${isa}|^DW\.ref\.|^__clang_call_terminate$" || true)
[ -z "$foreign" ] || { echo "defined outside lmp::cpu::$isa:"; c++filt <<<"$foreign"; exit 1; }
