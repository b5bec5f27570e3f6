"""An API server in memory, and managers at it."""

import pytest
import trio
from tests.unit.manager.kube.fake_api import FakeApi
from tests.unit.manager.migration.world import World


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    return FakeApi(nursery)


@pytest.fixture
def world(api: FakeApi, nursery: trio.Nursery) -> World:
    return World(api, nursery)
