"""The first line in each direction of a connection that leads to an export, before the bytes of the transfer.

The one that connects sends one line of JSON that says what it wants; it gets {"ok": true}, or {"error": "…"} with the
reason, and "gone": true if asking again is of no use. Nothing follows a line until the other side has sent its own, so
a line is read without looking for where it ends.
"""

import json
from typing import Any, Final

import trio

from zeropod.runtime.transfer.errors import ProtocolError, Refused

LONGEST: Final = 4096
"""Bytes of a line."""


async def ask(stream: trio.abc.Stream, request: dict[str, Any]) -> None:
    """Send what is wanted, and wait for the answer. Raises Refused, ProtocolError, and what the stream raises."""
    await stream.send_all(_line(request))
    answer = await receive_line(stream)
    if answer.get("ok") is not True:
        raise Refused(str(answer.get("error", "it gave no reason")), gone=answer.get("gone") is True)


async def accept(stream: trio.abc.Stream) -> None:
    """Answer that it is served."""
    await stream.send_all(_line({"ok": True}))


async def refuse(stream: trio.abc.Stream, reason: str, *, gone: bool = False) -> None:
    """Answer that it is not served."""
    await stream.send_all(_line({"error": reason[: LONGEST // 8], **({"gone": True} if gone else {})}))


async def receive_line(stream: trio.abc.Stream) -> dict[str, Any]:
    """Return the other side's line. Raises ProtocolError, and what the stream raises."""
    data = bytearray()
    while not data.endswith(b"\n"):
        part = await stream.receive_some(LONGEST)
        data += part
        if not part or len(data) > LONGEST or b"\n" in data[:-1]:
            raise ProtocolError("the first line is missing, too long, or not the only one")
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise ProtocolError("the first line is not a JSON object")
    return line


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
