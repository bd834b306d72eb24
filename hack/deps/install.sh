#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# install.sh [GROUP...]
#
# Installs missing packages of this host with apt, dnf or Homebrew. Groups: run
# (required by the lab), images (required by 'make images', Linux only), test
# (required by the tests); these three are the default. In addition, docker (an
# engine for kind; on a host with an init system the package starts it) and
# kind-node (required by 'make kind-node-image', Linux only). Uses sudo only to
# install or register something, after printing what and why, and changes nothing
# on a host that has everything.
#
# Must work with bash 3.2 (macOS).
set -euo pipefail

log() { printf 'deps: %s\n' "$*"; }
die() {
  printf 'deps: %s\n' "$*" >&2
  exit 1
}

# GROUP|PROBE|apt|dnf|brew|why. A probe is a command, a file if it starts with a
# slash (one of several, separated by commas, suffices), or a function of this
# script followed by parentheses. "-" if a package manager has or needs no package.
table='
run|qemu-system-x86_64|qemu-system-x86|qemu-system-x86|qemu|x86_64 machines
run|qemu-system-aarch64|qemu-system-arm|qemu-system-aarch64|qemu|aarch64 machines
run|qemu-img|qemu-utils|qemu-img|qemu|disk images
run|/usr/share/OVMF/OVMF_CODE_4M.fd,/usr/share/OVMF/OVMF_CODE.fd,/usr/share/edk2/ovmf|ovmf|edk2-ovmf|-|UEFI firmware of x86_64 machines
run|/usr/share/AAVMF/AAVMF_CODE.fd,/usr/share/edk2/aarch64|qemu-efi-aarch64|edk2-aarch64|-|UEFI firmware of aarch64 machines
run|ssh|openssh-client|openssh-clients|-|logging in to machines
run|curl|curl|curl|-|checking whether downloads are reachable
run|git|git|git|git|the version of a build
run|make|make|make|-|the build
images|mmdebstrap|mmdebstrap|mmdebstrap|-|building Debian images without root
images|arch-test|arch-test|arch-test|-|checking whether programs of other architectures run
images|foreign_runs()|qemu-user-static|qemu-user-static|-|running package scripts of the other architecture
images|debian_keyring()|debian-archive-keyring|debian-keyring|-|verifying Debian packages
images|newuidmap|uidmap|shadow-utils|-|building images as a user
images|sgdisk|gdisk|gdisk|-|partition tables
images|mkfs.vfat|dosfstools|dosfstools|-|EFI system partitions
images|mcopy|mtools|mtools|-|EFI system partitions
images|mke2fs|e2fsprogs|e2fsprogs|-|root file systems
images|zstd|zstd|zstd|-|compression
images|xz|xz-utils|xz|-|compression
test|gcc|gcc|gcc|-|the race detector
test|libc_headers()|libc6-dev|glibc-devel|-|the race detector
test|cloud-init|cloud-init|cloud-init|-|validating user-data
test|xorriso|xorriso|xorriso|xorriso|reading seed volumes with an independent tool
test|zstd|zstd|zstd|zstd|reading images with an independent tool
test|xz|xz-utils|xz|xz|reading images with an independent tool
test|sgdisk|gdisk|gdisk|gptfdisk|reading partition tables with an independent tool
test|sfdisk|fdisk|util-linux|-|reading partition tables with an independent tool
test|mkfs.xfs|xfsprogs|xfsprogs|-|file systems of disk images
test|mkfs.btrfs|btrfs-progs|btrfs-progs|-|file systems of disk images
test|cpio|cpio|cpio|-|reading initrds with an independent tool
test|promtool|prometheus|golang-github-prometheus|prometheus|checking the alert rules
test|depmod|kmod|kmod|-|looking up kernel modules with an independent tool
docker|dockerd|docker.io|moby-engine|-|a cluster in a container
docker|docker|docker.io|docker-cli|docker|a cluster in a container
kind-node|mmdebstrap|mmdebstrap|mmdebstrap|-|building Debian images without root
kind-node|debian_keyring()|debian-archive-keyring|debian-keyring|-|verifying Debian packages
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

# as_root COMMAND... - runs a command as root, with sudo if necessary.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    die "root is required and sudo is missing; run as root: $*"
  fi
}

# retry COMMAND... - retries with back-off: mirrors fail temporarily, and another
# package manager may hold the lock.
retry() {
  local pause=5
  until "$@"; do
    [ $pause -le 40 ] || return 1
    log "failed: $*; retrying in $pause s"
    sleep $pause
    pause=$((pause * 2))
  done
}

apt_update() {
  retry as_root apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 update ||
    die "apt-get update failed; see its messages above, and check the network and /etc/apt/sources.list*"
}

apt_install_once() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 \
    -o Dpkg::Options::=--force-confold install --no-install-recommends "$@"
}

# download_package DIR PACKAGE - downloads a package without installing it.
download_package() (cd "$1" && apt-get -q -o Acquire::Retries=5 download "$2")

