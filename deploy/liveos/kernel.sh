#!/bin/sh
# Fetches Debian's kernel package and unpacks it, without installing it, into the cache.
#   kernel.sh cloud|generic    prints a folder with vmlinuz, kver and lib/modules/KVER (with modules.dep)
set -eu
cache=${SLIPWAY_CACHE:-/var/cache/slipway}

case ${1:-} in
  cloud) meta=linux-image-cloud-amd64 ;;
  generic) meta=linux-image-amd64 ;;
  *) echo "usage: kernel.sh cloud|generic" >&2; exit 64 ;;
esac
package() { apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }'; }
version() { apt-cache policy "$name" | awk '/Candidate:/ { print $2 }'; }

name=$(package)
[ -n "$name" ] || { apt-get update -q >&2; name=$(package); }
[ -n "$name" ] || { echo "no package $meta: is a Debian mirror configured?" >&2; exit 1; }
out=$cache/kernel-$name-$(version)

mkdir -p "$cache"
exec 9> "$cache/.lock-kernel-$1"
flock 9
if [ ! -e "$out/kver" ]; then
  work=$(mktemp -d "$cache/kernel.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  # a list that is too old names a package that has gone
  (cd "$work" && { apt-get download -q "$name" || { apt-get update -q && apt-get download -q "$name"; }; }) >&2
  dpkg-deb -x "$work"/*.deb "$work/unpacked"
  kver=$(ls "$work/unpacked/lib/modules")
  cp "$work/unpacked/boot/vmlinuz-$kver" "$work/unpacked/vmlinuz"
  depmod -b "$work/unpacked" "$kver" # the package has no modules.dep
  echo "$kver" > "$work/unpacked/kver"
  rm -rf "$out"
  mv "$work/unpacked" "$out"
fi
echo "$out"
