"""Where transfers come in: from shims of this node that restore, and from managers of other nodes whose shims do.

What a container has left behind goes to the node whose pod has claimed it, while there is something to come, and to no
other; each that is refused is told why, and so is the log. What is passed on is between a shim and an exporter.
"""

import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from zeropod import paths
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.migration.identity import Identity, Unproved
from zeropod.manager.migration.names import COMPLETED, FINAL, RUNNING
from zeropod.manager.migration.peers import (
    CONNECT_TIMEOUT,
    Line,
    PeerError,
    accepted,
    agreed,
    connected,
    read_line,
    write_line,
)
from zeropod.manager.migration.relay import Bandwidth, relay
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.source import Source
from zeropod.manager.migration.store import Store

log = logging.getLogger(__name__)

MOST = 64
"""Transfers at once to other nodes, and likewise to shims of this one."""
LOCAL = 10.0
"""Seconds for the exporter of this node to answer."""


class Transfers:
    """Both ends of this node's."""

    def __init__(self, store: Store, source: Source, identity: Identity, settings: Settings) -> None:
        self._store, self._source, self._identity, self._settings = store, source, identity, settings
        self._bandwidth = Bandwidth(settings.bandwidth)
        self._incoming, self._outgoing = trio.CapacityLimiter(MOST), trio.CapacityLimiter(MOST)
        self._strangers = trio.CapacityLimiter(MOST)
        """Connections of which it is not known yet whose they are: they take no place of those that are."""
        self.bytes: Counter[str] = Counter()
        """Of what was sent to other nodes and received from them."""
        self.refused = 0
        """Connections of other nodes that had no right to what they asked for."""

    async def serve_nodes(self, listeners: list[trio.SocketListener], context: ssl.SSLContext, name: str) -> None:
        """Serve managers of other nodes by a certificate with this fingerprint, until cancelled."""

        async def serve(stream: trio.SocketStream) -> None:
            await self._serve_node(stream, context, name)

        await trio.serve_listeners(serve, listeners)

    async def serve_shims(self, listeners: list[trio.SocketListener]) -> None:
        """Serve shims of this node, until cancelled."""
        await trio.serve_listeners(self._serve_shim, listeners)

    async def connect(self, migration: Migration) -> str:
        """Make sure that a source's manager can be reached, and proves its node; return why not.

        What both sides know of each other afterwards is what makes the next connection quick.
        """
        if migration.source_node == self._settings.node:
            return ""
        try:
            async with self._to_source(migration, "", {"hello": True}):
                return ""
        except PeerError as error:
            log.warning("%s/%s: %s", *migration.key, error)
            return str(error)

    @asynccontextmanager
    async def _to_source(self, migration: Migration, container: str, asked: Line) -> AsyncIterator[trio.abc.Stream]:
        server = migration.wanted(container or next(iter(migration.names), "")).get("imageServer") or {}
        host, port = str(server.get("host") or ""), server.get("port")
        if not host or not isinstance(port, int):
            raise PeerError(f"{migration.name} does not say where node {migration.source_node} serves it")
        async with connected(self._identity, host, port, migration.source_node, asked) as stream:
            yield stream

    async def _serve_shim(self, shim: trio.SocketStream) -> None:
        """Connect a shim that restores to where its container comes from."""
        async with shim:
            try:
                async with _place_in(self._outgoing, "transfers"):
                    with trio.fail_after(LOCAL):
                        asked = await read_line(shim)
                    migration, container = self._find(asked)
                    if migration.target_node != self._settings.node:
                        raise PeerError("no pod of this node has claimed it", is_gone=True)
                    async with self._opened(migration, container) as source:
                        await write_line(shim, {"ok": True})
                        await self._pass(shim, source, Bandwidth(), "received", migration, container)
            except (PeerError, trio.TooSlowError) as error:
                why = str(error) or f"it says nothing within {LOCAL:g} s"
                log.warning("a shim of this node gets no connection: %s", why)
                await _refuse(shim, why, isinstance(error, PeerError) and error.is_gone)
            except Exception:
                # Whatever one connection does, the others and the manager go on.
                log.exception("a shim's connection has ended unexpectedly")

    @asynccontextmanager
    async def _opened(self, migration: Migration, container: str) -> AsyncIterator[trio.abc.Stream]:
        if migration.source_node != self._settings.node:
            wanted = {"migration": "/".join(migration.key), "container": container}
            async with self._to_source(migration, container, wanted) as stream:
                yield stream
            return
        await self._check(migration, container, self._settings.node)
        async with self._exporter(migration, container) as stream:
            yield stream

    async def _serve_node(self, plain: trio.SocketStream, context: ssl.SSLContext, name: str) -> None:
        address = _address_of(plain)
        try:
            async with _place_in(self._strangers, "connections"):
                with trio.fail_after(CONNECT_TIMEOUT):
                    stream, node, asked = await accepted(self._identity, context, name, plain)
            try:
                async with _place_in(self._incoming, "transfers"):
                    await self._answer(stream, node, asked, name)
            except PeerError as error:
                self.refused += 1
                log.warning("node %s at %s is refused: %s", node, address, error)
                await _refuse(stream, str(error), error.is_gone)
        except (PeerError, trio.TooSlowError) as error:
            self.refused += 1
            log.warning("%s is refused: %s", address, str(error) or f"not within {CONNECT_TIMEOUT:g} s")
        except Exception:
            # Whatever one connection does, the others and the manager go on.
            log.exception("a connection from %s has ended unexpectedly", address)
        finally:
            await trio.aclose_forcefully(plain)

    async def _answer(self, stream: "trio.SSLStream[trio.SocketStream]", node: str, asked: Line, name: str) -> None:
        """Give a node what it has a right to. Raises PeerError."""
        proof = await self._proof(name)
        if asked.get("hello") is True:
            await write_line(stream, {"ok": True, "token": proof})
            return
        migration, container = self._find(asked)
        await self._check(migration, container, node)
        async with self._exporter(migration, container) as source:
            await write_line(stream, {"ok": True, "token": proof})
            await self._pass(stream, source, self._bandwidth, "sent", migration, container)

    async def _proof(self, name: str) -> str:
        try:
            return await self._identity.token(name, "server")
        except Unproved as error:
            raise PeerError(str(error)) from error

    async def _check(self, migration: Migration, container: str, node: str) -> None:
        """Look whether a node has a right to what a container of this node has left behind. Raises PeerError."""
        name = f"{'/'.join(migration.key)}/{container}"
        if migration.source_node != self._settings.node:
            raise PeerError(f"{name}: it is on node {migration.source_node}", is_gone=True)
        if not migration.is_claimed or migration.target_node != node:
            raise PeerError(f"{name}: it was claimed by node {migration.target_node or 'none'}", is_gone=True)
        phase = migration.phase(container)
        if phase not in (RUNNING, COMPLETED):
            raise PeerError(f"{name}: there is nothing to come: it is {phase.lower()}", is_gone=phase in FINAL)
        try:
            why = await self._source.claim_obstacle(migration)
        except ApiError as error:
            raise PeerError(f"{name}: its claim cannot be looked at: {error}") from error
        if why:
            raise PeerError(f"{name}: {why}", is_gone=True)

    def _find(self, asked: Line) -> tuple[Migration, str]:
        """Return what is asked for. Raises PeerError."""
        name, container = asked.get("migration"), asked.get("container")
        if not isinstance(name, str) or not isinstance(container, str):
            raise PeerError("it asks for nothing", is_gone=True)
        namespace, _, name = name.partition("/")
        migration = self._store.get((namespace, name))
        if migration is None or not migration.wanted(container):
            # What is not heard of may be there all the same, and a memory that is given up is lost.
            followed = self._store.followed
            text = f"there is no Migration {namespace}/{name} with a container {container}"[:300]
            raise PeerError(text, is_gone=followed.ready and not followed.problem)
        return migration, container

    @asynccontextmanager
    async def _exporter(self, migration: Migration, container: str) -> AsyncIterator[trio.abc.Stream]:
        """Yield a connection to what a container of this node has left behind. Raises PeerError."""
        try:
            with trio.fail_after(LOCAL):
                stream = await trio.open_unix_socket(paths.EXPORTS_SOCKET)
        except (OSError, trio.TooSlowError) as error:
            raise PeerError(f"the exporter of node {self._settings.node} does not answer: {error}") from error
        async with stream:
            with trio.move_on_after(LOCAL) as late:
                await write_line(stream, {"key": f"{migration.source_uid}.{container}"})
                agreed(await read_line(stream))
            if late.cancelled_caught:
                raise PeerError(f"the exporter of node {self._settings.node} does not answer within {LOCAL:g} s")
            yield stream

    async def _pass(
        self,
        one: trio.abc.Stream,
        other: trio.abc.Stream,
        bandwidth: Bandwidth,
        kind: str,
        migration: Migration,
        container: str,
    ) -> None:
        def count(number: int) -> None:
            self.bytes[kind] += number

        if why := await relay(one, other, bandwidth, count):
            log.warning("the transfer of %s/%s/%s has ended: %s", *migration.key, container, why)


@asynccontextmanager
async def _place_in(limiter: trio.CapacityLimiter, what: str) -> AsyncIterator[None]:
    """Take one of the places without waiting for it. Raises PeerError where there is none."""
    try:
        limiter.acquire_on_behalf_of_nowait(place := object())
    except trio.WouldBlock:
        raise PeerError(f"there are {limiter.total_tokens:g} {what} at once already") from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(place)


async def _refuse(stream: trio.abc.SendStream, why: str, is_gone: bool) -> None:
    with trio.move_on_after(1.0):
        try:
            await write_line(stream, {"error": why, **({"gone": True} if is_gone else {})})
        except PeerError:
            return  # it is gone, and was to be told no


def _address_of(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "a node that is gone"


def listen(path: str) -> trio.SocketListener:
    """Return what listens at a path of the node's, instead of what a manager before has left there. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX)
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    sock.bind(new)
    os.chmod(new, 0o660)
    sock.listen(128)
    os.replace(new, path)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
