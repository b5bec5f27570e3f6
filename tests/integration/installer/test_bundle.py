"""The bundle needs nothing of the node but a kernel and a shell: it runs where there is no C library at all."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.integration.patience import patient

from zeropod.installer.changes import File, Link
from zeropod.installer.contents import Needs, contents

ROOT = "/opt/zeropod"
APPLETS = ("cat", "chroot", "kill", "ln", "mkdir", "mount", "mknod", "rm", "setsid", "sh", "sleep", "tail", "umount")

# CRIU wants its root to be a mount, and to know all mounts below it.
ENTER = """
set -eu
mount --bind "$1" "$1"
cd "$1"
mkdir -p .old proc dev sys run tmp
mount -t tmpfs run run
mount --bind /sys sys
busybox pivot_root . .old
exec /bin/chroot . /bin/sh /test.sh
"""

TEST = f"""
set -eu
export PATH={ROOT}/bin:/bin
mount -t proc proc /proc
mount -t tmpfs dev /dev
mkdir /dev/pts /dev/net
mount -t devpts devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
mknod /dev/null c 1 3
mknod /dev/net/tun c 10 200
umount -l /.old
umount -l /sys
criu check
python3 -I -S -c 'import ctypes, ssl, sys; print(sys.executable, sys.prefix)'
{ROOT}/bin/tar --version
zeropod unpack
zeropod ps
setsid tail -f /test.sh </dev/null >/dev/null 2>&1 10>&- &
pid=$!
sleep 1
mkdir /tmp/image
criu dump --tree $pid --images-dir /tmp/image || {{ cat /tmp/image/*.log; exit 1; }}
wait $pid || :
if kill -0 $pid 2>/dev/null; then echo "it still runs"; exit 1; fi
criu restore --restore-detached --images-dir /tmp/image
kill -0 $pid
kill $pid
"""


def test_it_runs_on_a_node_without_a_c_library(bundle: Path, tmp_path: Path) -> None:
    lay_out(bundle, tmp_path)
    assert not list(tmp_path.glob("lib*"))
    enter = tmp_path.with_name("enter.sh")
    enter.write_text(ENTER)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    command = [*unshare, "sh", str(enter), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROOT}/bin/python3 {ROOT}\n" in done.stdout
    assert "GNU tar" in done.stdout
    assert "NAMESPACE" in done.stdout


def lay_out(bundle: Path, root: Path) -> None:
    """A node with a static shell, and what the installer brings to one that lacks everything."""
    (root / "bin").mkdir()
    shutil.copy("/usr/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for path, entry in contents(str(bundle), ROOT, Needs(python=True, tar=True)).items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        match entry:
            case File(content, mode):
                target.write_bytes(content)
                target.chmod(mode)
            case Link(name):
                os.symlink(name, target)
            case None:
                pass
    (root / "test.sh").write_text(TEST)
