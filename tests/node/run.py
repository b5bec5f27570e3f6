"""One run of a node, from its lock to its clean-up.

A run owns a directory under build/node. A lock on it is held for as long as the run lives, so that
whoever starts the next node can tell a living run from the remains of a killed one, and takes those away
first. The directory also records the run's cgroups, the only thing besides itself that does not end with
its processes: mounts, network, bpf objects and pids are the namespaces'.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import images as suites
from tests.conformance import programs
from tests.node import cgroups, images, kubernetes, older, rootfs, site
from tests.node.applications import images as applications
from tests.node.cache import CACHE, CHECKOUT, HERE, NodeError, forget_others, locked

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# How many seconds the command has to end by itself after Ctrl-C, which the terminal sends to it as well.
GRACE = 5.0

NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup")


class Signalled(BaseException):
    """A signal asks the run to end. Like KeyboardInterrupt, not an error that a handler may swallow."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signals_raise() -> None:
    """Turn the first ending signal into Signalled; later ones cannot interrupt the clean-up that it causes.

    What the caller ignores (nohup, a background job of a script) stays ignored.
    """
    caught = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def end(number: int, _frame: object) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise Signalled(number)

    for number in caught:
        signal.signal(number, end)


def run_in_node(
    command: list[str],
    *,
    with_applications: bool = False,
    cluster: int = 0,
    source: Path = kubernetes.SOURCE,
    suite: bool = False,
) -> int:
    """Run ``command`` in a fresh node, take the node away again, return the command's status.

    With a ``cluster`` of so many nodes they are those of ``source``'s Kubernetes, and the command runs in the first of
    them. With ``suite`` the node has a conformance suite: the cluster's, or else the container runtime's.
    """
    commands = [command]
    of_suite: Path | None = None
    if suite:
        of_suite = kubernetes.tests() if cluster else programs.critest()
        os.environ[programs.VARIABLE] = _inside(of_suite)
    if cluster:
        starts = ["python3", "-m", "tests.cluster.start", f"--nodes={cluster}"]
        starts.append(f"--programs={_inside(kubernetes.programs(source))}")
        commands = [[*starts, f"--number={number}", *command] for number in range(1, cluster + 1)]
    with ExitStack() as alive:
        with locked(CACHE / "lock"):
            nobody_else = collect()
            tree = rootfs.debian()
            packages, archives = site.packages(tree), [images.archive(tree)]
            older.containerd(tree)
            if with_applications:
                archives.append(applications.archive(tree))
            if of_suite:
                archives.append(suites.archive(tree, "e2e" if cluster else "critest", of_suite))
            if nobody_else:
                for kept in (tree, packages, *(archive.parent for archive in archives)):
                    forget_others(kept)
            runs = [new_run(alive) for _ in commands]
        try:
            return enter(runs, Places(tree, packages, archives), commands)
        finally:
            for directory in runs:
                remove(directory)


def _inside(path: Path) -> str:
    """What a node calls a path of the checkout."""
    return str(Path("/src") / path.relative_to(CHECKOUT))


def new_run(alive: ExitStack) -> Path:
    """The directory of a run, which is locked as long as it is `alive`. Under the cache's lock."""
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    alive.enter_context(lock_run(directory))
    return directory


def collect() -> bool:
    """Take away what killed runs left. True when no run is alive now."""
    nobody = True
    for directory in CACHE.glob("run-*"):
        with lock_run(directory) as dead:
            if dead:
                remove(directory)
            nobody &= dead
    return nobody


def remove(directory: Path) -> None:
    """Take a run away: first what is alive in it, then its directory."""
    record = directory / "cgroups.json"
    if record.exists():
        cgroups.clear([Path(corner) for corner in json.loads(record.read_text())])
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


@contextmanager
def lock_run(directory: Path) -> Iterator[bool]:
    """Hold a run's lock unless its owner does; yields whether we hold it.

    The lock is on the directory itself, which its owner may be removing right now.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Places:
    """What nodes are made of."""

    tree: Path
    packages: Path
    archives: list[Path]


@dataclass(frozen=True, slots=True)
class Node:
    pid: int
    """Of a process in its network namespace."""
    reader: int
    """Where the status of its command arrives."""


def enter(runs: list[Path], places: Places, commands: list[list[str]]) -> int:
    """Run a node for each command until the first one's has ended, and return its status. None is alive then."""
    shared = runs[0] / "shared"
    shared.mkdir(mode=0o700)
    with ExitStack() as alive:
        nodes = [
            alive.enter_context(running(directory, shared, places, command))
            for directory, command in zip(runs, commands, strict=True)
        ]
        if len(nodes) > 1:
            join(*nodes)
        return outcome(nodes[0].reader)


@contextmanager
def running(directory: Path, shared: Path, places: Places, command: list[str]) -> Iterator[Node]:
    """A node with the command running in it; nothing of it is alive after the block."""
    for name in ("scratch", "root", "zeropod"):
        (directory / name).mkdir(mode=0o700)
    corners = cgroups.corners(f"zeropod-node-{directory.name.removeprefix('run-')}")
    # Written down before they are made: nothing that exists is unknown to the next run.
    (directory / "cgroups.json").write_text(json.dumps([str(corner) for corner in corners]))
    cgroups.create(corners)

    reader, writer = os.pipe()
    mounted = [places.tree, directory, CHECKOUT, places.packages, shared]
    boot = ["bash", str(HERE / "boot.sh"), *map(str, mounted), ":".join(map(str, places.archives)), str(writer)]
    node = subprocess.Popen(
        ["unshare", *NAMESPACES, "--fork", "--propagation", "private", *boot, *command],
        pass_fds=[writer],
        preexec_fn=lambda: cgroups.join(corners),
    )
    os.close(writer)
    try:
        yield Node(node.pid, reader)
    finally:
        os.close(reader)
        cgroups.clear(corners)
        node.wait()


def join(one: Node, other: Node) -> None:
    """Lay a cable between two nodes, named `uplink` at both ends. Raises NodeError where that fails."""
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + GRACE
    while any(os.readlink(f"/proc/{node.pid}/ns/net") == ours for node in (one, other)):
        if time.monotonic() > deadline:
            raise NodeError("a node has no network namespace of its own")
        time.sleep(0.01)
    ends = [["netns", str(node.pid)] for node in (one, other)]
    cable = ["ip", "link", "add", "uplink", *ends[0], "type", "veth", "peer", "name", "uplink", *ends[1]]
    laid = subprocess.run(cable, capture_output=True, text=True, timeout=GRACE, check=False)
    if laid.returncode:
        raise NodeError(f"{' '.join(cable)}: {laid.stderr.strip()}")


def outcome(reader: int) -> int:
    """The command's status, which it still has the time to say after Ctrl-C. Raises Signalled if it does not."""
    try:
        return _status(reader)
    except Signalled as ended:
        if ended.number == signal.SIGINT and select.select([reader], [], [], GRACE)[0]:
            return _status(reader)
        raise


def _status(reader: int) -> int:
    """The command's status, which init.sh reports when it has ended. The node itself is still up then."""
    select.select([reader], [], [])
    # A signal that is noticed now would take the report along; and there is nothing left that it could end.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    report = os.read(reader, 16)
    if not report:
        raise NodeError("the node ended before its command did")
    return int(report)
