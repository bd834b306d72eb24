#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# install.sh [GROUP...]
#
# Installs what this host lacks, by apt, dnf or Homebrew, and nothing else.
# Groups: run (what the lab runs on), images (what 'make images' needs, Linux
# only), test (what the tests need); these three when none is named. And docker
# (an engine for kind; on a host with an init system the package starts it) and
# kind-node ('make kind-node-image', Linux only). Asks for root (sudo) only when
# something has to be installed or registered, prints what and why before, and
# changes nothing on a host that has it all.
#
# Kept to what bash 3.2 knows, which is macOS' own.
set -euo pipefail

say() { printf 'deps: %s\n' "$*"; }
die() {
  printf 'deps: %s\n' "$*" >&2
  exit 1
}

# GROUP|PROBE|apt|dnf|brew|why. A probe is a command, or a file if it starts
# with a slash (several, separated by commas: one is enough), or a function of
# this script followed by parentheses. "-" where a manager has or needs none.
table='
run|qemu-system-x86_64|qemu-system-x86|qemu-system-x86|qemu|x86_64 machines
run|qemu-system-aarch64|qemu-system-arm|qemu-system-aarch64|qemu|aarch64 machines
run|qemu-img|qemu-utils|qemu-img|qemu|disk images
run|/usr/share/OVMF/OVMF_CODE_4M.fd,/usr/share/OVMF/OVMF_CODE.fd,/usr/share/edk2/ovmf|ovmf|edk2-ovmf|-|UEFI firmware of x86_64 machines
run|/usr/share/AAVMF/AAVMF_CODE.fd,/usr/share/edk2/aarch64|qemu-efi-aarch64|edk2-aarch64|-|UEFI firmware of aarch64 machines
run|ssh|openssh-client|openssh-clients|-|logging in to machines
run|curl|curl|curl|-|seeing whether downloads can be reached
run|git|git|git|git|the version of a build
run|make|make|make|-|the build
images|mmdebstrap|mmdebstrap|mmdebstrap|-|building Debian images without root
images|arch-test|arch-test|arch-test|-|seeing whether foreign programs run
images|foreign_runs()|qemu-user-static|qemu-user-static|-|running package scripts of the other architecture
images|debian_keyring()|debian-archive-keyring|debian-keyring|-|verifying packages of Debian
images|newuidmap|uidmap|shadow-utils|-|building images as a user
images|sgdisk|gdisk|gdisk|-|partition tables
images|mkfs.vfat|dosfstools|dosfstools|-|EFI system partitions
images|mcopy|mtools|mtools|-|EFI system partitions
images|mke2fs|e2fsprogs|e2fsprogs|-|root file systems
images|zstd|zstd|zstd|-|compression
images|xz|xz-utils|xz|-|compression
test|gcc|gcc|gcc|-|the race detector
test|libc_headers()|libc6-dev|glibc-devel|-|the race detector
test|cloud-init|cloud-init|cloud-init|-|checking user-data with the real thing
test|xorriso|xorriso|xorriso|xorriso|reading seed volumes with an independent tool
test|zstd|zstd|zstd|zstd|reading images with an independent tool
test|xz|xz-utils|xz|xz|reading images with an independent tool
test|sgdisk|gdisk|gdisk|gptfdisk|reading partition tables with an independent tool
test|sfdisk|fdisk|util-linux|-|reading partition tables with an independent tool
test|cpio|cpio|cpio|-|reading initrds with an independent tool
test|depmod|kmod|kmod|-|looking up kernel modules with an independent tool
docker|dockerd|docker.io|moby-engine|-|a cluster in a container
docker|docker|docker.io|docker-cli|docker|a cluster in a container
kind-node|mmdebstrap|mmdebstrap|mmdebstrap|-|building Debian images without root
kind-node|debian_keyring()|debian-archive-keyring|debian-keyring|-|verifying packages of Debian
kind-node|newuidmap|uidmap|shadow-utils|-|building images as a user
'

has() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }
foreign_arch() { case $(uname -m) in x86_64) echo arm64 ;; *) echo amd64 ;; esac }
foreign_runs() { has arch-test && arch-test "$(foreign_arch)" >/dev/null 2>&1; }
foreign_program() { [ -n "$(ls /usr/bin/qemu-"$1"-static /usr/bin/qemu-"$1" 2>/dev/null)" ]; }
debian_keyring() { [ -n "$(ls /usr/share/keyrings/debian-archive-keyring.* 2>/dev/null)" ]; }
libc_headers() { [ -e /usr/include/stdlib.h ]; }

