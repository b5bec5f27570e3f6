#!/bin/bash
# The node's pid 1: brings containerd up, runs the command, reports its status on descriptor STATUS_FD and
# then waits to be killed with all the rest by run.py: the end of pid 1 would wait for ever for a frozen task.
# As long as the command runs, bash reaps the orphans that shims leave to pid 1.
#
#   init.sh STATUS_FD CMD...
set -u
status_fd=$1
shift
report() {
  echo "$1" >&"$status_fd"
  exec sleep infinity
}
fail() {
  echo "node: $*" >&2
  if [ -s /run/containerd.log ]; then
    echo "node: the end of /run/containerd.log:" >&2
    tail -n 20 /run/containerd.log >&2
  fi
  report 125
}

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
hostname node
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

# bcc looks for headers under the running kernel's name; Debian's are near enough for what bpf/ uses.
modules=/lib/modules/$(uname -r)
mkdir -p "$modules"
ln -sfn /usr/src/linux-headers-*-cloud-amd64 "$modules/build"
ln -sfn /usr/src/linux-headers-*-common "$modules/source"

for name in zeropod containerd-shim-zeropod-v2; do ln -s /src/build/zeropod.pyz "/usr/local/bin/$name"; done
cp -r /src/tests/node/etc/. /etc/
if [ "${ZEROPOD_NODE_CONTAINERD:-}" = 1.7 ]; then
  for program in containerd containerd-shim-runc-v2 ctr; do
    mount --bind "/src/build/containerd-1.7/usr/bin/$program" "/usr/bin/$program" || fail "no containerd 1.7"
  done
  cp /src/tests/node/etc/containerd/config-1.7.toml /etc/containerd/config.toml
fi
unset ZEROPOD_NODE_CONTAINERD

# The environment of containerd is its shims' too: nothing of the tests' may be in it.
ulimit -Sn "$(ulimit -Hn)"
env -i PATH="$PATH" HOME=/root containerd >/run/containerd.log 2>&1 </dev/null {status_fd}>&- &
containerd=$!
for attempt in {1..400}; do
  [ -S /run/containerd/containerd.sock ] && break
  kill -0 "$containerd" 2>/dev/null || fail "containerd ended while starting"
  [ "$attempt" -lt 400 ] || fail "containerd has no socket after 20 s"
  sleep 0.05
done
for archive in /node/images/*; do
  for namespace in default k8s.io; do
    # Of all others there are pods alone. --local takes half as long as the transfer service.
    [ "${archive##*/}" != images.tar ] && [ "$namespace" = default ] ||
      ctr -n "$namespace" images import --local "$archive" >/run/import.log 2>&1 ||
      fail "cannot import $archive into $namespace: $(tail -n 3 /run/import.log)"
  done
done

cd /src || fail "no checkout at /src"
export PYTHONPATH=/node/site:/src PYTHONDONTWRITEBYTECODE=1
"$@" {status_fd}>&-
report $?
