"""Requests to a mock of the API server, which fails in every way that the real one could: see fake_api.py."""

import json
from typing import Any

import pytest
import trio
from tests.unit.manager.kube.fake_api import Answer, FakeApi, status
from trio.testing import MockClock

from zeropod.manager.kube import client as client_module
from zeropod.manager.kube import http
from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError, TooLarge, Unreachable
from zeropod.manager.kube.pacing import Backoff, RateLimit

PODS = path_of("v1", "pods")
WEB = path_of("v1", "pods", "default", "web")


def pod(name: str = "web", **labels: str) -> Object:
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}", "labels": labels}}


def name_of(each: Object) -> str:
    return str(each["metadata"]["name"])


def once(answer: Answer) -> Any:
    """A rule for the first request alone."""
    answers = [answer]
    return lambda asked: answers.pop() if answers else None


def test_paths_are_those_of_the_api() -> None:
    assert path_of("v1", "pods", "default", "web-0", "resize") == "/api/v1/namespaces/default/pods/web-0/resize"
    assert path_of("apps/v1", "daemonsets") == "/apis/apps/v1/daemonsets"
    assert path_of("v1", "pods", "a/b", "../c") == "/api/v1/namespaces/a%2Fb/pods/..%2Fc"


async def test_an_object_is_created_read_changed_and_deleted(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    await client.create(path_of("v1", "pods", "default"), pod())
    assert name_of(await client.get(WEB)) == "web"
    changed = await client.merge_patch(WEB, {"metadata": {"labels": {"a": "1", "b": None}}})
    assert changed["metadata"]["labels"] == {"a": "1"}
    await client.delete(WEB, "uid-web")
    with pytest.raises(ApiError) as refused:
        await client.get(WEB)
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")
    kinds = [asked.headers.get("content-type") for asked in api.asked]
    assert kinds == ["application/json", None, "application/merge-patch+json", "application/json", None]
    assert api.asked[3].body == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "preconditions": {"uid": "uid-web"},
    }


