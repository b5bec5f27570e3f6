"""A list that is followed through every failure of a mock of the API server (see fake_api.py)."""

from collections.abc import Callable

import pytest
import trio
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi, status
from trio.testing import MockClock

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.follow import Follower

PODS = path_of("v1", "pods")


def path(name: str) -> str:
    return path_of("v1", "pods", "default", name)


def pod(name: str, label: str = "") -> Object:
    return {"metadata": {"namespace": "default", "name": name, "labels": {"is": label}}}


def label_of(each: Object) -> str:
    return str(each["metadata"]["labels"]["is"])


@pytest.fixture
async def followed(api: FakeApi, client: Client, nursery: trio.Nursery) -> Follower[str]:
    made = Follower(client, PODS, label_of, {"fieldSelector": "spec.nodeName=n"})
    nursery.start_soon(made.run)
    return made


async def until(followed: Follower[str], condition: Callable[[], bool], seconds: float = 60.0) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await followed.changed()


def labels(followed: Follower[str]) -> dict[str, str]:
    return {name: label for (_, name), label in followed.items.items()}


def lists(api: FakeApi) -> int:
    return sum(asked.method == "GET" and not asked.is_watch for asked in api.asked)


async def test_a_list_is_read_once_and_then_watched(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str]
) -> None:
    api.put(path("a"), pod("a", "1"))
    await until(followed, lambda: labels(followed) == {"a": "1"})
    api.put(path("b"), pod("b", "1"))
    api.put(path("a"), pod("a", "2"))
    await until(followed, lambda: labels(followed) == {"a": "2", "b": "1"})
    api.remove(path("a"))
    await until(followed, lambda: labels(followed) == {"b": "1"})
    assert lists(api) == 1
    assert all(asked.query["fieldSelector"] == "spec.nodeName=n" for asked in api.asked)


async def test_a_watch_goes_on_where_it_ended(autojump_clock: MockClock, api: FakeApi, followed: Follower[str]) -> None:
    await until(followed, lambda: followed.ready)
    api.bookmark()
    for _ in range(20):
        api.bookmark()
        await trio.sleep(60)
    api.put(path("a"), pod("a", "1"))
    await until(followed, lambda: labels(followed) == {"a": "1"}, 1)
    assert lists(api) == 1
    watches = [int(asked.query["resourceVersion"]) for asked in api.asked if asked.is_watch]
    assert 3 <= len(watches) <= 6
    assert watches == sorted(set(watches))


async def test_an_expired_version_is_followed_by_a_list(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str]
) -> None:
    api.put(path("a"), pod("a", "1"))
    api.put(path("b"), pod("b", "1"))
    await until(followed, lambda: len(followed.items) == 2)
    api.unreachable = True
    await api.break_connections()
    api.remove(path("a"))
    api.put(path("b"), pod("b", "2"))
    api.expire()
    await trio.sleep(30)
    assert labels(followed) == {"a": "1", "b": "1"}
    assert "cannot be reached" in followed.problem
    api.unreachable = False
    await until(followed, lambda: labels(followed) == {"b": "2"}, 40)
    assert lists(api) == 2
    await trio.sleep(1)
    assert followed.problem == ""


@pytest.mark.parametrize("seconds", [1, 60, 600])
@pytest.mark.parametrize("failure", ["unreachable", "silent", "refused", "throttled"])
async def test_all_is_known_within_a_minute_of_the_end_of_a_failure(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str], failure: str, seconds: float
) -> None:
    api.put(path("a"), pod("a", "1"))
    await until(followed, lambda: labels(followed) == {"a": "1"})
    if failure == "refused":
        api.rule = lambda asked: status(403, "Forbidden")
    elif failure == "throttled":
        api.rule = lambda asked: status(429, "TooManyRequests", retryAfterSeconds=600)
    else:
        setattr(api, failure, True)
    if failure != "silent":
        await api.break_connections()
    api.put(path("a"), pod("a", "2"))
    await trio.sleep(seconds)
    api.unreachable = api.silent = False
    api.rule = lambda asked: None
    # A connection on which nothing ever comes is the hardest: silence is told from death by a bookmark that is missing.
    await until(followed, lambda: labels(followed) == {"a": "2"}, 75 if failure == "silent" else 20)


async def test_a_server_that_fails_is_not_asked_without_a_pause(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str]
) -> None:
    api.rule = lambda asked: Answer(500, b"") if asked.is_watch else None
    await trio.sleep(600)
    assert 40 < len(api.asked) < 90
    assert lists(api) == 1


async def test_watches_that_end_at_once_are_not_asked_for_without_a_pause(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str]
) -> None:
    api.rule = lambda asked: Answer(200, b"") if asked.is_watch else None
    await trio.sleep(600)
    assert 40 < len(api.asked) < 90


async def test_a_list_that_expires_again_and_again_is_not_asked_for_without_a_pause(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str]
) -> None:
    def rule(asked: Asked) -> Answer | None:
        return status(410, "Expired") if asked.is_watch else None

    api.rule = rule
    await trio.sleep(600)
    assert lists(api) < 90


@pytest.mark.parametrize(
    "body", [{}, {"metadata": None}, {"metadata": {"name": "a"}}, {"metadata": {"name": "a", "labels": 1}}]
)
async def test_an_object_of_another_shape_is_a_failure_like_others(
    autojump_clock: MockClock, api: FakeApi, followed: Follower[str], body: Object
) -> None:
    api.rule = lambda asked: Answer(200, {"metadata": {"resourceVersion": "1"}, "items": [body]})
    await trio.sleep(60)
    assert "an object that is none" in followed.problem
    api.rule = lambda asked: None
    api.put(path("a"), pod("a", "1"))
    await until(followed, lambda: labels(followed) == {"a": "1"}, 20)
