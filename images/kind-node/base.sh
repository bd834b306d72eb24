#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# base.sh OUT
#
# Builds OUT/base.tar, the node's Debian root file system, and OUT/iptables.tar,
# its subset for kube-proxy's image. Environment: SUITE; DEB_LINES and APT_OPTIONS
# as printed by images/guest/sources.sh; TMPDIR, a world-writable directory. Runs as
# root, or as a user with subordinate user IDs.
set -euo pipefail

# Run as root, the build gets its own namespaces, so that its processes and mounts
# end with it. For other users mmdebstrap creates such namespaces.
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

# In unshare mode the hook runs as another user ID, which may not be able to read
# the checkout.
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
