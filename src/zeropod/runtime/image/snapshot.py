"""What is known of a container that is about to become an image.

Plain data: nothing here reads a file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zeropod.kernel.mountinfo import Mount

DELETED = " (deleted)"
REFRESHED = "/..data"
"""The link that the kubelet exchanges at an update, in each volume made of a configMap, a Secret or the like."""

_POD_VOLUME = re.compile(r"/pods/[^/]+/(volumes?|volume-subpaths|etc-hosts|containers|plugins)(/|$)|/pvc-[^/]+(/|$)")
_RUNTIME_FILE = re.compile(r"/io\.containerd\.[^/]+/(sandboxes|containers)/")
_NETWORK = ("nfs", "cifs", "smb", "ceph", "9p", "lustre", "gfs2", "ocfs2", "glusterfs", "fuse", "virtiofs", "beegfs")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open file: a descriptor's, or a working directory, a root or a mapped file (`number` is -1 then)."""

    number: int
    link: str
    what: str = ""
    """How it is held, where it is not a descriptor: cwd, root, mapped."""
    device: int = 0
    inode: int = 0
    mode: int = 0
    links: int = 1
    blocks: int = 0
    """Of 512 bytes."""
    special: int = 0
    """Device number of a device file."""
    modified: float = 0.0
    flags: int = 0
    mount: int = -1
    info: str = ""
    """The text of its fdinfo, where that matters."""
    named: bool = True
    """Whether its name leads to it, in the process's root."""
    readable: bool = False
    """Whether poll(2) finds something to read, where that matters."""
    alone: bool = False
    """Of a pipe: whether the other end is closed."""
    huge: bool = False
    """Whether it is in huge pages."""

    @property
    def path(self) -> str:
        return self.link.removesuffix(DELETED)

    @property
    def place(self) -> str:
        """What users see."""
        held = f"descriptor {self.number}" if self.number >= 0 else self.what
        return f"{self.path} ({held})"


@dataclass(frozen=True, slots=True)
class Thread:
    tid: int
    affinity: frozenset[int] = frozenset()
    io_priority: int = 0
    timer_slack: int = 0
    own_tables: tuple[str, ...] = ()
    """What it does not share with the main thread."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    name: str = ""
    status: Mapping[str, str] = field(default_factory=dict)
    personality: int = 0
    namespaces: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[Descriptor] = ()
    held: Sequence[Descriptor] = ()
    """Directories and mapped files."""
    segments: Sequence[int] = ()
    """System V shared memory that it has attached, once for each mapping."""
    threads: Sequence[Thread] = ()
    started: float = 0.0
    """Unix time."""
    waits_in: str = ""
    """The kernel function in which its main thread sleeps."""
    shares_memory_with: int = 0
    """The pid of its parent, if it runs in that one's address space."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"

    @property
    def state(self) -> str:
        return self.status.get("State", "")[:1]

    @property
    def levels(self) -> int:
        """In how many pid namespaces it is seen, the reader's included."""
        return len(self.status.get("NSpid", "0").split())

    @property
    def parent(self) -> int:
        return int(self.status.get("PPid", "0"))

    @property
    def files(self) -> Iterable[Descriptor]:
        yield from self.descriptors
        yield from self.held


