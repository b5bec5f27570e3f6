"""What `kubectl zeropod doctor` makes of what the API says."""

import argparse
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import trio
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.installer.test_manifests import DAEMON_SET, MANIFESTS
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi, status

from zeropod.cli.kubectl import completion, doctor
from zeropod.cli.kubectl.cluster import Cluster
from zeropod.cli.kubectl.diagnosis import CRD, LABELS, Facts, Finding, Verdict, diagnose
from zeropod.manager.kube.client import open_client
from zeropod.manager.kube.errors import ApiError, Unreachable

Object = dict[str, Any]
LABEL = {"zeropod.ctrox.dev/node": "true"}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
FEATURES = {"recursiveReadOnlyMounts": True, "userNamespaces": True}


def node(name: str = "node-1", **more: Any) -> Object:
    info = {"containerRuntimeVersion": "containerd://2.1.9", "kernelVersion": "6.18.2-generic"}
    ready = {"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}
    handlers = [{"name": name, "features": FEATURES} for name in ("", "runc", "zeropod")]
    said = {"conditions": [ready], "nodeInfo": info, "runtimeHandlers": handlers, **more}
    return {"metadata": {"name": name, "labels": dict(LABEL)}, "status": said}


def container(name: str, state: Object, **more: Any) -> Object:
    return {"name": name, "state": state, "ready": True, "restartCount": 0, **more}


def pod(name: str = "node-1", *, ready: bool = True, main: Object | None = None, **inits: Object) -> Object:
    """A pod of the DaemonSet on this node; its init containers are done unless they are given."""
    first = [inits.get(each.replace("-", "_")) or container(each, DONE) for each in ("installer", "image-gc")]
    return {
        "metadata": {"namespace": "zeropod-system", "name": f"zeropod-{name}"},
        "spec": {"nodeName": name},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready), "message": "containers with unready status"}],
            "initContainerStatuses": first,
            "containerStatuses": [main or container("manager", RUNNING)],
        },
    }


def daemon_set(desired: int = 1, ready: int = 1, flags: tuple[str, ...] = ("--zeropods",), **more: Any) -> Object:
    (made,) = yaml.safe_load_all(DAEMON_SET.read_text())
    made["metadata"]["namespace"] = "zeropod-system"
    made["spec"]["template"]["spec"]["containers"][0]["command"] += flags
    made["status"] = {"desiredNumberScheduled": desired, "numberReady": ready, **more}
    assert isinstance(made, dict)
    return made


def custom_resource(version: str = "v1", established: str = "True") -> Object:
    made: Object = yaml.safe_load((MANIFESTS / "components/zeropods/crd.yaml").read_text())
    made["spec"]["versions"][0]["name"] = version
    made["status"] = {"conditions": [{"type": "Established", "status": established, "message": "names conflict"}]}
    return made


RUNTIME_CLASS: Object = yaml.safe_load((MANIFESTS / "base/runtime-class.yaml").read_text())
RIGHT = Facts([RUNTIME_CLASS], [daemon_set()], [pod()], [node()], custom_resource())


def wrong(facts: Facts) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.verdict is not Verdict.OK]


def only(facts: Facts) -> Finding:
    (finding,) = wrong(facts)
    return finding


def test_where_all_is_right_each_thing_is_told() -> None:
    assert [(each.subject, each.verdict, each.text) for each in diagnose(RIGHT)] == [
        ("RuntimeClass", Verdict.OK, "zeropod"),
        ("DaemonSet", Verdict.OK, "zeropod-system/zeropod-node: 1 of 1 nodes ready"),
        (CRD, Verdict.OK, "v1"),
        ("node-1", Verdict.OK, "containerd 2.1.9, Linux 6.18.2-generic"),
    ]


def test_an_empty_cluster_lacks_everything() -> None:
    found = wrong(Facts(nodes=[node()]))
    assert [(each.subject, each.verdict) for each in found] == [
        ("RuntimeClass", Verdict.FAILS),
        ("DaemonSet", Verdict.FAILS),
        (CRD, Verdict.LACKS),
    ]
    assert all(each.remedy for each in found)


def test_a_runtime_class_of_another_handler_is_not_ours() -> None:
    other = {"metadata": {"name": "zeropod"}, "handler": "kata"}
    assert only(replace(RIGHT, runtime_classes=[other])).text.startswith("there is none with the handler zeropod")


def test_without_a_node_that_is_chosen_it_says_how_to_choose_one() -> None:
    bare = node()
    bare["metadata"]["labels"] = {}
    found = only(replace(RIGHT, daemon_sets=[daemon_set(0, 0)], nodes=[bare], pods=[]))
    assert "none has the label zeropod.ctrox.dev/node=true" in found.text
    assert found.remedy == "kubectl label node NODE zeropod.ctrox.dev/node=true"


