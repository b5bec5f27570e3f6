"""Whose socket is at the other end of a connection, where that is a process of this node.

The kernel knows the socket (sock_diag), /proc the processes that have it open. Only processes of certain names are
looked at, so that a look takes a millisecond on a node with many.

Source of facts: net/ipv4/inet_diag.c (inet_diag_find_one_icsk), net/ipv4/tcp.c (__tcp_close).
"""

import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from zeropod.kernel import sockets
from zeropod.kernel.sock_diag import CLOSED, UNACKNOWLEDGED, Address, SockDiag


class LocalPeers:
    """Opens on creation, in the network namespace of the calling thread. Raises OSError.

    Every question blocks: a millisecond as a rule, and as long as it takes to look through all processes where none of
    the names has it. Several threads may ask at once.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode()[:15].decode(errors="replace") for name in names)
        self._diag = SockDiag("/proc/thread-self/ns/net")
        self._last: list[int] = []
        self._asking = threading.Lock()

    def close(self) -> None:
        with self._asking:
            self._diag.close()

    def is_named(self, own: Address, other: Address) -> bool:
        """Whether the connection from `own` (here) to `other` is one of a process with one of the names.

        False where it is nobody's: it came from elsewhere through this node, or was closed.
        """
        with self._asking:
            end = self._diag.connection(own, other)
            inode = end.inode if end else 0
            return bool(inode) and any(_has(pid, inode) for pid in self._candidates())

    def has_closed(self, own: Address, other: Address) -> bool:
        """Whether the connection from `own` (here) to `other` was some process's, which has closed it.

        Who has merely nothing more to say (shutdown(2)) still has it, and waits for an answer.
        """
        with self._asking:
            end = self._diag.connection(own, other)
        if end is None or end.state not in CLOSED:
            return False
        if not end.inode:
            return True
        # Who has closed it may be waiting until that has arrived (SO_LINGER), and has no descriptor any more.
        return end.state in UNACKNOWLEDGED and not any(_has(pid, end.inode) for pid in _processes())

    def _candidates(self) -> Iterator[int]:
        """Processes of these names, those that were found the last time first."""
        known = [pid for pid in self._last if _comm(pid) in self._names]
        yield from known
        self._last = [pid for pid in _processes() if _comm(pid) in self._names]
        yield from (pid for pid in self._last if pid not in known)


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _has(pid: int, inode: int) -> bool:
    return any(inode == found for _, found in sockets.sockets_of(pid))


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""
