"""containerd 1.7 for the tests, from the Debian release that has it: its programs alone, unpacked beside the node.

The node itself has containerd 2. Both run in the same Debian tree: these are Go programs that need libc alone.
"""

from pathlib import Path

from tests.node.cache import CACHE, CHECKOUT, digest, run_step, say
from tests.node.chroot import CONTAINED

SUITE = "trixie"
PACKAGE = "containerd"
PLACE = CHECKOUT / "build" / "containerd-1.7"
"""Not below build/node, which the node does not see."""

# In a mount namespace of its own: what apt writes goes away with it, and the tree stays as it is. The mirror is the
# tree's own.
_DOWNLOAD = """
set -eu
tree=$0 target=$1 suite=$2 package=$3
mount -t proc proc "$tree/proc"
for directory in var/lib/apt var/cache tmp; do mount -t tmpfs scratch "$tree/$directory"; done
mount --bind "$target" "$tree/mnt"
mkdir -p "$tree/var/lib/apt/lists/partial" "$tree/var/cache/apt/archives/partial"
read -r deb mirror rest <"$tree/etc/apt/sources.list"
echo "deb $mirror $suite main" >"$tree/tmp/sources"
chroot "$tree" sh -eu -c '
  options="-q -o Dir::Etc::SourceList=/tmp/sources -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=root"
  options="$options -o Acquire::Languages=none"
  apt-get $options update
  cd /tmp
  apt-get $options download "$0/$1"
  dpkg-deb --fsys-tarfile "$0"_*.deb | tar -x -C /mnt ./usr/bin
' "$package" "$suite"
"""


def containerd(tree: Path) -> Path:
    """The directory with its `usr/bin`, filled when it is missing (some 15 seconds)."""
    stamp, wanted = PLACE / "made-of", digest(SUITE, PACKAGE, _DOWNLOAD)
    if not stamp.exists() or stamp.read_text() != wanted:
        log = CACHE / "older.log"
        log.unlink(missing_ok=True)
        say(f"containerd of Debian {SUITE}, some 15 seconds (log: {log})")
        PLACE.mkdir(parents=True, exist_ok=True)
        run_step([*CONTAINED, "sh", "-c", _DOWNLOAD, str(tree), str(PLACE), SUITE, PACKAGE], log, timeout=600)
        stamp.write_text(wanted)
    return PLACE
