"""The smallest initrd that finds the machine's disk: busybox, one kernel module and a script.

Debian's cloud kernel has ext4 and the virtio transports built in, but not virtio-blk. The archive is in the "newc"
format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). dracut's initrd would do as well, but takes
half a minute to make and, under emulation, about ten seconds of every boot.
"""

import lzma
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# With `probe` on the kernel's command line it says that a kernel can run on this processor, and ends.
INIT = b"""\
#!/bin/sh
mount -t proc proc /proc
grep -qw probe /proc/cmdline && { echo kernel runs; poweroff -f; }
mount -t devtmpfs devtmpfs /dev
insmod /virtio_blk.ko
mount -t ext4 -o rw,discard /dev/vda /root && umount /proc && exec switch_root /root /lib/systemd/systemd
echo the disk cannot be mounted
poweroff -f
"""

APPLETS = ("sh", "mount", "umount", "insmod", "grep", "echo", "poweroff", "switch_root")
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive; `mode` says of what kind, and a link's data is its target."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """The archive of the entries, in their order."""
    out = bytearray()
    for inode, entry in enumerate((*entries, Entry(TRAILER, 0)), start=1):
        name = entry.name.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def initrd(tree: Path) -> bytes:
    """The initrd for the only kernel in the Debian tree. Raises ValueError unless there is exactly one."""
    (module,) = tree.glob("usr/lib/modules/*/kernel/drivers/block/virtio_blk.ko.xz")
    program, directory, link = stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
    return newc(
        (
            *(Entry(name, directory) for name in ("bin", "dev", "proc", "root")),
            # The kernel opens it for the first process's output before anything is mounted.
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            Entry("bin/busybox", program, (tree / "usr/bin/busybox").read_bytes()),
            *(Entry(f"bin/{applet}", link, b"busybox") for applet in APPLETS),
            Entry("virtio_blk.ko", stat.S_IFREG | 0o644, lzma.decompress(module.read_bytes())),
            Entry("init", program, INIT),
        )
    )
