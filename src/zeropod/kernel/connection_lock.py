"""Holds the packets of chosen established connections while their process is away.

Owns one nf_tables table in the pod's network namespace and the queue behind it.

Between the freeze and the end of the restore the connections' sockets do not exist: a packet for
one would be answered with a reset, and one sent by it late would confuse the peer. So both
directions are held, these connections alone: new ones and other ports never notice.

- Release: first let new packets pass, then accept those held, and only then remove the table, since
  removing a hook drops every packet that any queue of the namespace holds (nf_queue_nf_hook_drop).
- Without NFQUEUE in the kernel packets are dropped: TCP sends them again, after 200 ms or more.
"""

import errno
from collections.abc import Callable, Iterable
from typing import NamedTuple

import trio

from zeropod.kernel import namespace, netlink, nfqueue, nftables
from zeropod.kernel.connection_table import FAMILIES, Connection, definition, encode
from zeropod.kernel.nftables import Change

_FIRST_QUEUE, _QUEUES = 0x7A70, 64
_LACKING = (errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)


class Held(NamedTuple):
    """A packet that waits for its connection's release."""

    connection: Connection
    incoming: bool
    carries_data: bool


class ConnectionLock:
    """The lock of one network namespace, for all containers in it. Nothing is locked at first.

    One for each pod, not one for each container: removing a hook drops what any queue of the
    namespace holds, so the table may be removed only when no connection in it is locked any longer.
    It exists only while connections are locked; at other times no packet meets a rule of ours.
    """

    def __init__(self, netns: namespace.PathOrFd, table: str) -> None:
        """Open the sockets inside the namespace. Raises OSError when it cannot be entered, or without
        CAP_NET_ADMIN there.
        """
        self._table = table
        self._locked: dict[bytes, Connection] = {}
        self._held: dict[int, bytes] = {}
        self._unseen: list[Held] = []
        # Cancelled by release(), which reads packets too: receive() must return those without waiting for another.
        self._waiting = trio.CancelScope()
        with namespace.entered(netns):
            self._queue = _bind_queue()
            self._filters = netlink.Netlink(nftables.NETLINK_NETFILTER)
        self._verdicts = _verdicts(self._queue)

    def lock(self, connections: Iterable[Connection]) -> None:
        """Hold every packet of these connections from now on, in both directions.

        Takes 0.5 ms; up to 25 ms the first time and right after a release. Raises OSError when the
        kernel has no nf_tables, EPERM also when another process has a table
        of that name; ValueError for a connection whose addresses are invalid or of two families.
        """
        added = {encode(connection): connection for connection in connections}
        if not added:
            return
        if not self._locked:
            self._create_table()
        try:
            nftables.commit(self._filters, self._on_sets(nftables.add_elements, added))
        except OSError:
            if not self._locked:
                nftables.commit(self._filters, [nftables.delete_table(self._table)])
            raise
        self._locked.update(added)

    async def receive(self) -> list[Held]:
        """Return held packets that were not returned before; wait for one. One task at a time.

        Never returns where packets are dropped instead: data then arrives only after release().
        """
        while not self._unseen:
            with trio.CancelScope() as self._waiting:
                if self._queue is None:
                    await trio.sleep_forever()
                else:
                    await self._queue.wait_arrived()
            self._take()
        unseen, self._unseen = self._unseen, []
        return unseen

    def release(self, connections: Iterable[Connection] | None = None) -> None:
        """Deliver the held packets of these connections (default: all) and let later ones pass.

        Connections that are not locked are ignored. When it returns, the sockets have the data: the
        kernel processes an accepted packet to the end within the call.
        """
        named = self._locked.values() if connections is None else connections
        gone = [key for key in map(encode, named) if key in self._locked]
        if not gone:
            return
        nftables.commit(self._filters, self._on_sets(nftables.delete_elements, gone))
        for key in gone:
            del self._locked[key]
        self._unseen = [held for held in self._unseen if encode(held.connection) in self._locked]
        self._accept()
        self._take()  # and a packet that was passing the rules when they changed
        if not self._locked:
            nftables.commit(self._filters, [nftables.delete_table(self._table)])

    def close(self) -> None:
        """Release everything and close the sockets.

        Takes 20 to 40 ms, while the kernel waits for readers of the removed rules: call it in a
        thread, and not during a wake.
        """
        try:
            self.release()
        finally:
            self._filters.close()
            if self._queue is not None:
                self._queue.close()

    def _create_table(self) -> None:
        # Whether the kernel has a verdict shows only by trying it; the answer never changes.
        while True:
            try:
                return nftables.commit(self._filters, definition(self._table, self._verdicts[0]))
            except OSError as error:
                if len(self._verdicts) == 1 or error.errno not in _LACKING:
                    raise
            self._verdicts = self._verdicts[1:]

    def _on_sets(self, change: Callable[[str, str, list[bytes]], Change], keys: Iterable[bytes]) -> list[Change]:
        by_family = {family: [key for key in keys if len(key) == family.key_length] for family in FAMILIES}
        return [change(self._table, family.name, chosen) for family, chosen in by_family.items() if chosen]

    def _accept(self) -> None:
        """Deliver the held packets of connections that are not locked any longer."""
        self._take()
        for packet in [packet for packet, key in self._held.items() if key not in self._locked]:
            del self._held[packet]
            self._pass(packet)

    def _take(self) -> None:
        """Read queued packets: keep those of locked connections, accept the others."""
        for packet in self._queue.receive_nowait() if self._queue else []:
            source, destination = packet.key(incoming=True), packet.key(incoming=False)
            key = source if source in self._locked else destination
            if key in self._locked:
                self._held[packet.id] = key
                self._unseen.append(Held(self._locked[key], key == source, packet.carries_data))
            else:
                self._pass(packet.id)
        if self._unseen:
            self._waiting.cancel()

    def _pass(self, packet: int) -> None:
        if self._queue is not None:
            self._queue.accept(packet)


def _bind_queue() -> nfqueue.Queue | None:
    """Bind the first free queue in the calling thread's namespace; return None in a kernel without NFQUEUE."""
    failure = OSError()
    for number in range(_FIRST_QUEUE, _FIRST_QUEUE + _QUEUES):
        try:
            return nfqueue.Queue(number)
        except OSError as error:
            if error.errno in _LACKING:
                return None
            # A queue that is in use gives EPERM (not EBUSY), as does the lack of CAP_NET_ADMIN.
            if error.errno != errno.EPERM:
                raise
            failure = error
    raise OSError(failure.errno, f"cannot bind a netfilter queue: {failure.strerror}") from failure


def _verdicts(queue: nfqueue.Queue | None) -> list[bytes]:
    """Return what can be done with a packet, in order of preference."""
    if queue is None:
        return [nftables.drop()]
    return [nftables.queue(queue.number), nftables.xtables_queue(queue.number), nftables.drop()]
