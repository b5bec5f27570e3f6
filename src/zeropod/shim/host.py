"""What the containers of one shim share: the nursery they live in, the way to containerd, their pod's networks."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from zeropod.activator.network import PodNetwork
from zeropod.shim.publisher import Publisher

if TYPE_CHECKING:
    from zeropod.shim.container import Container


@dataclass(slots=True)
class Host:
    namespace: str
    """containerd's namespace, `k8s.io` for Kubernetes."""
    nursery: trio.Nursery
    publisher: Publisher
    containers: "dict[str, Container]" = field(default_factory=dict)
    _networks: dict[str, tuple[PodNetwork, int]] = field(default_factory=dict)

    @contextmanager
    def network(self, path: str, probers: Collection[str] = (), *, own: bool = True) -> Iterator[PodNetwork]:
        """The network at `path`, opened by the first of its containers and closed by the last. Raises OSError.

        The containers of a pod have the same annotations: what the first one asks for is right for all.
        """
        network, users = self._networks.get(path) or (PodNetwork(path, probers, own=own), 0)
        if not users:
            self.nursery.start_soon(network.run)
        self._networks[path] = (network, users + 1)
        try:
            yield network
        finally:
            network, users = self._networks.pop(path)
            if users > 1:
                self._networks[path] = (network, users - 1)
            else:
                network.close()
