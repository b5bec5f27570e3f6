"""What the tests in a cluster share. They run as root in its first node: `./justw test-cluster`.

Each test has a namespace of its own, so that several can run at once; those marked as `alone` change something of the
node's, and run by themselves afterwards.
"""

import os
import re
from collections.abc import Iterator

import pytest
from tests.cluster.kube import Api
from tests.cluster.pki import ADMIN
from tests.cluster.pods import Place, States
from tests.integration.patience import FACTOR


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the soak test with all of its pods, for five minutes")
    parser.addoption("--soak-pods", type=int, default=300, help="how many these are")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: changes something of the node's that other tests need")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not ADMIN.exists():
        raise pytest.UsageError("these tests need a cluster: ./justw test-cluster")
    for item in items:
        limit = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(FACTOR * (limit.args[0] if limit else 180.0)), append=False)


@pytest.fixture(scope="session")
def states() -> States:
    return States()


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as client:
        yield client


@pytest.fixture
def place(api: Api, states: States, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A namespace, with what was in it shown if the test fails."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    made = Place(api, states, f"{name}-{os.urandom(3).hex()}")
    api.create("namespaces", {"metadata": {"name": made.name}})
    failed = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed:
        print(made.describe())
    api.delete("namespaces", made.name)
