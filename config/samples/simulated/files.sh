#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# files.sh [IMAGE-FOLDER] - writes what the profile of the simulated targets refers to:
# a kernel and an initrd of 64 KiB each and an image of 1 MiB, of random bytes, because
# no machine executes them. Existing files stay, because targets that are installed
# from others would be outdated. The default is the lab's image folder.
set -euo pipefail

folder=${1:-${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/images}/simulated
mkdir -p "$folder"
cd "$folder"
write() { # NAME BYTES
  [ -e "$1" ] && return
  head -c "$2" /dev/urandom >"$1.new"
  mv "$1.new" "$1"
}
write kernel 65536
write initrd 65536
write image.raw 1048576
if command -v sha256sum >/dev/null; then sha256sum kernel initrd image.raw; else shasum -a 256 kernel initrd image.raw; fi >SHA256SUMS.new
mv SHA256SUMS.new SHA256SUMS
echo "$folder"
