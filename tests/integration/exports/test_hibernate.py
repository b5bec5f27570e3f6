"""`zeropod hibernate`, and what comes back in the next container of that name: on containerd, runc and CRIU."""

import subprocess
import time
from pathlib import Path

import pytest
from tests.integration import cri, node
from tests.integration.sleep.helpers import server, shims
from tests.integration.sleep.helpers.stage import REDIS, App, Kind, Stage, python
from tests.integration.standby.helpers.checker import checker

from zeropod import paths

pytestmark = pytest.mark.timeout(180)

SLOWLY = "1s"


def hibernate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["zeropod", "hibernate", *arguments], capture_output=True, text=True, timeout=60, check=False)


def key(app: App) -> str:
    assert isinstance(app.container, cri.Container)
    return f"{app.container.pod.config.metadata.uid}.{app.container.name}"


def export(app: App) -> Path:
    return paths.EXPORTS / key(app)


def hibernated(app: App) -> Path:
    done = hibernate(app.id)
    assert done.returncode == 0, done.stderr
    assert app.state == "COLD"
    assert (export(app) / "manifest.json").exists()
    return export(app)


def succeed(stage: Stage, app: App, scaledown: str = "300ms") -> App:
    """The pod as after a restart of the node: another sandbox, another container, the same names."""
    assert isinstance(app.container, cri.Container)
    pod = app.container.pod
    assert pod.remove() == []
    metadata = pod.config.metadata
    another = stage.pod(scaledown, name=metadata.name, uid=metadata.uid)
    return App(app.kind, another.container(app.container.name, app.kind.image, args=app.kind.args))


def leaves_nothing(app: App) -> bool:
    return not [path for path in paths.EXPORTS.glob("*") if path.name.startswith(key(app))]


def redis_with_data(stage: Stage) -> tuple[App, object]:
    app = stage.app("cri", REDIS, scaledown=SLOWLY)
    with app.connect() as session:
        session.socket.settimeout(60)
        session.redis("DEBUG", "POPULATE", "600000", "key", "100")
        return app, session.redis("DEBUG", "DIGEST")


@pytest.mark.parametrize("depth", ["standby", "cold"])
def test_redis_comes_back_with_a_hundred_megabytes_again_and_again(stage: Stage, depth: str) -> None:
    app, digest = redis_with_data(stage)
    for _ in range(2):
        app.standby()
        if depth == "cold":
            hibernated(app)
            with app.connect() as session:  # it is woken by a connection, and its export is taken back
                assert session.redis("DBSIZE") == 600000
            assert leaves_nothing(app)
            app.standby()
        left = hibernated(app)
        started = time.monotonic()
        app = succeed(stage, app, SLOWLY)
        status = app.standby()
        print(f"back after {time.monotonic() - started:.2f} s, {status.memory_out_bytes >> 20} MiB out")
        assert status.memory_out_bytes > 90 << 20
        assert not left.exists()
        started = time.monotonic()
        with app.connect() as session:
            assert session.redis("DBSIZE") == 600000
            print(f"the first answer after {(time.monotonic() - started) * 1000:.1f} ms")
            assert session.redis("DEBUG", "DIGEST") == digest
        app.standby()
        with app.connect() as session:
            assert session.redis("DEBUG", "DIGEST") == digest


@pytest.mark.parametrize("megabytes", [1, 60])
def test_python_goes_on_where_it_was_with_what_it_has_written(stage: Stage, megabytes: int) -> None:
    app = stage.app("cri", python(8000, megabytes))
    expected = server.memory(8000, megabytes)
    assert isinstance(app.container, cri.Container)
    written = """
import os, shutil
open('/written', 'w').write('before')
os.chmod('/written', 0o640)
os.makedirs('/etc/again', exist_ok=True)
open('/etc/again/file', 'w').close()
os.symlink('/written', '/etc/link')
"""
    for cycle in range(1, 4):
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
            assert session.ask("memory") == expected
        if cycle == 1:
            assert app.container.exec("python3", "-c", written).exit_code == 0
        app.standby()
        hibernated(app)
        app = succeed(stage, app)
        app.standby()
        assert isinstance(app.container, cri.Container)
        found = app.container.exec(
            "python3", "-c", "import os; print(open('/etc/link').read(), os.stat('/written').st_mode)"
        )
        assert found.stdout == f"before {0o100640}\n".encode()


