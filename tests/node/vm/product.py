"""What is tested, installed as the README says; and unpacked beforehand, which takes a second here and twenty there."""

from pathlib import Path

from tests.node.cache import CHECKOUT, NodeError, run_step
from tests.node.chroot import CONTAINED

INSTALLED = "/opt/zeropod/bin/zeropod"
NAMES = ("zeropod", "containerd-shim-zeropod-v2")
"""Links to it on everybody's PATH, containerd's too."""

LIBRARY = "var/lib/zeropod"
"""Where it unpacks itself to, relative to the root."""

ARCHIVE = CHECKOUT / "build" / "zeropod.pyz"

UNPACK = f"""
mount --bind "$1" "$0/{LIBRARY}"
mount --bind "$2" "$0{INSTALLED}"
exec chroot "$0" {INSTALLED} unpack
"""


def places(tree: Path) -> None:
    """Make the places in the Debian tree that the product is mounted on."""
    (tree / LIBRARY).mkdir(mode=0o700, parents=True)
    program = tree / INSTALLED.lstrip("/")
    program.parent.mkdir(parents=True)
    program.touch()


def unpacked(tree: Path, directory: Path) -> Path:
    """What `zeropod unpack` makes with the tree's own Python. Raises NodeError when it fails."""
    if not ARCHIVE.exists():
        raise NodeError(f"{ARCHIVE} is not here: ./justw build")
    library = directory / "library"
    library.mkdir(mode=0o700)
    step = [*CONTAINED, "sh", "-ec", UNPACK, str(tree), str(library), str(ARCHIVE)]
    run_step(step, directory / "unpack.log", timeout=120)
    return library
