"""Connections between managers: TLS, then one line each way that says which node it is, and what is wanted of it.

A line is JSON and short. Whatever follows is not looked at here. The side that asks says nothing more before it has its
answer, and the side that answers shows its token only to a manager: a stranger learns nothing but that there is one.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from zeropod.manager.migration.certificate import asking, fingerprint
from zeropod.manager.migration.identity import Identity, Unproved

LONGEST_LINE = 16 << 10
"""Bytes of a line: a token takes one or two thousand."""
CONNECT_TIMEOUT = 10.0
"""Seconds for a connection, with all that is asked of the API server for it."""

Line = dict[str, Any]


class PeerError(Exception):
    """The other side cannot be reached, says no, or is not what it should be."""

    def __init__(self, message: str, *, is_gone: bool = False) -> None:
        super().__init__(message)
        self.is_gone = is_gone
        """Whether asking again is of no use."""


async def read_line(stream: trio.abc.ReceiveStream) -> Line:
    """Return the next line, after which nothing may have come yet. Raises PeerError."""
    read = bytearray()
    while b"\n" not in read:
        if len(read) > LONGEST_LINE:
            raise PeerError(f"its first line is longer than {LONGEST_LINE} bytes")
        try:
            part = await stream.receive_some(LONGEST_LINE)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise PeerError(f"the connection broke: {error.__cause__ or error}") from error
        if not part:
            raise PeerError("it closed the connection")
        read += part
    line, _, rest = bytes(read).partition(b"\n")
    if rest:
        raise PeerError("it says more before it has an answer")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PeerError("its first line is not JSON") from error
    if not isinstance(told, dict):
        raise PeerError("its first line is not an object")
    return told


async def write_line(stream: trio.abc.SendStream, line: Line) -> None:
    """Send one line. Raises PeerError."""
    try:
        await stream.send_all(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise PeerError(f"the connection broke: {error.__cause__ or error}") from error


def agreed(line: Line, who: str = "") -> None:
    """Look whether the other side agrees. Raises PeerError with why it does not."""
    if line.get("ok") is not True:
        why = str(line.get("error") or "it says no")[:1000]
        raise PeerError(f"{who} refuses: {why}" if who else why, is_gone=line.get("gone") is True)


@asynccontextmanager
async def connected(identity: Identity, host: str, port: int, node: str, asked: Line) -> AsyncIterator[trio.abc.Stream]:
    """Yield a connection to the manager of this node, which has agreed to what was asked. Raises PeerError."""
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await _connect(identity, host, port, node, asked)
    except trio.TooSlowError:
        raise PeerError(f"node {node} at {host} does not answer within {CONNECT_TIMEOUT:g} s") from None
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(identity: Identity, host: str, port: int, node: str, asked: Line) -> trio.abc.Stream:
    try:
        plain = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise PeerError(f"node {node} at {host} cannot be reached: {error.strerror or error}") from error
    stream = trio.SSLStream(plain, asking(), https_compatible=True)
    try:
        certificate = await _shaken(stream)
        proof = await identity.token(certificate, "client")
        await write_line(stream, {"token": proof, **asked})
        told = await read_line(stream)
        agreed(told, f"node {node}")
        found = await identity.node_of(str(told.get("token") or ""), certificate, "server")
        if found != node:
            raise PeerError(f"{host} is to be node {node}, and is {found}")
    except Unproved as error:
        await trio.aclose_forcefully(stream)
        raise PeerError(f"{host} is to be node {node}: {error}") from error
    except BaseException:  # cancelled, too: the connection is closed
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _shaken(stream: "trio.SSLStream[trio.SocketStream]") -> str:
    """Agree on keys; return the server's certificate's fingerprint. Raises PeerError."""
    try:
        await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, OSError) as error:
        raise PeerError(f"no TLS: {error.__cause__ or error}") from error
    certificate = stream.getpeercert(binary_form=True)
    if not certificate:
        raise PeerError("it shows no certificate")
    return fingerprint(certificate)


async def accepted(
    identity: Identity, context: ssl.SSLContext, certificate: str, plain: trio.SocketStream
) -> tuple["trio.SSLStream[trio.SocketStream]", str, Line]:
    """Return a connection that was made to this manager, the node that made it, and what it asks. Raises PeerError."""
    stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
    try:
        await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, OSError) as error:
        raise PeerError(f"no TLS: {error.__cause__ or error}") from error
    asked = await read_line(stream)
    try:
        node = await identity.node_of(str(asked.get("token") or ""), certificate, "client")
    except Unproved as error:
        raise PeerError(str(error)) from error
    return stream, node, asked
