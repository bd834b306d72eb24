#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# grub.sh ROOT WORK
#
# Makes WORK/boot.efi, one self-contained GRUB program, with the packages that
# are unpacked in ROOT/lab-grub.
set -eu
root=$1 work=$2

case $ARCH in
amd64) target=x86_64-efi console=ttyS0,115200 libs=x86_64-linux-gnu ;;
arm64) target=arm64-efi console=ttyAMA0,115200 libs=aarch64-linux-gnu ;;
*)
  echo "grub.sh: unknown architecture $ARCH" >&2
  exit 2
  ;;
esac

# Carried in the program itself. The kernel is named by Debian's own symbolic
# links, so a kernel that was upgraded inside the machine is booted without
# grub-install or update-grub.
cat >"$root/lab-grub/grub.cfg" <<EOF
search --no-floppy --set=root --label $ROOT_LABEL
linux /vmlinuz root=LABEL=$ROOT_LABEL ro console=tty0 console=$console $KERNEL_ARGS
initrd /initrd.img
boot
EOF
chroot "$root" env LD_LIBRARY_PATH="/lab-grub/usr/lib/$libs" /lab-grub/usr/bin/grub-mkimage \
  -O "$target" -d "/lab-grub/usr/lib/grub/$target" -p /EFI/debian \
  -c /lab-grub/grub.cfg -o /lab-grub/boot.efi \
  part_gpt ext2 search search_label linux echo boot
mv "$root/lab-grub/boot.efi" "$work/boot.efi"
