"""An API server in memory, and a client of it."""

from collections.abc import AsyncIterator

import pytest
import trio
from tests.unit.manager.kube.fake_api import FakeApi

from zeropod.manager.kube.client import Client, open_client


@pytest.fixture
def api(nursery: trio.Nursery) -> FakeApi:
    return FakeApi(nursery)


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with open_client(api) as made:
        yield made
