"""How deep a container sleeps: in standby, or on disk alone where its pod says so or standby would not pay."""

import time

import pytest
from tests.integration import node
from tests.integration.endpoint import Refused
from tests.integration.sleep.helpers import server, shims
from tests.integration.sleep.helpers.stage import OURS, PREFIX, REDIS, Kind, Stage, Way, answers, python
from tests.integration.standby.helpers.looks import called_by, resident, undisturbed

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])


@each_way
def test_after_its_time_in_standby_it_sleeps_on_disk_alone(stage: Stage, way: Way) -> None:
    # Computed beforehand: it may take longer than to fall asleep, and the close of a session after that would wake.
    expected = server.memory(8000, 20)
    app = stage.app(way, python(8000, 20), annotations={"standby-duration": "500ms"})
    for cycle in range(1, 4):
        pid = app.standby().pid
        slept = app.cold()
        assert (slept.pid, slept.restores, slept.cold_sleeps) == (0, cycle - 1, cycle)
        assert not node.alive(pid)
        assert app.running()
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
            assert session.ask("memory") == expected


@each_way
def test_connections_outlast_the_process_and_go_on_after_the_next_wake(stage: Stage, way: Way) -> None:
    app = stage.app(way, python(), annotations={"standby-duration": "300ms"})
    with app.connect() as inbound, called_by(app) as outbound:
        for cycle in range(1, 7, 2):
            assert inbound.ask("count") == f"{cycle} {cycle // 2 + 1}"
            assert outbound.ask("count") == f"{cycle + 1} {cycle // 2 + 1}"
            app.standby()
            app.cold()
            time.sleep(0.3)
            assert undisturbed(inbound)
            assert undisturbed(outbound)


def test_what_comes_on_a_connection_without_a_process_wakes_it_too(stage: Stage) -> None:
    app = stage.app("cri", REDIS, annotations={"standby-duration": "300ms"})
    with app.connect() as first, app.connect() as second:
        for number in range(1, 7):
            session = (first, second)[number % 2]
            assert session.redis("INCR", "n") == number
            app.cold()


def test_a_wake_before_its_time_is_over_starts_the_time_anew(stage: Stage) -> None:
    app = stage.app("cri", python(), annotations={"standby-duration": "1500ms"})
    for cycle in range(1, 6):
        app.standby()
        time.sleep(0.6)
        assert app.state == "STANDBY"
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
    app.cold()


@each_way
def test_without_standby_it_sleeps_on_disk_alone_at_once(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS, annotations={"standby": "false"})
    for _ in range(2):
        assert app.cold().pid == 0
        with app.connect() as session:
            assert answers(session, REDIS)


def test_what_would_lose_something_on_disk_stays_in_standby_and_says_why(stage: Stage) -> None:
    kept = "import os; kept = os.eventfd(0, os.EFD_SEMAPHORE)\n"
    app = stage.app(
        "cri", Kind("python", 8000, ("-c", kept + server.PROGRAM, "8000", "0")), annotations={"standby": "false"}
    )
    for cycle in range(1, 4):
        pid = app.standby().pid
        node.until(lambda: "COLD would lose" in shims.row(app.id)["why"], "why is said")
        assert "eventfd" in shims.row(app.id)["why"]
        assert app.status.checkpoint_errors == 0
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
        assert app.awake().pid == pid


SHARED = 100


@each_way
def test_shared_memory_beyond_the_limit_sends_it_to_disk_and_ps_says_so(stage: Stage, way: Way) -> None:
    expected = server.shared(SHARED)  # beforehand, as above
    app = stage.app(way, python(), annotations={"standby-memory": "resident"})
    with app.connect() as session:
        session.ask(f"share {SHARED}")
    for _ in range(2):
        slept = app.cold()
        assert slept.checkpoint_errors == 0
        row = shims.row(app.id)
        assert row["pid"] is None
        assert "standby-max-resident" in f"{row['why']} {row['message']}"
        with app.connect() as session:
            assert session.ask("shared") == expected


def test_shared_memory_within_the_limit_stays_in_standby(stage: Stage) -> None:
    expected = server.shared(SHARED)
    app = stage.app("cri", python(), annotations={"standby-max-resident": "200Mi"})
    with app.connect() as session:
        session.ask(f"share {SHARED}")
    for _ in range(2):
        assert resident(app.standby().pid) < 200 << 20
        with app.connect() as session:
            assert session.ask("shared") == expected


def test_where_nothing_may_stay_resident_it_sleeps_on_disk_alone(stage: Stage) -> None:
    app = stage.app("cri", REDIS, annotations={"standby-max-resident": "0", "standby-memory": "resident"})
    app.cold()
    assert "standby-max-resident" in f"{shims.row(app.id)['why']} {shims.row(app.id)['message']}"
    with app.connect() as session:
        assert answers(session, REDIS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("standby", "perhaps"),
        ("standby-duration", "soon"),
        ("standby-max-resident", "64MB"),
        ("standby-memory", "disk"),
        ("tcp-established", "yes"),
        ("wake-on-stop", "2"),
    ],
)
def test_a_bad_value_fails_the_creation_and_is_named(stage: Stage, key: str, value: str) -> None:
    with stage.client.container(*REDIS.argv, runtime=OURS, annotations={PREFIX + key: value}) as box:
        with pytest.raises(Refused) as refused:
            box.create()
    assert PREFIX + key in refused.value.message
    assert value in refused.value.message
