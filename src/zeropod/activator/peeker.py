"""What a connection has received, without taking it away: so that the application can still be given all of it."""

import os
import socket

import trio

AT_ONCE = 4
"""Looks without a pause between them: as many segments as a probe comes in at the most."""

PAUSE = 0.01
"""Seconds between further looks: a client that sends byte by byte costs no more than a look in that time."""


class Peeker:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._looks = 0
        self.data = b""
        self.ended = False
        """No more will come."""

    async def more(self, most: int) -> None:
        """Waits until there is more than before, or the end. Raises OSError when the connection was reset."""
        self._looks += 1
        if self._looks > AT_ONCE:
            await trio.sleep(PAUSE)
        self._expect_more()
        await trio.lowlevel.wait_readable(self._socket.fileno())
        await self._look(most)

    async def at_last(self, most: int) -> None:
        """What has come by now, without waiting: a `more` may have run out of time as it came. Raises OSError."""
        self._expect_more()
        if self._socket.is_readable():
            await self._look(most)

    def _expect_more(self) -> None:
        # Otherwise what was seen already would make it readable.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(self.data) + 1)

    async def _look(self, most: int) -> None:
        seen, self.data = len(self.data), await self._socket.recv(most, socket.MSG_PEEK)
        self.ended = len(self.data) <= seen

    def take(self) -> bytes:
        """Takes away what was seen."""
        self.done()
        return os.read(self._socket.fileno(), len(self.data))

    def done(self) -> None:
        """Makes it an ordinary connection again, of whatever it has received."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
