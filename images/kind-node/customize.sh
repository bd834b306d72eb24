#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# customize.sh ROOT - customize hook of mmdebstrap.
set -eu
root=$1

# Every node generates its machine ID at its first start.
: >"$root/etc/machine-id"
rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root"/var/log/*

# kube-proxy's image contains only Kubernetes, and kube-proxy runs iptables: pack
# that program with its libraries and extensions.
chroot "$root" /bin/sh -eu <<'END'
program=/usr/sbin/xtables-nft-multi
mkdir -p /iptables/usr/sbin /iptables/lib64
# ldd prints the name of each argument and the libraries that it needs.
for file in $(ldd $program /usr/lib/*-linux-gnu/xtables/*.so | grep -o '/[^ :]*' | sort -u); do
  mkdir -p "/iptables$(dirname "$file")"
  cp -L "$file" "/iptables$file"
done
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  ln -s xtables-nft-multi /iptables/usr/sbin/$name
done
ln -s usr/sbin /iptables/sbin
tar -cf /iptables.tar --owner=0 --group=0 --mtime=@0 --sort=name -C /iptables .
rm -rf /iptables
END
