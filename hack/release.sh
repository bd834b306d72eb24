#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# release.sh check    checks that the checkout can be released
# release.sh write    checks it, then writes a release to dist/: programs,
#                     install.yaml, the manager's container image with its SPDX list,
#                     and SHA256SUMS
#
# The version is the tag of the commit.
#
# Environment:
#   ALLOW_DIRTY=1      for a trial: accept uncommitted changes and a commit without
#                      a tag; the version is then that of "git describe"
#   RELEASE_IMAGE=0    leave out the image and its SPDX list
#   RELEASE_REPOSITORY name of the image without a tag, default pxelab/manager
#
# bin/kustomize must exist. bin/controlplane is included for this host's platform
# if it exists; it is not cross-compiled, because each platform compiles
# Kubernetes for minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

log() { printf 'release: %s\n' "$*" >&2; }
die() { log "$*"; exit 1; }

usage="usage: $0 check|write"
[ $# -eq 1 ] || die "$usage"
trial="or set ALLOW_DIRTY=1 for a trial"
if [ "${ALLOW_DIRTY:-}" = 1 ]; then
  version=$(git describe --tags --always --dirty) || die "the version is unknown; run this in a Git checkout"
else
  # The go command records no commit in a worktree.
  [ -d .git ] || die "the checkout is not a Git clone; run this in a clone, $trial"
  changes=$(git status --porcelain) || die "reading the state of the checkout failed; see above"
  [ -z "$changes" ] || die "the checkout has uncommitted changes; commit them, $trial"
  version=$(git describe --tags --exact-match 2>/dev/null) ||
    die "the commit has no tag; create it with \"git tag -a vX.Y.Z -m vX.Y.Z\", $trial"
  [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] ||
    die "the tag $version of the commit is not a version; create one with \"git tag -a vX.Y.Z -m vX.Y.Z\", $trial"
fi
if [ "${RELEASE_IMAGE:-1}" = 1 ] && [ "$(go env GOOS)" != linux ]; then
  die "the image is built on Linux only; set RELEASE_IMAGE=0 to leave it out"
fi
case $1 in
check) exit ;;
write) ;;
*) die "$usage" ;;
esac

image=${RELEASE_REPOSITORY:-pxelab/manager}:$version
export CGO_ENABLED=0
# The SPDX list gets the time of the commit, so that it can be reproduced.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
began=$(date +%s)
rm -rf dist
mkdir -p dist

ldflags="-s -w -X github.com/pxelab/pxelab/internal/version.tag=$version"
build() { # OS ARCH OUTPUT PROGRAM
  GOOS=$1 GOARCH=$2 go build -trimpath -buildvcs=true -ldflags "$ldflags" -o "$3" "./cmd/$4"
}
# Without the commit and the tag: the digest of a guest's program is its version.
build_guest() { # ARCH OUTPUT PROGRAM
  GOOS=linux GOARCH=$1 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$2" "./cmd/$3"
}

for arch in amd64 arm64; do
  for os in linux darwin; do
    log "building programs for $os/$arch"
    for program in manager simulator kubectl-lab lab kind-lab; do
      build $os $arch "dist/$program-$os-$arch" $program
    done
  done
  for program in netbootd installer; do
    build_guest $arch "dist/$program-linux-$arch" $program
  done
done
host=$(go env GOOS)-$(go env GOARCH)
if [ -e bin/controlplane ]; then
  cp -L bin/controlplane "dist/controlplane-$host"
else
  log "bin/controlplane does not exist and is left out; run \"make controlplane\" to include it"
fi
hack/deploy.sh render "$image" >dist/install.yaml

if [ "${RELEASE_IMAGE:-1}" = 1 ]; then
  arch=$(go env GOARCH)
  mkdir -p bin
  cp dist/{manager,simulator}-linux-$arch dist/{netbootd,installer}-linux-{amd64,arm64} bin/
  images/manager/build.sh "$image" "dist/manager-image-linux-$arch.tar"
  mv "dist/manager-image-linux-$arch.tar.spdx.json" "dist/manager-image-linux-$arch.spdx.json"
  gzip -n "dist/manager-image-linux-$arch.tar"
fi

(
  cd dist
  files=(*)
  if command -v sha256sum >/dev/null; then sha256sum "${files[@]}"; else shasum -a 256 "${files[@]}"; fi >.SHA256SUMS
  mv .SHA256SUMS SHA256SUMS
)
log "wrote $version to dist/ in $(($(date +%s) - began)) s"
