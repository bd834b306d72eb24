#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh IMAGE ARCHIVE
#
# Builds the manager's container image for this host's architecture, as an
# archive for "docker load" and "kind load", and ARCHIVE.spdx.json, its SBOM. No
# container engine, registry or root is needed: mmdebstrap installs the root file
# system from Debian packages, once per recipe (it is cached), and the programs
# are already in bin/.
set -euo pipefail

# Run as root, the build gets its own namespaces, so that its processes and mounts
# end with it. For other users mmdebstrap creates such namespaces.
if [ "$(id -u)" -eq 0 ] && [ -z "${LAB_NAMESPACES:-}" ]; then
  LAB_NAMESPACES=1 exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi

log() { printf 'image: %s\n' "$*" >&2; }
die() { log "$*"; exit 1; }

[ $# -eq 2 ] || die "usage: $0 IMAGE ARCHIVE"
image=$1
archive=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
limit=400 # MB
suite=trixie
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) die "unsupported architecture $(uname -m)" ;;
esac
packages=$(sed -n "s/^packages='\(.*\)'\$/\1/p" images/manager/prepare.sh | tr ' ' ,)
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/manager-image

DEB_LINES='' APT_OPTIONS=''
eval "$(images/guest/sources.sh $suite)"
key=$({ echo "$arch $suite"; cat images/manager/prepare.sh images/manager/build.sh; } | sha256sum | cut -c1-24)
root=$cache/$key/root.tar

work='' layer=''
trap 'rm -rf "$work" "$layer"' EXIT

make_root() {
  local mode=unshare options=()
  [ "$(id -u)" -ne 0 ] || mode=root
  while read -r option; do options+=("--aptopt=$option"); done <<<"$APT_OPTIONS"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.build.XXXXXX")
  # Processes with other user IDs work in it.
  chmod 711 "$cache" "$work"
  cp images/manager/prepare.sh "$work/prepare.sh"
  chmod 755 "$work/prepare.sh"
  log "building the root file system from Debian packages (about two minutes, once)"
  mmdebstrap --quiet --mode=$mode --format=tar --variant=essential --architectures=$arch --skip=output/dev \
    "${options[@]}" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt=force-unsafe-io \
    --include="$packages" \
    --customize-hook="upload $work/prepare.sh /prepare.sh" \
    --customize-hook='chroot "$1" bash /prepare.sh' \
    --customize-hook='rm "$1/prepare.sh"' \
    $suite "$work/root.tar" - <<<"$DEB_LINES"
  mkdir -p "$cache/$key"
  mv "$work/root.tar" "$root"
}

if [ -e "$root" ]; then
  log "using the cached root file system"
else
  make_root
fi
touch "$cache/$key"
find "$cache" -mindepth 1 -maxdepth 1 \( -mtime +60 -o -name '.build.*' -mtime +1 \) -exec rm -rf {} +

programs=(bin/{manager,simulator}-linux-$arch bin/netbootd-linux-{amd64,arm64} bin/installer-linux-{amd64,arm64})
layer=$(mktemp -d)
mkdir -p "$layer/usr/lib/pxelab"
cp "${programs[@]}" "$layer/usr/lib/pxelab/"
for program in manager simulator; do
  mv "$layer/usr/lib/pxelab/$program-linux-$arch" "$layer/usr/lib/pxelab/$program"
done
chmod -R a+rX "$layer"

go run ./hack/imagetar "$archive" <<JSON
[{
  "tags": ["$image"], "architecture": "$arch", "layers": ["$root", "$layer"],
  "entrypoint": ["/usr/lib/pxelab/manager"], "user": "65532:65532",
  "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"],
  "labels": {"org.opencontainers.image.title": "pxelab manager", "org.opencontainers.image.licenses": "Apache-2.0"}
}]
JSON
size=$(($(stat -c %s "$archive") / 1000000))
log "$image: $size MB in $archive"
[ $size -le $limit ] || die "the image exceeds $limit MB; find out what was added, and remove it in images/manager/prepare.sh"
tar -xOf "$root" ./var/lib/dpkg/status >"$layer/status"
go run ./hack/spdx -name "$image" -dpkg "$layer/status" -out "$archive.spdx.json" "${programs[@]}"
