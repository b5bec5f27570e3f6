"""What happens while a container in standby runs for a moment: whether it may lie down again, or has to stay awake.

A doze is for a probe or an exec. Everybody else finds an application that answers, and must not see it freeze in the
middle of that: whoever has used it turns the doze into a wake.
"""

from typing import TYPE_CHECKING

import trio

from zeropod.activator.network import PodNetwork
from zeropod.shim.idle import quiet_ms
from zeropod.shim.traffic import Traffic

if TYPE_CHECKING:
    from zeropod.shim.container import Container

SETTLE = 0.25
"""Seconds for the application to close connections that the other end has closed, as those of a probe are."""

LOOK = 0.002
"""Seconds between looks whether it has."""


class Doze:
    """One doze; made before the container is thawed."""

    def __init__(self, container: "Container", network: PodNetwork, traffic: Traffic) -> None:
        incarnation = container.incarnation
        assert incarnation is not None
        self._incarnation = incarnation
        self._network = network
        self._traffic = traffic
        self._ports = container.settings.ports or network.listening_ports(incarnation.socket_inodes())
        self._before = network.activity(self._ports)
        self._since = trio.current_time()

    async def settled(self) -> None:
        """Returns when nothing is left of the connections that the doze was for; after a moment in any case."""
        with trio.move_on_after(SETTLE):
            # The kernel has no event for it.
            while self._traffic.ending(self._incarnation):  # noqa: ASYNC110
                await trio.sleep(LOOK)

    def was_used(self) -> bool:
        """Whether somebody has used the container, which is frozen again, or is about to."""
        if self._network.activity(self._ports) != self._before:
            return True
        dozed_ms = (trio.current_time() - self._since) * 1000
        own = self._incarnation.socket_inodes()
        mine = [sock for sock in self._network.connections() if sock.inode in own]
        return any(quiet_ms(sock) <= dozed_ms for sock in mine if sock.local[1] in self._ports)
