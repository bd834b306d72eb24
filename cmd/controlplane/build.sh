#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds cmd/controlplane or takes it from the cache, and links it:
#
#   build.sh OUTDIR
#     OUTDIR/controlplane
#     OUTDIR/envtest/{etcd,kube-apiserver,kubectl}   (for KUBEBUILDER_ASSETS)
#
# The cache is ${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/pxelab}; the key
# is a digest of the module's sources, the Go version, the target and the flags.
# GOOS and GOARCH are honoured. Must work with bash 3.2 (macOS).
set -euo pipefail

log() { printf 'controlplane: %s\n' "$*" >&2; }
die() { log "$*"; exit 1; }

[ $# -eq 1 ] || die "usage: $0 OUTDIR"
command -v go >/dev/null || die "the Go toolchain is missing; see https://go.dev/doc/install"

root=$(cd "$(dirname "$0")/../.." && pwd)
module=$root/cmd/controlplane
mkdir -p "$1"
out=$(cd "$1" && pwd)
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/controlplane

# Kubernetes' release scripts set these; without them the API server reports
# v0.0.0, which clients reject.
version=$(cd "$module" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
goversion=$(go env GOVERSION)
target=$(go env GOOS)/$(go env GOARCH)
minor=${version#v1.}
# Without the commit: the cache's key does not contain it, and it would be that of
# the first build.
flags=(-trimpath -buildvcs=false)
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  ldflags="$ldflags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean"
done

digest() {
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# Everything the compiler reads, excluding test files. Paths are relative, so that
# the digest does not depend on the location of the checkout.
sources() {
  find . -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) ! -name '*_test.go' | LC_ALL=C sort
}
key() {
  cd "$module"
  { printf '%s\n' "$goversion" "$target" "${flags[*]}" "$ldflags" "CGO_ENABLED=0"
    sources | while IFS= read -r file; do digest "$file"; done
  } | digest | cut -c1-24
}
key=$(key)

dir=$cache/$key
binary=$dir/controlplane
if [ -x "$binary" ]; then
  log "using the cached $version for $target"
else
  mkdir -p "$cache"
  # Build next to the final path, so that a rename publishes the result atomically.
  # Concurrent builds of the same key produce the same result.
  tmp=$(mktemp -d "$cache/.build.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  log "downloading the sources of Kubernetes $version and etcd"
  packages=$(cd "$module" && go list -deps . 2>"$tmp/log" | wc -l | tr -d ' ') || {
    cat "$tmp/log" >&2
    die "downloading the sources failed"
  }
  log "compiling for $target; about 5 minutes the first time (2 cores)"
  began=$(date +%s)
  # -v prints each package as it is compiled: count the lines to report progress.
  (cd "$module" && exec env CGO_ENABLED=0 go build -v "${flags[@]}" -ldflags "$ldflags" -o "$tmp/controlplane" . 2>"$tmp/log") &
  compiler=$!
  # Without this an interrupted build would continue in the background.
  trap 'kill "$compiler" 2>/dev/null || true; rm -rf "$tmp"' EXIT
  trap 'exit 130' INT TERM
  reported=0
  while kill -0 "$compiler" 2>/dev/null; do
    sleep 1
    seconds=$(($(date +%s) - began))
    if [ $((seconds - reported)) -ge 15 ]; then
      reported=$seconds
      log "  $(grep -vc '^go: ' "$tmp/log" || true) of at most $packages packages compiled after $seconds s"
    fi
  done
  if ! wait "$compiler"; then
    grep -v '^[a-zA-Z0-9./_-]*$' "$tmp/log" >&2 || true # all lines except package names
    die "the build failed"
  fi
  rm "$tmp/log"
  [ "$(key)" = "$key" ] || die "the sources changed during the build; run it again"
  if ! mv "$tmp" "$dir" 2>/dev/null && [ ! -x "$binary" ]; then
    die "moving the build to $dir failed"
  fi
  # If another build has published the directory meanwhile, mv nests this one.
  rm -rf "$dir/$(basename "$tmp")"
  trap - EXIT INT TERM
  log "built in $(($(date +%s) - began)) s, $(($(wc -c <"$binary") / 1000000)) MB"
fi

# Remove versions that were not used for two months, and leftovers of killed
# builds.
touch "$dir"
find "$cache" -mindepth 1 -maxdepth 1 -type d \
  \( -mtime +60 -o -name '.build.*' -mtime +1 \) -exec rm -rf {} +

# Do not replace a correct link: it would be missing for a moment, in which a lab
# or a test may use it.
mkdir -p "$out/envtest"
for link in controlplane envtest/etcd envtest/kube-apiserver envtest/kubectl; do
  [ "$(readlink "$out/$link")" = "$binary" ] || ln -sf "$binary" "$out/$link"
done
