#!/bin/bash
# The node's first half: runs in fresh namespaces (mount, pid, ipc, uts, net, cgroup), makes the node's file
# systems, and goes on as init.sh in them. All mounts are this mount namespace's: they end with it.
#
#   boot.sh ROOTFS RUN CHECKOUT SITE SHARED ARCHIVE[:ARCHIVE...] STATUS_FD CMD...
set -eu
rootfs=$1 run=$2 checkout=$3 site=$4 shared=$5 archives=$6
shift 6

# One tmpfs for all that is thrown away. containerd's overlayfs snapshotter cannot stand on an overlay, so its
# directory lies in the tmpfs itself; CRIU's images are on the disk, as on a real node.
mount -t tmpfs -o mode=755 scratch "$run/scratch"
scratch=$run/scratch root=$run/root
mkdir "$scratch/upper" "$scratch/work" "$scratch/containerd"
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$scratch/upper,workdir=$scratch/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
# In a cgroup namespace a mounted hierarchy begins at the node's own cgroup. Version 1 only is mounted: next to a
# 'unified' hierarchy runtimes would see a hybrid layout and drop the controllers.
while IFS=: read -r _ controllers _; do
  case $controllers in
    '') continue ;;
    name=*) name=${controllers#name=} options=none,$controllers ;;
    *) name=$controllers options=$controllers ;;
  esac
  mkdir "$root/sys/fs/cgroup/$name"
  mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/$name"
done </proc/self/cgroup

mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty fuse net/tun kvm userfaultfd; do
  [ -e "/dev/$device" ] || continue
  mkdir -p "$root/dev/$(dirname "$device")"
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "$root/dev/${stream#*:}"; done

mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -p "$root/src" "$root/node/site" "$root/node/shared" "$root/node/images" "$root/var/lib/containerd" "$root/var/lib/zeropod"
mount --bind "$scratch/containerd" "$root/var/lib/containerd"
mount --bind "$run/zeropod" "$root/var/lib/zeropod"
mount --bind "$checkout" "$root/src"
mount -t tmpfs -o ro hidden "$root/src/build/node"
mount --bind -o ro "$site" "$root/node/site"
mount --bind "$shared" "$root/node/shared"
IFS=:
for archive in $archives; do
  touch "$root/node/images/${archive##*/}"
  mount --bind -o ro "$archive" "$root/node/images/${archive##*/}"
done
unset IFS

cd "$root"
mkdir .host
pivot_root . .host
umount -l /.host
rmdir /.host
mount --make-rshared /
exec /bin/bash /src/tests/node/init.sh "$@"
