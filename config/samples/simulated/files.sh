#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# files.sh [IMAGE-FOLDER] - writes what the profile of the simulated targets refers to:
# a kernel and an initrd of 64 KiB each and an image of 1 MiB, of random bytes, because
# no machine executes them; kernel and initrd have the headers that the manager checks.
# Existing files stay, because targets that are installed from others would be outdated.
# The default is the lab's image folder.
set -euo pipefail

folder=${1:-${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/images}/simulated
mkdir -p "$folder"
cd "$folder"
random() { head -c "$1" /dev/urandom; }
write() { # NAME
  cat >"$1.new"
  mv "$1.new" "$1"
}
# A bzImage for x86_64: boot flag, "HdrS", protocol 2.15 and XLF_KERNEL_64 (Linux,
# Documentation/arch/x86/boot.rst).
kernel() {
  printf '\0'
  random 509
  printf '\x55\xaa'
  random 2
  printf 'HdrS\x0f\x02'
  random 46
  printf '\x01\0'
  random 64968
}
initrd() {
  printf '070701'
  random 65530
}
grep -q HdrS kernel 2>/dev/null || kernel | write kernel
[ "$(head -c 6 initrd 2>/dev/null | tr -d '\0')" = 070701 ] || initrd | write initrd
[ -e image.raw ] || random 1048576 | write image.raw
if command -v sha256sum >/dev/null; then sha256sum kernel initrd image.raw; else shasum -a 256 kernel initrd image.raw; fi >SHA256SUMS.new
mv SHA256SUMS.new SHA256SUMS
echo "$folder"
