#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# deploy.sh up|down|render IMAGE [OVERLAY]
#
# Puts the manager into a cluster, removes it, or prints what it would apply.
# The cluster is KUBECONFIG's, or the one that "make kind-up" made, or else
# kubectl's own choice. OVERLAY is one of config's: default, kvm or kind; the
# last is taken for the cluster of "make kind-up", whose nodes also get the image
# as "make image" makes it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'deploy: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

action=$1 image=$2 overlay=${3:-}
name=${image%:*} tag=${image##*:}
[ "$name:$tag" = "$image" ] && [[ $tag != */* ]] || die "IMG=$image has no tag: give NAME:TAG"

kubectl=$(command -v kubectl || echo bin/kubectl)
data=${PXELAB_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/pxelab}
own=$data/kind/${KIND_NAME:-pxelab}/kubeconfig
if [ -z "${KUBECONFIG:-}" ] && [ -e "$own" ]; then
  export KUBECONFIG=$own
fi

is_kind() { [ "${KUBECONFIG:-}" = "$own" ]; }
if [ -z "$overlay" ]; then
  overlay=default
  if [ "$action" != render ] && is_kind; then overlay=kind; fi
fi
[ -e "config/$overlay/kustomization.yaml" ] || die "there is no config/$overlay"

# render - the overlay with the image asked for.
render() (
  mkdir -p bin
  dir=$(mktemp -d bin/deploy.XXXXXX) # as deep as config's overlays
  trap 'rm -rf "$dir"' EXIT
  cat >"$dir/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../config/$overlay
images:
  - name: pxelab/manager
    newName: $name
    newTag: $tag
YAML
  bin/kustomize build "$dir"
)

have_kubectl() {
  command -v "$kubectl" >/dev/null ||
    die "there is no kubectl: install it, or run \"make controlplane\", which makes bin/kubectl"
}

up() {
  have_kubectl
  "$kubectl" version >/dev/null 2>&1 ||
    die "no cluster answers: set KUBECONFIG, or make one with \"make kind-up\""
  if is_kind; then
    make --no-print-directory image IMG="$image"
    bin/kind-lab load --name="${KIND_NAME:-pxelab}" bin/manager.image.tar
  fi
  render | "$kubectl" apply --server-side -f -
  # A new image under the old name is no change that the cluster would see.
  if is_kind; then "$kubectl" -n pxelab-system rollout restart deployment/pxelab-manager; fi
  if ! "$kubectl" -n pxelab-system rollout status deployment/pxelab-manager --timeout=10m; then
    "$kubectl" -n pxelab-system describe pods >&2
    die "the manager does not become ready: see above, and kubectl -n pxelab-system logs deployment/pxelab-manager"
  fi
  say "the manager runs; go on with: kubectl apply -f config/samples${KUBECONFIG:+ (KUBECONFIG=$KUBECONFIG)}"
}

# down - the labs first: their finalizers need the manager.
down() {
  local kind
  have_kubectl
  for kind in baremetaltargets provisioningservers bootprofiles; do
    if "$kubectl" get crd "$kind.pxelab.io" >/dev/null 2>&1; then
      "$kubectl" delete "$kind.pxelab.io" --all --all-namespaces --timeout=5m
    fi
  done
  render | "$kubectl" delete --ignore-not-found --timeout=5m -f -
  say "nothing of pxelab is left in the cluster"
}

case $action in
up | down | render) $action ;;
*) die "usage: $0 up|down|render IMAGE [OVERLAY]" ;;
esac
