"""Every application of the table sleeps and wakes, either way, and is what it was; or it says why it does not."""

import re
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.compat.applications import APPLICATIONS, Application
from tests.integration.compat.record import Seen, size
from tests.integration.compat.running import Running, running
from tests.integration.cri import Cri
from tests.integration.sleep.helpers import shims

from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

pytestmark = pytest.mark.timeout(150)

CAP_SYS_RESOURCE = 24


def has_sys_resource() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(re.findall(r"^CapBnd:\s*(\w+)", status, re.MULTILINE)[0], 16) >> CAP_SYS_RESOURCE & 1)


def has_apparmor() -> bool:
    return Path("/sys/module/apparmor/parameters/enabled").exists()


@pytest.mark.parametrize("depth", ["STANDBY", "COLD"])
@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.slug)
def test_it_sleeps_and_wakes(application: Application, depth: str, cri: Cri) -> None:
    if application.other_users and not has_sys_resource():
        pytest.skip("CRIU needs CAP_SYS_RESOURCE for processes of other users")
    if application.machine and not node.SYSTEMD:
        pytest.skip("this node is no machine of its own")
    if "profile" in application.shows and not has_apparmor():
        pytest.skip("this kernel has no AppArmor")
    seen = Seen.of(application, depth)
    try:
        with running(cri, application, depth) as it:
            if application.not_cold and depth == "COLD":
                stays_in_standby(it, seen)
            else:
                sleeps_and_wakes(it, seen)
    finally:
        seen.write()


def stays_in_standby(it: Running, seen: Seen) -> None:
    """It does not go to COLD, which would lose something, says what, and sleeps all the same."""
    with it.talk() as session:
        answer = session.ask()
        status = shims.until(it.container.id, lambda status: re.search(it.application.not_cold, status.why_kept))
        seen.why = status.why_kept
        assert State.Name(status.state) == "STANDBY"
        assert status.checkpoint_errors == 0
        assert session.ask() == answer.next


def sleeps_and_wakes(it: Running, seen: Seen) -> None:
    before = it.seen()
    assert {**before, **it.application.shows} == before
    with it.talk() as session:
        answer = session.ask()
        status = asleep(it, seen)
        seen.sleeps, seen.image = True, size(it.images)
        if it.sidecar:
            assert shims.state(it.sidecar.id) == "RUNNING"
        answer, after = answer.next, session.ask()
        assert after == answer
        seen.connection = True
        seen.wake_ms = it.until_state("RUNNING").last_restore_ms
        assert it.seen() == before
        asleep(it, seen)
    with it.talk() as session:
        assert session.ask() == answer.next
    assert it.seen() == before
    assert status.checkpoint_errors == 0
    seen.wakes = True


def asleep(it: Running, seen: Seen) -> ContainerStatus:
    """Once it sleeps, as deep as it should. On its way to COLD a container is in STANDBY."""
    try:
        return it.until_state(seen.depth)
    except TimeoutError:
        status = shims.status(it.container.id)
        seen.why = status.why_kept or status.why
        raise
