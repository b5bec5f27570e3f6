"""Which container somebody means."""

import pytest

from zeropod.manager.commands import NotFound, find, name
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.shims import Found


def found(identifier: str, namespace: str = "", pod: str = "", container: str = "", sandbox: str = "none") -> Found:
    status = ContainerStatus(id=identifier, pod_namespace=namespace, pod=pod, container=container, sandbox=sandbox)
    return Found(status, f"/s/{identifier}")


NODE = (
    found("abc1", "default", "web", "nginx", "abd9"),
    found("abc2", "default", "web", "sidecar", "abd9"),
    found("abd9", "default", "web", "", "abd9"),
    found("f0", "default", "redis", "redis", "f1"),
    found("f1", "default", "redis", "", "f1"),
    found("f", "moby"),
)


@pytest.mark.parametrize(
    ("wanted", "identifier"),
    [
        ("abc1", "abc1"),
        ("abd", "abd9"),
        ("f", "f"),  # an id of its own, though others begin so
        ("f0", "f0"),
        ("default/web/nginx", "abc1"),
        ("default/redis", "f0"),
        ("default/redis/redis", "f0"),
    ],
)
def test_a_container_is_found_by_id_beginning_or_name(wanted: str, identifier: str) -> None:
    assert find(wanted, NODE).status.id == identifier


@pytest.mark.parametrize("wanted", ["abc", "ab", "default/web"])
def test_what_may_be_several_is_refused_with_their_names(wanted: str) -> None:
    with pytest.raises(NotFound, match=r"may be any of \d containers: .*default/web/nginx \(abc1\)"):
        find(wanted, NODE)


@pytest.mark.parametrize("wanted", ["", "x", "default/web/other", "default/web/nginx/more", "/", "other/redis/redis"])
def test_nobody_is_refused(wanted: str) -> None:
    with pytest.raises(NotFound, match="no container"):
        find(wanted, NODE)


def test_an_empty_node_is_called_so() -> None:
    with pytest.raises(NotFound, match="none on this node"):
        find("x", ())


def test_without_a_pod_the_namespace_and_the_id_are_the_name() -> None:
    assert name(ContainerStatus(id="redis", namespace="default")) == "default/redis"


def test_of_two_with_the_same_id_the_namespace_tells_which() -> None:
    both = [Found(ContainerStatus(id="redis", namespace=namespace), namespace) for namespace in ("default", "moby")]
    with pytest.raises(NotFound, match="may be any of 2 containers: default/redis, moby/redis"):
        find("redis", both)
    assert find("moby/redis", both).path == "moby"
