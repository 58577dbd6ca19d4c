#!/usr/bin/env bash
# expect.sh PROGRAM SOURCE: PROGRAM ends well, and each `// expect: REGEX` line of its SOURCE, an
# extended regular expression, matches a line of what it prints.
set -euo pipefail
output=$("$1")
echo "$output"
sed -n 's|^// expect: ||p' "$2" | while IFS= read -r pattern; do
  grep -Eq -e "$pattern" <<<"$output" || { echo "expected a line like: $pattern"; exit 1; }
done
