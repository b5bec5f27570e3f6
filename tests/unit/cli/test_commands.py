"""What `kubectl zeropod` prints and asks for, against a mock of the API server."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi, status
from trio.testing import MockClock

from zeropod.cli.kubectl import completion, request, top, why
from zeropod.cli.kubectl.cluster import Cluster, CommandError, Nothing, named, words_of
from zeropod.cli.kubectl.columns import ago, milliseconds, table
from zeropod.cli.kubectl.main import COMMANDS, main, make_parser
from zeropod.manager.kube.client import open_client
from zeropod.manager.kube.errors import ApiError, Unreachable
from zeropod.manager.kube.on_demand import Wanted

PATH = "/apis/runtime.zeropod.ctrox.dev/v1/namespaces/shop/zeropods"
SINCE = "2026-01-01T00:00:00.000Z"
NOW = 1767225600.0 + 90

MAIN = {
    "name": "main", "containerID": "c1", "state": "STANDBY", "since": SINCE, "sleeps": 3, "wakes": 2, "maySleep": True,
    "lastWake": SINCE, "lastWakeMilliseconds": 1.25,
    "memory": {"backend": "store", "givenBackBytes": 120 << 20, "leftBytes": 1 << 20},
    "reasons": [{"kind": "asleep", "text": "It sleeps.", "remedy": ""},
                {"kind": "depth", "text": "It stays in STANDBY.", "remedy": "Nothing."}],
}  # fmt: skip
SIDECAR = {
    "name": "side", "containerID": "c2", "state": "RUNNING", "since": SINCE, "sleeps": 0, "wakes": 0, "maySleep": True,
    "why": "exec 7 is running",
}  # fmt: skip


def zeropod(name: str = "web", *containers: Any, **spec: Any) -> dict[str, Any]:
    inner = list(containers or (MAIN,))
    asleep = sum(each["state"] == "STANDBY" for each in inner)
    summary = {
        "asleep": f"{asleep}/{len(inner)}", "state": inner[0]["state"], "sleeps": 3, "wakes": 2, "lastWake": SINCE,
        "lastWakeMilliseconds": 1.25, "nodeName": "node-1", "containers": inner,
    }  # fmt: skip
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec, "status": summary}


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    return FakeApi(nursery)


@pytest.fixture
async def cluster(api: FakeApi) -> AsyncIterator[Cluster]:
    async with open_client(api) as client:
        yield Cluster(client, "", api.host)


def parsed(*arguments: str) -> argparse.Namespace:
    options = make_parser().parse_args(list(arguments))
    options.complaints = []
    options.complain = options.complaints.append
    return options


async def run(cluster: Cluster, *arguments: str) -> tuple[int, argparse.Namespace]:
    options = parsed(*arguments)
    namespace = "" if getattr(options, "all_namespaces", False) else "shop"
    return await COMMANDS[arguments[0]][1](cluster, options, namespace, named(options.pods)), options


async def test_ps(api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    api.put(f"{PATH}/web", zeropod("web", MAIN, SIDECAR))
    assert (await run(cluster, "ps", "-A"))[0] == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["NAMESPACE", "POD", "CONTAINER", "STATE"]
    assert first.split()[:4] == ["shop", "web", "main", "STANDBY"]
    assert first.rstrip().endswith("store 120Mi/1Mi   2       1.2 ms")
    assert second.endswith("exec 7 is running")
    await run(cluster, "ps", "-o", "wide", "--no-headers", "pod/web")
    assert "node-1" in capsys.readouterr().out.splitlines()[0]


async def test_ps_in_json(api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    api.put(f"{PATH}/web", zeropod())
    await run(cluster, "ps", "-o", "json")
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], [each["metadata"]["name"] for each in told["items"]]) == ("List", ["web"])
    await run(cluster, "ps", "-o", "json", "web")
    assert json.loads(capsys.readouterr().out)["metadata"]["name"] == "web"


async def test_ps_of_nothing(cluster: Cluster) -> None:
    with pytest.raises(Nothing, match=r"^No resources found in shop namespace\.$"):
        await run(cluster, "ps")
    with pytest.raises(Nothing, match=r"^No resources found\.$"):
        await run(cluster, "top", "-A")


async def test_ps_watches(
    autojump_clock: MockClock, api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put(f"{PATH}/web", zeropod())
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, cluster, "ps", "--watch")
            await trio.sleep(1)
            api.put(f"{PATH}/web", zeropod("web", MAIN, wanted=1))  # nothing that is shown
            api.put(f"{PATH}/web", zeropod("web", {**MAIN, "state": "RUNNING"}))
            api.bookmark()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["STATE", "STANDBY", "RUNNING"]


async def test_why(api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"source": "Spec", "wanted": "Asleep", "outcome": "Refused", "reason": "exec 7 is running", "at": SINCE}
    api.put(f"{PATH}/web", zeropod("web", {**MAIN, "requests": [refused]}, SIDECAR))
    await run(cluster, "why", "web", "-c", "main")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("web/main: STANDBY for ")
    assert lines[1:4] == ["  asleep      It sleeps.", "  depth       It stays in STANDBY.", "              > Nothing."]
    assert lines[4].endswith("ago: refused, exec 7 is running.")
    await run(cluster, "why", "web")
    assert capsys.readouterr().out.splitlines()[-1] == "  state       exec 7 is running"
    with pytest.raises(CommandError, match="container none is not valid for pod web"):
        await run(cluster, "why", "web", "-c", "none")


def manager(api: FakeApi, outcome: str, **more: Any) -> None:
    """Answers requests as a node's manager does."""

    def answer(asked: Asked) -> Answer | None:
        if asked.method == "PATCH" and asked.body is not None:
            known = api.objects[asked.path]
            spec = asked.body["spec"]
            containers = [
                {**each, "requests": [{"source": "Spec", "wanted": entry["wanted"], "outcome": outcome, "at": SINCE,
                                       "requestedAt": entry["requestedAt"].replace("Z", "+00:00"), **more}]}
                for each in known["status"]["containers"]
                for entry in spec["containers"] if entry["name"] == each["name"]
            ]  # fmt: skip
            said = api.put(asked.path, {**known, "spec": spec})
            api.put(asked.path, {**said, "status": {**known["status"], "containers": containers}})
            return Answer(200, said)
        return None

    api.rule = answer