@dataclass(frozen=True, slots=True)
class SpecMount:
    """A mount that the container was created with."""

    place: str
    kind: str
    source: str = ""
    options: frozenset[str] = frozenset()

    @property
    def is_bind(self) -> bool:
        return self.kind == "bind" or not {"bind", "rbind"}.isdisjoint(self.options)


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount as it is now."""

    place: str
    mount: Mount
    changed: bool = False
    """Whether its source is gone or is something else by now."""
    refreshed: bool = False
    """Whether the kubelet replaces what is in it."""
    elsewhere: bool = False
    """Whether other containers have it mounted, too."""
    is_directory: bool = True

    @property
    def is_shared(self) -> bool:
        """Whether others than the container may change what is in it, as far as that can be told."""
        own = _POD_VOLUME.search(self.mount.root) or _RUNTIME_FILE.search(self.mount.root) or self.mount.root == "/"
        return self.elsewhere or self.refreshed or self.mount.kind.startswith(_NETWORK) or not own


@dataclass(frozen=True, slots=True)
class Lock:
    """A line of /proc/locks."""

    pid: int
    device: str
    inode: int
    waits: bool
    kind: str
    text: str
    """The line without its number."""


@dataclass(frozen=True, slots=True)
class Socket:
    """What a duplicate of a socket says."""

    inode: int
    holder: str
    """Which process has it, and at which number."""
    family: int
    type: int
    protocol: int
    local: str = ""
    readable: bool = False
    failed: bool = False
    """A TCP connection that is closed, with an error that was not fetched."""
    unsent: int = 0
    options: tuple[str, ...] = ()
    """Those that differ from a new socket's and that CRIU does not restore."""
    groups: tuple[str, ...] = ()
    """Multicast groups that it is in."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A process in the container's pid namespace that is not in its cgroup."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class UnixEnd:
    """What there is to know of one Unix socket beyond its kind."""

    inode: int
    name: str
    peer_is_foreign: bool = False
    pending: int = 0
    pending_foreign: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the spec and the shim know of a container."""

    pid_namespace: str | None = ""
    """The path it joins; empty for its own, None without any. The path of a pod with `hostPID` leads to the node's."""
    user_namespace: bool = False
    terminal: bool = False
    no_new_privileges: bool = False
    seccomp: bool = False
    seccomp_notify: bool = False
    mounts: tuple[SpecMount, ...] = ()
    id: str = ""
    """The container's."""
    ours: frozenset[tuple[int, int]] = frozenset()
    """Descriptors (pid, number) that zeropod has put into the processes and takes out before the dump."""
    reapplied: bool = False
    """Whether what is in `reapplied` is set again after the restore."""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Facts":
        """Return what a config.json says."""
        linux, process = spec.get("linux") or {}, spec.get("process") or {}
        namespaces = {entry["type"]: entry.get("path", "") for entry in linux.get("namespaces") or ()}
        seccomp = linux.get("seccomp") or {}
        actions = {seccomp.get("defaultAction"), *(rule.get("action") for rule in seccomp.get("syscalls") or ())}
        return cls(
            pid_namespace=namespaces.get("pid"),
            user_namespace="user" in namespaces,
            terminal=bool(process.get("terminal")),
            no_new_privileges=bool(process.get("noNewPrivileges")),
            seccomp=bool(seccomp),
            seccomp_notify="SCMP_ACT_NOTIFY" in actions,
            mounts=tuple(
                SpecMount(
                    entry["destination"].rstrip("/") or "/",
                    entry.get("type") or "",
                    entry.get("source") or "",
                    frozenset(entry.get("options") or ()),
                )
                for entry in spec.get("mounts") or ()
            ),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known of a container at one moment."""

    facts: Facts = field(default_factory=Facts)
    processes: Sequence[Process] = ()
    mounts: Sequence[Mount] = ()
    binds: Sequence[Bind] = ()
    locks: Sequence[Lock] = ()
    sockets: Sequence[Socket] = ()
    unix: Sequence[UnixEnd] = ()
    strangers: Sequence[Stranger] = ()
    allowed_cpus: frozenset[int] = frozenset()
    """Those of its cpuset."""
    shared_segments: Sequence[int] = ()
    """System V shared memory that others have attached, too."""
    queues: Sequence[str] = ()
    """POSIX message queues."""
    keys: Sequence[str] = ()
    """Lines of /proc/keys that are of the container's session."""
    timer_slack: int = 50_000
    """What a restored thread has, in nanoseconds."""
    user_namespace: str = ""
    """The reader's."""
    pid_namespace: str = ""
    """The reader's."""
    unreadable: Sequence[str] = ()

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.processes)

    @property
    def init(self) -> Process | None:
        """The first process: the one whose parent is none of the container's, the oldest of those."""
        heads = [process for process in self.processes if process.parent not in self.pids]
        return min(heads, key=lambda process: (process.started, process.pid), default=None)

    def bind_of(self, path: str) -> Bind | None:
        """Return the bind mount that a path of the container is in."""
        nearest = max((each.place for each in self.mounts if is_within(path, each.place)), key=len, default="")
        return next((each for each in self.binds if each.place == nearest), None)


def is_within(path: str, place: str) -> bool:
    """Return whether a path is a place or below it."""
    return path == place or path.startswith(place.rstrip("/") + "/")
