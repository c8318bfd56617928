#!/bin/bash
# Builds a guest image: a GPT disk that boots on BIOS and on UEFI, with a "cidata" partition (FAT, label CIDATA)
# that an install overwrites with the instance's NoCloud data.
#   build.sh tiny|debian OUTDIR      ->  OUTDIR/NAME.raw (sparse)
# The image is cached by the hash of all that it is made from: a second build is a copy.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export SLIPWAY_CACHE=${SLIPWAY_CACHE:-/var/cache/slipway}

name=${1:-}
outdir=${2:-}
case $name in tiny | debian) ;; *) name= ;; esac
[ -n "$name" ] && [ -n "$outdir" ] || { echo "usage: build.sh tiny|debian OUTDIR" >&2; exit 64; }

kernel=$("$here/../liveos/kernel.sh" cloud)
recipe=$( (cd "$here" && find build.sh image.sh "$name" -type f | LC_ALL=C sort | xargs sha256sum; basename "$kernel") | sha256sum | cut -c1-16)
image=$SLIPWAY_CACHE/guest-$name-$recipe.raw
mkdir -p "$SLIPWAY_CACHE" "$outdir"
(
  flock 9
  if [ ! -e "$image" ]; then
    work=$(mktemp -d "$SLIPWAY_CACHE/guest-$name.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    "$here/$name/build.sh" "$work/image.raw" "$work" "$kernel"
    rm -f "$SLIPWAY_CACHE/guest-$name"-*.raw # older recipes
    mv "$work/image.raw" "$image"
  fi
) 9> "$SLIPWAY_CACHE/.lock-guest-$name"
cp --sparse=always --reflink=auto "$image" "$outdir/.$name.raw.new"
mv "$outdir/.$name.raw.new" "$outdir/$name.raw"
echo "guest $name: $outdir/$name.raw, $(stat -c %s "$outdir/$name.raw") bytes, $(du -B1 "$outdir/$name.raw" | cut -f1) on disk"
