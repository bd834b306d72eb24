#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes what is generated from the API types and the reconcilers' markers:
# deep copies, CRDs, the manager's role, the API reference.
#
#   generate.sh BIN ROOT      writes below ROOT
#   generate.sh --check BIN   fails and shows the difference if the tree is not current
#
# BIN holds controller-gen and crd-ref-docs.
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
  echo 'generated files are not current: run "make generate" and commit what it changes' >&2
  exit 1
fi
echo "generated files are current"
