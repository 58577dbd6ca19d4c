#!/usr/bin/env bash
# layers.sh ROOT: who may know whom.
set -u
cd "$1"
failed=0
# none RULE REGEX ALLOWED PATH...: no line under the paths matches, but for the allowed.
none() {
  local rule=$1 regex=$2 allowed=$3 found && shift 3
  found=$(grep -rnE "$regex" "$@" --include='*.[hc]pp' --include='*.inc' --include='*.def' \
    2>/dev/null | grep -vE "$allowed")
  [ -n "$found" ] || return 0
  printf '%s:\n%s\n' "$rule" "$found"
  failed=1
}
nothing='$^'

none 'tensor/ includes nothing of autograd/' '#include.*autograd/' "$nothing" \
  src/tensor include/lamppp/tensor
none 'oneDNN is named in src/cpu alone' '\bdnnl' '^src/cpu/' src include
none 'Eigen is named in src/cpu alone' '\bEigen|<Eigen' '^src/cpu/' src include
none 'OpenMP is named in src/cpu and src/tensor/parallel.cpp alone' \
  '#pragma omp|\bomp_|<omp\.h>' '^src/(cpu/|tensor/parallel\.cpp)' src include
none 'CUDA is named in src/cuda alone' '\bcu(da|blas|dnn)[A-Z]|<cuda' '^(src/cuda/|include/lamppp/cuda\.hpp)' src include
none 'public headers include public headers' '#include "' '#include "lamppp/' include
for room in nn optim data io; do
  none "src/$room includes public headers and its own" '#include "' \
    "#include \"(lamppp|$room)/" "src/$room"
done
exit $failed
