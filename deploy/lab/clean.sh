#!/bin/sh
# Stops everything that runs in a lab's namespaces, and removes the namespaces and the labs' files.
set -eu
for ns in $(ip netns list 2>/dev/null | awk '/^slipway-/{print $1}'); do
  pids=$(ip netns pids "$ns" 2>/dev/null || true)
  [ -z "$pids" ] || kill $pids 2>/dev/null || true
  i=0
  while [ -n "$(ip netns pids "$ns" 2>/dev/null)" ] && [ $i -lt 50 ]; do
    sleep 0.1; i=$((i + 1))
  done
  pids=$(ip netns pids "$ns" 2>/dev/null || true)
  [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
  ip netns del "$ns"
done
rm -rf "${SLIPWAY_LAB_DIR:-/var/tmp/slipway-lab}"
