"""The custom resource and `kubectl zeropod`, on a real API server: schema, rights, requests, and what is printed."""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import pki, services
from tests.cluster.impersonation import MERGE, ask_as_a_manager, patch_as_a_manager
from tests.cluster.kube import KubectlError, Object, kubectl, until
from tests.cluster.pods import PREFIX, Place, Pod, annotations, ask
from tests.integration.patience import patient

PLUGIN = Path("/usr/local/bin/kubectl-zeropod")
COMPLETION = Path("/usr/local/bin/kubectl_complete-zeropod")
AWAKE = annotations(scaledown_duration="1h")
"""Asleep only when it is told to."""
HEADINGS = ["NAME", "ASLEEP", "STATE", "SINCE", "GIVEN", "BACK", "WAKES", "LAST", "WAKE", "TOOK", "MS", "WHY"]


@pytest.fixture(scope="session", autouse=True)
def plugin() -> None:
    for link in (PLUGIN, COMPLETION):
        with suppress(FileExistsError):  # several test processes make it
            link.symlink_to("/src/build/zeropod.pyz")


def zeropod(place: Place, name: str) -> Object:
    """A pod's custom resource; empty where there is none."""
    try:
        found: Object = json.loads(place.kubectl("get", "zeropod", name, "-o", "json"))
    except KubectlError:
        return {}
    return found


def said(place: Place, name: str, of: str = "main") -> Object:
    """What the resource says of a container."""
    containers = zeropod(place, name).get("status", {}).get("containers", [])
    return next((each for each in containers if each["name"] == of), {})


def until_said(place: Place, name: str, state: str, of: str = "main", seconds: float = 20.0) -> Object:
    def is_so() -> Object | None:
        found = said(place, name, of)
        return found if found.get("state") == state else None

    return until(is_so, f"the zeropod of {name}/{of} says {state}", seconds)


