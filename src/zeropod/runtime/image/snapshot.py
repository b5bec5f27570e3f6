"""Plain data about a container that is about to be checkpointed; nothing here reads a file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zeropod.kernel.mountinfo import Mount

DELETED = " (deleted)"
REFRESHED = "/..data"
"""The symbolic link that the kubelet replaces at an update, in each volume of a configMap, a Secret or the like."""

_POD_VOLUME = re.compile(r"/pods/[^/]+/(volumes?|volume-subpaths|etc-hosts|containers|plugins)(/|$)|/pvc-[^/]+(/|$)")
_RUNTIME_FILE = re.compile(r"/io\.containerd\.[^/]+/(sandboxes|containers)/")
_NETWORK = ("nfs", "cifs", "smb", "ceph", "9p", "lustre", "gfs2", "ocfs2", "glusterfs", "fuse", "virtiofs", "beegfs")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open file: a descriptor, or a working directory, a root directory or a mapped file (`number` is -1 then)."""

    number: int
    link: str
    what: str = ""
    """How it is held if not by a descriptor: cwd, root, mapped."""
    device: int = 0
    inode: int = 0
    mode: int = 0
    links: int = 1
    blocks: int = 0
    """Disk usage in blocks of 512 bytes."""
    special: int = 0
    """The device number of a device file."""
    modified: float = 0.0
    flags: int = 0
    info: str = ""
    """The text of its fdinfo, where that matters."""
    named: bool = True
    """Whether its name still leads to it, within the process's root."""
    readable: bool = False
    """Whether poll(2) reports it readable, where that matters."""
    alone: bool = False
    """For a pipe, whether the other end is closed."""
    huge: bool = False
    """Whether it is in huge pages."""

    @property
    def path(self) -> str:
        return self.link.removesuffix(DELETED)

    @property
    def place(self) -> str:
        """Where it is, as messages name it."""
        held = f"descriptor {self.number}" if self.number >= 0 else self.what
        return f"{self.path} ({held})"


@dataclass(frozen=True, slots=True)
class Thread:
    tid: int
    own_tables: tuple[str, ...] = ()
    """The tables and namespaces that it does not share with the main thread."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    name: str = ""
    status: Mapping[str, str] = field(default_factory=dict)
    personality: int = 0
    namespaces: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[Descriptor] = ()
    held: Sequence[Descriptor] = ()
    """Working and root directory, and mapped files."""
    segments: Sequence[int] = ()
    """System V shared memory that it has attached, once for each mapping."""
    threads: Sequence[Thread] = ()
    started: float = 0.0
    """Its start, in Unix time."""
    waits_in: str = ""
    """The kernel function in which its main thread sleeps."""
    shares_memory_with: int = 0
    """The pid of its parent, if it runs in the parent's address space."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"

    @property
    def state(self) -> str:
        return self.status.get("State", "")[:1]

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
    """A bind mount in its present state."""

    place: str
    mount: Mount
    changed: bool = False
    """Whether its source was removed or replaced."""
    refreshed: bool = False
    """Whether the kubelet replaces its content."""
    elsewhere: bool = False
    """Whether other containers mount it, too."""
    is_directory: bool = True

    @property
    def is_shared(self) -> bool:
        """Whether processes outside the container may change its content, as far as that can be told."""
        own = _POD_VOLUME.search(self.mount.root) or _RUNTIME_FILE.search(self.mount.root) or self.mount.root == "/"
        return self.elsewhere or self.refreshed or self.mount.kind.startswith(_NETWORK) or not own


@dataclass(frozen=True, slots=True)
class Lock:
    pid: int
    device: str
    inode: int
    waits: bool
    kind: str
    text: str
    """The line without its number."""


@dataclass(frozen=True, slots=True)
class Socket:
    """The facts about a socket, read from a duplicate."""

    inode: int
    holder: str
    """The process and the descriptor that have it open."""
    family: int
    type: int
    protocol: int
    local: str = ""
    readable: bool = False
    failed: bool = False
    """Whether it is a closed TCP connection with a pending error (SO_ERROR)."""
    unsent: int = 0


@dataclass(frozen=True, slots=True)
class Stranger:
    """A process in the container's pid namespace that is not in its cgroup."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class UnixEnd:
    """The state of a Unix socket and of its peer."""

    inode: int
    name: str
    peer_is_foreign: bool = False
    pending_foreign: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a container that its spec and the shim supply."""

    pid_namespace: str | None = ""
    """The path of the namespace that it joins; empty for one of its own, None for the node's. The path of a pod with
    `hostPID` leads to the node's."""
    user_namespace: bool = False
    terminal: bool = False
    no_new_privileges: bool = False
    seccomp: bool = False
    seccomp_notify: bool = False
    mounts: tuple[SpecMount, ...] = ()
    id: str = ""
    """The container's id."""
    ours: frozenset[tuple[int, int]] = frozenset()
    """Descriptors (pid, number) that zeropod has opened in the processes and closes before the dump."""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Facts":
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
    facts: Facts = field(default_factory=Facts)
    processes: Sequence[Process] = ()
    mounts: Sequence[Mount] = ()
    binds: Sequence[Bind] = ()
    locks: Sequence[Lock] = ()
    sockets: Sequence[Socket] = ()
    unix: Sequence[UnixEnd] = ()
    strangers: Sequence[Stranger] = ()
    shared_segments: Sequence[int] = ()
    """System V shared memory that processes outside have attached, too."""
    queues: Sequence[str] = ()
    """POSIX message queues."""
    keys: Sequence[str] = ()
    """The lines of /proc/keys for the container's session."""
    user_namespace: str = ""
    """The user namespace of the reader."""
    pid_namespace: str = ""
    """The PID namespace of the reader."""
    unreadable: Sequence[str] = ()

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.processes)

    @property
    def init(self) -> Process | None:
        """The first process: the oldest one whose parent is outside of the container."""
        heads = [process for process in self.processes if process.parent not in self.pids]
        return min(heads, key=lambda process: (process.started, process.pid), default=None)

    def bind_of(self, path: str) -> Bind | None:
        """Return the bind mount that a path of the container is in."""
        nearest = max((each.place for each in self.mounts if is_within(path, each.place)), key=len, default="")
        return next((each for each in self.binds if each.place == nearest), None)


def is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")
