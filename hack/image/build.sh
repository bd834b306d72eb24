#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh IMAGE ARCHIVE
#
# Makes the manager's container image for this host's architecture, as an
# archive that "docker load" and "kind load" take, and ARCHIVE.spdx.json, the
# list of its contents. It needs no container engine, no registry and no root:
# the root file system comes from Debian's packages by mmdebstrap, once for each
# recipe (kept in the cache), the programs are in bin/ already.
set -euo pipefail

# Whatever ends a build made by root ends its processes and mounts with it. For
# anybody else mmdebstrap has such namespaces of its own.
if [ "$(id -u)" -eq 0 ] && [ -z "${LAB_NAMESPACES:-}" ]; then
  LAB_NAMESPACES=1 exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi

say() { printf 'image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ $# -eq 2 ] || die "usage: $0 IMAGE ARCHIVE"
image=$1
archive=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
limit=400 # MB
suite=trixie
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) die "no image for $(uname -m)" ;;
esac
packages=$(sed -n "s/^packages='\(.*\)'\$/\1/p" hack/image/prepare.sh | tr ' ' ,)
cache=${PXELAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pxelab}/manager-image

DEB_LINES='' APT_OPTIONS=''
eval "$(hack/images/sources.sh $suite)"
key=$({ echo "$arch $suite"; cat hack/image/prepare.sh hack/image/build.sh; } | sha256sum | cut -c1-24)
root=$cache/$key/root.tar

work='' layer=''
trap 'rm -rf "$work" "$layer"' EXIT

make_root() {
  local mode=unshare options=()
  [ "$(id -u)" -ne 0 ] || mode=root
  while read -r option; do options+=("--aptopt=$option"); done <<<"$APT_OPTIONS"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.build.XXXXXX")
  # Other user ids work in it.
  chmod 711 "$cache" "$work"
  cp hack/image/prepare.sh "$work/prepare.sh"
  chmod 755 "$work/prepare.sh"
  say "making the root file system from Debian's packages: two minutes, once"
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
  say "the root file system is in the cache"
else
  make_root
fi
touch "$cache/$key"
find "$cache" -mindepth 1 -maxdepth 1 \( -mtime +60 -o -name '.build.*' -mtime +1 \) -exec rm -rf {} +

programs=(bin/manager-linux-$arch bin/netbootd-linux-{amd64,arm64} bin/installer-linux-{amd64,arm64})
layer=$(mktemp -d)
mkdir -p "$layer/usr/lib/pxelab"
cp "${programs[@]}" "$layer/usr/lib/pxelab/"
mv "$layer/usr/lib/pxelab/manager-linux-$arch" "$layer/usr/lib/pxelab/manager"
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
say "$image has $size MB: $archive"
[ $size -le $limit ] || die "that is more than $limit MB: see what came in, and remove it in hack/image/prepare.sh"
tar -xOf "$root" ./var/lib/dpkg/status >"$layer/status"
go run ./hack/image -name "$image" -dpkg "$layer/status" -out "$archive.spdx.json" "${programs[@]}"
