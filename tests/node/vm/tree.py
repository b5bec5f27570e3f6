"""The machine's Debian tree: the other node's, with an init and a kernel.

The kernel is unpacked, not installed: its package wants an initrd to be made, which takes half a minute for nothing.
"""

from pathlib import Path

from tests.node import rootfs
from tests.node.cache import CACHE, cached, digest, run_step, say
from tests.node.chroot import run_inside
from tests.node.vm import product

PACKAGES = ("apparmor", "dbus", "systemd", "systemd-sysv", "udev")
KERNEL = "linux-image-cloud-amd64"

FETCH_KERNEL = f"""
set -e
apt-get install -q -y --no-install-recommends --download-only {KERNEL}
for package in /var/cache/apt/archives/linux-*.deb; do dpkg-deb -x "$package" /; done
cd /usr/lib/modules
for version in *; do
  [ -d "$version/kernel" ] || continue
  depmod "$version"
  ln -sfn /usr/src/linux-headers-*-cloud-amd64 "$version/build"
  ln -sfn /usr/src/linux-headers-*-common "$version/source"
done
"""

# Nobody logs in, nothing is fetched, and a machine of one hour has nothing to tidy up.
MASKED = (
    "apparmor.service",
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty.target",
    "nginx.service",
    "redis-server.service",
    "systemd-tmpfiles-clean.timer",
)


def debian(base: Path) -> Path:
    """The tree's directory, made of the other node's tree when it is missing (about a minute)."""

    def build(target: Path) -> None:
        log = CACHE / "vmtree.log"
        log.unlink(missing_ok=True)
        say(f"systemd and a kernel for the machine, about a minute (log: {log})")
        run_step(["cp", "-a", "--reflink=auto", f"{base}/.", str(target)], log, timeout=300)
        run_inside(target, ["apt-get", "update", "-q"], log)
        run_inside(target, ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES], log)
        run_inside(target, ["sh", "-c", FETCH_KERNEL], log)
        run_inside(target, ["apt-get", "clean"], log)
        run_inside(target, ["systemctl", "mask", *MASKED], log)
        (target / "usr/sbin/policy-rc.d").unlink()
        product.places(target)

    return cached("vmtree", digest(base.name, rootfs.MIRROR, *PACKAGES, FETCH_KERNEL, *MASKED, product.LIBRARY), build)


def kernel(tree: Path) -> Path:
    """The kernel in the tree. Raises ValueError unless there is exactly one."""
    (found,) = tree.glob("usr/lib/modules/*/vmlinuz")
    return found
