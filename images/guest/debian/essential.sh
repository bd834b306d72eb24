#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# essential.sh ROOT
#
# A hook of mmdebstrap, run outside ROOT once the essential packages are
# there and before the others: puts in place what their scripts read.
set -eu
root=$1
recipe=$(dirname "$0")

cp -R "$recipe/files/." "$root/"
sed -i "s/SUITE/$SUITE/" "$root/etc/apt/sources.list.d/debian.sources"
# The root label here, in GRUB's script and in the file system must agree:
# otherwise the root stays read-only and cloud-init hangs the boot.
echo "LABEL=$ROOT_LABEL / ext4 defaults,errors=remount-ro 0 1" >"$root/etc/fstab"
