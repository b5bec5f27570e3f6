"""One container whose runc is a fake and whose processes are real."""

from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
import trio
from tests.unit.shim.fakes import FakeCgroup, World

from zeropod import paths
from zeropod.runtime import cgroups

# A machine that is busy may stop a test for longer than hypothesis's deadline: how long code takes is for benchmarks.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that stands for the cgroup of every process."""
    directory = tmp_path / "cgroup"
    directory.mkdir()
    (directory / "cgroup.procs").write_text("")
    monkeypatch.setattr(cgroups, "of", lambda pid: FakeCgroup({"": directory}))
    return directory


@pytest.fixture
async def world(
    tmp_path: Path, cgroup: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "images")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    world = World.make(bundle, nursery)
    yield world
    world.runc.reap()
