#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# base.sh OUT
#
# Makes OUT/base.tar, the node's Debian, and OUT/iptables.tar, what kube-proxy
# runs of it. Wants in the environment: SUITE; DEB_LINES and APT_OPTIONS as
# hack/images/sources.sh tells them; TMPDIR, a directory that everyone may write
# to. Works as root, and as any user who has subordinate user ids.
set -euo pipefail

# Whatever ends a build made by root ends its processes and mounts with it. For
# anybody else mmdebstrap has such namespaces of its own.
if [ "$(id -u)" -eq 0 ] && [ -z "${LAB_NAMESPACES:-}" ]; then
  LAB_NAMESPACES=1 exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi

out=$1
recipe=$(cd "$(dirname "$0")" && pwd)
mode=unshare
[ "$(id -u)" -ne 0 ] || mode=root

packages=$(sed -e '/^#/d' -e '/^$/d' "$recipe/packages" | paste -sd,)
options=()
while read -r option; do options+=("--aptopt=$option"); done <<<"$APT_OPTIONS"

# The hook runs as another user id in unshare mode, who may not be able to look
# into the checkout.
hooks=$(mktemp -d "$TMPDIR/recipe.XXXXXX")
trap 'rm -rf "$hooks"' EXIT
cp "$recipe/customize.sh" "$hooks/"
chmod -R a+rX "$hooks"

mmdebstrap --mode="$mode" --format=tar --variant=essential --skip=output/dev \
  "${options[@]}" \
  --aptopt='APT::Install-Recommends "false"' \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/lintian/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
  --dpkgopt=force-unsafe-io \
  --include="$packages" \
  --customize-hook="$hooks/customize.sh" \
  --customize-hook="download /iptables.tar $out/iptables.tar" \
  --customize-hook='rm "$1/iptables.tar"' \
  "$SUITE" "$out/base.tar" - <<<"$DEB_LINES"
