"""What of a shim's words gets on a page that is served without a password."""

import pytest
import trio
import trio.testing
from tests.unit.manager.page.scenes import Clock

from zeropod.lifecycle.reasons import Reason
from zeropod.manager.node import Node, Shim
from zeropod.manager.page.history import History
from zeropod.manager.page.shims import GATHER, UNKNOWN, container, follow, in_general
from zeropod.rpc.messages.status_pb2 import COLD, RUNNING, STANDBY, ContainerStatus

SECRET = "10.0.0.7:41522 /var/lib/secret"


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_no_detail_of_a_reason_is_shown(reason: Reason) -> None:
    shown = in_general(str(reason.because(*([SECRET] * 3 if ":g}" not in reason.text else [SECRET, 59, SECRET]))))
    assert shown
    assert "10.0.0.7" not in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        (str(Reason.EXEC.because("f00")), "exec … is running"),
        (str(Reason.ENDING.because()), "it is about to end"),
        (str(Reason.PAUSED.because()), "it is paused"),
        (str(Reason.HOST_NETWORK.because()), "it uses the host's network"),
        ("words of a newer shim about 10.0.0.7", UNKNOWN),
        ("", ""),
    ],
)
def test_a_reason_is_told_in_general(why: str, shown: str) -> None:
    assert in_general(why) == shown


def test_nothing_of_an_error_or_an_id_is_in_a_container_of_a_pod() -> None:
    status = ContainerStatus(
        id="c" * 64, namespace="k8s.io", pod_namespace="shop", pod="web-1", container="web", sandbox="s" * 64, pid=77,
        state=RUNNING, why=str(Reason.CANNOT_FREEZE.because(SECRET)), message=SECRET, memory_why=SECRET, pod_uid="u-1",
    )  # fmt: skip
    shown = repr(container(status))
    for hidden in ("cccc", "ssss", "77", "secret", "10.0.0.7", "u-1", "k8s.io"):
        assert hidden not in shown


def test_what_is_cold_has_given_back_what_its_image_has() -> None:
    shown = container(ContainerStatus(id="a", state=COLD, image_bytes=5))
    assert (shown.backend, shown.out) == ("image", 5)
    shown = container(ContainerStatus(id="a", state=STANDBY, image_bytes=5, memory_backend="swap", memory_out_bytes=7))
    assert (shown.backend, shown.out) == ("swap", 7)


def _say(node: Node, *statuses: ContainerStatus, problem: str = "") -> None:
    shim = node._shims.setdefault("1.sock", Shim("1.sock"))
    shim.containers, shim.problem, shim.heard = {each.id: each for each in statuses}, problem, True
    node._tell()


@pytest.mark.usefixtures("autojump_clock")
async def test_changes_are_noted_and_sandboxes_are_not(nursery: trio.Nursery) -> None:
    node, made = Node(), History(Clock())
    nursery.start_soon(follow, node, made)
    await trio.testing.wait_all_tasks_blocked()
    sandbox = ContainerStatus(id="s", sandbox="s", pod="web-1", state=RUNNING)
    _say(node, sandbox, ContainerStatus(id="c", sandbox="s", pod="web-1", container="web", state=RUNNING))
    await trio.sleep(2 * GATHER)
    assert [lane.seen.name for lane in made.lanes] == ["web"]
    sequence = made.sequence
    _say(node, sandbox, *(each for each in node.containers if each.id == "c"))
    await trio.sleep(2 * GATHER)
    assert made.sequence == sequence, "the same status is no change"
    _say(node, problem="no answer within 2 s")
    await trio.sleep(2 * GATHER)
    assert (made.lanes, made.problem) == (
        [],
        "One shim of this node does not answer: the containers there are not shown.",
    )
