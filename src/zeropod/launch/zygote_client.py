"""Have the zygote make a shim for `start`: the zygote has imported all that a shim needs, and forks into one.

The memory of a Python with everything imported, and the time that importing takes, are spent once for all shims that a
containerd starts. The first `start` binds the zygote's socket and starts it: others may connect before it is up.
`start` sends the shim's listening socket and what a program inherits from its parent, and receives the shim's pid.

After any failure it is clear which process serves the socket: a shim responds before it serves, and ends if it cannot
deliver its response because `start` has given up or died. So without a response it is safe to start the shim as a
program of its own.

`start` imports this, so it needs the interpreter's built-in modules alone.
"""

import posix
import sys
from _socket import AF_UNIX, MSG_DONTWAIT, SCM_RIGHTS, SHUT_RDWR, SOCK_SEQPACKET, SOL_SOCKET, socket
from time import sleep

from zeropod.boot.permissions import exposure

try:
    from _blake2 import blake2s
except ImportError:  # a Python whose hashes all come from OpenSSL
    from hashlib import blake2s

TYPE_CHECKING = False  # the name that type checkers know, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DIRECTORY = "/run/zeropod/zygotes"
"""The directory of the zygotes' sockets, and of the lock under which one begins or ends. Accessible only to root."""

BACKLOG = 4096
"""Connections that wait while a process comes up; the kernel takes the smaller of this and net.core.somaxconn."""

ANSWER = 30.0
"""Seconds to wait for the response; the first one takes as long as the zygote's imports and preparation."""

ATTEMPTS = 3
"""Attempts: a zygote may be about to end with its last shim, or may be killed, when it is asked; then another one is
started."""

WORDS = 1000
"""Most bytes of a response: a pid, or why no shim was started."""

PAUSE = 0.01
"""Seconds before the next attempt, or the next check of the lock, which is held for some milliseconds."""

LOCK_LOOKS = 200

