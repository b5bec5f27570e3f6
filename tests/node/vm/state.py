"""A machine that has booted once, kept: its disk and its memory.

Under emulation a boot and containerd's start take a minute, and the import of the images would take ten, which is why
the other node does that. A run goes on from the moment after that, in seconds. What is in the state does not depend on
what is tested, only on this node's own files.
"""

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.node.cache import CACHE, HERE, NodeError, cached, digest, run_step, say
from tests.node.chroot import run_inside
from tests.node.run import Places, enter, new_run, remove
from tests.node.vm import checkout, product, qemu, tree
from tests.node.vm.initrd import initrd
from tests.node.vm.qemu import KVM, TCG, Machine, Parts
from tests.node.vm.talk import Conversation

OURS = HERE / "vm"
OVERLAYS = (HERE / "etc", OURS / "etc")
AGENT = tuple(HERE / name for name in ("__init__.py", "vm/__init__.py", "vm/agent.py", "vm/frames.py"))

SIZE = "8G"
"""Of the disk, of which nothing is taken on the host but what is written."""

BOOTS_WITHIN = 600.0
WARM_WITHIN = 900.0

# The first container loads modules, the first use reads files: once, here, not in every run.
WARM = """
set -e
systemctl is-system-running --wait >/dev/null || { systemctl --failed --no-legend; exit 1; }
ctr run --rm localhost/redis:test warm true
PYTHONPATH=/node/site python3 -c 'import google.protobuf, grpc, pytest, pytest_timeout, pytest_trio, trio'
ctr version >/dev/null
criu --version >/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
"""


def kept(base: Path, debian: Path, packages: Path, archives: list[Path]) -> Path:
    """The directory with all files of Parts, made when it is missing (two minutes under emulation)."""
    sources = [path for folder in OVERLAYS for path in sorted(folder.rglob("*")) if path.is_file()]
    sources += [*AGENT, OURS / "containerd.sh", OURS / "initrd.py", Path(__file__)]
    contents = [part for path in sources for part in (str(path.relative_to(HERE)), path.read_bytes())]
    # A memory is of a machine with exactly these devices.
    kernel = start = disk = source = Path("file")
    anywhere = Parts(kernel, start, disk, source)
    contents += [part for how in (KVM, TCG) for part in qemu.command(anywhere, how, Path("console"), 0, 0)]
    # A memory goes on only where it was made: another processor, or another QEMU, need not have the same features.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    images = [archive.parent.name for archive in archives]
    key = digest(debian.name, packages.name, *images, qemu.version(), boot, SIZE, *contents)

    def build(target: Path) -> None:
        log = CACHE / "vmstate.log"
        log.unlink(missing_ok=True)
        shutil.copyfile(tree.kernel(debian), target / "vmlinuz")
        (target / "initrd").write_bytes(initrd(debian))
        say("the machine's disk")
        _make_disk(target, base, debian, packages, archives, log)
        _boot(target)

    return cached("vmstate", key, build)


def parts(state: Path, checkout: Path) -> Parts:
    """What goes on from the state."""
    return Parts(state / "vmlinuz", state / "initrd", state / "disk", checkout, memory=state / "memory")


def acceleration(state: Path) -> qemu.Acceleration:
    """What the state was made under."""
    return KVM if (state / "acceleration").read_text() == KVM.name else TCG


def _make_disk(target: Path, base: Path, debian: Path, packages: Path, archives: list[Path], log: Path) -> None:
    staging = target / "staging"
    run_step(["cp", "-a", "--reflink=auto", str(debian), str(staging)], log, timeout=300)
    for overlay in OVERLAYS:
        shutil.copytree(overlay, staging / "etc", dirs_exist_ok=True)
    shutil.copytree(packages, staging / "node/site")
    (staging / "node/images").mkdir()
    for archive in archives:
        (staging / "node/images" / archive.name).touch()
    _import(staging, base, packages, archives, log)
    for path in AGENT:
        copy = staging / "node/agent/tests/node" / path.relative_to(HERE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (staging / "src").mkdir()
    for name in product.NAMES:
        (staging / "usr/local/bin" / name).symlink_to(product.INSTALLED)
    (staging / "etc/hostname").write_text("node\n")
    (staging / "etc/fstab").write_text("")
    (staging / "etc/machine-id").write_text("")
    run_inside(staging, ["python3", "-m", "compileall", "-q", "/node"], log)
    run_inside(staging, ["systemctl", "enable", "node-agent.service"], log)
    options = "assume_storage_prezeroed=1,lazy_itable_init=0"
    disk = ["mke2fs", "-q", "-t", "ext4", "-E", options, "-d", str(staging), str(target / "disk"), SIZE]
    run_step(disk, log, timeout=300)
    shutil.rmtree(staging)


def _import(staging: Path, base: Path, packages: Path, archives: list[Path], log: Path) -> None:
    """Let the containerd of the other node, which is the same, import the images: hashing them takes minutes here."""
    with ExitStack() as alive:
        directory = new_run(alive)
        try:
            script = ["bash", "/src/tests/node/vm/containerd.sh", "/var/lib/zeropod/containerd.tar"]
            if status := enter([directory], Places(base, packages, archives), [script]):
                raise NodeError(f"the images could not be imported: status {status}")
            archive = directory / "zeropod/containerd.tar"
            run_step(["tar", "--xattrs", "-C", str(staging / "var/lib"), "-xf", str(archive)], log, timeout=300)
        finally:
            remove(directory)


def _boot(target: Path) -> None:
    how = qemu.acceleration(target / "vmlinuz", target / "initrd")
    (target / "acceleration").write_text(how.name)
    say(f"booting it under {how.name}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="boot-", dir=target) as scratch:
        source = Path(scratch) / "checkout"
        source.touch()
        with source.open("r+b") as file:
            file.truncate(checkout.SIZE)
        made_of = Parts(target / "vmlinuz", target / "initrd", target / "disk", source, keep=True)
        with Machine(made_of, how, Path(scratch)) as machine:
            agent = Conversation(machine.port)
            agent.until_ready(BOOTS_WITHIN)
            say(f"it has booted after {time.monotonic() - began:.0f} s")
            if status := agent.run(["sh", "-c", WARM], timeout=WARM_WITHIN):
                raise NodeError(f"the machine's preparation ended with {status}")
            machine.keep(target / "memory", timeout=120)
    say(f"kept it after {time.monotonic() - began:.0f} s, {(target / 'memory').stat().st_size >> 20} MiB of memory")
