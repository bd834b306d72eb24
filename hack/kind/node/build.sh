#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh BIN
#
# Makes a node image for kind from Debian's packages and Go modules, for hosts
# that cannot have kind's own, or takes it from the cache, and links it:
#
#   BIN/kind-node.tar    an archive for "docker load", of one image:
#                        pxelab/kind-node:KEY
#
# Wants BIN/controlplane (make controlplane), which is all of Kubernetes on the
# node. The cache is ${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/pxelab}/kind
# and KEY, the name of the directory there, is a digest of the recipe. Debian's
# packages are those of the day it is built. No root is needed where the host's
# packages are (make deps).
set -euo pipefail

suite=trixie
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$recipe/../../.." && pwd)

say() { printf 'node image: [%3d s] %s\n' $SECONDS "$*" >&2; }
die() {
  say "$*"
  exit 1
}

[ $# -eq 1 ] || die "usage: build.sh BIN"
[ "$(uname -s)" = Linux ] || die "it can only be built on Linux; elsewhere kind's own is used"
mkdir -p "$1"
bin=$(cd "$1" && pwd)
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/kind
arch=$(go env GOARCH)
kubernetes=$(readlink -f "$bin/controlplane") && [ -x "$kubernetes" ] ||
  die "$bin/controlplane is missing: make controlplane"
export CGO_ENABLED=0 GOOS=linux

# The control plane's directory is named by the digest of its sources.
key() {
  {
    printf '%s\n' "$suite" "$arch" "$(go env GOVERSION)" "$(basename "$(dirname "$kubernetes")")"
    cd "$root"
    go list -deps -f '{{with .Module}}{{.Path}} {{.Version}}{{end}}' ./hack/kind/node/volumes | LC_ALL=C sort -u
    find hack/kind/node hack/imagetar hack/images/sources.sh -type f ! -name '*_test.go' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-24
}

# go_build DIR OUT ARGUMENTS... - in a module of its own, with a sign of life.
go_build() {
  local dir=$1 out=$2 since=$SECONDS told=$SECONDS compiler
  shift 2
  (cd "$recipe/$dir" && exec go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$out" "$@") &
  compiler=$!
  while kill -0 $compiler 2>/dev/null; do
    sleep 0.5
    if [ $((SECONDS - told)) -ge 20 ]; then
      told=$SECONDS
      say "  still compiling $(basename "$dir") after $((SECONDS - since)) s"
    fi
  done
  wait $compiler || die "compiling $(basename "$dir") failed"
}

# programs OUT - what the node runs, from modules of pinned versions.
programs() {
  local out=$1
  mkdir -p "$out/usr/local/bin" "$out/opt/cni/bin" "$work/coredns" "$work/pause"
  say "compiling the CNI plugins"
  go_build parts/cni "$out/opt/cni/bin/" tool
  say "compiling containerd; about 4 minutes when done for the first time (2 cores)"
  go_build parts/containerd "$out/usr/local/bin/" -tags 'no_btrfs no_zfs no_devmapper' tool
  say "compiling crictl"
  go_build parts/crictl "$out/usr/local/bin/" tool
  say "compiling CoreDNS; about 2 minutes when done for the first time"
  go_build parts/coredns "$work/coredns/coredns" .
  go_build pause "$work/pause/pause" .
  say "compiling the volumes' provisioner"
  go_build volumes "$out/usr/local/bin/volumes" .
}

# kubernetes_into DIR NAMES... - the one binary, by these names.
kubernetes_into() {
  local dir=$1 name
  shift
  mkdir -p "$dir"
  cp "$kubernetes" "$dir/kubernetes"
  for name in "$@"; do ln -s kubernetes "$dir/$name"; done
}

base() {
  say "installing Debian's packages ($suite)"
  local assignments
  assignments=$("$root/hack/images/sources.sh" "$suite")
  eval "$assignments"
  export DEB_LINES APT_OPTIONS SUITE=$suite
  TMPDIR=$tmp "$recipe/base.sh" "$work" >"$work/base.log" 2>&1 || {
    tail -n 25 "$work/base.log" >&2
    die "installing Debian's packages failed"
  }
}

# image_names - the images that kubeadm starts, as it names them.
image_names() { "$kubernetes" kubeadm config images list --kubernetes-version "$1"; }

# spec NAMES... - the images that the node holds, for imagetar. The components
# share one layer, and are told apart by the command that kubeadm gives them.
spec() {
  local name layers more separator='['
  for name in "$@"; do
    layers="\"$work/components\"" more=
    case $name in
    */coredns:*) layers="\"$work/coredns\"" more='"entrypoint": ["/coredns"]' ;;
    */pause:*) layers="\"$work/pause\"" more='"entrypoint": ["/pause"], "user": "65535:65535"' ;;
    */kube-proxy:*) layers="\"$work/iptables.tar\", \"$work/components\"" ;;
    esac
    printf '%s{"tags": ["%s"], "architecture": "%s", "layers": [%s], "env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]%s}' \
      "$separator" "$name" "$arch" "$layers" "${more:+, $more}"
    separator=', '
  done
  printf ']\n'
}

