"""A kubeconfig resolves as kubectl does it, and whatever is not supported is refused by name."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.cli.kubectl.kubeconfig import ConfigError, Material, files, merge, parse, resolve, server_of

PEM = "-----BEGIN CERTIFICATE-----\n"
DATA = base64.b64encode(PEM.encode()).decode()


def text(cluster: Any = None, user: Any = None, context: Any = None, **more: Any) -> str:
    return json.dumps(
        {
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": "https://api:6443", **(cluster or {})}}],
            "users": [{"name": "u", "user": user or {}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}}],
            **more,
        }
    )


def target(**parts: Any) -> Any:
    return resolve(parse(text(**parts), "/home/me/.kube/config"))


def test_a_cluster_and_a_namespace() -> None:
    found = target(context={"namespace": "shop"}, cluster={"certificate-authority-data": DATA})
    assert (found.address, found.port, found.tls, found.namespace) == ("api", 6443, True, "shop")
    assert found.authority == Material(text=PEM)
    assert target().namespace == "default"


def test_paths_are_relative_to_the_file() -> None:
    found = target(
        cluster={"certificate-authority": "pki/ca.crt"},
        user={"client-certificate": "/pki/me.crt", "client-key": "me.key", "tokenFile": "token"},
    )
    assert found.authority.path == "/home/me/.kube/pki/ca.crt"
    assert (found.certificate.path, found.key.path) == ("/pki/me.crt", "/home/me/.kube/me.key")
    assert found.token_file == "/home/me/.kube/token"


def test_data_counts_before_a_path() -> None:
    assert target(cluster={"certificate-authority": "x", "certificate-authority-data": DATA}).authority.text == PEM


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("https://api", ("api", 443, True, "")),
        ("https://[::1]:6443/", ("::1", 6443, True, "")),
        ("https://rancher/k8s/clusters/c-1", ("rancher", 443, True, "/k8s/clusters/c-1")),
        ("http://127.0.0.1:8001", ("127.0.0.1", 8001, False, "")),
        ("api:6443", ("api", 6443, True, "")),
    ],
)
def test_servers(server: str, found: tuple[str, int, bool, str]) -> None:
    assert server_of(server) == found


@pytest.mark.parametrize("server", ["unix:///run/x", "https://", "https://api:port", "https://[::1"])
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(ConfigError, match="server"):
        server_of(server)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"cluster": {"proxy-url": "socks5://x"}}, "proxy-url"),
        ({"user": {"username": "me", "password": "x"}}, "username"),
        ({"user": {"as": "you"}}, "has as"),
        ({"user": {"auth-provider": {"name": "oidc"}}}, "auth-provider oidc"),
        ({"user": {"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}}, "v1alpha1"),
        ({"user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}}, "without a command"),
        ({"user": {"client-certificate": "x"}}, "no client-key"),
        ({"cluster": {"certificate-authority-data": "ÄÄÄ"}}, "certificate-authority-data"),
        ({"cluster": {"server": ""}}, "no server"),
        ({"context": {"cluster": "d"}}, 'cluster "d" of context "here" does not exist'),
        ({"context": {"user": "v"}}, 'user "v" of context "here" does not exist'),
        ({"current-context": ""}, "no context is chosen"),
        ({"current-context": "there"}, 'context "there" does not exist'),
        ({"contexts": [{"context": {}}]}, "has no name"),
        ({"users": {}}, "users is not a list"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_wrong_is_named(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target(**parts)
    assert words in str(caught.value)


def test_a_program_that_gives_credentials() -> None:
    wanted = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "bin/login", "args": ["--for", 1],
        "env": [{"name": "REGION", "value": "eu"}], "provideClusterInfo": True, "interactiveMode": "Never",
    }  # fmt: skip
    found = target(user={"exec": wanted}, cluster={"certificate-authority-data": DATA}).exec
    assert (found.command, found.arguments) == ("/home/me/.kube/bin/login", ("--for", "1"))
    assert (found.environment, found.interactive) == ((("REGION", "eu"),), False)
    assert found.cluster == {"server": "https://api:6443", "certificate-authority-data": DATA}
    assert target(user={"exec": {**wanted, "command": "login"}}).exec.command == "login"


def test_the_first_file_counts() -> None:
    one = parse(text(cluster={"server": "https://one"}, **{"current-context": ""}), "/a/config")
    two = parse(text(cluster={"server": "https://two"}), "/b/config")
    assert resolve(merge([one, two])).address == "one"
    assert resolve(merge([parse("{}", "/c"), two])).address == "two"


def test_which_files_are_read() -> None:
    assert files({"HOME": "/home/me"}) == ["/home/me/.kube/config"]
    assert files({"HOME": "/home/me", "KUBECONFIG": "/a::/b:/a"}) == ["/a", "/b"]
    assert files({"KUBECONFIG": "/a"}, "/c") == ["/c"]
    assert files({}) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["name", "cluster", "user", "context", "server", "exec", "command", "args", "env", "token", "tokenFile",
     "namespace", "client-certificate", "client-key", "client-key-data", "certificate-authority-data", "auth-provider",
     "apiVersion"]
)  # fmt: skip
OBJECTS = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=4), max_size=6)


@given(OBJECTS, OBJECTS, OBJECTS)
def test_nothing_that_it_may_hold_does_more_than_fail(cluster: Any, user: Any, context: Any) -> None:
    try:
        found = target(cluster=cluster, user=user, context=context)
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - both ways are right
    else:
        assert found.address


@given(st.text(max_size=50) | JSON.map(json.dumps))
def test_nothing_else_does_either(content: str) -> None:
    try:
        parse(content, "/config")
    except ConfigError as error:
        assert "/config" in str(error) or "kubeconfig" in str(error) or "current-context" in str(error)  # noqa: PT017