def run(place: Place, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`kubectl zeropod`, with whatever status it ends."""
    return subprocess.run(
        ["kubectl", "zeropod", *arguments, "-n", place.name],
        capture_output=True, text=True, timeout=patient(60), check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip


def good(place: Place, *arguments: str) -> str:
    done = run(place, *arguments)
    assert done.returncode == 0, done
    return done.stdout


def want(place: Place, name: str, wanted: Any, **more: Any) -> None:
    patch = {"spec": {"containers": [{"name": "main", "wanted": wanted, **more}]}}
    place.kubectl("patch", "zeropod", name, "--type=merge", "-p", json.dumps(patch))


def request_of(place: Place, name: str, source: str) -> Object | None:
    return next((each for each in said(place, name).get("requests", ()) if each["source"] == source), None)


@pytest.fixture
def awake(place: Place) -> Pod:
    pod = place.pod("web", annotated=AWAKE)
    until_said(place, "web", "RUNNING")
    return pod


def test_it_says_what_the_shim_says(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    asleep = until_said(place, "web", "STANDBY")
    assert asleep["containerID"] == pod.says()["id"]
    assert asleep["sleeps"] >= 1
    assert ask(pod.ip).status == 200
    woken = until(lambda: each if (each := said(place, "web")).get("wakes") else None, "a wake is told", 20)
    assert woken["lastWakeMilliseconds"] > 0
    resource = zeropod(place, "web")
    (owner,) = resource["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "web", pod.now["metadata"]["uid"])
    printed = place.kubectl("get", "zeropods").splitlines()
    assert printed[0].split() == HEADINGS
    assert printed[1].split()[:2] in (["web", "0/1"], ["web", "1/1"])
    pod.delete(grace=0)
    until(lambda: not zeropod(place, "web"), "it is gone with its pod", 40)


def test_one_that_was_deleted_comes_back(place: Place, awake: Pod) -> None:
    uid = zeropod(place, "web")["metadata"]["uid"]
    place.kubectl("delete", "zeropod", "web")
    until_said(place, "web", "RUNNING")
    assert zeropod(place, "web")["metadata"]["uid"] != uid


def test_a_new_pod_of_the_name_is_another_pod(place: Place, awake: Pod) -> None:
    want(place, "web", "Asleep")
    awake.until_asleep(seconds=10)
    until(lambda: request_of(place, "web", "Spec"), "the outcome is told", 10)
    before = awake.now["metadata"]["uid"]
    awake.delete(grace=0)
    awake.until_gone()
    pod = place.pod("web", annotated=AWAKE)
    uid = pod.now["metadata"]["uid"]
    assert uid != before

    def is_its() -> bool:
        owners = zeropod(place, "web").get("metadata", {}).get("ownerReferences", [])
        return [each["uid"] for each in owners] == [uid]

    until(is_its, "the zeropod belongs to the new pod", 20)
    until_said(place, "web", "RUNNING")
    pod.stays("RUNNING", seconds=4)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "main", "wanted": "Dozing"},
        {"name": "main"},
        {"wanted": "Asleep"},
        {"name": "Not A Name", "wanted": "Asleep"},
        {"name": "main", "wanted": "Asleep", "requestedAt": "yesterday"},
        {"name": "main", "wanted": 1},
    ],
    ids=json.dumps,
)
def test_the_server_refuses_a_bad_value(place: Place, entry: Object) -> None:
    body = {
        "apiVersion": "runtime.zeropod.ctrox.dev/v1",
        "kind": "Zeropod",
        "metadata": {"name": "web"},
        "spec": {"containers": [entry]},
    }
    with pytest.raises(KubectlError, match=r"invalid|Invalid|must be|required|Unsupported"):
        place.kubectl("create", "-f", "-", stdin=json.dumps(body))


def test_wanted_asleep_and_awake(place: Place, awake: Pod) -> None:
    want(place, "web", "Asleep")
    awake.until_asleep(seconds=10)
    done = until(lambda: request_of(place, "web", "Spec"), "the outcome is told", 10)
    assert (done["wanted"], done["outcome"]) == ("Asleep", "Done")
    # It is a request and not a rule: traffic wakes it.
    assert ask(awake.ip).status == 200
    awake.stays("RUNNING", seconds=3)
    want(place, "web", "Asleep", requestedAt="2026-01-01T00:00:00Z")
    awake.until_asleep(seconds=10)
    want(place, "web", "Awake")
    awake.until_awake()
    until_said(place, "web", "RUNNING")


def test_the_annotation_does_the_same(place: Place, awake: Pod) -> None:
    place.kubectl("annotate", "pod", "web", f"{PREFIX}/wanted=Asleep")
    awake.until_asleep(seconds=10)
    place.kubectl("annotate", "--overwrite", "pod", "web", f"{PREFIX}/wanted=main=Awake")
    awake.until_awake()
    place.kubectl("annotate", "--overwrite", "pod", "web", f"{PREFIX}/wanted=later")
    until(lambda: "later" in zeropod(place, "web")["status"].get("problem", ""), "what is wrong is told", 10)


def test_one_that_may_not_sleep_says_why(place: Place) -> None:
    never = annotations(container_names="other")
    pod = place.pod("web", annotated=never)
    until_said(place, "web", "RUNNING")
    want(place, "web", "Asleep")
    done = until(lambda: request_of(place, "web", "Spec"), "the outcome is told", 10)
    assert done["outcome"] == "Refused"
    assert "container-names" in done["reason"]
    assert pod.state() == "RUNNING"


def test_another_pod_of_the_name_is_not_meant(place: Place, awake: Pod, api: Any) -> None:
    # In another namespace, and with the uid of this pod as its owner.
    other = f"{place.name}-b"
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": awake.now["metadata"]["uid"]}
    api.create("namespaces", {"metadata": {"name": other}})
    try:
        body = {
            "apiVersion": "runtime.zeropod.ctrox.dev/v1",
            "kind": "Zeropod",
            "metadata": {
                "name": "web",
                "namespace": other,
                "ownerReferences": [owner],
                "labels": zeropod(place, "web")["metadata"]["labels"],
            },
            "spec": {"containers": [{"name": "main", "wanted": "Asleep"}]},
        }
        kubectl("create", "-f", "-", stdin=json.dumps(body))
        awake.stays("RUNNING", seconds=5)
    finally:
        api.delete("namespaces", other)


def test_the_plugin(place: Place, awake: Pod) -> None:
    (heading, line) = good(place, "ps").splitlines()
    assert heading.split()[:4] == ["POD", "CONTAINER", "STATE", "FOR"]
    assert line.split()[:3] == ["web", "main", "RUNNING"]
    assert good(place, "sleep", "web") == "web/main: STANDBY\n"
    assert awake.sleeps()
    assert good(place, "why", "pod/web").splitlines()[0].startswith("web/main: STANDBY for ")
    listed = json.loads(good(place, "ps", "-o", "json"))
    assert [each["metadata"]["name"] for each in listed["items"]] == ["web"]
    woken = good(place, "wake", "web", "-c", "main")
    assert woken.startswith("web/main: RUNNING, woke in ")
    assert good(place, "top").splitlines()[1].split()[:2] == ["web", "0/1"]
    everywhere = subprocess.run(["kubectl", "zeropod", "ps", "-A"], capture_output=True, text=True, check=True)
    assert place.name in everywhere.stdout


def test_the_plugin_watches(place: Place, awake: Pod) -> None:
    process = subprocess.Popen(
        ["kubectl", "zeropod", "ps", "-n", place.name, "--watch"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "POD" in process.stdout.readline()
        assert "RUNNING" in process.stdout.readline()
        want(place, "web", "Asleep")
        # Another reason to be awake may be told first.
        assert any("STANDBY" in line for line in process.stdout)
    finally:
        process.kill()
        process.communicate()


def test_the_dashboard(place: Place, awake: Pod) -> None:
    process = subprocess.Popen(["kubectl", "zeropod", "dashboard", "-n", place.name], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"Serving (http://127\.0\.0\.1:\d+/[\w-]+/) until Ctrl-C\.\n", process.stdout.readline())
        assert found

        def told() -> Object:
            with urllib.request.urlopen(found[1] + "data.json", timeout=patient(20)) as answer:
                said: Object = json.load(answer)
            return said

        (before,) = told()["containers"]
        assert (before["pod"], before["name"], before["state"]) == ("web", "main", "RUNNING")
        assert before["node"]
        good(place, "sleep", "web")
        until(lambda: told()["containers"][0]["state"] == "STANDBY", "the dashboard shows it asleep", 20)
        good(place, "wake", "web")
        until(lambda: told()["containers"][0]["wokeMs"] > 0, "the dashboard shows the wake", 20)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=patient(20))
    assert process.returncode == 130


def test_what_the_plugin_cannot_do(place: Place) -> None:
    for arguments, status, words in (
        (("why", "nothing"), 1, 'Error from server (NotFound): zeropods.runtime.zeropod.ctrox.dev "nothing" not found'),
        (("ps",), 0, f"No resources found in {place.name} namespace."),
        (("ps", "-o", "xml"), 1, "unable to match a printer"),
        (("rest",), 1, 'error: unknown command "rest" for "kubectl zeropod"'),
        (("ps", "--context", "elsewhere"), 1, 'error: context "elsewhere" does not exist'),
    ):
        done = run(place, *arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert words in done.stderr
    unreachable = json.loads(pki.ADMIN.read_text())
    unreachable["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = Path("/tmp/unreachable.conf")
    path.write_text(json.dumps(unreachable))
    done = run(place, "ps", "--kubeconfig", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "The connection to the server 127.0.0.1:1 was refused" in done.stderr


def test_a_refused_sleep_fails(place: Place) -> None:
    place.pod("web", annotated=annotations(container_names="other"))
    until_said(place, "web", "RUNNING")
    done = run(place, "sleep", "web")
    assert done.returncode == 1
    assert done.stderr.startswith("error: web/main: cannot put main to sleep")


def test_completion(place: Place, awake: Pod) -> None:
    def completed(*words: str) -> list[str]:
        done = subprocess.run([str(COMPLETION), *words], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert completed("w")[-1] == ":4"
    assert {line.partition("\t")[0] for line in completed("w")[:-1]} == {"why", "wake"}
    assert completed("sleep", "-n", place.name, "") == ["web", ":4"]
    assert completed("sleep", "web", "-n", place.name, "-c", "") == ["main", ":4"]
    # As a shell asks, through kubectl itself.
    through = subprocess.run(["kubectl", "__complete", "zeropod", "wh"], capture_output=True, text=True, check=True)
    assert "why" in through.stdout


@pytest.fixture
def people(place: Place) -> Iterator[dict[str, Path]]:
    """Kubeconfigs of people who may view and edit the namespace, by the usual roles."""
    configs = {}
    for role in ("view", "edit"):
        place.kubectl("create", "serviceaccount", role)
        place.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--serviceaccount={place.name}:{role}")
        token = place.kubectl("create", "token", role).strip()
        admin = json.loads(pki.ADMIN.read_text())
        admin["users"] = [{"name": "user", "user": {"token": token}}]
        configs[role] = Path(f"/tmp/{place.name}-{role}.conf")
        configs[role].write_text(json.dumps(admin))
    yield configs
    for path in configs.values():
        path.unlink()


def test_a_viewer_may_look_and_an_editor_may_ask(place: Place, awake: Pod, people: dict[str, Path]) -> None:
    def viewed() -> bool:  # the roles are aggregated by a controller, moments after they are made
        return run(place, "ps", "--kubeconfig", str(people["view"])).returncode == 0

    until(viewed, "a viewer sees it", 20)
    refused = run(place, "sleep", "web", "--kubeconfig", str(people["view"]))
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error from server (Forbidden): ")
    assert awake.state() == "RUNNING"
    done = run(place, "sleep", "web", "--kubeconfig", str(people["edit"]))
    assert (done.returncode, done.stdout) == (0, "web/main: STANDBY\n"), done
    change = ["--subresource=status", "--type=merge", "-p", '{"status":{"why":"mine"}}']
    for config in people.values():
        with pytest.raises(KubectlError, match="Forbidden"):
            kubectl("--kubeconfig", str(config), "-n", place.name, "patch", "zeropod", "web", *change)


def test_credentials_of_a_program(place: Place, awake: Pod, people: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads(people["view"].read_text())
    token = config["users"][0]["user"]["token"]
    program = tmp_path / "login"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    program.write_text(f"#!/bin/sh\ntest -n \"$KUBERNETES_EXEC_INFO\" && echo '{json.dumps(credential)}'\n")
    program.chmod(0o755)
    wanted = {"apiVersion": credential["apiVersion"], "command": "./login", "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": wanted}
    path = tmp_path / "config.yaml"
    # As people write them, and with a path relative to the file.
    path.write_text("# mine\n" + json.dumps(config))
    until(lambda: run(place, "ps", "--kubeconfig", str(path)).returncode == 0, "it logs in by a program", 20)


def test_a_manager_is_held_to_its_own_zeropods_and_wants_nothing(place: Place, awake: Pod) -> None:
    listed = f"/apis/runtime.zeropod.ctrox.dev/v1/namespaces/{place.name}/zeropods"
    path = f"{listed}/web"
    label = {"zeropod.ctrox.dev/node-name": "node-2"}
    wrong = {"spec": {"containers": [{"name": "main", "wanted": "Asleep"}]}}
    assert "is for people" in patch_as_a_manager(path, "node-1", wrong, MERGE)
    assert "its own node" in patch_as_a_manager(path, "node-2", {"metadata": {"annotations": {"a": "b"}}}, MERGE)
    assert "its own node" in patch_as_a_manager(path, "node-1", {"metadata": {"labels": label}}, MERGE)
    assert "its own node" in patch_as_a_manager(f"{path}/status", "node-2", {"status": {"why": "mine"}}, MERGE)
    new: Object = {"apiVersion": "runtime.zeropod.ctrox.dev/v1", "kind": "Zeropod", "metadata": {"name": "new"}}
    assert "its own node" in ask_as_a_manager("POST", listed, "node-2", new, "application/json")
    new["metadata"]["labels"] = label
    assert "is for people" in ask_as_a_manager("POST", listed, "node-2", {**new, **wrong}, "application/json")
    assert ask_as_a_manager("POST", listed, "node-2", new, "application/json") == ""
    # What people want is kept while the manager writes the status.
    want(place, "web", "Asleep")
    awake.until_asleep(seconds=10)
    until(lambda: request_of(place, "web", "Spec"), "the outcome is told", 10)


@pytest.mark.alone
def test_what_is_wanted_while_the_manager_is_away_is_done_once(place: Place, awake: Pod) -> None:
    manager = [
        "-n",
        "zeropod-system",
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/name=zeropod",
        "--grace-period=0",
        "--force",
    ]
    kubectl(*manager)
    want(place, "web", "Asleep")
    awake.until_asleep()
    until(lambda: request_of(place, "web", "Spec"), "the outcome is told", 60)
    assert ask(awake.ip).status == 200
    kubectl(*manager)
    until(lambda: said(place, "web").get("wakes"), "what happened meanwhile is told", 60)
    awake.stays("RUNNING", seconds=3)


@pytest.mark.alone
def test_all_is_right_soon_after_the_api_server_was_away(place: Place, awake: Pod) -> None:
    sleeper = place.pod("sleeper").until_asleep()
    until_said(place, "sleeper", "STANDBY")
    address = sleeper.ip
    with services.stopped("kube-apiserver", signal.SIGKILL):
        assert ask(address).status == 200
        sleeper.until_asleep()
        wakes = sleeper.says()["restores"]
    until(lambda: said(place, "sleeper").get("wakes") == wakes, "each wake is told", 60)
    until_said(place, "sleeper", "STANDBY")
    want(place, "web", "Asleep")
    awake.until_asleep(seconds=20)
