#!/bin/bash
# Runs in the other node: what its containerd has imported, without containerd's lock on it, for the machine's disk.
set -eu
pid=$(pidof containerd)
kill "$pid"
for attempt in {1..200}; do
  kill -0 "$pid" 2>/dev/null || break
  sleep 0.05
done
tar --xattrs --sparse -C /var/lib -cf "$1" containerd
