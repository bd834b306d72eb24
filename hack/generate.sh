#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Generates files from the API types and the reconcilers' markers: deep copies,
# CRDs, the manager's role, the API reference and the tables of reasons in
# docs/troubleshooting.md.
#
#   generate.sh BIN ROOT      writes the files below ROOT
#   generate.sh --check BIN   fails and prints the differences if the tree is stale
#
# BIN contains controller-gen and crd-ref-docs.
set -euo pipefail

check=
if [ "$1" = --check ]; then check=yes; shift; fi
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

generate() {
  local root=$1
  mkdir -p "$root/api/v1alpha1" "$root/config/crd/bases" "$root/config/rbac" "$root/docs"
  "$bin/controller-gen" object:headerFile=hack/boilerplate.go.txt paths=./api/... output:object:dir="$root/api/v1alpha1"
  "$bin/controller-gen" crd paths=./api/... output:crd:dir="$root/config/crd/bases"
  if [ -n "$(find controllers -name '*.go' 2>/dev/null)" ]; then
    "$bin/controller-gen" rbac:roleName=manager-role paths=./controllers/... output:rbac:dir="$root/config/rbac"
  fi
  "$bin/crd-ref-docs" --log-level=ERROR --source-path=api --config=hack/apidocs/config.yaml \
    --renderer=markdown --output-path="$root/docs/api.md"
  env -u GOOS -u GOARCH go run ./hack/reasons api/v1alpha1 docs/troubleshooting.md "$root/docs/troubleshooting.md"
}

if [ -z "$check" ]; then
  generate "$2"
  exit
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
generate "$tmp"
stale=
while IFS= read -r file; do
  diff -u "$file" "$tmp/$file" || stale=yes
done < <(cd "$tmp" && find . -type f | sed 's|^\./||' | sort)
if [ -n "$stale" ]; then
  echo 'generated files are stale: run "make generate" and commit the changes' >&2
  exit 1
fi
echo "generated files are up to date"
