#!/bin/bash
# Builds the disk image of an edge box: a GPT disk that boots on BIOS and on UEFI; Debian with the edge's package.
#   image.sh PACKAGE.deb OUTDIR     ->  OUTDIR/slipway-edge.raw (sparse)
# Debian is cached by the hash of its recipe, the image by that and the package: a second build is a look.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export SLIPWAY_CACHE=${SLIPWAY_CACHE:-/var/cache/slipway}
package=${1:-} outdir=${2:-}
[ -f "$package" ] && [ -n "$outdir" ] || { echo "usage: image.sh PACKAGE.deb OUTDIR" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "run as root: mmdebstrap and chroot need it" >&2; exit 1; }

kernel=$("$here/../liveos/kernel.sh" generic)
kver=$(cat "$kernel/kver")
# Uses $work and $kernel.
. "$here/../guest/image.sh"
hash() { sha256sum | cut -c1-16; }
base_recipe=$( (cd "$here" && find image -type f -printf '%m ' -exec sha256sum {} \; | LC_ALL=C sort; basename "$kernel") | hash)
recipe=$( (echo "$base_recipe"; sha256sum < "$package"; cat "$here/image.sh" "$here/partition.txt" "$here/../guest/image.sh") | hash)
base=$SLIPWAY_CACHE/edge-base-$base_recipe.tar
image=$outdir/slipway-edge.raw

build_base() {
  "$here/image/base.sh" "$work" "$kernel"
  tar -C "$work" --numeric-owner --xattrs -cf "$work/base.tar" root initrd.img
  rm -rf "$work/root" "$SLIPWAY_CACHE"/edge-base-*.tar # older recipes
  mv "$work/base.tar" "$base"
}

install_package() {
  local root=$work/root
  cp "$package" "$root/tmp/slipway-edge.deb"
  # apt, so that a dependency that Debian's half of the image lacks is an error here and not on the box
  chroot "$root" apt-get install -y -q --no-install-recommends /tmp/slipway-edge.deb > "$work/apt.log" 2>&1 \
    || { cat "$work/apt.log" >&2; echo "the package does not install: name what it needs in deploy/edge/image/base.sh" >&2; exit 1; }
  rm -rf "$root/tmp/slipway-edge.deb" "$root"/var/log/{apt,dpkg.log} "$root"/var/cache/apt/*.bin "$root"/var/cache/ldconfig "$root"/etc/*-
}

# Whatever is somebody's own must be made on the box: two boxes with one key would be one.
holds_no_identity() {
  local root=$1 found
  [ ! -s "$root/etc/machine-id" ] || { echo "the image has a machine-id" >&2; return 1; }
  found=$(find "$root" -xdev \( -name 'ssh_host_*' -o -name random-seed -o -path '*/etc/ssl/private/*' -o -path '*/var/lib/slipway/*' \) -print
    grep -rlE -m1 -- '^-----BEGIN ([A-Z]+ )*PRIVATE KEY-----' "$root/etc" "$root/var" "$root/root" "$root/usr/share" 2> /dev/null || true)
  [ -z "$found" ] || { printf 'the image holds what a box must make itself:\n%s\n' "$found" >&2; return 1; }
}

# edge_disk OUT: partitions SLIPWAY (FAT, boots, takes settings) and root.
edge_disk() {
  local out=$1 esp_mib=64 root_mib
  fat "$work/esp.img" $esp_mib SLIPWAY "$work/esp"
  syslinux --install "$work/esp.img"
  root_mib=$((($(stat -c %s "$work/root.ext4") + 1048575) / 1048576))
  truncate -s $((1 + esp_mib + root_mib + 1))M "$out"
  # attribute bit 2 = "legacy BIOS bootable", for gptmbr.bin; 8304 is what systemd-repart knows as this machine's root
  sgdisk -a 2048 "-n1:2048:+${esp_mib}M" -t1:EF00 -c1:slipway -A1:set:2 "-n2:0:+${root_mib}M" -t2:8304 -c2:slipway-root \
    "$out" > "$work/sgdisk.log" || { cat "$work/sgdisk.log" >&2; return 1; }
  dd if="$work/esp.img" of="$out" bs=1M seek=1 conv=notrunc,sparse status=none
  dd if="$work/root.ext4" of="$out" bs=1M seek=$((1 + esp_mib)) conv=notrunc,sparse status=none
  dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$out" conv=notrunc status=none
}

build_image() {
  local used esp=$work/esp
  tar -C "$work" --numeric-owner --xattrs -xf "$base"
  install_package
  holds_no_identity "$work/root"
  mkdir -p "$esp/slipway"
  cp "$kernel/vmlinuz" "$work/initrd.img" "$esp/"
  cp "$here/partition.txt" "$esp/slipway/README.txt"
  boot_files "$esp" "Slipway edge" "root=LABEL=slipway-root rw console=tty0 console=ttyS0,115200 quiet systemd.show_status=no"
  # Room for the first boot before it has grown; the rest of the disk comes then.
  used=$(du -sm "$work/root" | cut -f1)
  truncate -s $((used * 115 / 100 + 64))M "$work/root.ext4"
  mke2fs -q -F -t ext4 -L slipway-root -m 0 -E lazy_itable_init=0 -d "$work/root" "$work/root.ext4"
  edge_disk "$1"
}

mkdir -p "$SLIPWAY_CACHE" "$outdir"
exec 9> "$SLIPWAY_CACHE/.lock-edge"
flock 9
if [ ! -e "$image" ] || [ "$(cat "$outdir/.slipway-edge.recipe" 2> /dev/null)" != "$recipe" ]; then
  work=$(mktemp -d "$SLIPWAY_CACHE/edge.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  [ -e "$base" ] || build_base
  build_image "$work/image.raw"
  rm -f "$outdir/.slipway-edge.recipe"
  cp --sparse=always "$work/image.raw" "$image"
  echo "$recipe" > "$outdir/.slipway-edge.recipe"
fi
echo "image: $image, kernel $kver, $(stat -c %s "$image") bytes, $(du -B1 "$image" | cut -f1) on disk"
