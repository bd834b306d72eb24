#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Turns a Debian root file system into that of the manager's container image:
# installs missing packages, packs the firmware, and removes what the manager
# never uses. Runs as root inside the image under construction.
set -euo pipefail

packages='qemu-system-x86 qemu-system-arm qemu-utils ovmf qemu-efi-aarch64 ipxe ca-certificates'

if ! command -v qemu-system-x86_64 qemu-system-aarch64 qemu-img >/dev/null; then
  apt-get update
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
fi

# Arm firmware files are padded to 64 MiB each; qcow2 reduces them to a few MiB.
# The descriptors declare the format, and the manager relies on them alone.
firmware=/usr/share/pxelab/firmware
mkdir -p $firmware /etc/qemu/firmware
pack() { # DESTINATION SOURCE...: packs the first source that exists
  local to=$firmware/$1 file
  shift
  if [ -e "$to" ]; then return; fi # this script has already run on the root
  for file in "$@"; do
    if [ -e "$file" ]; then
      qemu-img convert -f raw -O qcow2 -c "$file" "$to"
      return
    fi
  done
  echo "none of these files exists: $*" >&2
  return 1
}
pack x86_64-code.qcow2 /usr/share/OVMF/OVMF_CODE_4M.fd
pack x86_64-vars.qcow2 /usr/share/OVMF/OVMF_VARS_4M.fd
pack aarch64-code.qcow2 /usr/share/AAVMF/AAVMF_CODE.no-secboot.fd /usr/share/AAVMF/AAVMF_CODE.fd
pack aarch64-vars.qcow2 /usr/share/AAVMF/AAVMF_VARS.fd
describe() { # ARCHITECTURE MACHINE-TYPES
  cat >"/etc/qemu/firmware/10-pxelab-$1.json" <<JSON
{
  "description": "UEFI for $1",
  "interface-types": ["uefi"],
  "mapping": {
    "device": "flash",
    "mode": "split",
    "executable": {"filename": "$firmware/$1-code.qcow2", "format": "qcow2"},
    "nvram-template": {"filename": "$firmware/$1-vars.qcow2", "format": "qcow2"}
  },
  "targets": [{"architecture": "$1", "machines": ["$2"]}],
  "features": [],
  "tags": []
}
JSON
}
describe x86_64 'pc-q35-*'
describe aarch64 'virt-*'
rm -rf /usr/share/qemu/firmware /usr/share/OVMF /usr/share/AAVMF /usr/share/ovmf /usr/share/qemu-efi-aarch64

# Remove what only interactive users, compilers and package managers need. The
# package names and versions stay, for the SBOM.
rm -rf /var/cache/apt /var/lib/apt/lists /var/log/* /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale \
  /usr/share/lintian /usr/share/perl /usr/share/perl5 /usr/lib/*/perl /usr/lib/*/perl-base /usr/share/icons /usr/share/applications \
  /usr/share/bash-completion /usr/lib/*/gconv
# No program in the image gains privileges over the user that starts it.
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
