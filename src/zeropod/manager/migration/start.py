"""What a manager with --migration starts of all this."""

import logging
import math
import socket
from collections.abc import Awaitable, Callable

import trio
from prometheus_client.registry import Collector

from zeropod import paths
from zeropod.manager.kube.access import Access, in_cluster
from zeropod.manager.kube.client import Client, path_of
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.follow import Follower
from zeropod.manager.kube.pacing import RateLimit
from zeropod.manager.migration import certificate
from zeropod.manager.migration.garbage import Garbage
from zeropod.manager.migration.identity import Identity
from zeropod.manager.migration.leaving import Leaving, Shims
from zeropod.manager.migration.metrics import MigrationCollector
from zeropod.manager.migration.pods import read_pod
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.source import Source
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.target import Target
from zeropod.manager.migration.telling import Teller
from zeropod.manager.migration.transfer import Transfers, listen
from zeropod.rpc.messages import node_pb2
from zeropod.rpc.server import Services, serve, unary

log = logging.getLogger(__name__)

SERVICE = "zeropod.node.v1.Node"
PER_SECOND, BURST = 50.0, 100
"""Requests to the API server: a drained node's pods leave at once, and each of them has seconds."""

Prepared = tuple[Collector, Callable[[], Awaitable[None]]]
"""Its metrics, and what runs until it is cancelled."""


def preparation(settings: Settings) -> Callable[[Shims], Prepared]:
    """Return what prepares it for a node's shims, as its pod's service account. Raises Unreachable outside one."""
    access = in_cluster()
    return lambda shims: prepared(access, shims, settings)


def prepared(access: Access, shims: Shims, settings: Settings) -> Prepared:
    """Return the parts of one node's manager, connected, and not yet running."""
    client = Client(access, RateLimit(PER_SECOND, BURST))
    store = Store(client)
    on_node = {"fieldSelector": f"spec.nodeName={settings.node}"}
    pods = Follower(client, path_of("v1", "pods"), read_pod, on_node)
    teller = Teller(client, Reporter(settings.node, socket.gethostname()))
    leaving = Leaving(client, store, pods, shims, teller, settings)
    source = Source(client, store, pods, leaving, settings)
    # With a limit of its own: strangers who show tokens take nothing from what is written.
    reviewer = Client(access, RateLimit())
    transfers = Transfers(store, source, Identity(reviewer, access.token), settings)
    target = Target(store, pods, teller, settings, transfers.connect)
    garbage = Garbage(client, store, settings.node)

    async def run() -> None:
        try:
            context, name = await certificate.serving()
            shims_here = [listen(paths.NODE_SOCKET)]
            transfers_here = [listen(paths.TRANSFER_SOCKET)]
            nodes = await trio.open_tcp_listeners(settings.port, backlog=64)
            log.info("takes part in migrations at %s:%d, certificate %s", settings.host, settings.port, name[:16])
            async with trio.open_nursery() as nursery:
                for task in (store.followed.run, pods.run, leaving.run, target.run, garbage.run):
                    nursery.start_soon(task)
                nursery.start_soon(serve, shims_here, services(source, target))
                nursery.start_soon(transfers.serve_shims, transfers_here)
                nursery.start_soon(transfers.serve_nodes, nodes, context, name)
                await trio.sleep(math.inf)
        finally:
            await client.aclose()
            await reviewer.aclose()

    return MigrationCollector(store, target, transfers, settings.node), run


def services(source: Source, target: Target) -> Services:
    """Return what shims may ask. A shim that goes away does not wait any more."""
    return {
        SERVICE: {
            "PrepareEvac": unary(node_pb2.PrepareEvacRequest, source.prepare, cancel_on_disconnect=True),
            "Evac": unary(node_pb2.EvacRequest, source.evacuate, cancel_on_disconnect=True),
            "Restore": unary(node_pb2.RestoreRequest, target.restore, cancel_on_disconnect=True),
            "FinishRestore": unary(node_pb2.FinishRestoreRequest, target.finish),
        }
    }
