#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# native.sh enter ROOT TAR
# native.sh leave ROOT
# native.sh tools ROOT TAR
#
# Lets the build of a foreign architecture run at nearly native speed. The
# package scripts that take the time (shells, coreutils, perl, decompression,
# byte-compiling python, packing an initrd) give the same result on any
# architecture, so "enter" puts this machine's builds of those programs, of
# the same suite and unpacked in TAR, in their places inside ROOT, by dpkg's
# own diversions: what packages ship there meanwhile lands beside them, as
# NAME.foreign. Their libraries need none, Debian keeps those in a directory
# per architecture. "leave" takes all of it out again. "tools" only adds the
# programs that dracut can be told to use (and their libraries), in ROOT/lab-tools: dracut copies the
# shell and its tools into the initrd, so those must be ROOT's own again.
#
# Left emulated: what answers for the architecture (dpkg, uname, ldconfig) and
# what initramfs-tools copies into an initrd (kmod, udevadm, ...).
set -eu

programs="
bin/bash bin/dash bin/perl bin/python3.*[0-9]
bin/dpkg-deb bin/dpkg-split bin/dpkg-divert bin/dpkg-statoverride bin/update-alternatives
bin/tar bin/gzip bin/xz bin/zstd bin/cpio
bin/sed bin/grep bin/mawk bin/find bin/xargs bin/cmp bin/diff
bin/[[] bin/basename bin/cat bin/chgrp bin/chmod bin/chown bin/cp
bin/cut bin/date bin/dirname bin/du bin/echo bin/env bin/expr
bin/head bin/id bin/install bin/ln bin/ls bin/md5sum bin/mkdir
bin/mkfifo bin/mknod bin/mktemp bin/mv bin/printf bin/readlink bin/realpath
bin/rm bin/rmdir bin/sha256sum bin/sort bin/stat bin/tail bin/test
bin/touch bin/tr bin/uniq bin/wc
bin/systemd-hwdb lib/dracut/dracut-install sbin/depmod
"

unpack() {
  root=$1 tar=$2
  native=$root/lab-native
  mkdir "$native"
  # Only root of the host may make the devices in it.
  tar -xf "$tar" -C "$native" --exclude='./dev'
  # What goes beside the packages' own files, to be removed by name.
  for path in "$native"/usr/lib/*-linux-gnu "$native"/usr/lib/ld-linux* "$native"/usr/lib64 "$native"/lib64; do
    path=${path#"$native"}
    if { [ -e "$native$path" ] || [ -L "$native$path" ]; } && [ ! -e "$root$path" ]; then
      cp -a "$native$path" "$root$path"
      echo "$path" >>"$root/lab-native.added"
    fi
  done
  # An initrd gets the libkmod of every such directory: this one goes where
  # only the loader looks.
  for path in "$native"/usr/lib/*-linux-gnu/libkmod.so.*; do
    mv "$root${path#"$native"}" "$root/usr/lib/"
    echo "/usr/lib/$(basename "$path")" >>"$root/lab-native.added"
  done
}

enter() {
  unpack "$@"
  for pattern in $programs; do
    for program in "$native"/usr/$pattern; do
      program=${program#"$native"}
      [ -e "$native$program" ] || continue
      printf '%s\n%s.foreign\n:\n' "$program" "$program" >>"$root/var/lib/dpkg/diversions"
      [ ! -e "$root$program" ] || mv "$root$program" "$root$program.foreign"
      mkdir -p "$root$(dirname "$program")"
      cp -L "$native$program" "$root$program"
      echo "$program" >>"$root/lab-native.diverted"
    done
  done
  rm -rf "$native"
}

leave() {
  root=$1
  while read -r program; do
    rm "$root$program"
    [ ! -e "$root$program.foreign" ] || mv "$root$program.foreign" "$root$program"
  done <"$root/lab-native.diverted"
  # Three lines a diversion: the path, where to, by whom.
  awk 'NR == FNR { ours[$0]; next } FNR % 3 == 1 { keep = !($0 in ours) } keep' \
    "$root/lab-native.diverted" "$root/var/lib/dpkg/diversions" >"$root/lab-native.rest"
  cat "$root/lab-native.rest" >"$root/var/lib/dpkg/diversions"
  while read -r path; do rm -rf "${root:?}$path"; done <"$root/lab-native.added"
  rm "$root/lab-native.diverted" "$root/lab-native.added" "$root/lab-native.rest"
}

tools() {
  unpack "$@"
  tools=$root/lab-tools
  mkdir "$tools"
  cp -L "$native/usr/bin/bash" "$native/usr/bin/zstd" "$tools/"
  # ldd is a script that asks each architecture's own loader.
  sed '1s|.*|#!/lab-tools/bash|' "$root/usr/bin/ldd" >"$tools/ldd"
  # dracut searches /usr/lib for libkmod too, so it must be nowhere there. Told
  # to the loader, not by the environment: what this runs is not all native.
  cp -L "$native/usr/lib/dracut/dracut-install" "$tools/dracut-install.program"
  mv "$root"/usr/lib/libkmod.so.* "$tools/"
  loader=$(cd "$native" && ls -d usr/lib64/ld-linux* usr/lib/ld-linux* 2>/dev/null | head -n 1)
  printf '#!/lab-tools/bash\nexec /%s --library-path /lab-tools /lab-tools/dracut-install.program "$@"\n' "$loader" >"$tools/dracut-install"
  chmod 0755 "$tools/ldd" "$tools/dracut-install"
  rm -rf "$native"
}

"$@"
