#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# ipxe.sh OUT
#
# Puts the iPXE programs of Debian's package "ipxe" into OUT:
# ipxe-x86_64.efi and ipxe-arm64.efi. Wants DEB_LINES and APT_OPTIONS as
# sources.sh tells them, of a suite whose iPXE is from 2021 or later (trixie).
# Uses apt with directories of its own, so it needs no rights, leaves the host's
# package lists alone, and unpacks nothing that apt has not verified.
set -euo pipefail
out=$1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{etc/{apt.conf.d,preferences.d},state/lists/partial,cache/archives/partial,deb}
: >"$work/status"
echo "$DEB_LINES" >"$work/etc/sources.list"
{
  cat <<EOF
Dir::Etc "$work/etc";
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "$work/etc";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
EOF
  while read -r option; do echo "$option;"; done <<<"$APT_OPTIONS"
} >"$work/apt.conf"

export APT_CONFIG=$work/apt.conf
echo "STEP package lists"
apt-get -qq update
echo "STEP package ipxe"
(cd "$work/deb" && apt-get -qq download ipxe)
dpkg-deb -x "$work"/deb/ipxe_*.deb "$work/root"
install -m 0644 "$work/root/usr/lib/ipxe/ipxe-amd64.efi" "$out/ipxe-x86_64.efi"
install -m 0644 "$work/root/usr/lib/ipxe/ipxe-arm64.efi" "$out/ipxe-arm64.efi"
