"""`kubectl zeropod dashboard`: the page of a cluster, over a mock of the API server and real TCP."""

import argparse
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.unit.cli.test_commands import MAIN, PATH, SIDECAR, parsed, zeropod
from tests.unit.manager.kube.fake_api import FakeApi, status
from tests.unit.manager.test_web import Server

from zeropod.cli.kubectl import completion, dashboard
from zeropod.cli.kubectl.cluster import Cluster, CommandError
from zeropod.manager.kube.client import open_client
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.node import Node
from zeropod.manager.page.history import Container


@asynccontextmanager
async def dashboards(
    api: FakeApi, capsys: pytest.CaptureFixture[str], *arguments: str
) -> AsyncIterator[tuple[Server, str]]:
    """Its server and its secret, until the end of the block."""
    options: argparse.Namespace = parsed("dashboard", *arguments)
    async with open_client(api) as client, trio.open_nursery() as nursery:
        cluster = Cluster(client, "", api.host, "test-cluster")
        nursery.start_soon(dashboard.run, cluster, options, "shop", ())
        said = ""
        with trio.fail_after(20):
            while not (found := re.search(r"Serving http://127\.0\.0\.1:(\d+)/([\w-]{32})/ until Ctrl-C\.\n", said)):
                await trio.sleep(0.01)
                said += capsys.readouterr().out
        yield Server(Node(), int(found[1])), found[2]
        nursery.cancel_scope.cancel()


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    return FakeApi(nursery)


async def test_it_shows_the_cluster_and_what_changes_there(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.put(f"{PATH}/web", zeropod("web", MAIN, SIDECAR))
    async with dashboards(api, capsys) as (server, secret):
        page, headers, _ = await server.ask(f"/{secret}/")
        assert (page, headers["content-type"]) == (200, "text/html; charset=utf-8")
        told = json.loads((await server.ask(f"/{secret}/data.json"))[2])
        assert (told["kind"], told["name"], told["problem"]) == ("cluster", "test-cluster · shop", "")
        main, side = told["containers"]
        assert (main["pod"], main["name"], main["node"], main["state"]) == ("web", "main", "node-1", "STANDBY")
        assert (main["out"], main["wokeMs"]) == (120 << 20, 1.25)
        assert main["reasons"][1] == ["depth", "It stays in STANDBY.", "Nothing."]
        assert side["why"] == "exec 7 is running"

        async def until(count: int) -> dict[str, Any]:
            after = f"run={told['run']}&after={told['sequence']}"
            with trio.fail_after(20):
                while True:
                    new: dict[str, Any] = json.loads((await server.ask(f"/{secret}/data.json?{after}"))[2])
                    if len(new["containers"]) == count:
                        return new
                    await trio.sleep(0.05)

        woken = {**MAIN, "state": "RUNNING", "since": "2026-01-01T00:05:00.000Z", "wakes": 3,
                 "lastWake": "2026-01-01T00:05:00.000Z", "lastWakeMilliseconds": 2.5}  # fmt: skip
        api.put(f"{PATH}/web", zeropod("web", woken))
        new = await until(1)
        assert new["gone"] == [side["id"]]
        assert new["containers"][0]["rows"] == [[1767225900.0, 0, 2.5, 1, 120 << 20]]


async def test_an_api_server_that_is_away_is_told_on_the_page(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.put(f"{PATH}/web", zeropod("web"))
    async with dashboards(api, capsys) as (server, secret):
        api.unreachable = True
        await api.break_connections()
        problem, count = "", 0
        with trio.fail_after(20):
            while not problem:
                told = json.loads((await server.ask(f"/{secret}/data.json"))[2])
                problem, count = told["problem"], len(told["containers"])
        assert problem.startswith("The API server is not heard of: ")
        assert count == 1, "what was known stays"


async def test_nothing_is_served_without_the_secret(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.put(f"{PATH}/web", zeropod("web"))
    async with dashboards(api, capsys) as (server, secret):
        for path in (
            "/",
            "/data.json",
            "//data.json",
            f"/{secret}",
            f"/{secret[:-1]}/",
            f"/x{secret}/",
            "/é/",
            "/%ff/",
        ):
            code, _, text = await server.ask(path.replace("é", "%C3%A9"))
            assert code == 404, path
            assert "web" not in text
        assert (await server.ask(f"/{secret}/x"))[0] == 404


async def test_what_is_wrong_is_told_before_anything_is_served(api: FakeApi) -> None:
    api.rule = lambda asked: status(403, "Forbidden", "zeropods is forbidden")
    async with open_client(api) as client:
        with pytest.raises(ApiError, match="forbidden"):
            await dashboard.run(Cluster(client, "", api.host), parsed("dashboard"), "shop", ())


async def test_a_port_that_is_taken_is_named(api: FakeApi) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with open_client(api) as client:
            with pytest.raises(CommandError, match=f"127.0.0.1:{port}: .*in use"):
                await dashboard.run(Cluster(client, "", api.host), parsed("dashboard", "--port", port), "shop", ())


@pytest.mark.parametrize("port", ["-1", "65536", "http", ""])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("dashboard", f"--port={port}")
    assert "a port is expected" in capsys.readouterr().err


def test_a_resource_without_a_status_has_no_containers() -> None:
    assert dashboard.containers_of({"metadata": {"name": "a", "namespace": "b"}}) == []


def test_a_problem_is_a_reason() -> None:
    resource = zeropod("web", {**SIDECAR, "reasons": []})
    resource["status"]["problem"] = "Asleepy means nothing"
    (found,) = dashboard.containers_of(resource)
    assert isinstance(found, Container)
    assert found.reasons == (("annotation", "Asleepy means nothing", ""),)


def test_tab_offers_no_pods() -> None:
    assert completion.suggestions(["dashboard"], "") == []
    assert completion.suggestions(["dashboard"], "--p") == ["--port"]
