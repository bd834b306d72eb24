#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# disk.sh TREE WORK
#
# Turns the finished system in TREE into WORK/disk.qcow2: GPT, an ESP with
# WORK/boot.efi at the removable path, and root (ext4) as the last partition
# on disk. It mounts nothing and needs no loop device: both file systems are
# made from directories, then laid into the disk image by offset.
set -eu
tree=$1 work=$2

case $ARCH in
amd64) efi_name=BOOTX64.EFI ;;
arm64) efi_name=BOOTAA64.EFI ;;
*)
  echo "disk.sh: unknown architecture $ARCH" >&2
  exit 2
  ;;
esac

esp_mib=48
truncate -s "${esp_mib}M" "$work/esp.img"
mkfs.vfat -F 32 -n ESP "$work/esp.img" >/dev/null
mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$work/esp.img" "$work/boot.efi" "::/EFI/BOOT/$efi_name"

# What is in it, three tenths more, and room for the journal.
used_kib=$(du -sk --apparent-size "$tree" | cut -f1)
root_mib=$((used_kib * 13 / 10 / 1024 + 160))
truncate -s "${root_mib}M" "$work/root.img"
# GRUB reads this file system: only features that each of its versions knows,
# whatever this mke2fs enables by default. The inode tables are written now
# (zeros, so they cost nothing here), or the kernel writes them in the
# background of the first boot.
mke2fs -q -t ext4 -L "$ROOT_LABEL" -m 1 \
  -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
  -E lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$work/root.img"

# The numbers are those of the distributions' images: root is 1 and the last.
truncate -s "$((1 + esp_mib + root_mib + 1))M" "$work/disk.raw"
sgdisk --clear \
  --new=15:1M:+"${esp_mib}M" --typecode=15:ef00 --change-name=15:esp \
  --new=1:"$((1 + esp_mib))M:+${root_mib}M" --typecode=1:8300 --change-name=1:root \
  "$work/disk.raw" >/dev/null
dd if="$work/esp.img" of="$work/disk.raw" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root.img" of="$work/disk.raw" bs=1M seek="$((1 + esp_mib))" conv=notrunc,sparse status=none
rm "$work/esp.img" "$work/root.img"
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$work/disk.raw" "$work/disk.qcow2"
rm "$work/disk.raw"
