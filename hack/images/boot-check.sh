#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# boot-check.sh ARCH IMAGE [BLAME]
#
# Boots IMAGE (left untouched) with QEMU's emulation, a small seed volume and
# user-mode network, and prints the seconds from power-on to what it sees on
# the serial console, up to cloud-init's last stage. With a third argument the
# guest also prints where its time went. The console is kept in
# ./boot-check-ARCH.log. Fails when the last stage is not seen in 10 minutes.
set -euo pipefail
arch=$1 image=$(realpath "$2") blame=${3:-}

work=$(mktemp -d)
pid=
cleanup() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

report=
if [ -n "$blame" ]; then
  report=$'  - systemd-analyze time; systemd-analyze blame --no-pager | head -40; systemd-analyze critical-chain --no-pager; cloud-init analyze blame; systemctl --failed --no-legend; cloud-init status --long\n'
fi
mkdir "$work/seed"
printf 'instance-id: boot-check-1\nlocal-hostname: boot-check\n' >"$work/seed/meta-data"
cat >"$work/seed/user-data" <<EOF
#cloud-config
bootcmd:
  - echo "MARK bootcmd \$(cut -d' ' -f1 /proc/uptime)" >/dev/console
runcmd:
  - echo "MARK runcmd \$(cut -d' ' -f1 /proc/uptime)" >/dev/console
ssh_authorized_keys:
  - ${BOOT_CHECK_SSH_KEY:-ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA3pmrtqWMdOCsgWlMnPcnFdTpnfgVGOF2Bfj9+p0H/c nobody}
final_message: "MARK final \$UPTIME"
EOF
if [ -n "$report" ]; then
  mkdir -p "$work/seed"
  cat >>"$work/seed/user-data" <<'EOF'
write_files:
  - path: /usr/local/sbin/report
    permissions: '0755'
    content: |
      #!/bin/sh
      exec >/dev/console 2>&1
      while ! systemctl is-active -q cloud-final.service; do sleep 1; done
      sleep 15
      systemd-analyze time
      systemd-analyze blame --no-pager | head -45
      systemctl show '*' -p Id -p CPUUsageNSec | awk -F= '$1=="CPUUsageNSec" && $2+0 { c=$2 } $1=="Id" { id=$2 } /^$/ { if (c) printf "cpu %8.2f %s\n", c/1e9, id; c=0 } END { if (c) printf "cpu %8.2f %s\n", c/1e9, id }' | sort -k2 -rn | head -45
      cloud-init analyze blame | head -25
      systemctl --failed --no-legend
      cloud-init status --long
      df / | tail -1
      ip -br a
      lsmod
      udevadm info --export-db | grep -c ^P:
      echo MARK report
EOF
  sed -i 's|^runcmd:|runcmd:\n  - [ systemd-run, --no-block, /usr/local/sbin/report ]|' "$work/seed/user-data"
fi
genisoimage -quiet -volid cidata -joliet -rock -o "$work/seed.iso" "$work/seed" 2>/dev/null
qemu-img create -q -f qcow2 -b "$image" -F qcow2 "$work/disk.qcow2" 6G

case $arch in
amd64)
  code=/usr/share/OVMF/OVMF_CODE_4M.fd vars=/usr/share/OVMF/OVMF_VARS_4M.fd
  qemu=(qemu-system-x86_64 -machine q35) cpu=${BOOT_CHECK_CPU:-max}
  ;;
arm64)
  code=/usr/share/AAVMF/AAVMF_CODE.fd vars=/usr/share/AAVMF/AAVMF_VARS.fd
  qemu=(qemu-system-aarch64 -machine virt) cpu=${BOOT_CHECK_CPU:-max,pauth-impdef=on}
  ;;
esac
cp "$vars" "$work/vars.fd"
log=$PWD/boot-check-$arch.log
: >"$log"
start=$(date +%s.%N)
if [ -n "${BOOT_CHECK_KERNEL:-}" ]; then
  qemu+=(-kernel "$BOOT_CHECK_KERNEL" -initrd "$BOOT_CHECK_INITRD" -append "$BOOT_CHECK_APPEND")
fi
"${qemu[@]}" -accel tcg -cpu "$cpu" -smp 2 -m 1024 -nodefaults -display none \
  -drive "if=pflash,format=raw,readonly=on,file=$code" -drive "if=pflash,format=raw,file=$work/vars.fd" \
  -drive "if=none,id=d,file=$work/disk.qcow2,cache=unsafe" -device virtio-blk-pci,drive=d \
  -drive "if=none,id=s,file=$work/seed.iso,format=raw,readonly=on" -device virtio-blk-pci,drive=s \
  -netdev user,id=n -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci \
  -serial "file:$log" &
pid=$!
# Seconds since power-on, and seconds of processor time that took: on a busy
# host only the latter can be compared.
seen() {
  local ticks
  ticks=$(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat" 2>/dev/null || echo 0)
  awk -v t="$(date +%s.%N)" -v s="$start" -v c="$ticks" -v hz="$(getconf CLK_TCK)" -v m="$1" \
    'BEGIN { printf "%6.1f s  %6.1f s cpu  %s\n", t - s, c / hz, m }'
}
last=${blame:+MARK report}
last=${last:-MARK final}
declare -A done_marks=()
end=$((SECONDS + 600))
while ((SECONDS < end)); do
  for mark in "Linux version" "Run /init" "systemd\[1\]: Inserted\|systemd 2\|Welcome to" "MARK bootcmd" "MARK runcmd" "login:" "MARK final" "MARK report"; do
    if [ -z "${done_marks[$mark]:-}" ] && line=$(grep -a -m1 "$mark" "$log"); then
      done_marks[$mark]=1
      seen "$(echo "$line" | tr -d '\r\033' | cut -c1-80)"
    fi
  done
  [ -z "${done_marks[$last]:-}" ] || exit 0
  kill -0 "$pid" || exit 1
  sleep 0.1
done
echo "no last stage in 10 minutes, see $log" >&2
exit 1
