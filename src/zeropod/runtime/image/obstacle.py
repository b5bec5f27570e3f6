"""The reasons that forbid a checkpoint which ends a container's processes: kinds, texts and remedies.

The only place for these texts: the output of `why` and the table in the documentation come from here.
"""

from dataclasses import dataclass
from enum import Enum

_UNSUPPORTED = "none: CRIU 4.2 does not support it"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that CRIU would refuse, lose or restore wrongly. `text` says what it is and where it was found."""

    kind: str
    text: str
    remedy: str


class Kind(Enum):
    """Each kind has a name, a description and a remedy."""

    UNREADABLE = "unreadable", "cannot be examined", "see the log of the shim; it is tried again at the next sleep"

    # Processes
    STOPPED = "stopped", "a process is stopped (SIGSTOP)", "continue or end it: CRIU would wait for it for ever"
    TRACED = "traced", "a process is traced", "detach the debugger"
    DEAD_LEADER = "dead-leader", "the main thread of a process has ended and other threads run on", _UNSUPPORTED
    SHARED_MEMORY_MAP = "shared-mm", "two processes share one address space (vfork)", "none; it passes within moments"
    FOREIGN_PROCESS = (
        "foreign-process",
        "a process that is not the container's is in its pid namespace",
        "end the debugging container or the nsenter session: it would be killed with the container",
    )
    OPEN_EXEC = "exec", "a process does not descend from the container's first one", "end it: it would not come back"
    FOREIGN_MEMBER = "foreign-member", "a process outside the container's pid namespace is in its cgroup", "move it out"
    HOST_PID = "host-pid", "it runs in the node's pid namespace", "hostPID: false; its pids may be taken meanwhile"
    USER_NAMESPACE = (
        "user-namespace",
        "it has a user namespace",
        "hostUsers: true; https://github.com/checkpoint-restore/criu/issues/2651",
    )
    NESTED_NAMESPACE = (
        "nested-namespace",
        "a process has namespaces of its own",
        "none: CRIU dumps only those of the first process",
    )
    THREAD_PRIVATE = "thread-private", "a thread has files, directories or namespaces of its own", _UNSUPPORTED
    LANDLOCK = (
        "landlock",
        "a process has set no_new_privs, which its spec does not ask for; landlock rules, if any, would be lost",
        "set allowPrivilegeEscalation: false in the pod, if it does not use landlock",
    )
    SECCOMP_NOTIFY = "seccomp-notify", "its seccomp filter asks a listener", "use a profile without SCMP_ACT_NOTIFY"
    PERSONALITY = "personality", "a process has another personality than Linux's default", "do not start it by setarch"
    KEYRING = "keyring", "there are keys in its session keyring", "read the secret from a file"

    # Open files
    IO_URING = (
        "io-uring",
        "io_uring is in use",
        "forbid it by a seccomp profile such as RuntimeDefault: most programs have a fallback",
    )
    USERFAULTFD = "userfaultfd", "userfaultfd is in use", _UNSUPPORTED
    BPF = "bpf", "a BPF program, map or link is open", _UNSUPPORTED
    PERF = "perf", "perf events are open", _UNSUPPORTED
    ANONYMOUS_FILE = "anonymous-file", "a file of a kind that CRIU does not know is open", _UNSUPPORTED
    SEMAPHORE = (
        "eventfd-semaphore",
        "an eventfd counts as a semaphore",
        "none: CRIU 4.2 restores it without that flag",
    )
    ALARM_TIMER = "alarm-timer", "a timerfd of an alarm clock is open", "use CLOCK_MONOTONIC or CLOCK_REALTIME"
    EPOLL_FOREIGN = (
        "epoll",
        "an epoll watches a file that its process has closed and another still has open",
        _UNSUPPORTED,
    )
    PACKET_PIPE = "packet-pipe", "a pipe in packet mode (O_DIRECT) is open", _UNSUPPORTED
    PIPE_OUTSIDE = (
        "pipe-outside",
        "the other end of a pipe is outside of the container",
        "end the process at the other end",
    )
    FIFO_OUTSIDE = "fifo-outside", "a FIFO on a shared volume is open", "none: its data would be delivered twice"
    DELETED_LARGE = "deleted-large", "a deleted file of more than 1 MiB is open", "close it before deleting it"
    DELETED_LINKED = (
        "deleted-linked",
        "the name of an open file was deleted, and it has other names (hard links)",
        "close it, or keep its name",
    )
    UNREACHABLE = "unreachable", "an open file or directory cannot be reached by its name any more", "open it again"
    VOLATILE_FILE = (
        "volatile-file",
        "a file of a configMap, Secret or other volume that the kubelet replaces is in use",
        "close it after reading; the restore would fail if it was replaced meanwhile",
    )
    GROWING_FILE = (
        "growing-file",
        "a file is open that processes outside write to",
        "none: the restore fails if its size has changed",
    )
    DEVICE = "device", "a device is open", "none: its state is in the kernel, or in hardware"
    TERMINAL_OUTSIDE = "terminal", "its terminal is outside of the container", "tty: false"
    NAMESPACE_FILE = "namespace-file", "a namespace is open that the container is not in", _UNSUPPORTED
    MESSAGE_QUEUE = "mqueue", "there are POSIX message queues", _UNSUPPORTED
    MEMFD_SPECIAL = "special-memory", "secret memory, or memory in huge pages, is in use", _UNSUPPORTED
    SHARED_SEGMENT = (
        "sysv-shared",
        "processes outside have attached its System V shared memory",
        "none: it cannot be dumped without them",
    )

    # Watches and locks
    EVENTS_PENDING = "events-pending", "file events wait to be read", "none; it passes when they are read"
    WATCH_REMOVED = "watch-removed", "a file that was removed or replaced is watched by inotify", "add the watch again"
    WATCH_FLAGS = "watch-flags", "an inotify watch is for one event only", _UNSUPPORTED
    WATCH_SHARED = (
        "watch-shared",
        "inotify watches a directory that processes outside write to",
        "poll it instead: changes during COLD would not be reported",
    )
    LOCK_SHARED = (
        "lock-shared",
        "it holds a lock on a file that processes outside may lock",
        "none: two could hold it for a moment",
    )
    LOCK_WAITED = (
        "lock-waited",
        "another process waits for its lock, or holds it too",
        "none: two could hold it for a moment",
    )

    # Sockets
    UNIX_PEER = "unix-peer", "a Unix socket is connected to one outside of the container", "close it while idle"
    UNIX_PENDING = "unix-pending", "a connection waits at a Unix socket", "none; it passes when it is accepted"
    SOCKET_KIND = (
        "socket-kind",
        "a socket of a kind that CRIU does not know is open",
        "MPTCP in Go: GODEBUG=multipathtcp=0",
    )
    NETLINK_PENDING = "netlink-pending", "a netlink socket has messages", "none; it passes when they are read"
    CORKED = "corked", "a UDP socket holds back data", "none; it passes when they are sent"
    DATAGRAMS = "datagrams", "datagrams wait to be read", "none; it passes when they are read"
    RESET = "reset", "a connection was reset and that was not read yet", "none; it passes when it is read"
    TUN = "tun", "a tun or tap interface is open", "none: it is the pod's network namespace's"

    # Mounts
    MOUNT_INSIDE = "mount", "something was mounted after the container was created, or below a volume", "unmount it"
    MOUNT_PROPAGATION = (
        "mount-propagation",
        "a volume gets mounts from the node",
        "mountPropagation: None; CRIU cannot restore any other",
    )
    MOUNT_SOURCE = "mount-source", "the source of a mount was removed or replaced on the node", "create the pod again"

    def __init__(self, code: str, what: str, remedy: str) -> None:
        self.code = code
        self.what = what
        self.remedy = remedy

    def found(self, where: str) -> Obstacle:
        return Obstacle(self.code, f"{self.what}: {where}" if where else self.what, self.remedy)


def table() -> str:
    """Return all kinds as a table in Markdown, for the documentation."""
    rows = [f"| `{kind.code}` | {kind.what} | {kind.remedy} |" for kind in Kind]
    return "\n".join(("| kind | what stands against COLD | what to do |", "|---|---|---|", *rows, ""))


def merged(obstacles: list[Obstacle]) -> list[Obstacle]:
    """Return the first obstacle of each kind, with the number of further ones in its text."""
    by_kind: dict[str, list[Obstacle]] = {}
    for obstacle in obstacles:
        by_kind.setdefault(obstacle.kind, []).append(obstacle)
    result = []
    for first, *more in by_kind.values():
        others = len({obstacle.text for obstacle in more} - {first.text})
        text = f"{first.text} (and {others} more)" if others else first.text
        result.append(Obstacle(first.kind, text, first.remedy))
    return result