def test_nodes_without_zeropod_are_named_but_not_wrong() -> None:
    others = [node(f"other-{number}") for number in range(7)]
    for each in others:
        each["metadata"]["labels"] = {}
    (told,) = [each for each in diagnose(replace(RIGHT, nodes=[node(), *others])) if each.subject == "DaemonSet"]
    assert told.text.endswith("; not on other-0, other-1, other-2, other-3, other-4 and 2 more")
    assert told.verdict is Verdict.OK


def test_a_node_that_is_chosen_and_has_no_pod() -> None:
    found = only(replace(RIGHT, nodes=[node(), node("node-2")]))
    assert (found.subject, found.verdict, found.text) == ("node-2", Verdict.FAILS, "the DaemonSet has no pod here")


CRASHED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "k3s\nzeropod installer: no such service\n"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "zeropod-node"'}}
NOT_READY = {"ready": False}


@pytest.mark.parametrize(
    ("broken", "verdict", "text"),
    [
        (
            pod(
                ready=False, installer=container("installer", BACK_OFF, lastState=CRASHED, restartCount=4, **NOT_READY)
            ),
            Verdict.FAILS,
            "installer failed 4 times: zeropod installer: no such service",
        ),
        (
            pod(ready=False, installer=container("installer", CRASHED, **NOT_READY)),
            Verdict.FAILS,
            "installer failed: zeropod installer: no such service",
        ),
        (
            pod(
                ready=False, installer=container("installer", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
            ),
            Verdict.FAILS,
            "installer failed: OOMKilled, exit status 137",
        ),
        (
            pod(ready=False, installer=container("installer", NO_IMAGE, **NOT_READY)),
            Verdict.FAILS,
            'installer has no image: ImagePullBackOff: Back-off pulling image "zeropod-node"',
        ),
        (
            pod(ready=False, installer=container("installer", RUNNING, **NOT_READY)),
            Verdict.LACKS,
            "installer runs and is not ready yet",
        ),
        (
            pod(ready=False, main=container("manager", {"waiting": {"reason": "CreateContainerConfigError"}})),
            Verdict.FAILS,
            "manager waits: CreateContainerConfigError",
        ),
        (
            pod(ready=False, main=container("manager", RUNNING, **NOT_READY)),
            Verdict.FAILS,
            "manager runs and is not ready yet",
        ),
        (
            pod(ready=False, main=container("manager", {"waiting": {"reason": "PodInitializing"}})),
            Verdict.FAILS,
            "the pod zeropod-node-1 is not ready: containers with unready status",
        ),
        (
            pod(main=container("manager", RUNNING, lastState=CRASHED, restartCount=3)),
            Verdict.LACKS,
            "manager was restarted 3 times; last zeropod installer: no such service",
        ),
    ],
)
def test_what_keeps_a_pod_of_the_daemon_set_from_being_ready(broken: Object, verdict: Verdict, text: str) -> None:
    found = only(replace(RIGHT, pods=[broken]))
    assert (found.subject, found.verdict, found.text) == ("node-1", verdict, text)
    assert found.remedy


@pytest.mark.parametrize(
    ("broken", "verdict", "text"),
    [
        (node(runtimeHandlers=[{"name": "runc"}]), Verdict.FAILS, "its containerd does not know the handler zeropod"),
        (
            node(runtimeHandlers=[{"name": "runc", "features": FEATURES}, {"name": "zeropod", "features": {}}]),
            Verdict.LACKS,
            "the handler zeropod lacks what runc has: recursiveReadOnlyMounts, userNamespaces",
        ),
        (
            node(nodeInfo={"kernelVersion": "5.15.0-100", "containerRuntimeVersion": "containerd://1.7.24"}),
            Verdict.FAILS,
            "its kernel is 5.15.0-100, and 6.1 is the oldest that will do",
        ),
        (
            node(nodeInfo={"kernelVersion": "6.8.0", "containerRuntimeVersion": "containerd://1.6.9"}),
            Verdict.FAILS,
            "its containerd is 1.6.9, and 1.7 is the oldest that will do",
        ),
        (
            node(nodeInfo={"kernelVersion": "6.8.0", "containerRuntimeVersion": "cri-o://1.34.0"}),
            Verdict.FAILS,
            "its container runtime is cri-o://1.34.0, and zeropod is a shim of containerd's",
        ),
        (
            node(conditions=[{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting"}]),
            Verdict.FAILS,
            "the node is not ready: Kubelet stopped posting",
        ),
    ],
)
def test_what_is_wrong_with_a_node(broken: Object, verdict: Verdict, text: str) -> None:
    found = only(replace(RIGHT, nodes=[broken]))
    assert (found.subject, found.verdict, found.text) == ("node-1", verdict, text)


@pytest.mark.parametrize("handlers", [None, []])
def test_a_kubelet_that_says_nothing_of_handlers_is_not_held_against_a_node(handlers: object) -> None:
    assert wrong(replace(RIGHT, nodes=[node(runtimeHandlers=handlers)])) == []


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (replace(RIGHT, crd=None), Verdict.FAILS, "there is none"),
        (replace(RIGHT, crd=None, daemon_sets=[daemon_set(flags=())]), Verdict.LACKS, "there is none"),
        (replace(RIGHT, daemon_sets=[daemon_set(flags=())]), Verdict.LACKS, "run without --zeropods"),
        (
            replace(RIGHT, crd=custom_resource("v2")),
            Verdict.FAILS,
            "it has the versions v2, but this program and the managers need v1",
        ),
        (replace(RIGHT, crd=custom_resource(established="False")), Verdict.FAILS, "not in force: names conflict"),
    ],
)
def test_what_is_wrong_with_the_custom_resource(facts: Facts, verdict: Verdict, words: str) -> None:
    found = only(facts)
    assert (found.subject, found.verdict) == (CRD, verdict)
    assert words in found.text


def test_what_a_pod_says_that_is_being_replaced_does_not_count() -> None:
    ending = pod(ready=False, installer=container("installer", CRASHED))
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert wrong(replace(RIGHT, pods=[ending, pod()])) == []
    assert only(replace(RIGHT, pods=[ending])).verdict is Verdict.LACKS


def test_an_update_under_way_is_told() -> None:
    (told,) = [
        each
        for each in diagnose(replace(RIGHT, daemon_sets=[daemon_set(3, 2, updatedNumberScheduled=1)]))
        if each.subject == "DaemonSet"
    ]
    assert told.text == "zeropod-system/zeropod-node: 2 of 3 nodes ready, 1 of the newest version"


def test_where_nodes_may_not_be_read_their_pods_are_looked_at() -> None:
    broken = pod("node-2", ready=False, installer=container("installer", CRASHED))
    facts = replace(RIGHT, nodes=[], pods=[pod(), broken], unread={"nodes": "nodes is forbidden"})
    assert [(each.subject, each.verdict) for each in wrong(facts)] == [
        ("nodes", Verdict.UNKNOWN),
        ("node-2", Verdict.FAILS),
    ]


@given(st.sampled_from(["", "x", "6", "6.18", "v1.7", "1.7~rc", "containerd://", "://2.0"]), st.text(max_size=9))
def test_no_version_of_a_node_breaks_it(kernel: str, runtime: str) -> None:
    diagnose(replace(RIGHT, nodes=[node(nodeInfo={"kernelVersion": kernel, "containerRuntimeVersion": runtime})]))


# The command


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    made = FakeApi(nursery)
    made.put("/apis/node.k8s.io/v1/runtimeclasses/zeropod", RUNTIME_CLASS)
    made.put("/apis/apps/v1/namespaces/zeropod-system/daemonsets/zeropod-node", daemon_set())
    made.put("/api/v1/namespaces/zeropod-system/pods/zeropod-node-1", pod())
    made.put("/api/v1/nodes/node-1", node())
    made.put(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}", custom_resource())
    return made


@pytest.fixture
async def cluster(api: FakeApi) -> AsyncIterator[Cluster]:
    async with open_client(api) as client:
        yield Cluster(client, "", api.host)


async def run(cluster: Cluster, output: str | None = None) -> int:
    return await doctor.run(cluster, argparse.Namespace(output=output), "default", ())


async def test_a_cluster_where_all_is_right(api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(cluster) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 4
    assert lines[-1].split()[1] == "node-1"
    assert [each.query.get("labelSelector") for each in api.asked[1:3]] == [LABELS] * 2


async def test_what_fails_is_told_with_what_to_do_and_is_status_one(
    api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put("/api/v1/nodes/node-1", node(runtimeHandlers=[{"name": "runc"}]))
    assert await run(cluster) == 1
    *_, line, remedy = capsys.readouterr().out.splitlines()
    assert line.startswith("FAILS  node-1")
    assert remedy.strip().startswith("> Have the installer run again")
    assert await run(cluster, "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in told] == ["ok", "ok", "ok", "FAILS"]


async def test_what_only_lacks_something_is_status_zero(
    api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    api.remove(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}")
    api.put("/apis/apps/v1/namespaces/zeropod-system/daemonsets/zeropod-node", daemon_set(flags=()))
    assert await run(cluster) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["lacks", CRD]


async def test_what_may_not_be_read_is_told_and_is_status_one(
    api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(asked: Asked) -> Answer | None:
        return status(403, "Forbidden", "nodes is forbidden") if asked.path.endswith("/nodes") else None

    api.rule = refuse
    assert await run(cluster) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split()[:2] == ["?", "nodes"]
    assert "nodes is forbidden" in first


async def test_a_server_that_cannot_be_asked_is_an_error_as_ever(api: FakeApi, cluster: Cluster) -> None:
    api.unreachable = True
    with pytest.raises(Unreachable):
        await run(cluster)
    api.unreachable = False
    api.rule = lambda asked: status(401, "Unauthorized", "Unauthorized")
    with pytest.raises(ApiError) as refusal:
        await run(cluster)
    assert refusal.value.status == 401


def test_nothing_but_options_completes_it() -> None:
    assert completion.suggestions(["doctor"], "") == []
    assert "--output" in completion.suggestions(["doctor"], "--")
