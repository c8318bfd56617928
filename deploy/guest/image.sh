# shellcheck shell=bash
# Parts of a guest image; sourced by the recipes. No mount, no loop device. Wants $work (scratch) and $kernel
# (a folder made by liveos/kernel.sh).
export MTOOLS_SKIP_CHECK=1

# busybox_initramfs INIT OUT MODULE...: an initramfs of busybox, INIT as /init and modules in /lib/m, in the order
# of /lib/m/order.
busybox_initramfs() {
  local init=$1 out=$2 root=$work/initramfs kver path file
  shift 2
  kver=$(cat "$kernel/kver")
  rm -rf "$root"
  mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,mnt,newroot,etc,lib/m}
  cp /bin/busybox "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  install -m 755 "$init" "$root/init"
  for module in "$@"; do
    modprobe -d "$kernel" -S "$kver" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
  done | awk '!seen[$0]++' | while read -r path; do
    file=$(basename "$path")
    cp "$path" "$root/lib/m/$file"
    strip --strip-debug "$root/lib/m/$file"
    echo "$file"
  done > "$root/lib/m/order"
  mknod -m 600 "$root/dev/console" c 5 1
  (cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet --reproducible) | zstd -q -19 -f -o "$out"
}

# boot_files DIR TITLE OPTIONS: what BIOS (syslinux) and UEFI (systemd-boot) need to boot DIR/vmlinuz and
# DIR/initrd.img.
boot_files() {
  local dir=$1 title=$2 options=$3
  mkdir -p "$dir"/{EFI/BOOT,loader/entries,syslinux}
  cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$dir/EFI/BOOT/BOOTX64.EFI"
  printf 'timeout 0\ndefault guest\n' > "$dir/loader/loader.conf"
  printf 'title %s\nlinux /vmlinuz\ninitrd /initrd.img\noptions %s\n' "$title" "$options" > "$dir/loader/entries/guest.conf"
  printf 'SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nTIMEOUT 1\nLABEL guest\n  LINUX /vmlinuz\n  INITRD /initrd.img\n  APPEND %s\n' \
    "$options" > "$dir/syslinux/syslinux.cfg"
}

# fat FILE MIB LABEL [DIR]: a FAT file system with the contents of DIR.
fat() {
  local bits=16
  [ "$2" -ge 9 ] || bits=12
  [ "$2" -lt 512 ] || bits=32
  truncate -s "$2M" "$1"
  mkfs.vfat -F "$bits" -n "$3" "$1" > /dev/null
  [ -z "${4:-}" ] || mcopy -s -i "$1" "$4"/* ::/
}

# disk OUT ESP_DIR ESP_MIB [ROOT_EXT4]: the disk: ESP, cidata, root.
disk() {
  local out=$1 esp=$2 esp_mib=$3 root=${4:-} root_mib=0
  fat "$work/esp.img" "$esp_mib" ESP "$esp"
  syslinux --install "$work/esp.img"
  fat "$work/cidata.img" 1 CIDATA
  [ -z "$root" ] || root_mib=$((($(stat -c %s "$root") + 1048575) / 1048576))
  truncate -s $((1 + esp_mib + 1 + root_mib + 1))M "$out"
  # attribute bit 2 = "legacy BIOS bootable", for gptmbr.bin
  sgdisk -a 2048 "-n1:2048:+${esp_mib}M" -t1:EF00 -c1:ESP -A1:set:2 -n2:0:+1M -t2:0700 -c2:cidata \
    ${root:+"-n3:0:+${root_mib}M" -t3:8304 -c3:root} "$out" > "$work/sgdisk.log" || { cat "$work/sgdisk.log" >&2; return 1; }
  place() { dd if="$1" of="$out" bs=1M seek="$2" conv=notrunc,sparse status=none; }
  place "$work/esp.img" 1
  place "$work/cidata.img" $((1 + esp_mib))
  [ -z "$root" ] || place "$root" $((2 + esp_mib))
  dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$out" conv=notrunc status=none
}