_STATUS = (b"Umask", b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp")
"""The lines of /proc/self/status with what a child inherits."""


class ZygoteError(Exception):
    """No zygote has made this shim, and none will; the text says why."""


class Order:
    """An order for a shim: all that a program started by `start` would have inherited."""

    __slots__ = ("arguments", "directory", "environment", "oom_score")

    def __init__(
        self, oom_score: int, directory: bytes, arguments: "Sequence[bytes]", environment: "Mapping[bytes, bytes]"
    ) -> None:
        self.oom_score = oom_score
        """Its oom_score_adj."""
        self.directory = directory
        """The bundle of its first container."""
        self.arguments = arguments
        """The program's name and containerd's arguments."""
        self.environment = environment

    def encode(self) -> bytes:
        # None of the texts can contain a zero byte, by the kernel's rules.
        variables = [name + b"=" + value for name, value in self.environment.items()]
        counted = [b"%d" % self.oom_score, self.directory, b"%d" % len(self.arguments)]
        return b"\0".join([*counted, *self.arguments, *variables])

    @classmethod
    def decode(cls, message: bytes) -> "Order":
        """Raises ValueError."""
        oom_score, directory, count, *rest = message.split(b"\0")
        variables = [entry.partition(b"=") for entry in rest[int(count) :]]
        environment = {name: value for name, _, value in variables}
        return cls(int(oom_score), directory, rest[: int(count)], environment)


def place(build: str) -> str:
    """Return the socket path of the zygote for this build of zeropod, this Python, and a parent like this process's.

    Its forks must inherit the same as a child of this process: so there is another zygote for a containerd that is
    confined differently, or was restarted with other limits. Raises OSError.
    """
    process = "/proc/self"
    about = [build.encode(), sys.executable.encode(), sys.version.encode()]
    about += [b"%d" % posix.getpriority(posix.PRIO_PROCESS, 0)]
    about += [posix.readlink(f"{process}/ns/{name}").encode() for name in sorted(posix.listdir(f"{process}/ns"))]
    about += [read(f"{process}/cgroup"), read(f"{process}/limits"), _label(process)]
    about += [line for line in read(f"{process}/status").splitlines() if line.startswith(_STATUS)]
    digest = blake2s(b"\0".join(about), digest_size=16).hexdigest()
    return f"{DIRECTORY}/{digest}"


def _label(process: str) -> bytes:
    try:
        return read(f"{process}/attr/current")
    except OSError:  # no security module has labels here
        return b""


def oom_score(parent: int) -> int:
    """Return containerd's oom_score_adj plus one (1000 at most), as for all shims: the OOM killer takes containers
    first, then shims."""
    try:
        return min(int(read(f"/proc/{parent}/oom_score_adj")) + 1, 1000)
    except FileNotFoundError:
        return int(read("/proc/self/oom_score_adj"))


def read(path: str) -> bytes:
    """Return a small file, such as one of /proc. Raises OSError."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(descriptor, 1 << 16)
    finally:
        posix.close(descriptor)


def ask(build: str, listener: int, order: Order, begin: "Callable[[int], object]") -> int:
    """Return the pid of a shim that serves `listener`, or will in a moment. Raises ZygoteError.

    `build` identifies this build of zeropod. `begin` starts a zygote with this listening socket. Raises OSError.
    """
    try:
        _make(DIRECTORY)
        if reason := exposure(DIRECTORY):
            raise ZygoteError(reason)
        path, message = place(build), order.encode()
        for _ in range(ATTEMPTS):
            connection = connect(path) or _begin(path, begin)
            try:
                connection.settimeout(ANSWER)
                answer = _answer(connection, listener, message)
                if answer.isdigit():
                    return int(answer)
                if answer:
                    raise ZygoteError(answer.decode(errors="replace"))
            finally:
                connection.close()
            sleep(PAUSE)
    except OSError as error:
        raise ZygoteError(str(error)) from error
    raise ZygoteError("it has ended without an answer")


def _make(directory: str) -> None:
    for path in (directory.rpartition("/")[0], directory):
        try:
            posix.mkdir(path, 0o700)
        except FileExistsError:
            continue


def connect(path: str) -> "socket | None":
    """Return a connection to the process that listens there; None if none does. Raises OSError."""
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(path: str, begin: "Callable[[int], object]") -> socket:
    """Start a zygote, unless another `start` just has, and connect to it. Raises OSError, ZygoteError."""
    lock = locked()
    if lock is None:
        raise ZygoteError(f"another process holds {DIRECTORY}/lock")
    listener = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        if connection := connect(path):
            return connection
        _remove(path)  # left by one that was killed
        bind(listener, path)
        try:
            begin(listener.fileno())
        except BaseException:
            _remove(path)
            raise
        connection = connect(path)
    finally:
        listener.close()
        posix.close(lock)
    if connection is None:
        raise ZygoteError("it has ended as soon as it was started")
    return connection


def bind(listener: socket, path: str) -> None:
    """Bind and listen; the socket is never accessible to other users, not even for an instant. Raises OSError."""
    previous = posix.umask(0o177)
    try:
        listener.bind(path)
    finally:
        posix.umask(previous)
    listener.listen(BACKLOG)


def _remove(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return


def locked() -> int | None:
    """Return the lock, held until this descriptor is closed; None if another process holds it. Raises OSError."""
    descriptor = posix.open(f"{DIRECTORY}/lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    for _ in range(LOCK_LOOKS):
        try:
            posix.lockf(descriptor, posix.F_TLOCK, 0)
        except (BlockingIOError, PermissionError):
            sleep(PAUSE)
        else:
            return descriptor
    posix.close(descriptor)
    return None


def _answer(connection: socket, listener: int, message: bytes) -> bytes:
    """Return the response; empty if the zygote has ended instead. Raises ZygoteError if it does not respond."""
    try:
        connection.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))])
        return connection.recv(WORDS)
    except TimeoutError:
        pass
    except (BrokenPipeError, ConnectionResetError):
        return b""
    # From here on it cannot send any more; data that it sent before is still there.
    connection.shutdown(SHUT_RDWR)
    try:
        if answer := connection.recv(WORDS, MSG_DONTWAIT):
            return answer
    except OSError:
        pass
    raise ZygoteError(f"it has not answered within {ANSWER:g} s")
