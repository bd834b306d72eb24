#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# deploy.sh up|down|render IMAGE [OVERLAY]
#
# Deploys the manager to a cluster, removes it, or prints the manifests. The cluster
# is that of KUBECONFIG, else the one created by "make kind-up", else kubectl's
# current context. OVERLAY is one of config's: default, kvm, namespaced or kind. kind is the
# default for the cluster of "make kind-up", into whose node the image of "make
# image" is loaded.
set -euo pipefail
cd "$(dirname "$0")/.."

log() { printf 'deploy: %s\n' "$*" >&2; }
die() { log "$*"; exit 1; }

action=$1 image=$2 overlay=${3:-}
name=${image%:*} tag=${image##*:}
[ "$name:$tag" = "$image" ] && [[ $tag != */* ]] || die "IMG=$image has no tag; set NAME:TAG"

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
[ -e "config/$overlay/kustomization.yaml" ] || die "config/$overlay does not exist; set OVERLAY to default, kvm, namespaced or kind"

# render - prints the overlay with the requested image.
render() (
  mkdir -p bin
  dir=$(mktemp -d bin/deploy.XXXXXX) # at the depth of config's overlays
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
    die "kubectl is missing; install it, or run \"make controlplane\", which builds bin/kubectl"
}

up() {
  have_kubectl
  "$kubectl" version >/dev/null 2>&1 ||
    die "no cluster responds; set KUBECONFIG, or create one with \"make kind-up\""
  if is_kind; then
    make --no-print-directory image IMG="$image"
    bin/kind-lab load --name="${KIND_NAME:-pxelab}" bin/manager.image.tar
  fi
  render | "$kubectl" apply --server-side -f -
  # The cluster does not notice a new image under the same name.
  if is_kind; then "$kubectl" -n pxelab-system rollout restart deployment/pxelab-manager; fi
  if ! "$kubectl" -n pxelab-system rollout status deployment/pxelab-manager --timeout=10m; then
    "$kubectl" -n pxelab-system describe pods >&2
    die "the manager did not become ready; see above and \"kubectl -n pxelab-system logs deployment/pxelab-manager\""
  fi
  log "the manager is running; next: kubectl apply -f config/samples${KUBECONFIG:+ (KUBECONFIG=$KUBECONFIG)}"
}

# down - deletes the labs first: their finalizers need the manager.
down() {
  local kind
  have_kubectl
  for kind in baremetaltargets provisioningservers bootprofiles; do
    if "$kubectl" get crd "$kind.pxelab.io" >/dev/null 2>&1; then
      "$kubectl" delete "$kind.pxelab.io" --all --all-namespaces --timeout=5m
    fi
  done
  render | "$kubectl" delete --ignore-not-found --timeout=5m -f -
  log "removed pxelab from the cluster"
}

case $action in
up | down | render) $action ;;
*) die "usage: $0 up|down|render IMAGE [OVERLAY]" ;;
esac