present() {
  local probe
  while read -r probe; do
    case $probe in
    *"()") "${probe%"()"}" && return ;;
    /*) [ ! -e "$probe" ] || return 0 ;;
    *) ! has "$probe" || return 0 ;;
    esac
  done <<EOF
$(printf '%s\n' "$1" | tr ',' '\n')
EOF
  return 1
}

# as_root COMMAND... - with sudo when needed; says what to do where there is none.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    die "root is needed and there is no sudo. Run as root: $*"
  fi
}

# retry COMMAND... - a mirror that hiccups or another package manager at work
# is no reason to fail at once.
retry() {
  local pause=5
  until "$@"; do
    [ $pause -le 40 ] || return 1
    say "failed: $*; again in $pause s"
    sleep $pause
    pause=$((pause * 2))
  done
}

apt_update() {
  retry as_root apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 update ||
    die "apt-get update fails: see its messages above, and check the network and /etc/apt/sources.list*"
}

apt_install_once() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 \
    -o Dpkg::Options::=--force-confold install --no-install-recommends "$@"
}

install_apt() {
  local package
  for package in "$@"; do
    # cloud-init is wanted for its schema check alone: on this host it must not
    # take over network, users and host name at the next boot.
    if [ "$package" = cloud-init ] && [ ! -e /etc/cloud/cloud-init.disabled ]; then
      say "cloud-init stays switched off on this host (/etc/cloud/cloud-init.disabled)"
      as_root mkdir -p /etc/cloud
      as_root touch /etc/cloud/cloud-init.disabled
    fi
  done
  # Lists that are there and young enough to name existing packages will do.
  if ! apt-cache show "$@" >/dev/null 2>&1 || ! apt_install_once "$@"; then
    apt_update
    retry apt_install_once "$@" || die "apt-get install $* fails: see its messages above"
  fi
  # Since Debian 13 the client is a package of its own, before it is not.
  case " $* " in
  *" docker.io "*) has docker || retry apt_install_once docker-cli || die "apt-get install docker-cli fails: see its messages above" ;;
  esac
}

install_dnf() {
  retry as_root dnf -y --setopt=install_weak_deps=False install "$@" || die "dnf install $* fails: see its messages above"
  case " $* " in
  *" cloud-init "*)
    as_root mkdir -p /etc/cloud
    as_root touch /etc/cloud/cloud-init.disabled
    ;;
  esac
}

install_brew() { retry brew install "$@" || die "brew install $* fails: see its messages above"; }

# register_emulator - makes the kernel run programs of the other architecture:
# packages do that by systemd or binfmt-support, which a container or a
# minimal host may not run.
register_emulator() {
  foreign_runs && return
  local cpu=aarch64 dir=/proc/sys/fs/binfmt_misc conf
  [ "$(foreign_arch)" = arm64 ] || cpu=x86_64
  say "registering the emulator of $(foreign_arch) programs with the kernel (binfmt_misc)"
  [ -e $dir/register ] || as_root mount -t binfmt_misc binfmt_misc $dir || true
  if has update-binfmts; then
    as_root update-binfmts --enable "qemu-$cpu" || true
  fi
  for conf in /usr/lib/binfmt.d/qemu-$cpu*.conf; do
    if [ -e "$conf" ] && ! foreign_runs; then
      as_root sh -c "grep -v '^#' '$conf' >$dir/register" || true
    fi
  done
  foreign_runs || say "$(foreign_arch) programs still do not run on this host; 'make images' will not work here, downloaded images will"
}

# give_subordinate_ids - lets the user who builds images have a user namespace
# with more than one id.
give_subordinate_ids() {
  local user first
  user=$(id -un)
  [ "$(id -u)" -ne 0 ] || user=${SUDO_USER:-root}
  [ "$user" != root ] || return 0
  ! grep -q "^$user:" /etc/subuid 2>/dev/null || ! grep -q "^$user:" /etc/subgid 2>/dev/null || return 0
  first=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }')
  say "giving $user subordinate ids from $first on, for building images without root"
  as_root usermod --add-subuids "$first-$((first + 65535))" --add-subgids "$first-$((first + 65535))" "$user"
}

groups=" $* "
[ $# -gt 0 ] || groups=" run images test "
for group in $groups; do
  case $group in run | images | test | docker | kind-node) ;; *) die "no such group: $group (run, images, test, docker, kind-node)" ;; esac
done

if has apt-get; then
  manager=apt column=3
elif has dnf; then
  manager=dnf column=4
elif has brew; then
  manager=brew column=5
else
  manager='' column=3
fi

wanted=
while IFS='|' read -r group probe apt dnf brew why; do
  case $groups in *" $group "*) ;; *) continue ;; esac
  case $column in 3) package=$apt ;; 4) package=$dnf ;; *) package=$brew ;; esac
  if [ -z "$group" ] || [ "$package" = - ] || present "$probe"; then continue; fi
  # The emulator may be there and only not registered.
  if [ "$probe" = 'foreign_runs()' ] && { foreign_program aarch64 && [ "$(foreign_arch)" = arm64 ] || { foreign_program x86_64 && [ "$(foreign_arch)" = amd64 ]; }; }; then continue; fi
  case " $wanted " in *" $package "*) continue ;; esac
  [ -n "$wanted" ] || say "missing on this host:"
  printf 'deps:   %-24s %s\n' "$package" "$why"
  wanted="$wanted $package"
done <<EOF
$table
EOF

if [ -n "$wanted" ]; then
  [ -n "$manager" ] || die "no apt, dnf or brew here. Install by hand what is listed above (Debian's package names)"
  # shellcheck disable=SC2086
  "install_$manager" $wanted
fi

case $groups in
*" kind-node "*)
  if [ "$(uname -s)" = Linux ]; then give_subordinate_ids; fi
  ;;
esac
case $groups in
*" images "*)
  if [ "$(uname -s)" = Linux ]; then
    register_emulator
    give_subordinate_ids
  fi
  ;;
esac

has go || die "Go is missing: install Go 1.21 or later (https://go.dev/dl/); the version this project needs is then fetched by it"
[ -n "$wanted" ] || say "nothing is missing"