async def test_sleep(
    autojump_clock: MockClock, api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put(f"{PATH}/web", zeropod())
    manager(api, "Done")
    assert (await run(cluster, "sleep", "web"))[0] == 0
    assert capsys.readouterr().out == "web/main: STANDBY\n"
    (entry,) = api.objects[f"{PATH}/web"]["spec"]["containers"]
    assert (entry["name"], entry["wanted"]) == ("main", "Asleep")
    assert (await run(cluster, "wake", "web"))[0] == 0
    assert capsys.readouterr().out == "web/main: STANDBY, woke in 1.2 ms\n"


async def test_a_refusal_fails(autojump_clock: MockClock, api: FakeApi, cluster: Cluster) -> None:
    api.put(f"{PATH}/web", zeropod())
    manager(api, "Refused", reason="it never sleeps")
    code, options = await run(cluster, "sleep", "web")
    assert (code, options.complaints) == (1, ["web/main: it never sleeps"])


async def test_a_manager_that_does_not_answer(autojump_clock: MockClock, api: FakeApi, cluster: Cluster) -> None:
    api.put(f"{PATH}/web", zeropod())
    began = trio.current_time()
    with pytest.raises(CommandError, match="the manager of node-1 has not answered within 60 s"):
        await run(cluster, "sleep", "web", "--timeout", "1m")
    assert 60 <= trio.current_time() - began < 61
    assert (await run(cluster, "sleep", "web", "--no-wait"))[0] == 0


async def test_a_change_at_the_same_time_is_kept(
    autojump_clock: MockClock, api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put(f"{PATH}/web", zeropod("web", MAIN, SIDECAR))
    others = [{"name": "side", "wanted": "Awake", "requestedAt": SINCE}]

    def first(asked: Asked) -> Answer | None:
        if asked.method != "PATCH":
            return None
        manager(api, "Done")
        api.put(f"{PATH}/web", {**api.objects[f"{PATH}/web"], "spec": {"containers": others}})
        return status(409, "Conflict")

    api.rule = first
    assert (await run(cluster, "sleep", "web", "-c", "main"))[0] == 0
    assert [each["name"] for each in api.objects[f"{PATH}/web"]["spec"]["containers"]] == ["side", "main"]


def test_what_is_asked_for_comes_beside_what_others_ask() -> None:
    resource = zeropod("web", containers=[{"name": "side", "wanted": "Awake"}, {"name": "main", "wanted": "Awake"}])
    resource["metadata"]["resourceVersion"] = "7"
    made = request.patch(resource, ["main"], Wanted.ASLEEP, SINCE)
    assert made["metadata"] == {"resourceVersion": "7"}
    assert made["spec"]["containers"] == [
        {"name": "side", "wanted": "Awake"},
        {"name": "main", "wanted": "Asleep", "requestedAt": SINCE},
    ]


async def test_top(api: FakeApi, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    little = {**MAIN, "memory": {"backend": "swap", "givenBackBytes": 5 << 20, "leftBytes": 0}}
    api.put(f"{PATH}/a", zeropod("a", little))
    api.put(f"{PATH}/b", zeropod("b"))
    await run(cluster, "top", "--sum")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["POD", "b", "a", "total"]
    assert lines[3].split() == ["total", "2/2", "125Mi", "1Mi", "6", "4"]


def test_what_has_no_memory_out_counts_as_nothing() -> None:
    assert top.row_of(zeropod("web", SIDECAR), now=NOW)[1:4] == ["0/1", "0", "0"]


def test_times() -> None:
    assert (ago(SINCE, NOW), ago(None), ago("nonsense")) == ("1m30s", "-", "<unknown>")
    assert [milliseconds(each) for each in (None, 0.94, 12.5)] == ["-", "0.9 ms", "12 ms"]


def test_columns_stay_as_wide_as_they_were() -> None:
    widths: list[int] = []
    assert table(("A", "B"), [["long", "x"]], widths) == "A      B\nlong   x\n"
    assert table(("A", "B"), [["s", "y"]], widths, show=False) == "s      y\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiError(404, "NotFound", 'x "y" not found'), 'Error from server (NotFound): x "y" not found'),
        (ApiError(403, "Forbidden", "no"), "Error from server (Forbidden): no"),
        (ApiError(401, "Unauthorized", "no"), "error: You must be logged in to the server (Unauthorized)"),
        (ApiError(404, "", "404 page not found"), 'error: the server doesn\'t have a resource type "zeropods"'),
        (Unreachable("gone"), "Unable to connect to the server: gone"),
    ],
)
def test_errors_in_kubectls_words(error: ApiError, words: str) -> None:
    assert words_of(error, "api:6443").startswith(words)


def test_a_refused_connection_is_told_as_kubectl_does() -> None:
    error = Unreachable("gone")
    error.__cause__ = OSError("all attempts failed")
    error.__cause__.__cause__ = ExceptionGroup("", [ConnectionRefusedError()])
    assert words_of(error, "api:6443") == (
        "The connection to the server api:6443 was refused - did you specify the right host or port?"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rest"], 'error: unknown command "rest" for "kubectl zeropod"'),
        (["ps", "-A", "web"], "error: a resource cannot be retrieved by name across all namespaces"),
        (["why", "deploy/web"], 'error: "deploy/web" is not a pod'),
    ],
)
def test_what_cannot_be_asked_for(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize(
    "arguments", [["ps", "-o", "xml"], ["sleep"], ["sleep", "web", "--timeout", "soon"], ["ps", "--x"]]
)
def test_a_wrong_option_is_status_1(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_completion_knows_the_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["w"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["why", "wake", ":4"]
    assert "--sort-by" in completion.suggestions(["top"], "--s")
    assert completion.suggestions(["top", "--sort-by"], "") == ["memory", "sleeps", "wakes"]
    assert completion.suggestions(["nothing"], "") == []


def test_completion_never_complains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert completion.main(["why", ""]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (":4\n", "")


def test_which_container_is_meant() -> None:
    assert [each["name"] for each in why.chosen(zeropod("web", MAIN, SIDECAR))] == ["main", "side"]


NOT_ON_MACOS = ("TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "AF_NETLINK", "AF_PACKET")


def test_it_starts_and_connects_where_sockets_have_none_of_linuxs_options() -> None:
    program = f"""
import socket
import ssl
for name in {NOT_ON_MACOS}:
    delattr(socket, name)
    socket.__all__.remove(name)
import trio
from zeropod.cli.kubectl.main import main
from zeropod.manager.kube.access import TlsAccess
from zeropod.manager.kube.errors import Unreachable

async def ask():
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, lambda stream: stream.aclose(), [listener])
        try:
            port = listener.socket.getsockname()[1]
            await TlsAccess("127.0.0.1", port, ssl.create_default_context).connect()
        except Unreachable as error:
            print(error)
        nursery.cancel_scope.cancel()

trio.run(ask)
main(["--version"])
"""
    command, env = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    connected, version = done.stdout.splitlines() or ["", done.stderr]
    assert connected.startswith("no TLS with the API server"), done.stderr
    assert version.startswith("zeropod ")
