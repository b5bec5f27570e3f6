"""What the manager starts of all this, if a flag asks for it."""

import socket
from collections.abc import Awaitable, Callable

from prometheus_client.registry import Collector

from zeropod.manager.kube.access import in_cluster
from zeropod.manager.kube.client import Client
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.metrics import KubeCollector
from zeropod.manager.kube.reconcile import Node, Options, Reconciler

Prepared = tuple[Collector, Callable[[], Awaitable[None]]]
"""Its metrics, and what runs until it is cancelled."""


def preparation(options: Options, node_name: str) -> Callable[[Node], Prepared]:
    """Return what prepares it for a node, as the service account of this pod. Raises Unreachable outside of one."""
    access = in_cluster()

    def prepare(node: Node) -> Prepared:
        client = Client(access)
        reconciler = Reconciler(client, node, options, Reporter(node_name, socket.gethostname()))

        async def run() -> None:
            try:
                await reconciler.run()
            finally:
                await client.aclose()

        return KubeCollector(reconciler), run

    return prepare
