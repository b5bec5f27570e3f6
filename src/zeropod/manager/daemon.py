"""`zeropod manager`: runs once on each node, watches all shims and serves their metrics.

It needs the shims' sockets and nothing else of the node: a user of its own in the group `paths.MANAGER_GROUP` will do.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

import trio
from prometheus_client.registry import Collector

from zeropod import paths
from zeropod.concurrency import leaves
from zeropod.kernel import libc
from zeropod.manager.http_server import Address, address, bind, serve, url
from zeropod.manager.node import Node
from zeropod.manager.page.document import Source
from zeropod.manager.page.history import History
from zeropod.manager.page.shims import follow
from zeropod.manager.web import PATHS, application

log = logging.getLogger(__name__)

LISTEN = ("0.0.0.0", 8080)

Prepared = tuple[Collector, Callable[[], Awaitable[None]]]
"""Metrics, and a task that runs until cancelled."""


class _UsageError(Exception):
    """Flags that need settings which are missing."""


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    addresses, failure = options.listen or [LISTEN], None
    try:
        kubernetes = _kubernetes(options)
    except _UsageError as error:
        sys.stderr.write(f"zeropod manager: {error}\n")
        return 2
    try:
        node = Node(reasons=options.zeropods)
        trio.run(run, addresses, node, kubernetes, options.node_name, options.page_host)
    except* OSError as errors:
        # The others are consequences, or the same.
        failure = next(error for error in leaves(errors) if isinstance(error, OSError))
    if failure:
        hint = f": run it as root, or in group {paths.MANAGER_GROUP}" if isinstance(failure, PermissionError) else ""
        where = failure.filename or paths.STATUS_SOCKETS
        sys.stderr.write(f"zeropod manager: {where}: {failure.strerror or failure}{hint}\n")
    return 1 if failure else 0


async def run(
    addresses: list[Address],
    node: Node,
    kubernetes: Sequence[Callable[[Node], Prepared]] = (),
    name: str = "",
    page_hosts: Collection[str] = (),
) -> None:
    """Run until a signal ends it. Raises OSError when it cannot listen, or watch the shims."""
    # Free memory left over from importing, above all after compiling modules. Not every C library can.
    with suppress(AttributeError):
        libc.call("malloc_trim", 0)
    sockets, page = bind(addresses), Source(History(), "node", name)
    collectors: list[Collector] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope)
        nursery.start_soon(node.run)
        nursery.start_soon(follow, node, page.history)
        for prepare in kubernetes:
            collector, work = prepare(node)
            collectors.append(collector)
            nursery.start_soon(work)
        nursery.start_soon(serve, sockets, application(node, page, collectors, page_hosts))
        log.info("serves %s on %s, pid %d", PATHS, ", ".join(map(url, sockets)), os.getpid())


def _kubernetes(options: argparse.Namespace) -> list[Callable[[Node], Prepared]]:
    """What talks to the API server, imported only if a flag asks for it. Raises _UsageError."""
    wanted = (options.status_labels, options.status_events, options.in_place_scaling, options.zeropods)
    if not any(wanted) and not options.migration:
        return []
    from zeropod.manager.kube.errors import Unreachable

    if not options.node_name:
        raise _UsageError("--node-name, or NODE_NAME in the environment, has to say which node's pods are its own")
    made: list[Callable[[Node], Prepared]] = []
    try:
        if any(wanted):
            from zeropod.manager.kube.service import preparation
            from zeropod.manager.kube.work import Options

            made.append(preparation(Options(*wanted), options.node_name))
        if options.migration:
            from zeropod.manager.migration import flags, start

            made.append(start.preparation(flags.settings(options, os.environ)))
    except (Unreachable, ValueError) as error:
        raise _UsageError(str(error)) from None
    return made


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("ends on signal %d; the containers sleep and wake without it", number)
            scope.cancel()


def parser() -> argparse.ArgumentParser:
    """Return the parser of its flags."""
    made = argparse.ArgumentParser(prog="zeropod manager", description=__doc__)
    made.add_argument(
        "--listen",
        action="append",
        type=_address,
        metavar="ADDRESS:PORT",
        help=f"where to serve {PATHS}; may be given more than once (default: 0.0.0.0:8080)",
    )
    made.add_argument(
        "--page-host",
        action="append",
        default=[],
        type=str.lower,
        metavar="NAME",
        help="a name by which the page may be called, beside addresses and localhost; may be given more than once",
    )
    made.add_argument(
        "--zeropods",
        action="store_true",
        help="keep a custom resource for each of this node's pods, and carry out what is wanted in it",
    )
    made.add_argument(
        "--status-labels",
        action="store_true",
        help="label this node's pods with status.zeropod.ctrox.dev/CONTAINER: RUNNING or SCALED_DOWN",
    )
    made.add_argument(
        "--status-events", action="store_true", help="tell of sleeps, wakes and failures by events of their pods"
    )
    made.add_argument(
        "--in-place-scaling",
        action="store_true",
        help="lower the CPU and memory requests of sleeping containers to 1m and 1Ki, and raise them at a wake",
    )
    made.add_argument(
        "--node-name",
        default=os.environ.get("NODE_NAME", ""),
        metavar="NAME",
        help="what Kubernetes calls this node; the four above and --migration need it (default: NODE_NAME of the "
        "environment)",
    )
    _add_migration(made)
    return made


def _add_migration(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--migration",
        action="store_true",
        help="take part in moving containers between nodes; the rest is for this alone, and POD_IP of the environment "
        "has to say where other nodes reach it",
    )
    made.add_argument(
        "--node-server-addr",
        default=":8090",
        metavar="[ADDRESS]:PORT",
        help="where other nodes' managers connect to (default: :8090)",
    )
    made.add_argument(
        "--migration-claim-timeout",
        default="10s",
        metavar="DURATION",
        help="how long a container that is to move waits for its pod's replacement to be scheduled (default: 10s)",
    )
    made.add_argument(
        "--migration-ready-timeout",
        default="5m",
        metavar="DURATION",
        help="how long for that to be ready, or for a pod that comes only when the old one is gone, to come "
        "(default: 5m); the pod's grace period ends both before",
    )
    made.add_argument(
        "--migration-servers-timeout",
        default="10s",
        metavar="DURATION",
        help="how often a replacement that is ready looks whether the container's node is still there (default: 10s)",
    )
    made.add_argument(
        "--migration-bandwidth",
        default="0",
        metavar="QUANTITY",
        help="bytes a second that all transfers from this node may take together, such as 50Mi (default: 0, any)",
    )


def _address(text: str) -> Address:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None