def test_every_page_is_that_of_the_last_request(stage: Stage) -> None:
    app = stage.app("cri", checker(40))
    number = 0
    for _ in range(3):
        for _ in range(2):
            number += 1
            with app.connect() as session:
                assert session.ask("next") == str(number)
            app.standby()
        hibernated(app)
        app = succeed(stage, app)
        app.standby()


@pytest.mark.parametrize("damaged", ["manifest.json", "index", "decision", "images", "store"])
def test_what_is_damaged_is_not_used_and_the_container_says_that_it_starts_anew(stage: Stage, damaged: str) -> None:
    app = stage.app("cri", python(8000, 30))
    with app.connect() as session:
        assert session.ask("count") == "1 1"
    app.standby()
    left = hibernated(app)
    match damaged:
        case "manifest.json":
            (left / damaged).write_text('{"format": 1}')
            words = "has no source"
        case "index":
            path = next(left.glob("index-*"))
            content = bytearray(path.read_bytes())
            content[100] ^= 1
            path.write_bytes(content)
            words = "its digest is not that of its content"
        case "decision":
            (left / "decision").write_text("perhaps")
            words = "says neither given nor withdrawn"
        case "images":
            next(left.glob("images/core-*")).unlink()
            words = "is missing"
        case _:
            with next(left.glob("store/pages-*")).open("ab") as file:
                file.write(b"more")
            words = "bytes instead of"
    app = succeed(stage, app).ready()
    with app.connect() as session:
        assert session.ask("count") == "1 1"
    status = app.status
    assert "started anew" in status.message
    assert words in status.message
    assert leaves_nothing(app)


def test_an_image_that_criu_does_not_restore_is_given_up_and_the_container_starts_anew(stage: Stage) -> None:
    app = stage.app("cri", python(8000, 30))
    app.standby()
    left = hibernated(app)
    image = next(left.glob("images/core-*"))
    image.write_bytes(b"\0" * image.stat().st_size)
    app = succeed(stage, app).ready()
    assert "started anew" in app.status.message
    assert leaves_nothing(app)
    app.standby()
    with app.connect() as session:
        assert session.ask("count") == "1 1"


def test_what_is_awake_or_has_no_annotation_does_not_hibernate(stage: Stage) -> None:
    app = stage.app("cri", python(), scaledown="1h")
    assert not app.status.message
    done = hibernate(app.id)
    assert done.returncode == 1
    assert "it is not asleep" in done.stderr
    without = stage.app("cri", python(), annotations={"keep-on-restart": "false"})
    without.standby()
    done = hibernate(without.id)
    assert done.returncode == 1
    assert "no annotation keep-on-restart" in done.stderr
    assert hibernate("--all").returncode == 0
    assert app.state == "RUNNING"
    assert without.state == "STANDBY"


def test_what_criu_would_lose_stays_in_standby_and_says_why(stage: Stage) -> None:
    code = "import os\nkeep = os.eventfd(0, os.EFD_SEMAPHORE)\n" + server.PROGRAM
    kind = Kind("python", 8000, ("-c", code, "8000", "0"))
    app = stage.app("cri", kind)
    app.standby()
    done = hibernate(app.id)
    assert done.returncode == 1
    assert "an eventfd counts as a semaphore" in done.stderr
    assert app.state == "STANDBY"
    with app.connect() as session:
        assert session.ask("count") == "1 1"


def test_all_that_sleeps_hibernates_and_a_stop_does_not_bring_it_back(stage: Stage) -> None:
    apps = [stage.app("cri", python(port, 20)) for port in (8000, 8001)]
    for app in apps:
        app.standby()
    done = hibernate("--all")
    assert done.returncode == 0, done.stderr
    for app in apps:
        assert export(app).exists()
        assert isinstance(app.container, cri.Container)
        app.container.stop(10)
        assert app.exit_code() == 128 + 15
        assert export(app).exists()
        again = succeed(stage, app)
        again.standby()
        with again.connect() as session:
            assert session.ask("memory") == server.memory(app.kind.port, 20)
        assert leaves_nothing(again)


def test_without_a_pod_the_next_container_of_that_id_comes_back(stage: Stage) -> None:
    app = stage.app("ctr", python(8000, 20))
    with app.connect() as session:
        assert session.ask("count") == "1 1"
    app.standby()
    assert hibernate(app.id).returncode == 0
    shims.wake(app.id)
    with app.connect() as session:
        assert session.ask("count") == "2 1"
    node.until(lambda: not list(paths.EXPORTS.glob("ctr.*")), "the export is taken back")
