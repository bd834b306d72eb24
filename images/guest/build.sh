#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh [--force] OUTDIR
#
# Makes the lab's own images in OUTDIR, all from Debian's packages:
#
#   debian/debian-<suite>-<arch>.qcow2          disk image, arch amd64 and arm64
#   debian/debian-<suite>-<arch>-vmlinuz        its kernel
#   debian/debian-<suite>-<arch>-initrd         its initrd, by initramfs-tools
#   debian/debian-<suite>-<arch>-initrd-dracut  one more for the same kernel
#   debian/SHA256SUMS
#   ipxe/ipxe-x86_64.efi, ipxe/ipxe-arm64.efi, ipxe/SHA256SUMS
#
# A part is built again when the files of its recipe changed, when one of its
# outputs is missing, or by --force (for Debian's newer packages); else nothing
# is done. Outputs appear by rename when complete. Several runs at once wait
# for each other. No root is needed where the host's packages are (make deps).
set -euo pipefail

suite=trixie
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*"; }
die() {
  printf 'images: %s\n' "$*" >&2
  exit 1
}

force=
if [ "${1:-}" = --force ]; then force=1 && shift; fi
[ $# -eq 1 ] || die "usage: build.sh [--force] OUTDIR"
[ "$(uname -s)" = Linux ] ||
  die "Debian images can only be built on Linux; on $(uname -s) use the Ubuntu samples (config/samples), whose images are downloaded"
mkdir -p "$1"
out=$(cd "$1" && pwd)
mkdir -p "$out/debian" "$out/ipxe"

# digest FILE... - of the names and contents of a recipe's files.
digest() {
  (cd "$recipe" && find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}

# outputs PART - the files, below OUTDIR, that a part makes.
outputs() {
  case $1 in
  ipxe) say ipxe/ipxe-x86_64.efi ipxe/ipxe-arm64.efi ;;
  *) say "debian/debian-$suite-$1"{.qcow2,-vmlinuz,-initrd,-initrd-dracut} ;;
  esac
}

stamp() { say "$out/.recipe-$1"; }

wanted_digest() {
  case $1 in
  ipxe) digest build.sh sources.sh ipxe.sh ;;
  *) digest build.sh sources.sh debian ;;
  esac
}

current() {
  [ -z "$force" ] || return 1
  [ "$(cat "$(stamp "$1")" 2>/dev/null)" = "$(wanted_digest "$1")" ] || return 1
  local file
  for file in $(outputs "$1"); do [ -s "$out/$file" ] || return 1; done
  for file in debian ipxe; do [ -s "$out/$file/SHA256SUMS" ] || return 1; done
}

stale_parts() {
  local part
  for part in ipxe amd64 arm64; do current "$part" || printf '%s ' "$part"; done
}

check_host() {
  local missing=() program arch
  for program in mmdebstrap arch-test apt-get dpkg-deb qemu-img mkfs.vfat mmd mcopy sgdisk mke2fs flock; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} -eq 0 ] || die "missing on this host: ${missing[*]}. Install them: make deps"
  for arch in amd64 arm64; do
    case " $* " in *" $arch "*) ;; *) continue ;; esac
    arch-test "$arch" >/dev/null 2>&1 ||
      die "this host cannot run $arch programs: binfmt_misc has no emulator registered for them. Run 'make deps' (it asks for sudo), or as root: mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; update-binfmts --enable"
  done
  case " $* " in *" amd64 "* | *" arm64 "*) ;; *) return 0 ;; esac
  local free_mib
  free_mib=$(df -Pm "$tmp_parent" | awk 'NR == 2 { print $4 }')
  [ "$free_mib" -ge 5000 ] || die "$tmp_parent has $free_mib MiB free, 5000 are needed (set TMPDIR to another place)"
  [ "$(id -u)" -ne 0 ] || return 0
  grep -q "^\($(id -un)\|$(id -u)\):" /etc/subuid 2>/dev/null && command -v newuidmap >/dev/null ||
    die "$(id -un) has no subordinate user ids, which building as a user needs. Run 'make deps', or as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
  unshare --user true 2>/dev/null || [ -e /etc/apparmor.d/mmdebstrap ] ||
    die "this host forbids user namespaces, which building as a user needs (see sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces); allow them or run this step as root"
}

# build_part PART DIR - makes the part's outputs, under their final names, in
# DIR. Called where "set -e" does not reach.
build_part() {
  local part=$1 dir=$2 name
  case $part in
  ipxe)
    mkdir "$dir/ipxe"
    "$recipe/ipxe.sh" "$dir/ipxe"
    ;;
  *)
    mkdir "$dir/debian" "$dir/raw"
    ARCH=$part SUITE=$suite "$recipe/debian/arch.sh" "$dir/raw" || return 1
    name=$dir/debian/debian-$suite-$part
    mv "$dir/raw/disk.qcow2" "$name.qcow2"
    mv "$dir/raw/vmlinuz" "$name-vmlinuz"
    mv "$dir/raw/initrd" "$name-initrd"
    mv "$dir/raw/initrd-dracut" "$name-initrd-dracut"
    ;;
  esac
}

