#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# customize.sh ROOT
#
# The last hook of mmdebstrap, run outside ROOT (as root, or as the root of a
# user namespace) when all packages are configured. Trims the system, makes
# the disk image and the second initrd, and leaves in ROOT/lab-out what
# arch.sh fetches: disk.qcow2, vmlinuz, initrd, initrd-dracut. ROOT itself is
# thrown away afterwards.
set -eu
root=$1
recipe=$(dirname "$0")
work=$(mktemp -d "$LAB_TMPDIR/disk.XXXXXX")
bare=$work/bare
cleanup() {
  umount -R "$bare" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
step() { echo "STEP $*"; }

step "services"
# Housekeeping that serves no machine of this lab and would run in the first
# minutes, when an emulated processor has the least to spare.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-pstore.service \
  remote-fs.target sshd-keygen.service cloud-init-hotplugd.socket; do
  [ ! -e "$root/usr/lib/systemd/system/$unit" ] || chroot "$root" systemctl disable --quiet "$unit"
done
chroot "$root" systemctl enable --quiet \
  systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service ssh.service
# Each of these costs a process or more at every boot and is of no use here:
# no hardware of the kind, or a file system that nothing in the image uses
# (what needs one later can mount it).
for unit in systemd-binfmt.service proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  sys-kernel-config.mount sys-fs-fuse-connections.mount run-lock.mount tmp.mount \
  modprobe@drm.service systemd-udev-load-credentials.service systemd-network-generator.service \
  systemd-hibernate-clear.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system-generators"
for generator in gpt-auto hibernate-resume rc-local ssh sysv tpm2 cryptsetup integritysetup veritysetup; do
  ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done

step "boot loader"
# The suite's own program and modules, run in the suite's own libraries, so
# that the host needs no GRUB and the two cannot be of different versions.
mkdir "$work/debs" "$root/lab-grub"
(
  cd "$work/debs"
  APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q -o APT::Sandbox::User=root download \
    "grub-efi-$ARCH-bin" grub-common libdevmapper1.02.1 >/dev/null
)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$root/lab-grub"; done
"$recipe/grub.sh" "$root" "$work"
rm -rf "$root/lab-grub"

if [ -e "$root/lab-native.diverted" ]; then
  step "taking out the native tools"
  "$recipe/native.sh" leave "$root"
fi

step "disk image"
cp -L "$root/vmlinuz" "$work/vmlinuz"
cp -L "$root/initrd.img" "$work/initrd"
# A view of ROOT without what is mounted in it, less what only the build needs.
mkdir "$bare" "$work/saved" "$work/empty" "$work/empty-tmp"
chmod 1777 "$work/empty-tmp"
"$recipe/strip.sh" "$root" "$work/saved"
mount --bind "$root" "$bare"
for dir in dev run proc sys var/cache/apt var/lib/apt/lists var/log; do mount --bind "$work/empty" "$bare/$dir"; done
for dir in tmp var/tmp; do mount --bind "$work/empty-tmp" "$bare/$dir"; done
"$recipe/disk.sh" "$bare" "$work"
umount -R "$bare"
"$recipe/strip.sh" --undo "$root" "$work/saved"

step "second initrd (dracut)"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG DEBIAN_FRONTEND=noninteractive apt-get -q -y \
  -o DPkg::Chroot-Directory="$root" --no-install-recommends install dracut-core >/dev/null
version=$(readlink "$root/vmlinuz")
version=${version##*/vmlinuz-}
dracut() {
  # dracut leaves network drivers out unless something asks for them.
  chroot "$root" env "$@" --quiet --force --no-hostonly --add-drivers '=drivers/net' \
    --compress "$zstd -1" /initrd-dracut "$version"
}
if [ -n "${NATIVE_TAR:-}" ]; then
  "$recipe/native.sh" tools "$root" "$NATIVE_TAR"
  zstd=/lab-tools/zstd
  dracut DRACUT_INSTALL=/lab-tools/dracut-install DRACUT_LDD=/lab-tools/ldd /lab-tools/bash -p /usr/bin/dracut
else
  zstd=zstd
  dracut dracut
fi

mkdir "$root/lab-out"
mv "$root/initrd-dracut" "$work/disk.qcow2" "$work/vmlinuz" "$work/initrd" "$root/lab-out/"
chmod 0644 "$root"/lab-out/*
