#!/bin/bash
# Packs the edge as a Debian package.
#   package.sh BINARY LIVEOS_DIR OUTDIR     ->  OUTDIR/slipway-edge_VERSION_amd64.deb
# The same inputs give the same bytes: all times are those of the last change of the packaging, all owners root. A second build
# is a look.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-} liveos=${2:-} outdir=${3:-}
[ -n "$binary" ] && [ -n "$liveos" ] && [ -n "$outdir" ] || { echo "usage: package.sh BINARY LIVEOS_DIR OUTDIR" >&2; exit 64; }
for file in "$binary" "$liveos/vmlinuz" "$liveos/initramfs.img"; do
  [ -f "$file" ] || { echo "there is no $file: make edge-package builds it first" >&2; exit 1; }
done

version=$("$binary" --version | awk '{ print $2 }')
time=$(git -C "$here" log -1 --format=%ct -- "$here" 2> /dev/null || true)
export SOURCE_DATE_EPOCH=${time:=$(stat -c %Y "$here/package.sh")}
package=$outdir/slipway-edge_${version}_amd64.deb
recipe=$( (sha256sum < "$binary"; cat "$liveos/vmlinuz" "$liveos/initramfs.img" | sha256sum; echo "$time"
  cat "$here"/{package.sh,edge.toml,slipway-edge.service} "$here"/debian/*) | sha256sum | cut -c1-16)
if [ -e "$package" ] && [ "$(cat "$outdir/.package.recipe" 2> /dev/null)" = "$recipe" ]; then
  echo "package: $package, $(stat -c %s "$package") bytes"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
chmod 755 "$work"

install -D -m 755 "$binary" "$root/usr/bin/slipway-edge"
strip "$root/usr/bin/slipway-edge"
install -D -m 644 -t "$root/usr/lib/slipway/liveos" "$liveos/vmlinuz" "$liveos/initramfs.img"
install -D -m 644 "$here/slipway-edge.service" "$root/lib/systemd/system/slipway-edge.service"
install -D -m 644 "$here/debian/sysusers.conf" "$root/usr/lib/sysusers.d/slipway-edge.conf"
install -D -m 644 "$here/edge.toml" "$root/etc/slipway/edge.toml"

mkdir -p "$work/man" "$root/usr/share/man/man1"
"$binary" man "$work/man"
for page in "$work/man"/*; do
  gzip -9n < "$page" > "$root/usr/share/man/man1/$(basename "$page").gz"
done
doc=$root/usr/share/doc/slipway-edge
mkdir -p "$doc"
cat > "$doc/copyright" << COPYRIGHT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: slipway

Files: *
Copyright: 2026 The Slipway authors
License: Apache-2.0
 See /usr/share/common-licenses/Apache-2.0.

Files: usr/lib/slipway/liveos/*
Copyright: 2026 The Slipway authors, and the authors of what Debian packages it is made of: Linux, busybox, dropbear
License: Apache-2.0 and GPL-2 and others
 See /usr/share/common-licenses/GPL-2; the sources are Debian's source packages linux, busybox and dropbear.
COPYRIGHT
printf 'slipway-edge (%s) stable; urgency=medium\n\n  * See CHANGELOG.md of Slipway.\n\n -- Slipway <slipway@localhost>  %s\n' \
  "$version" "$(date -u -R -d "@$time")" | gzip -9n > "$doc/changelog.gz"

# What the binary is linked to, as Debian names it.
mkdir -p "$work/debian" "$root/DEBIAN"
printf 'Source: slipway\n\nPackage: slipway-edge\nArchitecture: amd64\n' > "$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O root/usr/bin/slipway-edge 2> /dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$libraries" ] || { echo "dpkg-shlibdeps does not name the binary's libraries" >&2; exit 1; }
cat > "$root/DEBIAN/control" << CONTROL
Package: slipway-edge
Version: $version
Architecture: amd64
Section: admin
Priority: optional
Maintainer: Slipway <slipway@localhost>
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Depends: $libraries, ipxe, systemd (>= 252), init-system-helpers (>= 1.54)
Recommends: ca-certificates, systemd-timesyncd | time-daemon
Description: bare-metal provisioning: the edge box of a site
 Boots, installs and watches a site's machines for a Slipway control plane:
 DHCP, TFTP and HTTP boot, image cache, BMC drivers and the machines' broker.
 It joins with a one-time token and works on while the way to the control
 plane is cut. The LiveOS that machines boot is in this package.
CONTROL
echo /etc/slipway/edge.toml > "$root/DEBIAN/conffiles"
install -m 755 -t "$root/DEBIAN" "$here"/debian/{postinst,prerm,postrm}
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) > "$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$time" {} +

mkdir -p "$outdir"
# The binary and the LiveOS are compressed well by zstd, but Debian 12's dpkg writes xz, which all read; -1 is enough.
dpkg-deb --root-owner-group -Zxz -z1 -b "$root" "$work/package.deb" > /dev/null
rm -f "$outdir"/slipway-edge_*_amd64.deb
mv "$work/package.deb" "$package"
echo "$recipe" > "$outdir/.package.recipe"
echo "package: $package, $(stat -c %s "$package") bytes"