# report PART LOG - passes on the steps of a build, with seconds, and a sign of
# life when one is long; the rest goes to LOG.
report() {
  local part=$1 log=$2 line step=starting since=$SECONDS status
  : >"$log"
  while :; do
    if IFS= read -r -t 30 line; then
      printf '%s\n' "$line" >>"$log"
      case $line in
      "STEP "*) step=${line#STEP } ;;
      "I: running apt-get update"*) step="package lists" ;;
      "I: downloading packages"*) step="downloading packages" ;;
      "I: extracting archives"*) step="unpacking the essential packages" ;;
      "I: installing essential packages"*) step="installing the essential packages" ;;
      "I: installing remaining packages"*) step="installing the other packages" ;;
      *) continue ;;
      esac
      printf 'images: %-5s %4d s  %s\n' "$part" $((SECONDS - since)) "$step"
    else
      status=$?
      [ $status -gt 128 ] || return 0
      printf 'images: %-5s %4d s  still %s\n' "$part" $((SECONDS - since)) "$step"
    fi
  done
}

# publish PART DIR - replaces the part's outputs one by one, the sums after
# them, and says last that it is done.
publish() {
  local part=$1 dir=$2 file folder=debian
  [ "$part" != ipxe ] || folder=ipxe
  rm -f "$(stamp "$part")"
  for file in $(outputs "$part"); do
    chmod 0644 "$dir/$file"
    mv -f "$dir/$file" "$out/$file"
  done
  (
    cd "$out/$folder"
    find . -maxdepth 1 -type f -name "${folder}*" -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum >.SHA256SUMS.new
    mv -f .SHA256SUMS.new SHA256SUMS
  )
  mv "$dir/recipe" "$out/.recipe-$part.new"
  mv -f "$out/.recipe-$part.new" "$(stamp "$part")"
}

# cleanup - ends the builds that still run and removes what is not published.
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  local pid
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$stage"
  rm -rf --one-file-system "$TMPDIR" 2>/dev/null ||
    mmdebstrap --unshare-helper rm -rf --one-file-system "$TMPDIR" 2>/dev/null || true
  exit "$status"
}

# All of it is read before any of it runs: the file may change meanwhile.
main() {
  parts=$(stale_parts)
  if [ -z "$parts" ]; then
    say "images: up to date in $out"
    exit
  fi

  exec 9>"$out/.lock"
  if ! flock --nonblock 9; then
    say "images: another build is running in $out, waiting for it"
    flock 9
    parts=$(stale_parts)
    [ -n "$parts" ] || { say "images: built by the other run" && exit; }
  fi

  tmp_parent=${TMPDIR:-/var/tmp}
  # shellcheck disable=SC2086
  check_host $parts
  assignments=$("$recipe/sources.sh" "$suite")
  eval "$assignments"
  export DEB_LINES APT_OPTIONS

  rm -rf "$out"/.build-*
  stage=$(mktemp -d "$out/.build-XXXXXX")
  # For mmdebstrap, whose other user ids must be able to enter and write there.
  TMPDIR=$(mktemp -d "$tmp_parent/pxelab-images.XXXXXX")
  chmod 1777 "$TMPDIR"
  export TMPDIR
  pids=()
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM

  say "images: building ${parts% } (Debian $suite) in $out"
  # Job control gives every build a process group, so that all of it can be ended.
  set -m
  for part in $parts; do
    mkdir "$stage/$part"
    wanted_digest "$part" >"$stage/$part/recipe"
    (
      set +m
      exec 9>&-
      set -o pipefail
      { build_part "$part" "$stage/$part" 2>&1 && say "STEP done"; } | report "$part" "$out/.build-$part.log"
    ) </dev/null &
    pids+=($!)
  done
  set +m

  failed=0
  for part in $parts; do
    pid=${pids[0]}
    if wait "$pid"; then
      publish "$part" "$stage/$part"
    else
      failed=1
      printf 'images: %s failed; the end of %s:\n' "$part" "$out/.build-$part.log" >&2
      tail -n 25 "$out/.build-$part.log" >&2
    fi
    pids=("${pids[@]:1}")
  done
  [ $failed -eq 0 ] || exit 1
  say "images: built in $SECONDS s:"
  for part in $parts; do
    for file in $(outputs "$part"); do say "  $out/$file"; done
  done
}

main
exit
