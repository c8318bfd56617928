#!/bin/sh
# Installs what the lab, the guest images, the LiveOS and the tests need from Debian. Idempotent; does nothing,
# quickly, when nothing is missing. Never starts a service.
#   install-deps.sh            install
#   install-deps.sh --check    only say what is missing; exit 1 if anything is
set -eu

packages="
  qemu-system-x86 qemu-utils ovmf seabios ipxe ipxe-qemu
  iproute2 nftables ethtool iputils-ping tcpdump kmod
  openipmi ipmitool
  mosquitto mosquitto-clients
  postgresql postgresql-client prometheus
  mmdebstrap gdisk fdisk dosfstools mtools e2fsprogs zstd xz-utils cpio busybox-static dropbear-bin binutils
  syslinux syslinux-common systemd-boot-efi
  openssh-client curl jq ca-certificates tftp-hpa gcc libc6-dev make git openssl sqlite3 procps
  python3 python3-venv
  chromium fonts-liberation fonts-wqy-zenhei
"
# Node may come from elsewhere than Debian; then it brings its own npm, which Debian's would not go with.
command -v npm > /dev/null || packages="$packages nodejs npm"

missing=""
for package in $packages; do
  case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" in
    ii*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0
if [ "${1:-}" = --check ]; then
  echo "missing packages:$missing" >&2
  exit 1
fi
[ "$(id -u)" = 0 ] || { echo "run as root to install:$missing" >&2; exit 1; }

# Services must not start: a broker or database of ours is always a private one. An existing policy is kept.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
install() {
  # shellcheck disable=SC2086  # a list of words
  apt-get install -y -q --no-install-recommends $missing
}
echo "installing:$missing" >&2
# package lists may be absent or too old to be right: refresh them only if they do not do
install > /tmp/slipway-apt.$$ 2>&1 || { apt-get update -q && install; } || { cat /tmp/slipway-apt.$$ >&2; exit 1; }
rm -f /tmp/slipway-apt.$$
