"""What the shim says about its containers to `zeropod ps` and the manager: a second socket with a service of our own.

containerd's socket is containerd's; this one lies in a directory where every shim of the node can be found.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zeropod.rpc.messages import status_pb2
from zeropod.rpc.server import Services, unary
from zeropod.runtime import spec
from zeropod.shim import places
from zeropod.shim.bootstrap import Flags
from zeropod.shim.container import Container
from zeropod.shim.host import Host

SERVICE = "zeropod.v1.Status"


@contextmanager
def status_listener(flags: Flags) -> Iterator[socket.socket]:
    """Listens at the shim's place in the directory, for root alone, as long as the block lasts."""
    os.makedirs(places.STATUS_SOCKETS, mode=0o700, exist_ok=True)
    path = places.status_socket(flags.namespace, flags.id)
    with suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(16)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)


class StatusService:
    def __init__(self, host: Host) -> None:
        self._host = host

    def services(self) -> Services:
        return {SERVICE: {"List": unary(status_pb2.ListRequest, self.list)}}

    async def list(self, request: status_pb2.ListRequest) -> status_pb2.ListResponse:
        containers = self._host.containers.values()
        wanted = [entry for entry in containers if request.id in ("", entry.id)]
        return status_pb2.ListResponse(containers=[describe(container) for container in wanted])


def describe(container: Container) -> status_pb2.ContainerStatus:
    life, sleeper, annotations = container.life, container.sleeper, container.spec.annotations
    status = status_pb2.ContainerStatus(
        id=container.id,
        namespace=container.runc.namespace,
        pod_namespace=annotations.get(spec.SANDBOX_NAMESPACE, ""),
        pod=annotations.get(spec.SANDBOX_NAME, ""),
        container=annotations.get(spec.CONTAINER_NAME, ""),
        sandbox=annotations.get(spec.SANDBOX_ID, ""),
        state=life.state.name,
        pid=container.init.pid if container.pids() else 0,
        why=life.why,
        message=life.message,
    )
    status.since.FromNanoseconds(life.since_ns)
    if sleeper:
        status.last_checkpoint_ms = sleeper.last_checkpoint * 1000
        status.last_restore_ms = sleeper.last_restore * 1000
        status.checkpoints = sleeper.checkpoints
        status.restores = sleeper.restores
        status.checkpoint_errors = sleeper.checkpoint_errors
        status.probes_answered = sleeper.probes_answered
        status.dozes = sleeper.dozes
        status.restore_errors = sleeper.restore_errors
    return status
