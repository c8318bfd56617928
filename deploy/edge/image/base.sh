#!/bin/bash
# The edge image's Debian without the edge: root file system and initramfs, from APT alone.
#   base.sh WORKDIR KERNELDIR     ->  WORKDIR/root, WORKDIR/initrd.img    (called by ../image.sh; needs root)
set -euo pipefail
work=$1 kernel=$2
here=$(cd "$(dirname "$0")" && pwd)
. /etc/os-release
suite=$VERSION_CODENAME
root=$work/root
kver=$(cat "$kernel/kver")

# The Debian sources and proxy settings of this very machine.
sources() {
  apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' \
    | awk -F'|' -v suite="$suite" '$1 == "Debian" && index($2, suite) == 1 && $6 == "main" {
        signed = ($3 ~ /^\//) ? "[signed-by=" $3 "] " : ""; print "deb " signed $4 " " $5 " main" }' | sort -u
}

debian() {
  local packages=systemd-sysv,udev,dbus,systemd-timesyncd,systemd-resolved,kmod,ipxe,e2fsprogs,ca-certificates,init-system-helpers
  [ -n "$(sources)" ] || apt-get update -q >&2
  sources > "$work/sources.list"
  [ -s "$work/sources.list" ] || { echo "no Debian $suite among this machine's APT sources" >&2; exit 1; }
  apt-config dump | grep -E '^Acquire::(http|https|Retries)' > "$work/apt.conf" || true
  mmdebstrap --mode=root --variant=minbase --include="$packages" --components=main --quiet \
    --aptopt='Apt::Install-Recommends "false"' --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    "$suite" "$root" "$work/sources.list" > "$work/mmdebstrap.log" 2>&1 || { tail -n 30 "$work/mmdebstrap.log" >&2; exit 1; }
  # How this machine reaches Debian is not how the box does.
  rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/apt/sources.list.d/0000sources.list
  printf 'deb http://deb.debian.org/debian %s main\ndeb http://deb.debian.org/debian-security %s-security main\n' "$suite" "$suite" \
    > "$root/etc/apt/sources.list"
}

settings() {
  cp -r "$here/files/." "$root/"
  printf 'LABEL=slipway-root / ext4 defaults,noatime,x-systemd.growfs 0 1\n' > "$root/etc/fstab"
  echo slipway-edge > "$root/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 slipway-edge\n' > "$root/etc/hosts"
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  mkdir -p "$root/var/log/journal"
  chroot "$root" passwd -l root > /dev/null
  chroot "$root" systemctl enable -q systemd-networkd systemd-resolved systemd-timesyncd slipway-edge-settings slipway-edge-console
  # nobody logs in here: no prompt, no rescue shell; and what only costs time
  chroot "$root" systemctl mask -q getty@.service serial-getty@.service getty.target emergency.service rescue.service \
    debug-shell.service systemd-networkd-wait-online.service e2scrub_reap.service e2scrub_all.timer apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer modprobe@drm.service modprobe@dm_mod.service modprobe@fuse.service \
    modprobe@loop.service sys-fs-fuse-connections.mount systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service
  find "$root/etc/systemd/system" -name 'systemd-networkd-wait-online.service' -path '*wants*' -delete
}

# modules ROOT PATTERN: the modules of the list whose line begins with PATTERN, with what they depend on.
modules() {
  local to=$1 pattern=$2 base=$kernel/lib/modules/$kver path target=$1/lib/modules/$kver
  grep -v '^#' "$here/modules" | sed -n -E "s/^$pattern//p" | while read -r path; do
    [ -e "$base/kernel/$path" ] || { echo "the kernel has no $path: mend deploy/edge/image/modules" >&2; continue; }
    (cd "$base" && find "kernel/$path" -name '*.ko')
  done > "$work/wanted"
  # modules.dep lists each module's whole closure on its line
  awk 'NR == FNR { want[$1] = 1; next } { name = $1; sub(/:$/, "", name); if (name in want) { for (i = 1; i <= NF; i++) { path = $i; sub(/:$/, "", path); print path } } }' \
    "$work/wanted" "$base/modules.dep" | sort -u | while read -r path; do
    install -D -m 644 "$base/$path" "$target/$path"
  done
  cp "$base"/modules.{builtin,builtin.modinfo,order} "$target/"
  depmod -b "$to" "$kver"
}

initramfs() {
  local tree=$work/initramfs
  mkdir -p "$tree"/{bin,sbin,dev,proc,sys,tmp,newroot}
  cp /bin/busybox "$tree/bin/busybox"
  ln -s busybox "$tree/bin/sh"
  install -m 755 "$here/init" "$tree/init"
  modules "$tree" 'boot '
  rm -f "$tree/lib/modules/$kver"/*.bin
  mknod -m 600 "$tree/dev/console" c 5 1
  (cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet --reproducible) | zstd -q -19 -T0 -f -o "$work/initrd.img"
  rm -rf "$tree"
}

# Of this build machine, or made while packages were installed: a box makes its own.
strip_identity() {
  rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed" "$root"/etc/*-
  : > "$root/etc/machine-id"
  rm -rf "$root"/var/cache/{apt,ldconfig,debconf}/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt "$root"/tmp/* "$root"/run/*
  mkdir -p "$root/var/cache/apt/archives/partial" "$root/var/lib/apt/lists/partial"
}

debian
settings
modules "$root" '(boot )?'
initramfs
strip_identity
