"""What a shim tells its node's manager of a container that leaves or comes: who it is, and what it needs or has."""

from typing import TYPE_CHECKING

from zeropod.rpc.messages import node_pb2
from zeropod.runtime.exports.manifest import Needs
from zeropod.runtime.spec import SANDBOX_NAME, SANDBOX_NAMESPACE, SANDBOX_UID

if TYPE_CHECKING:
    from zeropod.shim.container import Container

SERVICE = "zeropod.node.v1.Node"


def moving(container: "Container") -> node_pb2.Moving:
    """Return the container as the manager knows it."""
    annotations = container.spec.annotations
    return node_pb2.Moving(
        namespace=container.runc.namespace,
        id=container.id,
        pod_namespace=annotations.get(SANDBOX_NAMESPACE, ""),
        pod=annotations.get(SANDBOX_NAME, ""),
        pod_uid=annotations.get(SANDBOX_UID, ""),
        container=container.name,
    )


def needs_message(needs: Needs) -> node_pb2.Needs:
    """Return it as the manager gets it."""
    return node_pb2.Needs(
        architecture=needs.architecture,
        kernel=needs.kernel,
        criu=needs.criu,
        cpu_features=needs.cpu_features,
        page_size=needs.page_size,
    )
