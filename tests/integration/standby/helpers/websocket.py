"""An application that echoes over WebSocket and in plain lines, and a client for its WebSocket side."""

import base64
import inspect
import os

from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import Kind
from tests.integration.standby.helpers import frames
from tests.integration.standby.helpers.frames import PING, PONG, TEXT, frame, measure

SERVER = (
    inspect.getsource(frames)
    + r"""
import asyncio, base64, hashlib, sys

async def serve(reader, writer):
    try:
        line = await reader.readline()
        if line.startswith(b"GET "):
            await upgrade(reader, writer)
            await converse(reader, writer)
        while line.startswith(b"echo "):
            writer.write(line.removeprefix(b"echo "))
            line = await reader.readline()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()

async def upgrade(reader, writer):
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    token = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(token.encode()).digest()).decode()
    answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    writer.write("\r\n".join([*answer, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())

async def converse(reader, writer):
    number = 0
    while True:
        opcode, more, count = measure(await reader.readexactly(2))
        rest = await reader.readexactly(more)
        if more > 4:
            count = int.from_bytes(rest[:2])
        payload = unmasked(await reader.readexactly(count), rest[-4:])
        if opcode == TEXT:
            number += 1
            writer.write(frame(TEXT, f"{number} ".encode() + payload))
        elif opcode == PING:
            writer.write(frame(PONG, payload))
        elif opcode == CLOSE:
            writer.write(frame(CLOSE, payload))
            return

async def main():
    async with await asyncio.start_server(serve, None, int(sys.argv[1]), backlog=512) as server:
        await server.serve_forever()

asyncio.run(main())
"""
)

ECHO = Kind("python", 8080, ("-c", SERVER, "8080"))
"""Lines are answered to `echo TEXT`; WebSocket's messages have their number on their connection put in front."""


class WebSocket:
    """The client's end of a WebSocket connection."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.messages = 0
        key = base64.b64encode(os.urandom(16)).decode()
        head = ["GET / HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade"]
        head += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        session.send("\r\n".join(head).encode())
        status = session.line()
        if "101" not in status:
            raise RuntimeError(f"no WebSocket: {status!r}")
        while session.line():
            pass

    def echoes(self, text: str) -> bool:
        """Whether a message comes back as it must, with its number."""
        self.messages += 1
        return self._exchange(TEXT, text.encode()) == (TEXT, f"{self.messages} {text}".encode())

    def pongs(self) -> bool:
        payload = os.urandom(8)
        return self._exchange(PING, payload) == (PONG, payload)

    def _exchange(self, opcode: int, payload: bytes) -> tuple[int, bytes]:
        self.session.send(frame(opcode, payload, os.urandom(4)))
        opcode, more, count = measure(self.session.exactly(2))
        rest = self.session.exactly(more)
        return opcode, self.session.exactly(int.from_bytes(rest) if more else count)
