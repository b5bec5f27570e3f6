"""Two nodes' managers and the API server: claims, identities, rights. What moves is in `test_migration`."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from tests.cluster.impersonation import MERGE, ask_as_a_manager, patch_as_a_manager
from tests.cluster.kube import Api, KubectlError, Object, kubectl, until
from tests.cluster.node_calls import call, manager_of
from tests.cluster.pki import ADMIN
from tests.cluster.pods import Place, Pod, annotations, container, environment

from zeropod.cli.kubectl import to_node
from zeropod.cli.kubectl.cluster import Cluster
from zeropod.cli.kubectl.login import target
from zeropod.manager.kube.client import open_client
from zeropod.manager.migration.pods import read_pod

MIGRATIONS = "/apis/runtime.zeropod.ctrox.dev/v1"
# What serves in the place of the shim holds the pod until its migration is over.
HOLDS = container(env=environment(END_SECONDS=25))


@pytest.fixture(autouse=True)
def both(api: Api) -> None:
    if len(api.get("nodes")["items"]) < 2:
        pytest.skip("this cluster has one node")
    if not api.answers(f"{MIGRATIONS}/migrations"):
        pytest.skip("this cluster has no component migration")


@pytest.fixture
def on_one_then_two(place: Place) -> Iterator[Callable[[], None]]:
    """New pods come to node-1; once it is called, to node-2."""
    kubectl("cordon", "node-2")

    def turn() -> None:
        kubectl("cordon", "node-1")
        kubectl("uncordon", "node-2")

    yield turn
    kubectl("uncordon", "node-1", "node-2")


def moving(pod: Pod, uid: str = "") -> dict[str, str]:
    return {"namespace": "k8s.io", "id": "x", "pod_namespace": pod.place.name, "pod": pod.name, "container": "main",
            "pod_uid": uid or pod.now["metadata"]["uid"]}  # fmt: skip


def migration(place: Place, name: str) -> Object:
    found: Object = json.loads(place.api.text("GET", f"{MIGRATIONS}/namespaces/{place.name}/migrations/{name}"))
    return found


def has(architecture: str = "x86_64") -> dict[str, Any]:
    return {"architecture": architecture, "kernel": "6.18.0", "criu": "4.2", "page_size": 4096}


def leave(place: Place, turn: Callable[[], None]) -> Pod:
    """A pod on node-1 that is being deleted, and held there."""
    options: dict[str, Any] = {"terminationGracePeriodSeconds": 40, "annotated": annotations(migrate="main")}
    place.deployment("web", HOLDS, **options)
    (pod,) = place.ready_pods("web", 1)
    assert pod.now["spec"]["nodeName"] == "node-1"
    turn()
    pod.delete()
    return pod


def replacement(place: Place) -> Pod:
    def found() -> Pod | None:
        pods = [each for each in place.pods("web") if each.now["spec"].get("nodeName") == "node-2"]
        return pods[0] if pods else None

    return until(found, "its replacement is scheduled to node-2")


def claimed(place: Place, name: str) -> Object | None:
    found = migration(place, name)
    return found if found["spec"].get("targetPodUID") else None


def test_a_scale_down_waits_for_nothing(place: Place, api: Api) -> None:
    options: dict[str, Any] = {"terminationGracePeriodSeconds": 40, "annotated": annotations(migrate="main")}
    place.deployment("web", HOLDS, replicas=2, **options)
    before = {pod.name: pod for pod in place.ready_pods("web", 2)}
    place.kubectl("scale", "deployment/web", "--replicas=1")
    (left,) = until(lambda: before.keys() - {pod.name for pod in place.pods("web")}, "one leaves")
    pod = before[left]
    node = str(pod.now["spec"]["nodeName"])
    answer = call(api, node, "PrepareEvac", container=moving(pod), asleep=True, offline=True, needs=has())
    assert "its ReplicaSet wants 1" in answer["why"]
    assert json.loads(api.text("GET", f"{MIGRATIONS}/namespaces/{place.name}/migrations"))["items"] == []


def test_a_namespace_ends_with_what_is_under_way(place: Place, on_one_then_two: Callable[[], None], api: Api) -> None:
    pod = leave(place, on_one_then_two)
    until(lambda: api.answers(f"{MIGRATIONS}/namespaces/{place.name}/migrations/{pod.name}"), "it is made")
    assert "finalizers" not in migration(place, pod.name)["metadata"]
    api.delete("namespaces", place.name)
    until(lambda: not api.answers(f"/api/v1/namespaces/{place.name}"), "the namespace is gone", 90)
    api.create("namespaces", {"metadata": {"name": place.name}})


def spec_of(pod: Pod, **more: Any) -> Object:
    uid = pod.now["metadata"]["uid"]
    return {"containers": [{"name": "main", "id": "x"}], "podTemplateHash": "", "restoreReady": False,
            "sourceNode": "node-1", "sourcePod": pod.name, "sourcePodUID": uid, "ownerUID": "", "revision": "",
            "ordinal": "", **more}  # fmt: skip


def test_what_the_api_server_refuses(place: Place) -> None:
    pod = place.pod("web")
    path = f"{MIGRATIONS}/namespaces/{place.name}/migrations"
    body = {"apiVersion": "runtime.zeropod.ctrox.dev/v1", "kind": "Migration", "metadata": {"name": "web"}}
    json_type = "application/json"
    # A manager makes those of its own node, and claims for pods of its own.
    assert "from its own node" in ask_as_a_manager("POST", path, "node-2", {**body, "spec": spec_of(pod)}, json_type)
    assert ask_as_a_manager("POST", path, "node-1", {**body, "spec": spec_of(pod)}, json_type) == ""
    claim = {"spec": {"targetPod": "web-2", "targetPodUID": "u2", "targetNode": "node-2"}}
    assert "its own node alone" in patch_as_a_manager(f"{path}/web", "node-1", claim, MERGE)
    assert patch_as_a_manager(f"{path}/web", "node-2", claim, MERGE) == ""
    other = {"spec": {"targetPod": "web-3", "targetPodUID": "u3", "targetNode": "node-2"}}
    assert "claimed already" in patch_as_a_manager(f"{path}/web", "node-2", other, MERGE)
    assert "from its own node, or to it" in patch_as_a_manager(f"{path}/web/status", "node-3", {"status": {}}, MERGE)
    moved = {"spec": {"sourcePodUID": "another"}}
    assert "not changed" in patch_as_a_manager(f"{path}/web", "node-1", moved, MERGE)


def test_a_manager_has_tokens_of_its_own_pod_alone(place: Place, api: Api) -> None:
    """With its own credential: it could be another node's otherwise."""
    own, other = (api.get("pods", manager_of(api, node), "zeropod-system") for node in ("node-1", "node-2"))

    def ask(pod: Object, audience: str = "zeropod-migration/x/client", account: str = "zeropod-node") -> Object:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                 "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound}}  # fmt: skip
        code = (
            "import json, ssl, sys, urllib.request, urllib.error, os\n"
            "place = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
            "url = f\"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}\"\n"
            "asked = urllib.request.Request(url + sys.argv[1], sys.argv[2].encode(), {\n"
            "    'Authorization': 'Bearer ' + open(place + 'token').read(), 'Content-Type': 'application/json'})\n"
            "context = ssl.create_default_context(cafile=place + 'ca.crt')\n"
            "try: print(urllib.request.urlopen(asked, context=context, timeout=30).read().decode())\n"
            "except urllib.error.HTTPError as error: print(error.read().decode())\n"
        )
        path = f"/api/v1/namespaces/zeropod-system/serviceaccounts/{account}/token"
        command = ["exec", "-n", "zeropod-system", "-c", "manager", own["metadata"]["name"], "--"]
        made: Object = json.loads(kubectl(*command, "/usr/bin/python3", "-c", code, path, json.dumps(asked)))
        return made

    made = ask(own)
    review: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
              "spec": {"token": made["status"]["token"], "audiences": ["zeropod-migration/x/client"]}}  # fmt: skip
    told = json.loads(api.text("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review))["status"]
    assert told["authenticated"] is True
    assert told["user"]["extra"]["authentication.kubernetes.io/node-name"] == ["node-1"]
    review["spec"]["audiences"] = ["zeropod-migration/x/server"]
    told = json.loads(api.text("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review))["status"]
    assert "authenticated" not in told
    assert "its own pod alone" in ask(other)["message"]
    assert "for other managers alone" in ask(own, "https://kubernetes.default.svc")["message"]
    assert ask(own, account="default")["reason"] == "Forbidden"


def test_a_replica_set_adopts_the_pod_of_a_person_s_choice(place: Place) -> None:
    place.deployment("web", HOLDS, terminationGracePeriodSeconds=40)
    (old,) = place.ready_pods("web", 1)
    node = "node-2" if old.now["spec"]["nodeName"] == "node-1" else "node-1"

    async def move() -> str:
        found, access = target(os.environ, str(ADMIN), "")
        async with open_client(access) as client:
            cluster = Cluster(client, found.prefix, access.host)
            pod = read_pod(old.now)
            made = await to_node.prepare(cluster, pod, ["main"], node)
            assert "nodeName" not in made["spec"]
            await to_node.place(cluster, made, node, 30)
            old.delete()
            await to_node.hand_over(cluster, made, pod)
            return str(made["metadata"]["name"])

    name = trio.run(move)
    (new,) = place.ready_pods("web", 1)
    assert new.name == name
    assert new.now["spec"]["nodeName"] == node
    owners = new.now["metadata"]["ownerReferences"]
    assert [(each["kind"], each.get("controller")) for each in owners] == [("ReplicaSet", True)]
    old.until_gone(60)
    assert [pod.name for pod in place.pods("web")] == [name]


def test_what_a_person_may(place: Place) -> None:
    for role, verb, expected in (("view", "list", "yes"), ("view", "create", "no"), ("edit", "create", "yes")):
        place.kubectl("create", "rolebinding", f"{role}-{verb}", f"--clusterrole={role}", f"--user={role}-{verb}")
        ask = partial(place.kubectl, "auth", "can-i", verb, "migrations.runtime.zeropod.ctrox.dev")

        def answered(ask: Callable[..., str] = ask, user: str = f"{role}-{verb}") -> str:
            try:
                return ask(f"--as={user}").strip()
            except KubectlError as error:
                return "no" if "no" in str(error) else str(error)

        assert answered() == expected
