#!/bin/bash
# Packs the LiveOS: Debian's kernel, and an initramfs of the agent as /init plus kernel modules and what rescue needs:
# busybox and dropbear with its libraries.
#   build.sh AGENT_BINARY OUTDIR [cloud|generic]     ->  OUTDIR/vmlinuz, OUTDIR/initramfs.img
# The initramfs is two archives in one file: modules and tools (compressed once, cached) and the agent. The site appends a
# third, its own small overlay, when it serves it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SLIPWAY_CACHE:-/var/cache/slipway}
limit=$((40 * 1000 * 1000))

agent=${1:?usage: build.sh AGENT_BINARY OUTDIR [cloud|generic]}
outdir=${2:?usage: build.sh AGENT_BINARY OUTDIR [cloud|generic]}
flavour=${3:-generic}
[ -f "$agent" ] || { echo "there is no $agent: build the agent first" >&2; exit 1; }
if readelf -l "$agent" 2>/dev/null | grep -q INTERP; then
  echo "$agent is dynamically linked: the LiveOS has no libraries, build it with -C target-feature=+crt-static" >&2
  exit 1
fi

kernel=$("$here/kernel.sh" "$flavour")
kver=$(cat "$kernel/kver")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# archive DIR OUT LEVEL: a newc archive owned by root, compressed, padded to 4 bytes so that another may follow
archive() {
  (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet --reproducible) | zstd -q "-$3" -T0 -o "$2"
  truncate -s %4 "$2"
}

# Paths of the wanted modules below lib/modules/KVER, with what they depend on.
select_modules() {
  local base=$kernel/lib/modules/$kver pattern
  : > "$work/wanted"
  grep -v '^#' "$here/modules.$flavour" | while read -r pattern; do
    case $pattern in
      '!'*) grep -v -E "^kernel/$(glob "${pattern#!}")" "$work/wanted" > "$work/left" || true; mv "$work/left" "$work/wanted" ;;
      *) (cd "$base" && find kernel -name '*.ko' -path "kernel/$pattern") >> "$work/wanted" ;;
    esac
  done
  # modules.dep lists each module's whole closure on its line
  awk 'NR == FNR { want[$1] = 1; next } { name = $1; sub(/:$/, "", name); if (name in want) { for (i = 1; i <= NF; i++) { path = $i; sub(/:$/, "", path); print path } } }' \
    "$work/wanted" "$base/modules.dep" | sort -u
}
glob() { printf '%s' "$1" | sed 's/[.]/\\./g; s/[*]/.*/g'; }

# The shell and the SSH server of a rescue; neither runs unless an order says so.
add_tools() {
  local root=$1 program library
  mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/root" "$root/tmp" "$root/run" "$root/etc"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for program in $(busybox --list); do
    [ "$program" = busybox ] || ln -s busybox "$root/bin/$program"
  done
  ln -s ../bin/busybox "$root/sbin/modprobe" # where the kernel looks for it when a file system is mounted
  for program in /usr/sbin/dropbear /usr/bin/dropbearkey; do
    cp "$program" "$root$program"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    done
  done
}

build_modules() {
  local root=$work/modules path target
  target=$root/lib/modules/$kver
  mkdir -p "$target" "$root/dev"
  select_modules > "$work/selected"
  while read -r path; do
    mkdir -p "$target/$(dirname "$path")"
    cp "$kernel/lib/modules/$kver/$path" "$target/$path"
  done < "$work/selected"
  find "$target" -name '*.ko' -print0 | xargs -0 -r strip --strip-debug
  cp "$kernel/lib/modules/$kver/modules.builtin" "$kernel/lib/modules/$kver/modules.order" "$target/"
  [ ! -e "$kernel/lib/modules/$kver/modules.builtin.modinfo" ] || cp "$kernel/lib/modules/$kver/modules.builtin.modinfo" "$target/"
  depmod -b "$root" "$kver"
  rm -f "$target"/*.bin "$target"/modules.{devname,symbols,softdep}
  mknod -m 600 "$root/dev/console" c 5 1
  add_tools "$root"
  archive "$root" "$1" 19
}

recipe=$(cat "$here/build.sh" "$here/modules.$flavour" "$kernel/kver" /usr/sbin/dropbear "$(command -v busybox)" | sha256sum | cut -c1-16)
modules=$cache/liveos-modules-$flavour-$recipe.img
mkdir -p "$cache" "$outdir"
(
  flock 9
  [ -e "$modules" ] || { build_modules "$work/modules.img"; mv "$work/modules.img" "$modules"; }
) 9> "$cache/.lock-liveos-$flavour"

mkdir -p "$work/agent"
install -m 755 "$agent" "$work/agent/init"
touch -d @0 "$work/agent/init" # the same agent gives the same bytes, whenever it is packed
archive "$work/agent" "$work/agent.img" 19
cat "$modules" "$work/agent.img" > "$work/initramfs.img"
cp "$kernel/vmlinuz" "$work/vmlinuz"
chmod 644 "$work/vmlinuz" "$work/initramfs.img"
mv "$work/vmlinuz" "$work/initramfs.img" "$outdir/"

size() { stat -c %s "$1"; }
total=$(($(size "$outdir/vmlinuz") + $(size "$outdir/initramfs.img")))
echo "LiveOS $flavour, kernel $kver: vmlinuz $(size "$outdir/vmlinuz"), modules $(size "$modules"), agent $(size "$work/agent.img"), together $total bytes"
[ "$total" -le "$limit" ] || { echo "the LiveOS is over $limit bytes: shorten liveos/modules.$flavour" >&2; exit 1; }
