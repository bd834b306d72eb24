#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds development tools or takes them from the cache, and links them:
#
#   build.sh OUTDIR TOOL...
#
# TOOL is controller-gen, crd-ref-docs, golangci-lint or kustomize. The go.mod files
# in this directory pin the versions; golangci-lint has its own, because its
# dependencies conflict with the Kubernetes libraries. The cache is
# ${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/pxelab} and its key is a digest of
# the module files, the Go version and the host. Must work with bash 3.2 (macOS).
set -euo pipefail

log() { printf 'tools: %s\n' "$*" >&2; }

[ $# -ge 2 ] || { log "usage: $0 OUTDIR TOOL..."; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/tools

digest() {
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

for tool in "$@"; do
  module=$here
  case $tool in
  controller-gen) package=sigs.k8s.io/controller-tools/cmd/controller-gen ;;
  crd-ref-docs) package=github.com/elastic/crd-ref-docs ;;
  kustomize) package=sigs.k8s.io/kustomize/kustomize/v5 ;;
  golangci-lint)
    module=$here/golangci-lint
    package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
    ;;
  *)
    log "unknown tool $tool"
    exit 2
    ;;
  esac
  # The tools run on this host, whatever platform the caller builds for.
  key=$(
    cd "$module"
    { env -u GOOS -u GOARCH go env GOVERSION GOHOSTOS GOHOSTARCH; cat go.mod go.sum; } | digest | cut -c1-24
  )
  binary=$cache/$key/$tool
  if [ ! -x "$binary" ]; then
    log "compiling $tool (once)"
    mkdir -p "$cache/$key"
    tmp=$(mktemp -d "$cache/$key/.build.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    (cd "$module" && env -u GOOS -u GOARCH CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$tmp/$tool" "$package")
    mv -f "$tmp/$tool" "$binary"
    rm -rf "$tmp"
    trap - EXIT
  fi
  ln -sf "$binary" "$out/$tool"
done
