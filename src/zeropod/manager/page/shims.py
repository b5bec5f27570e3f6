"""Fill the history of a node's page from its shims, with no more details than the metrics have.

Like the metrics, the page is served without a password. A reason may contain a client's address or an error text: the
page gets only its general sentence from `zeropod.lifecycle.reasons`.
"""

import re
from functools import cache

import trio

from zeropod.lifecycle.reasons import Reason
from zeropod.manager.node import Node
from zeropod.manager.page.history import Container, History
from zeropod.manager.ps import state_of
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus

GATHER = 0.25
"""Seconds for which changes are collected: only the last wake and the last state of each interval are recorded."""

UNKNOWN = "ask `zeropod why` on the node"


async def follow(node: Node, history: History) -> None:
    """Record every change on the node, until cancelled."""
    known: dict[str, ContainerStatus] = {}
    while True:
        found = {each.status.id: each.status for each in node.found if each.status.id != each.status.sandbox}
        for key, status in found.items():
            if known.get(key) is not status:
                history.note(key, container(status))
        history.keep(set(found))
        known = found
        history.problem = _problem(len(node.silent))
        await node.changed()
        await trio.sleep(GATHER)


def _problem(silent: int) -> str:
    if not silent:
        return ""
    which = "One shim of this node does" if silent == 1 else f"{silent} shims of this node do"
    return f"{which} not answer: the containers there are not shown."


def container(status: ContainerStatus) -> Container:
    """Return the page's data about a container."""
    in_image = status.state == status_pb2.COLD and not status.memory_out_bytes
    return Container(
        namespace=status.pod_namespace or status.namespace,
        pod=status.pod,
        name=status.container or status.id,
        node="",
        state=state_of(status),
        since=status.since.ToNanoseconds() / 1e9,
        sleeps=status.standby_sleeps or status.cold_sleeps,
        wakes=status.restores,
        slept_at=status.last_checkpoint.ToNanoseconds() / 1e9,
        woke_at=status.last_restore.ToNanoseconds() / 1e9,
        woke_ms=status.last_restore_ms,
        backend="image" if in_image else status.memory_backend,
        out=status.image_bytes if in_image else status.memory_out_bytes,
        left=status.memory_left_bytes,
        may_sleep=status.may_sleep,
        why=in_general(status.why or status.why_kept),
    )


def in_general(why: str) -> str:
    """Return a reason's sentence without its details."""
    if not why:
        return ""
    return next((text for pattern, text in _sentences() if pattern.fullmatch(why)), UNKNOWN)


@cache
def _sentences() -> list[tuple[re.Pattern[str], str]]:
    """Return patterns that recognise each sentence, and the sentence; without those that consist of details only."""
    made = []
    for reason in Reason:
        parts = re.split(r"\{[^}]*\}", reason.text)
        if any(part.strip() for part in parts):
            made.append((re.compile(".*".join(map(re.escape, parts)), re.DOTALL), "…".join(parts)))
    # If two match, the one with more words of its own is meant.
    return sorted(made, key=lambda each: -len(each[1]))
