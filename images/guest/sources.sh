#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# sources.sh SUITE
#
# Prints one assignment a line, for eval: DEB_LINES, the apt sources of SUITE,
# and APT_OPTIONS, what of the host's apt settings goes with them. On Debian
# the host's own mirrors are used, elsewhere deb.debian.org. Every source names
# Debian's archive keyring: nothing is installed that it does not vouch for.
set -euo pipefail
suite=$1

keyring=
for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
  if [ -e "$file" ]; then keyring=$file && break; fi
done
if [ -z "$keyring" ]; then
  echo "Debian's archive keyring is missing: install the package debian-archive-keyring (make deps)" >&2
  exit 1
fi

# Tells the first of the host's mirrors that carries what is labelled $1.
mirror() {
  apt-get indextargets --format "\$(LABEL)|\$(REPO_URI)" 'Created-By: Packages' 2>/dev/null |
    sed -n "s/^$1|//p" | head -n 1
}

main='' security=''
# shellcheck source=/dev/null
if [ "$(. /etc/os-release && echo "${ID:-}")" = debian ]; then
  main=$(mirror Debian)
  security=$(mirror Debian-Security)
fi
if [ -z "$main" ]; then
  main=http://deb.debian.org/debian
  security=http://deb.debian.org/debian-security
fi

lines="deb [signed-by=$keyring] $main $suite main
deb [signed-by=$keyring] $main $suite-updates main"
# A host that has a mirror and no security mirror cannot be expected to reach one.
[ -z "$security" ] || lines+="
deb [signed-by=$keyring] $security $suite-security main"

options='Acquire::Retries "5"'
for name in Acquire::http::Proxy Acquire::https::Proxy Acquire::Check-Valid-Until Acquire::Check-Date; do
  value=
  eval "$(apt-config shell value "$name")"
  [ -z "$value" ] || options+=$'\n'"$name \"$value\""
done

printf 'DEB_LINES=%q\nAPT_OPTIONS=%q\n' "$lines" "$options"
