"""Two containers with the same id, in two of containerd's namespaces: neither notices the other."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from tests.integration import node
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import REDIS, App, Stage

from zeropod import paths, shims
from zeropod.rpc.messages.status_pb2 import State

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def elsewhere(cri: Cri) -> Iterator[Stage]:
    """A stage in the namespace that is there for pods, and has the images too."""
    with Containerd("k8s.io") as client:
        made = Stage(client, cri, {"standby": "false"})
        with made.stack:
            yield made


def state(app: App) -> str:
    found, _ = trio.run(shims.look)
    states = {(each.status.namespace, each.status.id): State.Name(each.status.state) for each in found}
    return states.get((app.namespace, app.id), "")


def zeropod(command: str, app: App) -> None:
    subprocess.run(["zeropod", command, f"{app.namespace}/{app.id}"], check=True, timeout=patient(60))


def remember(app: App, value: str) -> None:
    with app.connect() as session:
        assert session.redis("SET", "who", value) == b"OK"


def remembered(app: App) -> object:
    with app.connect() as session:
        return session.redis("GET", "who")


def test_both_sleep_and_wake_with_what_is_theirs(stage: Stage, elsewhere: Stage) -> None:
    name = f"same-{uuid.uuid4().hex[:12]}"
    one = stage.task(REDIS, "1h", id=name)
    remember(one, "one")
    zeropod("sleep", one)
    assert state(one) == "COLD"
    pages = Path(one.images) / "pages-1.img"
    before = pages.stat()

    two = elsewhere.task(REDIS, "1h", id=name)
    assert (state(one), state(two)) == ("COLD", "RUNNING")
    assert (pages.stat().st_ino, pages.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    remember(two, "two")
    zeropod("sleep", two)
    assert (state(one), state(two)) == ("COLD", "COLD")
    assert one.images != two.images
    assert one.network != two.network

    assert remembered(one) == b"one"
    assert (state(one), state(two)) == ("RUNNING", "COLD")
    assert remembered(two) == b"two"

    for app in (one, two):
        zeropod("sleep", app)
    zeropod("wake", two)
    assert (state(one), state(two)) == ("COLD", "RUNNING")


def test_one_goes_and_the_other_wakes(stage: Stage, elsewhere: Stage) -> None:
    name = f"same-{uuid.uuid4().hex[:12]}"
    one, two = stage.task(REDIS, "1h", id=name), elsewhere.task(REDIS, "1h", id=name)
    for app, value in ((one, "one"), (two, "two")):
        remember(app, value)
        zeropod("sleep", app)
    elsewhere.stack.close()
    node.until(lambda: not paths.container("k8s.io", name).exists(), "the image of the deleted one is gone")
    assert not paths.network("k8s.io", name).exists()
    assert (paths.container("default", name) / "images" / "pages-1.img").exists()
    assert state(one) == "COLD"
    assert remembered(one) == b"one"
