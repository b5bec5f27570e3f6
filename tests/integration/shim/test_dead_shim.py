"""A shim that is killed leaves nothing of its pod behind.

Stricter than the table of scenarios, where runc's shim is the measure: that leaves cgroups and runc's state of all
containers but the sandbox.
"""

import os
import signal

import pytest
from tests.integration import node
from tests.integration.cri import Cri, Pod
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.shimsocket import ShimSocket, address
from tests.integration.sleep.helpers import faults, shims

REDIS = "localhost/redis:test"


def shim_of(pod: str) -> int:
    with ShimSocket(address(f"{node.TASKS}/k8s.io/{pod}")) as shim:
        return shim.connect(pod).shim_pid


def forgotten(pod: Pod) -> None:
    """Returns when containerd has cleaned up after the pod's shim: before, it refuses to remove the pod."""
    node.until(lambda: not os.path.exists(f"{node.TASKS}/k8s.io/{pod.id}"), "containerd has forgotten the shim", 30)


@pytest.mark.timeout(120)
def test_a_killed_shim_leaves_nothing_of_its_pod(cri: Cri) -> None:
    annotations = {"zeropod.ctrox.dev/scaledown-duration": "500ms", "zeropod.ctrox.dev/container-names": "asleep"}
    # What the first pod of all leaves on a node, such as parent cgroups.
    with cri.pod() as pod:
        pod.container("app", REDIS)
    before = node.Census.take()
    with cri.pod(annotations=annotations) as pod:
        awake = pod.container("awake", REDIS, command=["sh", "-c", "sleep 4711 & exec sleep 4712"])
        asleep = pod.container("asleep", REDIS)
        shims.until_state(asleep.id, "STANDBY")
        os.kill(shim_of(pod.id), signal.SIGKILL)
        assert [awake.wait().exit_code, asleep.wait().exit_code] == [255, 255]
        forgotten(pod)
    for what, name in {"pod": pod.id, "awake": awake.id, "asleep": asleep.id}.items():
        node.until(lambda name=name: not node.leftovers(name), f"nothing is left of {what}: {node.leftovers(name)}")  # type: ignore[misc]
    assert node.running("sleep", "4711") + node.running("sleep", "4712") + node.running("redis-server *:6379") == []
    assert node.Census.take() == before


@pytest.mark.timeout(180)
def test_a_killed_shim_leaves_nothing_of_a_page_store(cri: Cri) -> None:
    """Its pager ends, and no process of the container waits for a page for ever."""
    annotations = {
        "zeropod.ctrox.dev/scaledown-duration": "500ms",
        "zeropod.ctrox.dev/standby-memory": "store",
        "zeropod.ctrox.dev/container-names": "asleep",
    }
    command = ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"]
    with cri.pod() as pod:  # which leaves parent cgroups on the node
        pod.container("app", REDIS)
    before = node.Census.take()
    with cri.pod(annotations=annotations) as pod:
        asleep = pod.container("asleep", REDIS, command=command)
        populate = ("redis-cli", "DEBUG", "POPULATE", "40000", "key", "1000")
        node.until(lambda: asleep.exec(*populate).exit_code == 0, "redis has its keys")
        shims.until(asleep.id, lambda status: status.memory_out_bytes > 32 << 20 and not status.memory_moving, "out")
        directory = f"/var/lib/zeropod/containers/k8s.io/{asleep.id}"
        assert [name for name in os.listdir(f"{directory}/store/pages") if name.startswith("pages-")]
        os.kill(shim_of(pod.id), signal.SIGKILL)
        assert asleep.wait().exit_code == 255
        forgotten(pod)
    node.until(lambda: not node.leftovers(asleep.id), f"nothing is left: {node.leftovers(asleep.id)}")
    assert not os.path.exists(directory)
    assert node.running("redis-server *:6379") == []
    assert node.Census.take() == before, "a pager or a process lives on"


@pytest.mark.skipif(node.SYSTEMD, reason="the machine, which is emulated, has a containerd that waits for two minutes")
@pytest.mark.timeout(120)
def test_what_takes_longer_than_containerd_waits_is_done_all_the_same(cri: Cri) -> None:
    """Slow, for containerd waits for five seconds."""
    with cri.pod() as pod:  # which leaves parent cgroups on the node
        pod.container("app", REDIS)
    before = node.Census.take()
    with cri.pod() as pod, faults.program("runc", "case $* in *'delete --force'*) sleep 6 ;; esac"):
        app = pod.container("app", REDIS)
        os.kill(shim_of(pod.id), signal.SIGKILL)
        assert app.wait().exit_code == 255
        forgotten(pod)
    assert [node.left_over(name) for name in (pod.id, app.id)] == [[], []]
    assert node.Census.take() == before
    node.until(  # which is after the bundle has gone
        lambda: any("signal: killed" in line and pod.id in line for line in node.containerd_log()),
        "containerd says that it has ended `delete`",
    )


@pytest.mark.timeout(60)
def test_a_pod_can_be_made_anew_after_its_shim_was_killed(cri: Cri) -> None:
    with cri.pod(name="phoenix") as pod:
        app = pod.container("app", REDIS)
        os.kill(shim_of(pod.id), signal.SIGKILL)
        app.wait()
        # Before, containerd may try to reach the shim, and fail; the kubelet would ask again.
        node.until(lambda: pod.status.state == v1.SANDBOX_NOTREADY, "the sandbox has ended")
        forgotten(pod)
    with cri.pod(name="phoenix") as pod:
        app = pod.container("app", REDIS)
        node.until(lambda: app.exec("redis-cli", "ping").exit_code == 0, "redis answers")
