"""Holds the packets of chosen established connections while their process is away.

Owns one nf_tables table in the pod's network namespace and the queue behind it. When to lock, and
which connections, is decided above.

Between the freeze and the end of the restore the connections' sockets do not exist: a packet for
one would be answered with a reset, and one sent by it late would confuse the peer. So both
directions are held, these connections alone: new ones and other ports never notice.

- Release: first let new packets pass, then accept those held, and only then remove the table, for
  removing a hook drops all that any queue of the namespace holds (nf_queue_nf_hook_drop).
- Without NFQUEUE in the kernel packets are dropped: TCP sends them again, after 200 ms or more.
"""

import errno
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

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

    One for each pod, not one for each container: to remove a hook drops what any queue of the
    namespace holds, so the table may go only when no connection in it is locked any longer. The
    table exists only while there are any, so traffic meets no rule otherwise.
    """

    def __init__(self, netns: namespace.PathOrFd, table: str) -> None:
        """Opens the sockets inside the namespace. Raises OSError when it cannot be entered, or without
        CAP_NET_ADMIN there.
        """
        self._table = table
        self._locked: dict[bytes, Connection] = {}
        self._held: dict[int, bytes] = {}
        self._unseen: list[Held] = []
        # Of receive(): release() reads packets too, and those it finds must not wait for the next one.
        self._waiting = trio.CancelScope()
        with namespace.entered(netns):
            self._queue = _bind_queue()
            self._filters = netlink.Netlink(nftables.NETLINK_NETFILTER)
        self._verdicts = _verdicts(self._queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def holds(self) -> bool:
        """Whether packets are held, rather than dropped to be sent again. Certain after lock()."""
        return self._verdicts[0] != nftables.drop()

    def lock(self, connections: Iterable[Connection]) -> None:
        """From now on no packet of these connections passes, in either direction.

        Takes 0.5 ms; up to 25 the first time and right after a release. Raises OSError when the
        kernel has no nf_tables, EPERM also when another process has a table
        of that name; ValueError for a connection whose addresses are none or of two families.
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
        """Waits until packets are being held that were not returned before. One task at a time.

        Where packets are dropped instead this never returns: data then shows only after release().
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
        """Delivers what is held of these connections (of all, if none are named) and lets them pass.

        What is not locked is no error. When it returns, the sockets have the data: an accepted
        packet takes the rest of its way within the call.
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
        self._take()  # and one that was on its way through the rules when they changed
        if not self._locked:
            nftables.commit(self._filters, [nftables.delete_table(self._table)])

    def close(self) -> None:
        """Releases everything and closes the sockets.

        Takes 20 to 40 ms, in which the kernel waits for readers of what goes: best called in a
        thread, and not in a wake.
        """
        try:
            self.release()
        finally:
            self._filters.close()
            if self._queue is not None:
                self._queue.close()

    def _create_table(self) -> None:
        # The kernel says what it lacks only when it is asked for it; the answer stays the same.
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
        """Delivers what is held of connections that are not locked any longer."""
        self._take()
        for packet in [packet for packet, key in self._held.items() if key not in self._locked]:
            del self._held[packet]
            self._pass(packet)

    def _take(self) -> None:
        """Reads what has arrived: notes what is locked, and lets pass what is not any longer."""
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
            self._queue.verdict(packet, nfqueue.Verdict.ACCEPT)


def _bind_queue() -> nfqueue.Queue | None:
    """The first queue that is free in the calling thread's namespace, None in a kernel without NFQUEUE."""
    failure = OSError()
    for number in range(_FIRST_QUEUE, _FIRST_QUEUE + _QUEUES):
        try:
            return nfqueue.Queue(number)
        except OSError as error:
            if error.errno in _LACKING:
                return None
            # Not EBUSY: a queue that is another's is EPERM, as the lack of CAP_NET_ADMIN is.
            if error.errno != errno.EPERM:
                raise
            failure = error
    raise OSError(failure.errno, f"no netfilter queue to be had: {failure.strerror}") from failure


def _verdicts(queue: nfqueue.Queue | None) -> list[bytes]:
    """What can be done with a packet, the best first."""
    if queue is None:
        return [nftables.drop()]
    return [nftables.queue(queue.number), nftables.xtables_queue(queue.number), nftables.drop()]
