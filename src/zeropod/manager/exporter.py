"""`zeropod exporter`: gives the node's manager what containers have left behind, and removes it when it was taken.

It runs as root, since exports are root's, and opens no network socket: the manager, which talks to other nodes, has
none of its rights. It needs three directories of the node:

    /var/lib/zeropod/exports    to write: the exports
    /run/zeropod/x              to write: exports.sock, for the manager's group; the manager has it, too
    /run/zeropod/pods           to read: which containers still have a shim

and of capabilities CHOWN alone, to give the socket to that group. Without --migration the manager does not use it.
A client sends one line of JSON, {"key": "POD-UID.CONTAINER"}, and gets one; then the transfer begins.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Final

import trio

from zeropod import paths
from zeropod.runtime.exports import garbage
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.export import Export
from zeropod.runtime.transfer import opening
from zeropod.runtime.transfer.errors import ProtocolError, Refused
from zeropod.runtime.transfer.serve import serve

log = logging.getLogger(__name__)

CLIENTS: Final = 64
"""Connections at a time; more are refused."""
OPENING: Final = 5.0
"""Seconds for a client to say what it wants."""
SOCKET: Final = paths.EXPORTS_SOCKET
COLLECT: Final = 300.0
"""Seconds between two looks for exports that nothing comes back for."""
DAY: Final = 86400.0


class Exporter:
    def __init__(self, parked: float = garbage.PARKED) -> None:
        """`parked`: seconds after which an export that nothing has taken goes."""
        self._parked = parked
        self._clients = trio.CapacityLimiter(CLIENTS)
        self._served: dict[str, int] = {}
        """How many connections each export has now, by its key."""
        self._last_asked: dict[str, float] = {}
        """When an export was served last, in seconds since 1970."""
        self._began = time.time()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one client."""
        async with stream:
            try:
                self._clients.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                await self._refuse(stream, Refused(f"{CLIENTS} transfers from this node are under way"))
                return
            try:
                await self._serve(stream)
            except Exception:  # no client must be able to end it for all others
                log.exception("cannot serve a client")
            finally:
                self._clients.release_on_behalf_of(stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            with trio.fail_after(OPENING):
                key, export = await self._opened(stream)
                await opening.accept(stream)
        except Refused as refusal:
            log.warning("a client is refused: %s", refusal)
            await self._refuse(stream, refusal)
            return
        except (ProtocolError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.warning("a client is refused: %s", str(error) or "it says nothing")
            return
        self._served[key] = self._served.get(key, 0) + 1
        try:
            await serve(stream, export)
        finally:
            self._last_asked[key] = time.time()
            self._served[key] -= 1
            if not self._served[key]:
                del self._served[key]

    async def _opened(self, stream: trio.abc.Stream) -> tuple[str, Export]:
        """Return what a client asks for. Raises Refused and what its stream raises."""
        key = (await opening.receive_line(stream)).get("key")
        try:
            export = Export.of(key if isinstance(key, str) else "")
            await trio.to_thread.run_sync(export.read)
        except FileNotFoundError:
            raise Refused(f"there is no export {key}", gone=True) from None
        except ValueError:
            raise Refused("it does not say which export", gone=True) from None
        except BadExport as error:
            raise Refused(str(error), gone=True) from None
        return export.key, export

    async def _refuse(self, stream: trio.abc.Stream, refusal: Refused) -> None:
        with trio.move_on_after(OPENING), suppress(trio.BrokenResourceError):
            await opening.refuse(stream, str(refusal), gone=refusal.gone)

    async def collect(self) -> None:
        """Remove now and then what nothing comes back for."""
        while True:
            try:
                for name, why in await trio.to_thread.run_sync(self._collected):
                    log.warning("removed the export %s: %s", name, why)
            except OSError as error:
                log.warning("%s: %s", paths.EXPORTS, error.strerror)
            lately = time.time() - 2 * garbage.GIVEN
            self._last_asked = {key: asked for key, asked in self._last_asked.items() if asked > lately}
            await trio.sleep(COLLECT)

    def _collected(self) -> list[tuple[str, str]]:
        return list(garbage.collect(self._last_asked_for, parked=self._parked))

    def _last_asked_for(self, key: str) -> float:
        # What was served before this process began could not be served since: it may still come back.
        return time.time() if key in self._served else self._last_asked.get(key, self._began)


def listen(place: str) -> trio.SocketListener:
    """Listen there, for the manager's group, in place of an exporter before. Raises OSError."""
    paths.open_to_manager(os.path.dirname(place))
    with suppress(FileNotFoundError):
        os.unlink(place)
    made = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o177)
        try:
            made.bind(place)
        finally:
            os.umask(before)
        paths.open_to_manager(place)
        made.listen(CLIENTS)
    except OSError:
        made.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


async def run(exporter: Exporter, listener: trio.SocketListener) -> None:
    """Run until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporter.collect)
        nursery.start_soon(trio.serve_listeners, exporter.serve, [listener])


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("ends on signal %d; transfers go on with the next one", number)
            scope.cancel()


async def _main(place: str, parked: float) -> None:
    listener = listen(place)
    log.info("serves the exports in %s at %s, pid %d", paths.EXPORTS, place, os.getpid())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope)
        nursery.start_soon(run, Exporter(parked), listener)


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        paths.make_private(paths.EXPORTS)
        trio.run(_main, options.socket, options.parked_days * DAY)
    except OSError as error:
        hint = ": run it as root" if isinstance(error, PermissionError) else ""
        sys.stderr.write(f"zeropod exporter: {error.filename or options.socket}: {error.strerror}{hint}\n")
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Return what understands its flags."""
    made = argparse.ArgumentParser(
        prog="zeropod exporter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--parked-days",
        type=_days,
        default=garbage.PARKED / DAY,
        metavar="DAYS",
        help="how long what a container has left is kept for a successor, without which it is lost (default: 7)",
    )
    made.add_argument("--socket", default=SOCKET, metavar="PATH", help="where to listen (default: %(default)s)")
    return made


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 < days < 10000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return days
