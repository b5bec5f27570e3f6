"""Metrics of real containers, before the eyes of a real Prometheus, and the commands that ask the shims."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.integration import node
from tests.integration.manager.helpers.daemons import get, manager, prometheus
from tests.integration.patience import patient
from tests.integration.sleep.helpers import shims
from tests.integration.sleep.helpers.stage import NGINX, REDIS, Stage, answers

from zeropod import paths
from zeropod.manager.page.history import STATES

pytestmark = pytest.mark.timeout(120)


def zeropod(*arguments: str, status: int = 0) -> str:
    """What the command prints, on stdout if it succeeds as it should, on stderr otherwise."""
    done = subprocess.run(["zeropod", *arguments], capture_output=True, text=True, timeout=patient(60), check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def test_a_container_is_put_to_sleep_and_woken_by_hand_and_counted(stage: Stage, tmp_path: Path) -> None:
    app = stage.add(stage.pod("1h"), NGINX)
    name = f"default/{app.container.pod.name}/nginx"  # type: ignore[union-attr]
    with manager(tmp_path) as daemon:
        before = daemon.series("nginx")
        assert (before["zeropod_running"], before["zeropod_checkpoint_duration_seconds_count"]) == (1, 0)
        with app.connect() as session:
            assert answers(session, app.kind)
            told = zeropod("why", name)
            assert f"to {app.address}:80, last data" in told
            assert "keeps it awake" in told
            assert "probe-processes" in told, "we connect from the node, as a kubelet does"
        assert "nginx" in zeropod("sleep", name)
        assert app.state == "STANDBY"
        assert "It sleeps, STANDBY" in zeropod("why", app.id[:12])
        asleep = daemon.until("nginx", zeropod_running=0)
        assert asleep["zeropod_checkpoint_duration_seconds_count"] == asleep["zeropod_sleeps_total standby"] == 1
        assert asleep["zeropod_image_bytes"] == 0
        assert "RUNNING" in zeropod("wake", app.id)
        with app.connect() as session:
            assert answers(session, app.kind)
        awake = daemon.until("nginx", zeropod_running=1)
        assert awake["zeropod_wakes_total standby"] == 1
        assert awake["zeropod_restore_duration_seconds_count"] == 1
        assert awake["zeropod_last_restore_time"] > awake["zeropod_last_checkpoint_time"] > 1e18
        text = daemon.metrics()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=patient(60), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with manager(tmp_path) as another:
        counts = {key: value for key, value in awake.items() if not key.startswith(("zeropod_image", "zeropod_memory"))}
        assert counts.items() <= another.series("nginx").items(), "a manager that is started anew has lost nothing"


def test_the_page_has_what_has_happened(stage: Stage, tmp_path: Path) -> None:
    app = stage.add(stage.pod("1h"), NGINX)
    with manager(tmp_path, "--node-name", "here", "--page-host", "Page.Example") as daemon:
        base = f"http://127.0.0.1:{daemon.port}/"
        named = urllib.request.Request(base, headers={"Host": "page.example"})
        with urllib.request.urlopen(named, timeout=patient(20)) as answer:
            assert answer.status == 200
        assert get(base).startswith("<!doctype html>")
        zeropod("sleep", app.id)
        zeropod("wake", app.id)

        def page() -> dict[str, Any]:
            told: dict[str, Any] = json.loads(get(base + "data.json"))
            return told

        def rows() -> list[tuple[str, bool]]:
            """States of the container, each with whether a wake led there."""
            (told,) = (each for each in page()["containers"] if each["pod"])
            assert app.id not in json.dumps(told)
            return [(STATES[state], ms > 0 and wakes == 1) for _, state, ms, wakes, _ in told["rows"]]

        wanted = [("RUNNING", False), ("STANDBY", False), ("RUNNING", True)]
        node.until(lambda: rows()[-3:] == wanted, "the page has the sleep and the wake")
        assert (page()["name"], page()["problem"]) == ("here", "")
        other = stage.task(REDIS, "1h")
        node.until(lambda: len(page()["containers"]) == 2, "the page has the other container, too")
        os.kill(_shim_of(other.id), signal.SIGKILL)
        node.until(lambda: len(page()["containers"]) == 1, "the container of a dead shim is gone from the page")
        assert page()["problem"].startswith("One shim of this node does not answer")


def test_prometheus_scrapes_while_shims_come_go_and_die(stage: Stage, tmp_path: Path) -> None:
    with manager(tmp_path) as daemon, prometheus(tmp_path, daemon.port) as server:
        first = stage.add(stage.pod("1h"), REDIS, name="first")
        server.until('zeropod_running{container="first"}', 1)
        second = stage.task(REDIS, "1h")
        server.until(f'zeropod_running{{container="{second.id}"}}', 1)
        zeropod("sleep", first.id)
        server.until('zeropod_running{container="first"}', 0)
        server.until('zeropod_checkpoint_duration_seconds_count{container="first"}', 1)
        os.kill(_shim_of(second.id), signal.SIGKILL)
        server.until(f'zeropod_running{{container="{second.id}"}}', None)
        zeropod("wake", first.id)
        server.until('zeropod_running{container="first"}', 1)
        server.until('zeropod_restore_duration_seconds_count{container="first"}', 1)
        server.until("count_over_time(up[5m]) > bool 10", 1)
        assert server.value("min_over_time(up[5m])") == 1, "no scrape has failed"
        assert server.query('zeropod_wakes_total{container="first",depth="standby"}')[0]["value"][1] == "1"


def _shim_of(id: str) -> int:
    """The process that has the container's bundle as its directory."""
    for pid in node.processes():
        try:
            if os.readlink(f"/proc/{pid}/cwd").endswith(f"/{id}"):
                return pid
        except OSError:
            continue
    raise LookupError(id)


