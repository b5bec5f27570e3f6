"""An export on disk as the tests make one, and a source that serves it over pairs of sockets."""

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from zeropod.runtime.exports import manifest
from zeropod.runtime.exports.export import Export
from zeropod.runtime.exports.manifest import Manifest, Needs, Source
from zeropod.runtime.transfer.serve import serve

KEY = "1234.app"


def make(exports: Path, files: dict[str, bytes], key: str = KEY) -> Export:
    """Make an export in the directory of all of them."""
    export = Export(exports / key)
    for name, content in files.items():
        path = export.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    carried = {int(name.removeprefix("index-")): name for name in files if name.startswith("index-")}
    sizes = {name: len(content) for name, content in files.items()}
    made = Manifest(Source(namespace="k8s.io", id="abc"), Needs(), asleep=True, carried=carried, files=sizes)
    (export.directory / manifest.FILE).write_bytes(made.encode())
    return export


def files(pages: int = 3) -> dict[str, bytes]:
    """What an export has, with pieces that compress, that do not, and that are zeroes."""
    piece = 1 << 18
    stored = b"".join((os.urandom(piece), b"ab" * (piece // 2), bytes(piece))[number % 3] for number in range(pages))
    return {
        "images/core-1.img": b"core" * 100,
        "images/empty.img": b"",
        "index-1": os.urandom(5000),
        "store/pages-2": stored + os.urandom(4096),
        "store/pages-11": bytes(1 << 19),
    }


class Proxy:
    """Serves connections, as a manager between both ends would make them."""

    def __init__(self, export: Export, nursery: trio.Nursery) -> None:
        self.export = export
        self.nursery = nursery
        self.connections: list[trio.SocketStream] = []
        """The client's ends."""
        self.before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Called before each connection; may raise."""

    async def connect(self) -> trio.abc.Stream:
        await self.before()
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
        self.nursery.start_soon(self._serve, theirs)
        self.connections.append(ours)
        return ours

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await serve(stream, self.export)

    def cut(self) -> None:
        """Break the last connection."""
        with suppress(OSError):  # it is broken already
            self.connections[-1].socket.shutdown(socket.SHUT_RDWR)
