"""Find the process of this node that has the socket at the other end of a connection.

The kernel knows the socket (sock_diag), /proc the processes that have it open. Only processes of certain names are
searched, so that this takes a millisecond on a node with many.

Source of facts: net/ipv4/inet_diag.c (inet_diag_find_one_icsk), net/ipv4/tcp.c (__tcp_close).
"""

import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from zeropod.kernel import proc_stat, sockets
from zeropod.kernel.sock_diag import CLOSED, UNACKNOWLEDGED, Address, SockDiag


class LocalPeers:
    """Opens on creation, in the network namespace of the calling thread. Raises OSError.

    Every query blocks: usually for a millisecond; where no process of these names has the socket, for as long as all
    processes take to search. Several threads may query at once.
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
        """Return whether a process with one of the names has the connection from `own` (here) to `other`.

        False if no process here has it: it came through this node from elsewhere, or was closed.
        """
        with self._asking:
            end = self._diag.connection(own, other)
            inode = end.inode if end else 0
            return bool(inode) and any(_has(pid, inode) for pid in self._candidates())

    def has_closed(self, own: Address, other: Address) -> bool:
        """Return whether a process of this node had the connection from `own` (here) to `other` and has closed it.

        After a mere shutdown(2) the process still has the socket, and waits for an answer.
        """
        with self._asking:
            end = self._diag.connection(own, other)
        if end is None or end.state not in CLOSED:
            return False
        if not end.inode:
            return True
        # A lingering close (SO_LINGER) blocks until its FIN is acknowledged; the descriptor is gone by then.
        return end.state in UNACKNOWLEDGED and not any(_has(pid, end.inode) for pid in proc_stat.pids())

    def _candidates(self) -> Iterator[int]:
        """Yield the processes of these names, those that matched last time first."""
        known = [pid for pid in self._last if _comm(pid) in self._names]
        yield from known
        self._last = [pid for pid in proc_stat.pids() if _comm(pid) in self._names]
        yield from (pid for pid in self._last if pid not in known)


def _has(pid: int, inode: int) -> bool:
    return any(inode == found for _, found in sockets.sockets_of(pid))


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""
