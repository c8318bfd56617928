#!/bin/bash
# The tiny guest: Debian's cloud kernel and a busybox initramfs, nothing else. Boots in seconds; for tests and demos.
#   build.sh OUT.raw WORKDIR KERNELDIR     (called by ../build.sh)
set -euo pipefail
out=$1 work=$2 kernel=$3
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../image.sh"

esp=$work/esp
mkdir -p "$esp"
busybox_initramfs "$here/init" "$esp/initrd.img" virtio_pci virtio_net virtio_blk virtio-rng vfat nls_cp437 nls_ascii button evdev
cp "$kernel/vmlinuz" "$esp/vmlinuz"
boot_files "$esp" "Slipway tiny guest" "console=ttyS0 quiet"
disk "$out" "$esp" 21
