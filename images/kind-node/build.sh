#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh BIN
#
# Builds a node image for kind from Debian packages and Go modules, for hosts that
# cannot pull kind's image, or takes it from the cache, and links it:
#
#   BIN/kind-node.tar    an archive for "docker load" with one image,
#                        pxelab/kind-node:KEY
#
# Requires BIN/controlplane (make controlplane), which contains all of Kubernetes
# for the node. The cache is
# ${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/pxelab}/kind and KEY, the name of
# its subdirectory, is a digest of the recipe. The Debian packages are the latest at
# the time of the build. Root is required only to install the host packages
# (make deps).
set -euo pipefail

suite=trixie
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$recipe/../.." && pwd)

log() { printf 'node image: [%3d s] %s\n' $SECONDS "$*" >&2; }
die() {
  log "$*"
  exit 1
}

[ $# -eq 1 ] || die "usage: build.sh BIN"
[ "$(uname -s)" = Linux ] || die "this image can be built only on Linux; use kind's node image"
mkdir -p "$1"
bin=$(cd "$1" && pwd)
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/kind
arch=$(go env GOARCH)
kubernetes=$(readlink -f "$bin/controlplane") && [ -x "$kubernetes" ] ||
  die "$bin/controlplane is missing; build it with \"make controlplane\""
export CGO_ENABLED=0 GOOS=linux

# The name of the control plane's directory is the digest of its sources.
key() {
  {
    printf '%s\n' "$suite" "$arch" "$(go env GOVERSION)" "$(basename "$(dirname "$kubernetes")")"
    cd "$root"
    go list -deps -f '{{with .Module}}{{.Path}} {{.Version}}{{end}}' ./images/kind-node/volumes | LC_ALL=C sort -u
    find images/kind-node hack/imagetar images/guest/sources.sh -type f ! -name '*_test.go' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-24
}

# go_build DIR OUT ARGUMENTS... - builds in DIR's module and reports progress.
go_build() {
  local dir=$1 out=$2 since=$SECONDS reported=$SECONDS compiler
  shift 2
  (cd "$recipe/$dir" && exec go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$out" "$@") &
  compiler=$!
  while kill -0 $compiler 2>/dev/null; do
    sleep 0.5
    if [ $((SECONDS - reported)) -ge 20 ]; then
      reported=$SECONDS
      log "  still compiling $(basename "$dir") after $((SECONDS - since)) s"
    fi
  done
  wait $compiler || die "compiling $(basename "$dir") failed"
}

# programs OUT - compiles the node's programs from modules of pinned versions.
programs() {
  local out=$1
  mkdir -p "$out/usr/local/bin" "$out/opt/cni/bin" "$work/coredns" "$work/pause"
  log "compiling the CNI plugins"
  go_build parts/cni "$out/opt/cni/bin/" tool
  log "compiling containerd; about 4 minutes the first time (2 cores)"
  go_build parts/containerd "$out/usr/local/bin/" -tags 'no_btrfs no_zfs no_devmapper' tool
  log "compiling crictl"
  go_build parts/crictl "$out/usr/local/bin/" tool
  log "compiling CoreDNS; about 2 minutes the first time"
  go_build parts/coredns "$work/coredns/coredns" .
  go_build pause "$work/pause/pause" .
  log "compiling the volume provisioner"
  go_build volumes "$out/usr/local/bin/volumes" .
}

# kubernetes_into DIR NAMES... - installs the multi-call binary with links NAMES.
kubernetes_into() {
  local dir=$1 name
  shift
  mkdir -p "$dir"
  cp "$kubernetes" "$dir/kubernetes"
  for name in "$@"; do ln -s kubernetes "$dir/$name"; done
}

base() {
  log "installing Debian packages ($suite)"
  local assignments
  assignments=$("$root/images/guest/sources.sh" "$suite")
  eval "$assignments"
  export DEB_LINES APT_OPTIONS SUITE=$suite
  TMPDIR=$tmp "$recipe/base.sh" "$work" >"$work/base.log" 2>&1 || {
    tail -n 25 "$work/base.log" >&2
    die "installing Debian packages failed"
  }
}

# image_names VERSION - prints the names of the images that kubeadm uses.
image_names() { "$kubernetes" kubeadm config images list --kubernetes-version "$1"; }

# spec NAMES... - prints imagetar's specification of the node's images. The
# components share one layer; kubeadm selects them by the command that it sets.
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

  log "packing Kubernetes $version"
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
  # mmdebstrap, if killed, leaves files of other user IDs.
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
    log "waiting for another build to finish"
    flock 9
  fi
  if [ -s "$dir/kind-node.tar" ]; then
    log "using the cached image ($key)"
  else
    command -v mmdebstrap >/dev/null || die "mmdebstrap is missing; install it with hack/deps/install.sh kind-node"
    rm -rf "$cache"/node/.build.*
    work=$(mktemp -d "$cache/node/.build.XXXXXX")
    # mmdebstrap's other user IDs must be able to enter it and write there.
    tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/pxelab-kind.XXXXXX")
    chmod 1777 "$tmp"
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    log "building $key in $cache/node"
    build 9>&-
    rm -rf "$dir"
    mv "$work/out" "$dir"
    log "built $(($(wc -c <"$dir/kind-node.tar") / 1000000)) MB"
    # Keep only one recipe's image: they are large.
    find "$cache/node" -mindepth 1 -maxdepth 1 -type d ! -name "$key" ! -name '.build.*' -mtime +2 -exec rm -rf {} +
  fi
  touch "$dir"
  ln -sf "$dir/kind-node.tar" "$bin/kind-node.tar"
}

main
exit
