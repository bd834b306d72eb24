#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# arch.sh OUT
#
# Builds one architecture's image into OUT: disk.qcow2, vmlinuz, initrd,
# initrd-dracut. Wants in the environment: ARCH; SUITE; DEB_LINES and
# APT_OPTIONS as sources.sh tells them; TMPDIR, a directory that everyone may
# write to. Works as root, and as any user who has subordinate user ids.
set -euo pipefail

# Whatever ends a build made by root ends its processes and mounts with it. For
# anybody else mmdebstrap has such namespaces of its own.
if [ "$(id -u)" -eq 0 ] && [ -z "${LAB_NAMESPACES:-}" ]; then
  LAB_NAMESPACES=1 exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi

out=$1
recipe=$(cd "$(dirname "$0")" && pwd)

export ROOT_LABEL=debian-root KERNEL_ARGS=
export ARCH SUITE
# mmdebstrap gives its hooks no TMPDIR.
export LAB_TMPDIR=$TMPDIR

mode=unshare
[ "$(id -u)" -ne 0 ] || mode=root

packages=$(sed -e '/^#/d' -e '/^$/d' -e "s/ARCH/$ARCH/" "$recipe/packages" | paste -sd,)

# Holders of the programs that native.sh swaps.
native_packages=bash,dash,perl-base,python3-minimal,dpkg,tar,gzip,xz-utils,zstd,cpio,sed,grep,mawk,findutils,diffutils,coreutils,udev,kmod,dracut-install

# The hooks run as another user id in unshare mode, who may not be able to look
# into the checkout.
hooks=$(mktemp -d "$TMPDIR/recipe.XXXXXX")
trap 'rm -rf "$hooks"' EXIT
cp -R "$recipe/." "$hooks/"
chmod -R a+rX "$hooks"

options=()
while read -r option; do options+=("--aptopt=$option"); done <<<"$APT_OPTIONS"

if [ "$ARCH" != "$(dpkg --print-architecture)" ]; then
  echo "STEP native tools"
  native=$hooks/native.tar
  mmdebstrap --mode="$mode" --format=tar --variant=extract "${options[@]}" \
    --aptopt='Acquire::Retries "5"' \
    --dpkgopt='path-exclude=/usr/share/*' \
    --include="$native_packages" "$SUITE" "$native" - <<<"$DEB_LINES"
  export NATIVE_TAR=$native
  options+=("--extract-hook=$hooks/native.sh enter \"\$1\" $native")
fi

mmdebstrap --mode="$mode" --format=null --variant=minbase --architectures="$ARCH" \
  "${options[@]}" \
  --aptopt='APT::Install-Recommends "false"' \
  --aptopt='Acquire::Languages "none"' \
  --aptopt='#clear DPkg::Pre-Install-Pkgs' \
  --aptopt='Acquire::Retries "5"' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/lintian/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-include=/usr/share/locale/locale.alias' \
  --dpkgopt='path-exclude=/usr/share/i18n/*' \
  --dpkgopt=force-unsafe-io \
  --include="$packages" \
  --essential-hook="$hooks/essential.sh" \
  --customize-hook="$hooks/customize.sh" \
  --customize-hook="download /lab-out/disk.qcow2 $out/disk.qcow2" \
  --customize-hook="download /lab-out/vmlinuz $out/vmlinuz" \
  --customize-hook="download /lab-out/initrd $out/initrd" \
  --customize-hook="download /lab-out/initrd-dracut $out/initrd-dracut" \
  "$SUITE" /dev/null - <<<"$DEB_LINES"