def test_a_dry_run_only_counts(stage: Stage, tmp_path: Path) -> None:
    app = stage.task(REDIS, "500ms", {"dry-run": "true"})
    with manager(tmp_path) as daemon:
        node.until(lambda: shims.status(app.id).dry_run_asleep, "it would sleep")
        assert "dry run" in shims.row(app.id)["why"]
        assert "dry run" in zeropod("sleep", app.id, status=1)
        with app.connect() as session:
            assert answers(session, app.kind)
        node.until(lambda: daemon.series(app.id)["zeropod_dry_run_wakes_total"] >= 1, "the wake is counted")
        counted = daemon.series(app.id)
    assert counted["zeropod_dry_run_sleeps_total"] >= 1
    assert (counted["zeropod_running"], counted["zeropod_checkpoint_duration_seconds_count"]) == (1, 0)
    assert not os.path.exists(app.images)


def test_a_budget_keeps_containers_in_standby_and_is_in_force_at_once(stage: Stage) -> None:
    zeropod("image-gc", "--max-checkpoint-bytes", "10Ki")
    try:
        app = stage.task(REDIS, "300ms", {"standby": "false"})
        node.until(lambda: shims.status(app.id).refused_sleeps > 0, "it is refused")
        app.standby()
        row = shims.row(app.id)
        assert row["checkpoint_errors"] == 0
        assert "max-checkpoint-bytes is 10 KiB" in row["why"]
        assert "Raise it" in zeropod("why", app.id)
    finally:
        zeropod("image-gc")
    app.cold(90)


def test_this_node_is_able(stage: Stage) -> None:
    told = {check["name"]: check for check in json.loads(zeropod("doctor", "--json"))}
    lacking = {name: check["found"] for name, check in told.items() if not check["ok"]}
    assert lacking.keys() <= {"capabilities"}, lacking
    assert node.mounts("zeropod-doctor") == [], "it leaves nothing behind"


def test_a_bad_configuration_of_the_node_is_told_and_in_nobodys_way(stage: Stage) -> None:
    paths.NODE_CONFIG.parent.mkdir(parents=True, exist_ok=True)
    paths.NODE_CONFIG.write_text('max-checkpoint-bytes = "much"\n')
    try:
        found = next(check for check in json.loads(zeropod("doctor", "--json")) if check["name"] == "configuration")
        assert (found["ok"], "'much'" in found["found"]) == (False, True)
        stage.task(REDIS, "300ms").asleep()
    finally:
        paths.NODE_CONFIG.unlink()


def test_images_without_a_container_are_collected(stage: Stage) -> None:
    app = stage.task(REDIS, "300ms")
    app.asleep()
    orphan, old = paths.container("default", "orphan-of-a-test"), paths.OLD_IMAGES / "orphan-of-an-older-version"
    for directory in (orphan, old):
        (directory / "images").mkdir(parents=True)
    zeropod("image-gc")
    assert not orphan.exists()
    assert not old.exists()
    with app.connect() as session:
        assert answers(session, app.kind)


def test_what_happens_is_watched_without_asking(stage: Stage) -> None:
    app = stage.task(REDIS, "1h")
    command = ["zeropod", "ps", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            zeropod("sleep", app.id)
            for line in watching.stdout:
                states = {row["id"]: row["state"] for row in json.loads(line)}
                if states.get(app.id) == "STANDBY":
                    break
            zeropod("wake", app.id)
            for line in watching.stdout:
                states = {row["id"]: row["state"] for row in json.loads(line)}
                if states.get(app.id) == "RUNNING":
                    break
        finally:
            watching.send_signal(signal.SIGINT)
    assert watching.returncode == 0


def test_only_root_may_ask(stage: Stage) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "zeropod", "ps"],
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert (done.returncode, "only root may" in done.stderr) == (1, True), done
