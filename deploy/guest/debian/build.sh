#!/bin/bash
# The Debian guest: a real Debian with systemd, ssh and cloud-init, made quick to boot under software emulation.
#   build.sh OUT.raw WORKDIR KERNELDIR     (called by ../build.sh; needs root for mmdebstrap)
set -euo pipefail
out=$1 work=$2 kernel=$3
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../image.sh"
. /etc/os-release
suite=$VERSION_CODENAME
root=$work/root

# The Debian sources and proxy settings of this very machine.
sources() {
  apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' \
    | awk -F'|' -v suite="$suite" '$1 == "Debian" && index($2, suite) == 1 && $6 == "main" {
        signed = ($3 ~ /^\//) ? "[signed-by=" $3 "] " : ""; print "deb " signed $4 " " $5 " main" }' | sort -u
}
[ -n "$(sources)" ] || apt-get update -q >&2
sources > "$work/sources.list"
[ -s "$work/sources.list" ] || { echo "no Debian $suite among this machine's APT sources" >&2; exit 1; }
apt-config dump | grep -E '^Acquire::(http|https|Retries)' > "$work/apt.conf" || true

packages=systemd-sysv,udev,dbus,iproute2,kmod,openssh-server,procps,sudo,cloud-init,cloud-guest-utils,netplan.io,ca-certificates,e2fsprogs,fdisk
mmdebstrap --mode=root --variant=minbase --include="$packages" --components=main --quiet \
  --aptopt='Apt::Install-Recommends "false"' --aptopt="$work/apt.conf" \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  "$suite" "$root" "$work/sources.list" > "$work/mmdebstrap.log" 2>&1 || { tail -n 30 "$work/mmdebstrap.log" >&2; exit 1; }

cp -r "$here/files/." "$root/"
echo "PARTLABEL=root / ext4 defaults,noatime 0 1" > "$root/etc/fstab"
echo guest > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 guest\n' > "$root/etc/hosts"
: > "$root/etc/machine-id"            # made at first boot
rm -f "$root"/etc/ssh/ssh_host_*      # made at first boot, by cloud-init
rm -f "$root/etc/resolv.conf"
: > "$root/etc/resolv.conf"
chroot "$root" passwd -l root > /dev/null
chroot "$root" systemctl enable -q systemd-networkd ssh serial-getty@ttyS0 guest-marker
# units that only cost time here
chroot "$root" systemctl mask -q $(grep -v '^#' "$here/masked-units")

# a handful of modules instead of the kernel package: the kernel itself lives on the ESP
kver=$(cat "$kernel/kver")
modules=$root/lib/modules/$kver
mkdir -p "$modules"
modprobe -d "$kernel" -S "$kver" --show-depends -a virtio_net virtio_blk virtio_pci virtio-rng virtio_scsi sd_mod vfat \
  nls_cp437 nls_ascii nls_utf8 8021q qemu_fw_cfg efivarfs overlay button evdev ena \
  | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
  install -D -m 644 "$file" "$modules/${file#*/"$kver"/}"
done
cp "$kernel/lib/modules/$kver"/modules.{builtin,builtin.modinfo,order} "$modules/"
depmod -b "$root" "$kver"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc/*

esp=$work/esp
mkdir -p "$esp"
busybox_initramfs "$here/init" "$esp/initrd.img" virtio_pci virtio_blk virtio_scsi sd_mod
cp "$kernel/vmlinuz" "$esp/vmlinuz"
boot_files "$esp" "Debian $suite" "root=PARTLABEL=root rw console=tty0 console=ttyS0 quiet"

used=$(du -sm "$root" | cut -f1)
truncate -s $((used * 115 / 100 + 40))M "$work/root.ext4"
mke2fs -q -F -t ext4 -L root -m 0 -E lazy_itable_init=0 -d "$root" "$work/root.ext4"
disk "$out" "$esp" 36 "$work/root.ext4"
