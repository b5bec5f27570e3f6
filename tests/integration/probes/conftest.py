"""Two applications for all tests of this folder, asleep before each: one in standby, one on disk alone.

`ZEROPOD_LONG=1` has the tests of endurance run for as long as it takes to believe them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.probes.helpers import server
from tests.integration.sleep.helpers.report import pytest_runtest_makereport
from tests.integration.sleep.helpers.stage import App, Stage

__all__ = ["pytest_runtest_makereport", "stage"]

SCALEDOWN = "1500ms"

LONG = bool(os.environ.get("ZEROPOD_LONG"))


@pytest.fixture
def stage(containerd: Containerd, cri: Cri) -> Iterator[Stage]:
    made = Stage(containerd, cri)
    with made.stack:
        yield made


@dataclass
class Apps:
    """By the state in which they sleep; started when they are first asked for."""

    stage: Stage
    directory: Path
    started: dict[str, App] = field(default_factory=dict)

    def __getitem__(self, state: str) -> App:
        if state not in self.started:
            standby = "true" if state == "STANDBY" else "false"
            self.started[state] = server.start(self.stage, self.directory, SCALEDOWN, standby=standby)
        return server.listening(self.started[state])


@pytest.fixture(scope="package")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    with Containerd() as client, Cri() as kubelet:
        made = Stage(client, kubelet)
        with made.stack:
            yield Apps(made, tmp_path_factory.mktemp("probed"))


@pytest.fixture
def standby(apps: Apps) -> App:
    app = apps["STANDBY"]
    app.standby(30)
    return app


@pytest.fixture(params=["STANDBY", "COLD"])
def asleep(request: pytest.FixtureRequest, apps: Apps) -> App:
    app = apps[request.param]
    app.asleep(30)
    return app
