"""Start the Kubernetes side of the manager, if a flag asks for it."""

import socket
from collections.abc import Awaitable, Callable

from prometheus_client.registry import Collector

from zeropod.manager.kube.access import in_cluster
from zeropod.manager.kube.carry_out import Shims
from zeropod.manager.kube.client import Client
from zeropod.manager.kube.events import Reporter
from zeropod.manager.kube.metrics import KubeCollector
from zeropod.manager.kube.reconcile import Reconciler
from zeropod.manager.kube.work import Options

Prepared = tuple[Collector, Callable[[], Awaitable[None]]]
"""Its metrics, and a task that runs until cancelled."""


def preparation(options: Options, node_name: str) -> Callable[[Shims], Prepared]:
    """Return the function that sets it up for a node's shims, with the pod's service account. Raises Unreachable
    outside of a pod."""
    access = in_cluster()

    def prepare(shims: Shims) -> Prepared:
        client = Client(access)
        reconciler = Reconciler(client, shims, options, Reporter(node_name, socket.gethostname()))

        async def run() -> None:
            try:
                await reconciler.run()
            finally:
                await client.aclose()

        return KubeCollector(reconciler), run

    return prepare
