"""What only a machine of its own has: systemd's scopes, AppArmor, applications that are not root's."""

from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.sleep.helpers import server
from tests.integration.sleep.helpers.stage import REDIS, App, Kind, Stage, answers, python

pytestmark = pytest.mark.timeout(60)

NOBODY = 65534

depths = pytest.mark.parametrize("standby", ["true", "false"])


def seen(app: App) -> tuple[str, str]:
    """The cgroup and the AppArmor profile that its init is in."""
    process = Path(f"/proc/{app.awake().pid}")
    return (process / "cgroup").read_text().strip(), (process / "attr/current").read_text().strip()


@depths
def test_it_wakes_in_its_own_scope_and_under_its_profile(stage: Stage, standby: str) -> None:
    app = stage.app("cri", REDIS, annotations={"standby": standby})
    awake = seen(app)
    assert awake == (
        f"0::{node.PODS_CGROUP}/cri-containerd-{app.id}.scope",
        "cri-containerd.apparmor.d (enforce)",
    )
    for _ in range(2):
        app.asleep()
        with app.connect() as session:
            assert answers(session, app.kind)
        assert seen(app) == awake


@depths
def test_an_application_of_another_user_sleeps_and_wakes(stage: Stage, standby: str) -> None:
    drops = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY})\n{server.PROGRAM}"
    _, _, *ports = python().args
    app = stage.app("cri", Kind("python", 8000, ("-c", drops, *ports)), annotations={"standby": standby})
    for count in (1, 2):
        app.asleep()
        with app.connect() as session:
            assert session.ask("count") == f"{count} 1"
    assert Path(f"/proc/{app.awake().pid}").stat().st_uid == NOBODY