build() {
  local version names pause
  version=$("$kubernetes" kubectl version --client | sed -n 's/^Client Version: //p')
  names=$(image_names "$version")
  mkdir -p "$work/rootfs/kind/images"
  base
  programs "$work/rootfs"
  (cd "$root" && go build -trimpath -buildvcs=false -o "$work/imagetar" ./hack/imagetar)

  say "packing Kubernetes $version"
  kubernetes_into "$work/components/usr/local/bin" \
    etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy
  # shellcheck disable=SC2086
  spec $names | "$work/imagetar" "$work/rootfs/kind/images/kubernetes.tar"
  kubernetes_into "$work/rootfs/usr/local/bin" kubelet kubeadm kubectl
  cp -R "$recipe/files/." "$work/rootfs/"
  pause=$(grep '/pause:' <<<"$names")
  sed -i "s|PAUSE_IMAGE|$pause|" "$work/rootfs/etc/containerd/config.toml"
  printf '%s' "$version" >"$work/rootfs/kind/version"
  chmod -R u+rwX,go+rX "$work/rootfs"

  mkdir "$work/out"
  printf '[{"tags": ["pxelab/kind-node:%s"], "architecture": "%s", "layers": ["%s", "%s"], "entrypoint": ["/usr/local/bin/entrypoint"], "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "stopSignal": "SIGTERM"}]' \
    "$key" "$arch" "$work/base.tar" "$work/rootfs" | "$work/imagetar" "$work/out/kind-node.tar"
}

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  rm -rf "$work"
  # Files of other user ids are in it when mmdebstrap was killed.
  rm -rf --one-file-system "$tmp" 2>/dev/null ||
    mmdebstrap --unshare-helper rm -rf --one-file-system "$tmp" 2>/dev/null || true
  exit $status
}

main() {
  key=$(key)
  dir=$cache/node/$key
  mkdir -p "$cache/node"
  exec 9>"$cache/node/.lock"
  if ! flock --nonblock 9; then
    say "another build is running, waiting for it"
    flock 9
  fi
  if [ -s "$dir/kind-node.tar" ]; then
    say "it is in the cache ($key)"
  else
    command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: hack/deps/install.sh kind-node"
    rm -rf "$cache"/node/.build.*
    work=$(mktemp -d "$cache/node/.build.XXXXXX")
    # For mmdebstrap, whose other user ids must be able to enter and write there.
    tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/pxelab-kind.XXXXXX")
    chmod 1777 "$tmp"
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "building $key in $cache/node"
    build 9>&-
    rm -rf "$dir"
    mv "$work/out" "$dir"
    say "built, $(($(wc -c <"$dir/kind-node.tar") / 1000000)) MB"
    # One recipe's image is enough: they are large.
    find "$cache/node" -mindepth 1 -maxdepth 1 -type d ! -name "$key" ! -name '.build.*' -mtime +2 -exec rm -rf {} +
  fi
  touch "$dir"
  ln -sf "$dir/kind-node.tar" "$bin/kind-node.tar"
}

main
exit
