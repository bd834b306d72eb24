#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh DURATION - runs every fuzz test of the main module for DURATION, one at a
# time, as the go command requires.
set -euo pipefail
cd "$(dirname "$0")/.."

grep -rlE --include='*_test.go' '^func Fuzz' internal controllers api 2>/dev/null | xargs -n1 dirname | sort -u |
  while IFS= read -r dir; do
    for name in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
      printf '== %s %s\n' "$dir" "$name"
      # By default, minimizing an interesting input takes up to a minute.
      go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" -fuzzminimizetime 2s "./$dir" </dev/null
    done
  done