async def test_an_apply_creates_under_our_name(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    await client.apply(WEB, pod(a="1"))
    await client.apply(WEB, pod(a="2"))
    assert api.objects[WEB]["metadata"]["labels"] == {"a": "2"}
    assert api.asked[0].query == {"fieldManager": "zeropod", "force": "true"}
    assert api.asked[0].headers["content-type"] == "application/apply-patch+yaml"


async def test_requests_share_a_connection(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    api.put(WEB, pod())
    for _ in range(5):
        await client.get(WEB)
    assert api.connections == 1


async def test_no_more_connections_are_kept_than_needed(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.put(WEB, pod())
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(client.get, WEB)
    assert api.connections == 6
    assert len(client._idle) == client_module.KEPT


async def test_every_request_has_the_newest_token(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    api.put(WEB, pod())
    await client.get(WEB)
    api.tokens.append("token-1")
    await client.get(WEB)
    assert [asked.headers["authorization"] for asked in api.asked] == ["Bearer token-0", "Bearer token-1"]


async def test_a_kept_connection_that_was_closed_is_replaced(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.put(WEB, pod())
    await client.get(WEB)
    await api.break_connections()
    await client.merge_patch(WEB, {"metadata": {"labels": {"a": "1"}}})
    assert api.connections == 2


async def test_what_could_happen_twice_is_not_tried_again(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.put(WEB, pod())
    await client.get(WEB)
    await api.break_connections()
    with pytest.raises(Unreachable):
        await client.create(path_of("v1", "pods", "default"), pod("other"))


async def test_a_connection_that_was_kept_for_long_is_not_used(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.put(WEB, pod())
    await client.get(WEB)
    await trio.sleep(client_module.STALE + 1)
    await api.break_connections()
    await client.create(path_of("v1", "pods", "default"), pod("other"))
    assert api.connections == 2


async def test_a_server_that_is_away_is_unreachable(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    api.unreachable = True
    with pytest.raises(Unreachable, match="cannot be reached"):
        await client.get(WEB)


async def test_a_server_that_hangs_is_waited_for_until_the_deadline(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.silent = True
    begun = trio.current_time()
    with pytest.raises(Unreachable, match="no answer within 15 s"):
        await client.merge_patch(WEB, {})
    assert trio.current_time() - begun == pytest.approx(client_module.TIMEOUT)
    assert client._idle == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status(409, "Conflict", "changed"), (409, "Conflict", "changed", 0.0)),
        (status(429, "TooManyRequests", "later", retryAfterSeconds=7), (429, "TooManyRequests", "later", 7.0)),
        (Answer(503, b"upstream is away", {"Retry-After": "3"}), (503, "", "upstream is away", 3.0)),
        (status(403, "Forbidden", "no verb"), (403, "Forbidden", "no verb", 0.0)),
        (Answer(500, b"[]"), (500, "", "[]", 0.0)),
    ],
)
async def test_a_refusal_says_what_and_when(
    autojump_clock: MockClock, api: FakeApi, client: Client, answer: Answer, expected: tuple[int, str, str, float]
) -> None:
    api.rule = once(answer)
    api.put(WEB, pod())
    with pytest.raises(ApiError) as refused:
        await client.get(WEB)
    error = refused.value
    assert (error.status, error.reason, error.message, error.retry_after) == expected
    # The connection is good for the next one.
    await client.get(WEB)
    assert api.connections == 1


@pytest.mark.parametrize("body", [b"nonsense", b"[]", b"", b"\xff\xfe"])
async def test_an_answer_that_makes_no_sense_is_none(
    autojump_clock: MockClock, api: FakeApi, client: Client, body: bytes
) -> None:
    api.rule = lambda asked: Answer(200, body)
    with pytest.raises(Unreachable, match="sent"):
        await client.get(WEB)


async def test_an_endless_answer_is_not_read_to_its_end(
    autojump_clock: MockClock, api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.Connection.body, "__defaults__", (1000,))
    api.rule = lambda asked: Answer(200, b"x" * 2000)
    with pytest.raises(TooLarge):
        await client.get(WEB)
    assert client._idle == []


async def test_a_list_comes_from_the_servers_memory(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    for each in "abc":
        api.put(path_of("v1", "pods", "default", each), pod(each))
    listing = await client.list(PODS, name_of, {"fieldSelector": "spec.nodeName=n"})
    assert (listing.items, listing.version) == (["a", "b", "c"], str(api.version))
    assert [asked.query for asked in api.asked] == [{"fieldSelector": "spec.nodeName=n", "resourceVersion": "0"}]


@pytest.mark.parametrize(
    "text",
    [
        '{"apiVersion":"x/v1","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}],"metadata":{"resourceVersion":"9"}}',
        '{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a","labels":{"\\"items\\":[":""}}},'
        '{"metadata":{"name":"b"}}]}\n',
    ],
)
async def test_a_list_is_read_whatever_its_order(
    autojump_clock: MockClock, api: FakeApi, client: Client, text: str
) -> None:
    api.rule = lambda asked: Answer(200, text.encode())
    listing = await client.list(PODS, name_of)
    assert (listing.items, listing.version) == (["a", "b"], "9")


@pytest.mark.parametrize("items", ["", '"items":null,'])
async def test_an_empty_list_may_have_no_items(
    autojump_clock: MockClock, api: FakeApi, client: Client, items: str
) -> None:
    api.rule = lambda asked: Answer(200, f'{{{items}"metadata":{{"resourceVersion":"9"}}}}'.encode())
    assert (await client.list(PODS, name_of)).items == []


@pytest.mark.parametrize("text", ['{"items":[', '{"items":[{}', '{"items":[1]}', '{"items":[]}', '{"items":[{}]}'])
async def test_half_a_list_is_none(autojump_clock: MockClock, api: FakeApi, client: Client, text: str) -> None:
    api.rule = lambda asked: Answer(200, text.encode())
    with pytest.raises(Unreachable, match="a list that is none"):
        await client.list(PODS, name_of)


async def test_a_list_that_is_too_long_comes_in_pages(
    autojump_clock: MockClock, api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02d}" for number in range(50)]
    for each in names:
        api.put(path_of("v1", "pods", "default", each), pod(each))
    monkeypatch.setattr(http.Connection.body, "__defaults__", (3000,))
    assert (await client.list(PODS, name_of)).items == names
    assert [asked.query.get("limit") for asked in api.asked] == [None, "20", "20", "20"]


async def test_requests_above_the_rate_wait(autojump_clock: MockClock, api: FakeApi) -> None:
    api.put(WEB, pod())
    client = Client(api, RateLimit(per_second=10, burst=5))
    begun = trio.current_time()
    for count in range(1, 26):
        await client.get(WEB)
        if count == 5:
            assert trio.current_time() == begun
    assert trio.current_time() - begun == pytest.approx(2.0)


def test_pauses_grow_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff(first=1, longest=15)
    pauses = [backoff.failed() for _ in range(2000)]
    assert 0.5 <= pauses[0] <= 1
    assert 2 <= pauses[2] <= 4
    assert all(7.5 <= pause <= 15 for pause in pauses[4:])
    assert len(set(pauses)) > 1000
    assert backoff.failed(retry_after=14.5) >= 14.5
    assert backoff.failed(retry_after=3600) <= 15
    backoff.succeeded()
    assert backoff.failed() <= 1


async def test_a_watch_gets_each_event_as_it_comes(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    async with client.watch(PODS, str(api.version)) as watch:
        api.put(WEB, pod())
        added = await watch.receive()
        api.bookmark()
        bookmark = await watch.receive()
        api.remove(WEB)
        deleted = await watch.receive()
    events = [event for event in (added, bookmark, deleted) if event]
    assert [(event.kind, event.version) for event in events] == [
        ("ADDED", "101"),
        ("BOOKMARK", "102"),
        ("DELETED", "103"),
    ]
    asked = api.asked[0].query
    assert asked["allowWatchBookmarks"] == "true"
    assert client_module.WATCH_SECONDS[0] <= int(asked["timeoutSeconds"]) <= client_module.WATCH_SECONDS[1]


async def test_a_watch_of_an_expired_version_is_gone(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    api.put(WEB, pod())
    api.expire()
    with pytest.raises(ApiError) as refused:
        async with client.watch(PODS, "1") as watch:
            await watch.receive()
    assert refused.value.is_gone


async def test_a_watch_may_be_refused_as_expired_at_once(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.rule = lambda asked: status(410, "Expired", "too old")
    with pytest.raises(ApiError) as refused:
        async with client.watch(PODS, "1"):
            pass
    assert refused.value.is_gone


async def test_a_watch_without_a_word_is_given_up(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    begun = trio.current_time()
    with pytest.raises(Unreachable, match="not even a bookmark"):
        async with client.watch(PODS, "100") as watch:
            await watch.receive()
    assert trio.current_time() - begun == pytest.approx(client_module.SILENCE)


async def test_a_watch_that_breaks_off_says_so(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    async with client.watch(PODS, "100") as watch:
        await api.break_connections()
        with pytest.raises(Unreachable, match=r"lost|broke off"):
            await watch.receive()


async def test_an_event_that_is_too_long_is_not_read(autojump_clock: MockClock, api: FakeApi, client: Client) -> None:
    line = json.dumps({"type": "ADDED", "object": {"x": "y" * http.MAX_LINE}}).encode()
    api.rule = lambda asked: Answer(200, line)
    with pytest.raises(TooLarge):
        async with client.watch(PODS, "100") as watch:
            await watch.receive()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"type":"ADDED"}\n', b'{"type":1,"object":{}}\n'])
async def test_an_event_that_makes_no_sense_is_none(
    autojump_clock: MockClock, api: FakeApi, client: Client, line: bytes
) -> None:
    api.rule = lambda asked: Answer(200, line)
    with pytest.raises(Unreachable, match="sent"):
        async with client.watch(PODS, "100") as watch:
            await watch.receive()


async def test_a_cancelled_request_leaves_no_connection(
    autojump_clock: MockClock, api: FakeApi, client: Client
) -> None:
    api.silent = True
    with trio.move_on_after(1):
        await client.get(WEB)
    assert client._idle == []
