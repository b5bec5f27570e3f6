"""`kubectl zeropod dashboard`: serves the dashboard page of a cluster on this machine.

It follows the custom resources with the rights of the kubeconfig, and needs nothing else in the cluster. Other users of
this machine do not have those rights but can reach its ports: so the address contains a secret.
"""

import argparse
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from zeropod.cli.kubectl.cluster import Cluster, CommandError, Object
from zeropod.manager.kube.follow import Follower
from zeropod.manager.page.history import Container, History

if TYPE_CHECKING:
    from zeropod.manager.http_server import Answer, Request, Response
    from zeropod.manager.page.document import Source

ADDRESS = "127.0.0.1"
GATHER = 0.25
"""Seconds for which changes are collected."""
INTERVAL = 2.0
"""Seconds between checks of the connection to the API server."""

Containers = list[Container]


async def run(cluster: Cluster, options: argparse.Namespace, namespace: str, _: Sequence[str]) -> int:
    # Importing these takes longer than the other commands run.
    from zeropod.manager.http_server import bind, serve, url
    from zeropod.manager.page.document import Source

    # Errors of the cluster or of rights are printed here, not shown on the page.
    await cluster.all_in(namespace)
    history, secret = History(), secrets.token_urlsafe(24)
    source = Source(history, "cluster", " · ".join(filter(None, (cluster.name or cluster.server, namespace))))
    follower = Follower(cluster.client, cluster.path(namespace), containers_of)
    try:
        (listening,) = bind([(ADDRESS, options.port)])
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    where = url(listening)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        while not follower.ready:
            with trio.move_on_after(INTERVAL):
                await follower.changed()
        nursery.start_soon(follow, follower, history)
        nursery.start_soon(serve, [listening], application(source, secret))
        print(f"Serving {where}/{secret}/ until Ctrl-C.", flush=True)
    return 0


async def follow(follower: Follower[Containers], history: History) -> None:
    """Record every change until cancelled."""
    while True:
        found = {(*key, each.name): each for key, containers in follower.items.items() for each in containers}
        for name, seen in found.items():
            history.note("/".join(name), seen)
        history.keep(set(map("/".join, found)))
        history.problem = f"The API server is not heard of: {follower.problem}" if follower.problem else ""
        with trio.move_on_after(INTERVAL):
            await follower.changed()
        await trio.sleep(GATHER)


def application(source: "Source", secret: str) -> "Answer":
    """Return the handler of requests below the secret; it refuses all others."""
    from zeropod.manager.http_server import plain
    from zeropod.manager.page import site

    def answer(request: "Request") -> "Response":
        given, slash, name = request.path.removeprefix("/").partition("/")
        # A comparison in constant time.
        is_right = secrets.compare_digest(given.encode(), secret.encode())
        if is_right and slash and site.serves(name):
            return site.answer(source, name, request, ())
        return plain(404, "nothing here: use the address that `kubectl zeropod dashboard` has printed\n")

    return answer


def containers_of(resource: Object) -> Containers:
    """Return the containers of a pod's resource."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    problem = [("annotation", str(status["problem"]), "")] if status.get("problem") else []
    return [
        _container(each, str(metadata["namespace"]), str(metadata["name"]), str(status.get("nodeName", "")), problem)
        for each in status.get("containers") or ()
    ]


def _container(said: Object, namespace: str, pod: str, node: str, more: list[tuple[str, str, str]]) -> Container:
    memory = said.get("memory") or {}
    reasons = [(each["kind"], each["text"], each.get("remedy", "")) for each in said.get("reasons") or ()]
    return Container(
        namespace=namespace,
        pod=pod,
        name=str(said["name"]),
        node=node,
        state=str(said["state"]),
        since=_seconds(said["since"]),
        sleeps=int(said["sleeps"]),
        wakes=int(said["wakes"]),
        woke_at=_seconds(said.get("lastWake")),
        woke_ms=float(said.get("lastWakeMilliseconds") or 0),
        backend=str(memory.get("backend", "")),
        out=int(memory.get("givenBackBytes", 0)),
        left=int(memory.get("leftBytes", 0)),
        may_sleep=bool(said.get("maySleep", True)),
        why=str(said.get("why", "")),
        reasons=(*reasons, *more),
    )


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0