# install_promtool - installs promtool alone. Its package is that of the Prometheus
# server, which would run on this host from then on.
install_promtool() {
  local dir
  dir=$(mktemp -d)
  log "installing /usr/local/bin/promtool from the package prometheus, without the server"
  if ! apt-cache show prometheus >/dev/null 2>&1 || ! download_package "$dir" prometheus; then
    apt_update
    retry download_package "$dir" prometheus || die "apt-get download prometheus failed; see its messages above"
  fi
  dpkg-deb --fsys-tarfile "$dir"/prometheus_*.deb | tar -x -C "$dir" ./usr/bin/promtool
  as_root install -m 0755 "$dir/usr/bin/promtool" /usr/local/bin/promtool
  rm -rf "$dir"
}

install_apt() {
  local package others=
  for package in "$@"; do
    if [ "$package" = prometheus ]; then
      install_promtool
      continue
    fi
    others="$others $package"
    # cloud-init is needed only for its schema validation: on this host it must
    # not take over network, users and host name at the next boot.
    if [ "$package" = cloud-init ] && [ ! -e /etc/cloud/cloud-init.disabled ]; then
      log "disabling cloud-init on this host (/etc/cloud/cloud-init.disabled)"
      as_root mkdir -p /etc/cloud
      as_root touch /etc/cloud/cloud-init.disabled
    fi
  done
  [ -n "$others" ] || return 0
  # shellcheck disable=SC2086
  set -- $others
  # Update the package lists only if they are missing or outdated.
  if ! apt-cache show "$@" >/dev/null 2>&1 || ! apt_install_once "$@"; then
    apt_update
    retry apt_install_once "$@" || die "apt-get install $* failed; see its messages above"
  fi
  # Since Debian 13 the client is a separate package; before, it is not.
  case " $* " in
  *" docker.io "*) has docker || retry apt_install_once docker-cli || die "apt-get install docker-cli failed; see its messages above" ;;
  esac
}

install_dnf() {
  retry as_root dnf -y --setopt=install_weak_deps=False install "$@" || die "dnf install $* failed; see its messages above"
  case " $* " in
  *" cloud-init "*)
    as_root mkdir -p /etc/cloud
    as_root touch /etc/cloud/cloud-init.disabled
    ;;
  esac
}

install_brew() { retry brew install "$@" || die "brew install $* failed; see its messages above"; }

# register_emulator - registers the emulator of the other architecture with the
# kernel. Packages leave that to systemd or binfmt-support, which a container or a
# minimal host may not run.
register_emulator() {
  foreign_runs && return
  local cpu=aarch64 dir=/proc/sys/fs/binfmt_misc conf
  [ "$(foreign_arch)" = arm64 ] || cpu=x86_64
  log "registering the emulator of $(foreign_arch) programs with the kernel (binfmt_misc)"
  [ -e $dir/register ] || as_root mount -t binfmt_misc binfmt_misc $dir || true
  if has update-binfmts; then
    as_root update-binfmts --enable "qemu-$cpu" || true
  fi
  for conf in /usr/lib/binfmt.d/qemu-$cpu*.conf; do
    if [ -e "$conf" ] && ! foreign_runs; then
      as_root sh -c "grep -v '^#' '$conf' >$dir/register" || true
    fi
  done
  foreign_runs || log "$(foreign_arch) programs still do not run on this host; 'make images' will fail, use downloaded images"
}

# give_subordinate_ids - assigns subordinate IDs to the user who builds images, for
# a user namespace with more than one ID.
give_subordinate_ids() {
  local user first
  user=$(id -un)
  [ "$(id -u)" -ne 0 ] || user=${SUDO_USER:-root}
  [ "$user" != root ] || return 0
  ! grep -q "^$user:" /etc/subuid 2>/dev/null || ! grep -q "^$user:" /etc/subgid 2>/dev/null || return 0
  first=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }')
  log "assigning subordinate IDs from $first to $user, for building images without root"
  as_root usermod --add-subuids "$first-$((first + 65535))" --add-subgids "$first-$((first + 65535))" "$user"
}

groups=" $* "
[ $# -gt 0 ] || groups=" run images test "
for group in $groups; do
  case $group in
  run | images | test | docker | kind-node) ;;
  *) die "unknown group $group; use run, images, test, docker or kind-node" ;;
  esac
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
  # The emulator may be installed but not registered.
  if [ "$probe" = 'foreign_runs()' ] && { foreign_program aarch64 && [ "$(foreign_arch)" = arm64 ] || { foreign_program x86_64 && [ "$(foreign_arch)" = amd64 ]; }; }; then continue; fi
  case " $wanted " in *" $package "*) continue ;; esac
  [ -n "$wanted" ] || log "missing on this host:"
  printf 'deps:   %-24s %s\n' "$package" "$why"
  wanted="$wanted $package"
done <<EOF
$table
EOF

if [ -n "$wanted" ]; then
  [ -n "$manager" ] || die "apt, dnf and brew are missing; install the packages listed above (Debian package names) manually"
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

has go || die "Go is missing; install Go 1.21 or later (https://go.dev/dl/), which downloads the version required by this project"
[ -n "$wanted" ] || log "nothing is missing"
