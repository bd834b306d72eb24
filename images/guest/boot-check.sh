#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# boot-check.sh ARCH IMAGE [blame]
#
# Boots IMAGE (left untouched) by emulation, with a small seed volume and a
# user-mode network, and prints what it sees on the serial console up to
# cloud-init's last stage, with the seconds since power-on and the seconds of
# processor time that QEMU took: on a busy host only the latter compare. With
# "blame" the guest also writes where its time went to the console, which is
# kept in ./boot-check-ARCH.log. Fails when the end is not seen in 10 minutes.
#
# To try things without a new image: BOOT_CHECK_CPU is a CPU model of QEMU;
# BOOT_CHECK_KERNEL, BOOT_CHECK_INITRD and BOOT_CHECK_APPEND boot a kernel
# directly instead of by the image's boot loader.
set -euo pipefail
arch=$1 image=$(realpath "$2") blame=${3:-}

work=$(mktemp -d)
pid=
cleanup() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/seed"
printf 'instance-id: boot-check-1\nlocal-hostname: boot-check\n' >"$work/seed/meta-data"
cat >"$work/seed/user-data" <<'EOF'
#cloud-config
bootcmd:
  - echo "MARK bootcmd" >/dev/console
runcmd:
  - echo "MARK runcmd" >/dev/console
final_message: "MARK final $UPTIME"
EOF
end_mark='MARK final'
if [ "$blame" = blame ]; then
  end_mark='MARK report'
  sed -i 's|^runcmd:|runcmd:\n  - [ systemd-run, --no-block, /usr/local/sbin/report ]|' "$work/seed/user-data"
  cat >>"$work/seed/user-data" <<'EOF'
write_files:
  - path: /usr/local/sbin/report
    permissions: '0755'
    content: |
      #!/bin/sh
      exec >/dev/console 2>&1
      cloud-init status --wait --long
      systemctl is-system-running --wait
      systemd-analyze time
      systemd-analyze blame --no-pager | head -45
      for group in /sys/fs/cgroup/system.slice/*/cpu.stat /sys/fs/cgroup/init.scope/cpu.stat; do
        echo "$(awk '/^usage_usec/ { printf "%8.2f s", $2 / 1e6 }' "$group") $group"
      done | sort -rn
      cloud-init analyze blame | head -25
      systemctl --failed --no-legend
      df /
      ip -br address
      lsmod
      echo MARK report
EOF
fi
xorriso -as mkisofs -quiet -volid cidata -joliet -rock -o "$work/seed.iso" "$work/seed" 2>/dev/null
qemu-img create -q -f qcow2 -b "$image" -F qcow2 "$work/disk.qcow2" 6G

case $arch in
amd64)
  code=/usr/share/OVMF/OVMF_CODE_4M.fd vars=/usr/share/OVMF/OVMF_VARS_4M.fd
  qemu=(qemu-system-x86_64 -machine q35 -cpu "${BOOT_CHECK_CPU:-max}")
  ;;
arm64)
  code=/usr/share/AAVMF/AAVMF_CODE.fd vars=/usr/share/AAVMF/AAVMF_VARS.fd
  qemu=(qemu-system-aarch64 -machine virt -cpu "${BOOT_CHECK_CPU:-max,pauth-impdef=on}")
  ;;
*)
  echo "boot-check.sh: unknown architecture $arch" >&2
  exit 2
  ;;
esac
if [ -n "${BOOT_CHECK_KERNEL:-}" ]; then
  qemu+=(-kernel "$BOOT_CHECK_KERNEL" -initrd "$BOOT_CHECK_INITRD" -append "$BOOT_CHECK_APPEND")
fi
cp "$vars" "$work/vars.fd"
log=$PWD/boot-check-$arch.log
: >"$log"
start=$(date +%s.%N)
"${qemu[@]}" -accel tcg -smp 2 -m 1024 -nodefaults -display none \
  -drive "if=pflash,format=raw,readonly=on,file=$code" -drive "if=pflash,format=raw,file=$work/vars.fd" \
  -drive "if=none,id=d,file=$work/disk.qcow2,cache=unsafe" -device virtio-blk-pci,drive=d \
  -drive "if=none,id=s,file=$work/seed.iso,format=raw,readonly=on" -device virtio-blk-pci,drive=s \
  -netdev user,id=n -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci \
  -serial "file:$log" &
pid=$!

seen() {
  local ticks
  ticks=$(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat")
  awk -v t="$(date +%s.%N)" -v s="$start" -v c="$ticks" -v hz="$(getconf CLK_TCK)" -v m="$1" \
    'BEGIN { printf "%6.1f s  %6.1f s cpu  %s\n", t - s, c / hz, m }'
}
marks=('Linux version' 'Run /init' 'systemd\[1\]: ' 'MARK bootcmd' 'login:' 'MARK runcmd' 'MARK final' 'MARK report')
declare -A found=()
while ((SECONDS < 600)); do
  for mark in "${marks[@]}"; do
    if [ -z "${found[$mark]:-}" ] && line=$(grep -a -m1 "$mark" "$log"); then
      found[$mark]=1
      seen "$(printf '%s' "$line" | tr -cd '[:print:]' | cut -c1-80)"
    fi
  done
  [ -z "${found[$end_mark]:-}" ] || exit 0
  kill -0 "$pid" || break
  sleep 0.1
done
echo "boot-check.sh: '$end_mark' was not seen, see $log" >&2
exit 1
