"""Health probes neither wake a sleeping container nor keep it awake, and hear what the application would say."""

import socket
import statistics
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.probes.conftest import LONG, Apps
from tests.integration.probes.helpers import server
from tests.integration.probes.helpers.footprint import Footprint
from tests.integration.probes.helpers.probing import (
    HINT,
    TIMEOUT,
    ExecProber,
    Kubelet,
    ProbeResult,
    failures,
    named,
    probe,
)
from tests.integration.probes.helpers.server import ANSWERED, ECHO, FIRST, PROBED, PROBES, get
from tests.integration.sleep.helpers.stage import NGINX, App, Stage

from zeropod.rpc.messages.status_pb2 import ContainerStatus

ROUNDS = 600 if LONG else 10
PERIOD = patient(1.0)
"""Seconds from one round of probes to the next; those of seven kinds take a second of an emulated CPU."""
PACE = 0.015 if LONG else 0.0
"""Seconds between two probes of a kind, of more than which the node has no ports: each is kept for a minute."""
MANY = 100_000 if LONG else 2_000
KUBELETS_TIMEOUT = 1.0 if LONG else TIMEOUT
FIGURES = pytest.mark.timeout(ROUNDS + 1200 if LONG else 120)

pytestmark = pytest.mark.timeout(120)


def show(capsys: pytest.CaptureFixture[str], *lines: str) -> None:
    with capsys.disabled():
        print("", *lines, sep="\n  ")


def known(app: App, *probes: str) -> ContainerStatus:
    """Asleep, and knows what these ask.

    What nobody has asked before it fell asleep, or only before it was known to listen, it has to answer itself. The
    second time that is known.
    """
    for _ in range(2):
        assert failures(probe(app.address, *probes)) == []
        app.asleep(30)
    return app.status


