#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# strip.sh [--undo] ROOT SAVED
#
# Takes out of ROOT what must not be in an image: what mmdebstrap put there
# for the time of the build, and what has to be of each machine's own. With
# --undo puts the build's own files back, which mmdebstrap wants to find when
# it cleans up.
set -eu

build_files="usr/sbin/policy-rc.d etc/resolv.conf etc/hostname etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap"

if [ "$1" = --undo ]; then
  root=$2 saved=$3
  for file in $build_files; do
    [ ! -e "$saved/$(basename "$file")" ] || mv -f "$saved/$(basename "$file")" "$root/$file"
  done
  mv "$root/usr/sbin/start-stop-daemon" "$root/usr/sbin/start-stop-daemon.REAL"
  mv "$saved/start-stop-daemon" "$root/usr/sbin/start-stop-daemon"
  exit
fi

root=$1 saved=$2
for file in $build_files; do
  [ ! -e "$root/$file" ] || mv "$root/$file" "$saved/$(basename "$file")"
done
mv "$root/usr/sbin/start-stop-daemon" "$saved/start-stop-daemon"
mv "$root/usr/sbin/start-stop-daemon.REAL" "$root/usr/sbin/start-stop-daemon"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Empty, not absent: systemd then makes an identity without taking the boot
# for a first one, in which it would enable again what was disabled here.
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" \
  "$root/var/lib/systemd/random-seed" "$root/var/lib/systemd/credential.secret" \
  "$root"/var/lib/dpkg/*-old "$root"/var/cache/debconf/*-old "$root/var/cache/ldconfig/aux-cache" \
  "$root"/boot/*.old "$root"/vmlinuz.old "$root"/initrd.img.old

# /usr has not changed since its packages were configured. Without this the
# first boot rebuilds the library cache, the journal's catalog and the users.
for dir in etc var; do
  printf 'TIMESTAMP_NSEC=%s%s\n' "$(date -r "$root/usr" +%s)" "$(date -r "$root/usr" +%N)" >"$root/$dir/.updated"
  touch -r "$root/usr" "$root/$dir/.updated"
done
