"""Objects shared by the containers of one shim: the nursery, the connection to containerd, the pod's networks, and the
revisions by which watchers learn of changes."""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from zeropod.activator.network import PodNetwork
from zeropod.lifecycle.metrics import ContainerMetrics
from zeropod.shim.publisher import Publisher
from zeropod.shim.revisions import Revisions

if TYPE_CHECKING:
    from zeropod.shim.container import Container


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pod:
    namespace: str
    """containerd's namespace, `k8s.io` for Kubernetes."""
    nursery: trio.Nursery
    publisher: Publisher
    containers: "dict[str, Container]" = field(default_factory=dict)
    revisions: Revisions = field(default_factory=Revisions)
    _metrics: dict[str, ContainerMetrics] = field(default_factory=dict)
    """Metrics of containers that are gone, by their names in the pod."""
    _complaints: set[str] = field(default_factory=set)
    _networks: dict[str, tuple[PodNetwork, int]] = field(default_factory=dict)

    def add(self, container: "Container") -> None:
        """Register a container."""
        self.containers[container.id] = container
        container.life.tell = partial(self.revisions.bump, container.id)
        self.revisions.bump(container.id)

    def remove(self, container: "Container") -> None:
        """Remove a container; a successor of the same name continues its metrics."""
        if self.containers.pop(container.id, None) is None:
            return
        container.life.tell = lambda: None
        self.revisions.forget(container.id)
        if name := container.name:
            container.metrics.probes_answered = container.probes_answered
            self._metrics[name] = container.metrics

    def metrics_of(self, name: str) -> ContainerMetrics:
        """Return the metrics of the last container of this name in the pod; new ones for a new or empty name."""
        return self._metrics.pop(name, None) or ContainerMetrics()

    def complain(self, complaints: Iterable[str], log: "logging.LoggerAdapter[logging.Logger]") -> None:
        """Log problems of the node, each of them once."""
        for words in complaints:
            if words not in self._complaints:
                self._complaints.add(words)
                log.warning("%s", words)

    @contextmanager
    def network(self, path: str, probers: Collection[str] = (), *, own: bool = True) -> Iterator[PodNetwork]:
        """Return the network at `path`, opened by the first of its containers and closed by the last. Raises OSError.

        The containers of a pod have the same annotations, so the first one's `probers` and `own` are right for all.
        """
        network, users = self._networks.get(path) or (PodNetwork(path, probers, own=own), 0)
        if not users:
            self.nursery.start_soon(self._run_network, network)
        self._networks[path] = (network, users + 1)
        try:
            yield network
        finally:
            network, users = self._networks.pop(path)
            if users > 1:
                self._networks[path] = (network, users - 1)
            else:
                network.close()
                self.nursery.start_soon(self._close_connections, network)

    async def _close_connections(self, network: PodNetwork) -> None:
        """Close the lock of established connections in a thread: it takes 20 to 40 ms, in which another container may
        have to wake."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(network.established.close)

    async def _run_network(self, network: PodNetwork) -> None:
        """Follow the network's addresses. A failure is logged, and ends nothing: probes may then wake containers."""
        try:
            await network.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod's containers go on
            log.error("cannot follow the pod's network, health probes may wake its containers: %s", error)
