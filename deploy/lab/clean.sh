#!/bin/sh
# Stops everything that runs in a lab's namespaces, and removes the namespaces and the labs' files.
set -eu
# A demo that still runs takes its own lab down.
if pkill -INT -x slipway-demo 2>/dev/null; then
  i=0
  while pgrep -x slipway-demo >/dev/null && [ $i -lt 100 ]; do
    sleep 0.1; i=$((i + 1))
  done
  pkill -KILL -x slipway-demo 2>/dev/null || true
fi
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