def figures(outcomes: list[ProbeResult]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        took = sorted(outcome.milliseconds for outcome in outcomes if outcome.kind == kind)
        failed = sum(outcome.kind == kind for outcome in failures(outcomes))
        middle, highest = statistics.median(took), took[round(0.99 * (len(took) - 1))]
        lines.append(
            f"{kind}: {len(took)} probes, {failed} failed, p50 {middle:.1f} ms, p99 {highest:.1f}, most {took[-1]:.1f}"
        )
    return lines


@FIGURES
@pytest.mark.parametrize(("state", "probes"), [("STANDBY", PROBES), ("COLD", ANSWERED)])
def test_liveness_and_readiness_probes_every_second_leave_it_asleep(
    apps: Apps, state: str, probes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    app = apps[state]
    known(app, *probes)
    get(app, f"/real/{state}")
    started = time.monotonic()
    kubelet = Kubelet.start(app.address, (*probes, *probes), PERIOD, ROUNDS, timeout=KUBELETS_TIMEOUT)
    execs = [ExecProber(app, PERIOD, ROUNDS) for _ in range(2)] if state == "STANDBY" else []
    before = app.asleep(30)
    slept_after = time.monotonic() - started
    found = kubelet.outcomes(ROUNDS * PERIOD + 100) + [outcome for prober in execs for outcome in prober.outcomes()]
    after = app.asleep()
    assert app.state == state
    asked = time.monotonic()
    get(app, f"/real/{state}")
    answered = time.monotonic() - asked
    show(
        capsys,
        f"{state} {slept_after:.1f} s after the first probe; {after.restores - before.restores} wakes, "
        f"{after.dozes - before.dozes} dozes, {after.probes_answered - before.probes_answered} answers in its stead; "
        f"then a real answer in {answered * 1000:.1f} ms",
        *figures(found),
    )
    assert failures(found) == []
    assert len(found) == ROUNDS * 2 * (len(probes) + len(execs) // 2)
    assert (after.state, after.restores, after.checkpoints) == (before.state, before.restores, before.checkpoints)
    assert after.probes_answered > before.probes_answered
    assert (after.dozes > before.dozes) is (state == "STANDBY")
    assert app.status.restores == after.restores + 1


STRANGER = "postgres"
"""A task that a busy kernel may receive a probe in the context of."""


def test_a_probe_that_is_received_in_another_tasks_context_counts_and_is_answered(asleep: App) -> None:
    before = known(asleep, "http:8080")
    assert failures(probe(asleep.address, "http:8080", thread=STRANGER)) == []
    assert asleep.status.restores == before.restores + 1
    after = asleep.asleep(30)
    assert failures(probe(asleep.address, "http:8080")) == []
    assert asleep.status.restores == after.restores


def test_a_client_that_comes_with_probes_wakes_it(asleep: App) -> None:
    known(asleep, *ANSWERED)
    for _ in range(5):
        before = asleep.asleep(30)
        kubelet = Kubelet.start(asleep.address, ANSWERED, 0.01, 50)
        time.sleep(0.2)
        get(asleep, "/real")
        assert failures(kubelet.outcomes()) == []
        assert asleep.status.restores == before.restores + 1


def test_somebody_who_has_gone_before_a_doze_ends_wakes_it(standby: App) -> None:
    for number in range(5):
        before = standby.asleep(30).restores
        prober = ExecProber(standby, 1, 1, ["sleep", "1"])
        node.until(lambda: standby.state == "DOZING", "it dozes")
        get(standby, f"/real/{number}")
        assert failures(prober.outcomes()) == []
        node.until(lambda before=before: standby.status.restores == before + 1, "it is awake")  # type: ignore[misc]


def test_a_container_that_would_fail_a_probe_stays_awake_until_it_is_well(asleep: App) -> None:
    name = asleep.state
    question = f"http/state/{name}:{PROBED}"
    get(asleep, f"/say/{name}/503")
    before = asleep.asleep()
    (outcome,) = probe(asleep.address, question)
    assert "status 503" in outcome.reason
    node.until(lambda: f"/state/{name} on port {PROBED}: status 503" in asleep.status.why, "it is kept awake")
    assert asleep.state == "RUNNING"
    get(asleep, f"/say/{name}/200")
    asleep.asleep(30)
    assert failures(probe(asleep.address, question, count=2)) == []
    assert asleep.state == name
    assert asleep.status.probes_answered == before.probes_answered + 2


def test_probes_do_not_start_a_container_that_was_ended(stage: Stage, tmp_path: Path) -> None:
    app = server.listening(server.start(stage, tmp_path, "3s", disable_checkpointing="true"))
    before = known(app, *ANSWERED)
    assert failures(probe(app.address, *ANSWERED, count=3)) == []
    assert (app.state, app.status.restores) == ("COLD", before.restores)
    assert get(app, "/real") == []


def test_without_detection_probes_are_traffic(stage: Stage) -> None:
    app = stage.add(stage.pod(annotations={"disable-probe-detection": "true"}), NGINX)
    app.standby()
    assert failures(probe(app.address, "http:80")) == []
    assert app.status.restores == 1


def test_a_server_that_speaks_first_is_waited_for_half_a_second(asleep: App) -> None:
    before = asleep.status.restores
    with named(HINT), socket.create_connection((asleep.address, FIRST), 10) as client:
        assert client.recv(100) == f"220 {asleep.address}\r\n".encode()
    assert asleep.status.restores == before + 1


def test_what_was_looked_at_is_passed_on_to_its_end(asleep: App) -> None:
    total, received = 30 << 20, 0
    with named(HINT), socket.create_connection((asleep.address, ECHO), 20) as client:
        client.setblocking(False)
        sent, ended, data = 0, False, b"x"
        deadline = time.monotonic() + 60
        while data and time.monotonic() < deadline:
            if sent < total:
                with suppress(BlockingIOError):
                    sent += client.send(bytes(min(1 << 16, total - sent)))
            elif not ended:
                client.shutdown(socket.SHUT_WR)
                ended = True
            try:
                received += len(data := client.recv(1 << 18))
            except BlockingIOError:
                data = b"x"
                time.sleep(0.001)
    assert received == total


def test_half_sent_requests_and_garbage_hold_nobody_up(standby: App) -> None:
    assert failures(probe(standby.address, *ANSWERED)) == []  # it is known what it asks
    openings = [
        b"G",
        b"GET / HTTP/1.1\r\nUser-Agent: kube-probe/1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01",
        b"\0" * 50,
    ]
    with ExitStack() as slow:
        with named(HINT):
            clients = [slow.enter_context(socket.create_connection((standby.address, PROBED), 10)) for _ in range(60)]
        for number, client in enumerate(clients):
            client.sendall(openings[number % len(openings)])
        assert failures(probe(standby.address, *ANSWERED, seconds=0.1, count=5)) == []
        assert get(standby, "/real") is not None
    standby.standby()


def test_an_address_that_the_node_gets_later_is_the_nodes(standby: App) -> None:
    assert failures(probe(standby.address, *ANSWERED)) == []
    before, address = standby.status, "10.99.0.1"
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True, timeout=10)
    try:
        time.sleep(0.1)
        assert failures(probe(standby.address, "http:8080", source=address)) == []
    finally:
        subprocess.run(["ip", "addr", "del", f"{address}/32", "dev", "lo"], check=True, timeout=10)
    after = standby.status
    assert (after.restores, after.probes_answered) == (before.restores, before.probes_answered + 1)


@FIGURES
def test_thousands_of_probes_leave_nothing_behind(standby: App, capsys: pytest.CaptureFixture[str]) -> None:
    probes = (*ANSWERED, *ANSWERED)
    assert failures(probe(standby.address, *probes, count=20)) == []  # so that there is what there is once
    before, answered, started = Footprint.of(standby), standby.status, time.monotonic()
    outcomes: list[ProbeResult] = []
    footprints = [before]
    for _ in range(4):
        kubelet = Kubelet.start(standby.address, probes, PACE, MANY // len(probes) // 4 + 1)
        outcomes += kubelet.outcomes(3600)
        node.until(lambda: Footprint.of(standby).open <= before.open, "as much is open as before")
        footprints.append(Footprint.of(standby))
    elapsed = time.monotonic() - started
    status = standby.status
    show(
        capsys,
        f"{len(outcomes)} probes in {elapsed:.0f} s, {len(failures(outcomes))} failed",
        *(f"after {number * len(outcomes) // 4}: {footprint}" for number, footprint in enumerate(footprints)),
        *figures(outcomes),
    )
    assert failures(outcomes) == []
    assert status.restores == answered.restores
    # One that a busy machine has kept from saying what it wants for half a second was the application's to answer.
    passed_on = len(outcomes) - (status.probes_answered - answered.probes_answered)
    assert 0 <= passed_on <= len(outcomes) // 100
    # The first quarter takes what so many at a time take once.
    assert footprints[1].kilobytes < before.kilobytes + 1024, "memory grows"
    assert footprints[-1].kilobytes < footprints[1].kilobytes + 256, "memory grows"
    assert LONG or footprints[-1].kilobytes < before.kilobytes + 1024, "memory grows"
