"""`zeropod manager`: runs once on each node, watches all shims and serves their metrics.

It needs the shims' sockets and nothing else of the node: a user of its own in the group `paths.MANAGER_GROUP` will do.
"""

import argparse
import logging
import os
import signal
import sys
from functools import partial

import trio
from hypercorn.trio import serve

from zeropod import paths
from zeropod.manager.node import Node
from zeropod.manager.web import PATHS, Address, address, application, bind, configuration

log = logging.getLogger(__name__)

LISTEN = ("0.0.0.0", 8080)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    addresses, failure = options.listen or [LISTEN], None
    try:
        trio.run(run, addresses)
    except* OSError as errors:
        failure = _first(errors)
    if failure:
        hint = f": run it as root, or in group {paths.MANAGER_GROUP}" if isinstance(failure, PermissionError) else ""
        where = failure.filename or paths.STATUS_SOCKETS
        sys.stderr.write(f"zeropod manager: {where}: {failure.strerror or failure}{hint}\n")
    return 1 if failure else 0


async def run(addresses: list[Address]) -> None:
    """Run until a signal ends it. Raises OSError when it cannot listen, or watch the shims."""
    node, config = Node(), configuration(bind(addresses))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope)
        nursery.start_soon(node.run)
        bound = await nursery.start(partial(serve, application(node), config, mode="asgi"))
        log.info("serves %s on %s, pid %d", PATHS, ", ".join(bound), os.getpid())


def _first(errors: BaseExceptionGroup[OSError]) -> OSError:
    """Return the first error of a group: the others are consequences, or the same."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OSError)
    return error


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("ends on signal %d; the containers sleep and wake without it", number)
            scope.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeropod manager", description=__doc__)
    parser.add_argument(
        "--listen",
        action="append",
        type=_address,
        metavar="ADDRESS:PORT",
        help=f"where to serve {PATHS}; may be given more than once (default: 0.0.0.0:8080)",
    )
    return parser


def _address(text: str) -> Address:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None
