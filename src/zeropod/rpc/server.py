"""Serves ttrpc over trio streams: runs handlers, and answers every call, however its handler ends.

How long a call lives:

- Its deadline, if the caller set one, cancels the handler.
- A client that disconnects cancels only the calls that merely wait (`cancel_on_disconnect`) or watch (`streaming`). All
  others run to completion, because half a change to a container is worse than an answer that is not read; the
  connection ends after them.
- Cancelling `serve` cancels every handler, but an answer that is ready is still sent: a handler may ask for
  the end of the process and have its own answer delivered.

Nothing that a client sends, and nothing that a handler raises, ends a connection or the server.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio
from google.protobuf.message import Message

from zeropod.rpc.connection import Call, Refusal, ServerConnection
from zeropod.rpc.frames import ProtocolError
from zeropod.rpc.payload import AnyMessage, decode
from zeropod.rpc.status import Code, RpcError

SEND_TIMEOUT = 10.0
"""Seconds a client may take to read one answer. It bounds how long a stopped client can delay our end."""

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Handler:
    """A unary method: request bytes in, response bytes out."""

    run: Callable[[bytes], Awaitable[bytes]]
    cancel_on_disconnect: bool = False


Send = Callable[[bytes], Awaitable[None]]
"""Sends one message; returns when the client's socket has room for it."""


@dataclass(frozen=True, slots=True)
class StreamHandler:
    """A method that sends any number of messages until it returns."""

    run: Callable[[bytes, Send], Awaitable[None]]


Services = Mapping[str, Mapping[str, Handler | StreamHandler]]
"""Handlers by service name (with its package) and method name."""


def unary(
    request_type: type[AnyMessage],
    function: Callable[[AnyMessage], Awaitable[Message]],
    *,
    cancel_on_disconnect: bool = False,
) -> Handler:
    """Return a handler of `function`, which takes a message of `request_type` and returns the response message.

    Set `cancel_on_disconnect` for a method that waits and changes nothing, and is pointless without its caller.
    """

    async def run(payload: bytes) -> bytes:
        response = await function(decode(request_type, payload))
        return response.SerializeToString()

    return Handler(run, cancel_on_disconnect)


def streaming(
    request_type: type[AnyMessage],
    function: Callable[[AnyMessage, Callable[[Message], Awaitable[None]]], Awaitable[None]],
) -> StreamHandler:
    """Return a handler of `function`, which takes a message of `request_type` and a way to send messages.

    It is cancelled when the client goes away.
    """

    async def run(payload: bytes, send: Send) -> None:
        async def send_message(message: Message) -> None:
            await send(message.SerializeToString())

        await function(decode(request_type, payload), send_message)

    return StreamHandler(run)


async def serve(listeners: list[trio.SocketListener], services: Services) -> None:
    """Serve every connection to `listeners` until it is cancelled."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await serve_connection(stream, services)
        except Exception:
            log.exception("closed a connection after an unexpected error; the server continues")

    await trio.serve_listeners(guarded, listeners)


async def serve_connection(stream: trio.abc.Stream, services: Services) -> None:
    """Serve one client until it has disconnected and its calls have ended; close the stream."""
    peer = _Peer(stream)
    async with stream, trio.open_nursery() as changes, trio.open_nursery() as waits:
        while (events := await peer.receive()) is not None:
            for event in events:
                if isinstance(event, Refusal):
                    # Sent from here and not from a task, so that a client which reads no answers is not read either.
                    await peer.refuse(event.stream, event.error)
                    continue
                try:
                    handler = _find(services, event)
                except RpcError as error:
                    await peer.refuse(event.stream, error)
                    continue
                watches = isinstance(handler, StreamHandler) or handler.cancel_on_disconnect
                nursery = waits if watches else changes
                nursery.start_soon(_serve_call, peer, event, handler)
        # Close the stream first, so that answers which are blocked in it fail.
        await trio.aclose_forcefully(stream)
        waits.cancel_scope.cancel()


def _find(services: Services, call: Call) -> Handler | StreamHandler:
    methods = services.get(call.service)
    if methods is None:
        # containerd tries one name of the task service after the other, by this code.
        raise RpcError(Code.UNIMPLEMENTED, f"service {call.service}")
    handler = methods.get(call.method)
    if handler is None:
        raise RpcError(Code.UNIMPLEMENTED, f"method {call.method} of service {call.service}")
    return handler


async def _serve_call(peer: "_Peer", call: Call, handler: Handler | StreamHandler) -> None:
    try:
        if isinstance(handler, StreamHandler):
            await _run(call, lambda: handler.run(call.payload, partial(peer.data, call.stream)))
            await peer.end(call.stream)
        else:
            await peer.respond(call.stream, await _run(call, lambda: handler.run(call.payload)))
    except RpcError as error:
        await peer.refuse(call.stream, error)


async def _run(call: Call, handler: Callable[[], Awaitable[_Result]]) -> _Result:
    """Return the handler's result. Raises RpcError, whatever the handler raised."""
    try:
        with trio.move_on_after(math.inf if call.timeout is None else max(call.timeout, 0.0)):
            return await handler()
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, RpcError):
            raise cause from cause.__cause__
        log.exception("%s/%s failed unexpectedly", call.service, call.method)
        raise RpcError(Code.UNKNOWN, f"{type(cause).__name__}: {cause}") from error
    text = f"{call.method} did not end within the caller's {call.timeout:g} s"
    raise RpcError(Code.DEADLINE_EXCEEDED, text)


def _innermost(error: Exception) -> Exception:
    """Return what a handler raised, without the groups that nurseries wrap around a single exception."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Peer:
    """One client: its protocol state and its stream, on which answers go out one at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = ServerConnection()
        self._sending = trio.Lock()

    async def receive(self) -> list[Call | Refusal] | None:
        """Return the client's next calls, None once it has disconnected."""
        try:
            data = await self._stream.receive_some()
            if data:
                return self._protocol.receive(bytes(data))
            self._protocol.receive_end()
        except ProtocolError as error:
            log.warning("ttrpc client: %s", error)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("ttrpc client is gone: %s", error)
        return None

    async def respond(self, stream: int, payload: bytes) -> None:
        await self._send(self._protocol.respond(stream, payload))

    async def data(self, stream: int, payload: bytes) -> None:
        if not await self._send(self._protocol.data(stream, payload)):
            await trio.sleep_forever()  # the end of the connection cancels the handler
        await trio.lowlevel.checkpoint()

    async def end(self, stream: int) -> None:
        await self._send(self._protocol.end(stream))

    async def refuse(self, stream: int, error: RpcError) -> None:
        await self._send(self._protocol.refuse(stream, error))

    async def _send(self, frame: bytes) -> bool:
        """Send a frame; return whether it was sent as a whole."""
        # Shielded, because half a frame would corrupt the connection, and a handler's last answer may be the
        # one to the call that ended the server. Bounded, because a connected client that does not read must
        # not block us for ever.
        with trio.CancelScope(shield=True):
            async with self._sending:
                try:
                    with trio.fail_after(SEND_TIMEOUT):
                        await self._stream.send_all(frame)
                    return True
                except trio.TooSlowError:
                    log.warning("ttrpc client took no answer for %g s; closing its connection", SEND_TIMEOUT)
                    await trio.aclose_forcefully(self._stream)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    log.debug("ttrpc client is gone, its answer is dropped: %s", error)
        return False
