"""Kubeconfigs, merged like kubectl merges them, and resolved to one cluster and one user. No I/O.

Unsupported settings are refused by name: ignoring them would differ from kubectl without notice.
"""

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

SECTIONS = ("clusters", "contexts", "users")
PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_INSIDE = {"clusters": "cluster", "contexts": "context", "users": "user"}


class ConfigError(Exception):
    """The configuration does not say how to reach a cluster; the text says what is missing, and where."""


@dataclass(slots=True)
class Config:
    """The entries of each section by name."""

    current: str = ""
    clusters: dict[str, Object] = field(default_factory=dict)
    contexts: dict[str, Object] = field(default_factory=dict)
    users: dict[str, Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exec:
    """A program that supplies credentials."""

    command: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    version: str
    """Its version of client.authentication.k8s.io."""
    interactive: bool
    cluster: Object | None
    """The cluster's data for the program, if it asks for it."""
    hint: str
    """A text on how to install it."""


@dataclass(frozen=True, slots=True)
class Material:
    """PEM data: the text itself, or a path; empty if there is none."""

    text: str = ""
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.path)


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster, and a user's credentials."""

    context: str
    address: str
    port: int
    tls: bool = True
    prefix: str = ""
    """The prefix of all paths of the API."""
    namespace: str = "default"
    server_name: str = ""
    insecure: bool = False
    authority: Material = Material()
    certificate: Material = Material()
    key: Material = Material()
    token: str = ""
    token_file: str = ""
    exec: Exec | None = None


def files(environment: Mapping[str, str], chosen: str = "") -> list[str]:
    """Return the files that kubectl reads: `--kubeconfig`, else KUBECONFIG, else ~/.kube/config."""
    if chosen:
        return [chosen]
    if named := [path for path in environment.get("KUBECONFIG", "").split(os.pathsep) if path]:
        return list(dict.fromkeys(named))
    home = environment.get("HOME", "")
    return [os.path.join(home, ".kube", "config")] if home else []


def parse(text: str, path: str) -> Config:
    """Return the content of the kubeconfig at this path, given as JSON. Raises ConfigError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a mapping")
    config = Config(_text(content, "current-context"), **{name: _section(content.get(name), name) for name in SECTIONS})
    directory = os.path.dirname(os.path.abspath(path))
    for entry in (*config.clusters.values(), *config.users.values()):
        _make_absolute(entry, directory)
    return config


def merge(configs: Iterable[Config]) -> Config:
    """Merge configurations: of two entries with one name, and of current contexts, the first counts."""
    merged = Config()
    for config in configs:
        merged.current = merged.current or config.current
        for name in SECTIONS:
            setattr(merged, name, getattr(config, name) | getattr(merged, name))
    return merged


def resolve(config: Config, context: str = "") -> Target:
    """Return the target of a context, by default the current one. Raises ConfigError."""
    name = context or config.current
    if not name:
        raise ConfigError("no context is chosen: kubeconfig has no current-context, and --context is not given")
    if name not in config.contexts:
        raise ConfigError(f'context "{name}" does not exist')
    chosen = config.contexts[name]
    cluster = _entry(config.clusters, _text(chosen, "cluster"), "cluster", name)
    user = _entry(config.users, _text(chosen, "user"), "user", name) if _text(chosen, "user") else {}
    return Target(
        context=name,
        **_cluster(cluster),
        **_user(user, _text(chosen, "user"), cluster),
        namespace=_text(chosen, "namespace") or "default",
    )


def _section(entries: object, name: str) -> dict[str, Object]:
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ConfigError(f"kubeconfig: {name} is not a list")
    found: dict[str, Object] = {}
    for each in entries:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise ConfigError(f"kubeconfig: an entry of {name} has no name")
        inner = each.get(_INSIDE[name])
        if not isinstance(inner, dict | None):
            raise ConfigError(f"kubeconfig: {each['name']} in {name} is not a mapping")
        found.setdefault(each["name"], inner or {})
    return found


def _make_absolute(entry: Object, directory: str) -> None:
    """Make the paths of a cluster or user absolute; they are relative to their file. A program's name only if it is a
    path."""
    for key in PATHS:
        if isinstance(path := entry.get(key), str) and path:
            entry[key] = os.path.join(directory, path)
    program = entry.get("exec")
    if isinstance(program, dict) and isinstance(command := program.get("command"), str) and os.sep in command:
        program["command"] = os.path.join(directory, command)


def _entry(section: Mapping[str, Object], name: str, kind: str, context: str) -> Object:
    if not name:
        raise ConfigError(f'context "{context}" names no {kind}')
    if name not in section:
        raise ConfigError(f'{kind} "{name}" of context "{context}" does not exist')
    return section[name]


def _cluster(cluster: Object) -> Object:
    server = _text(cluster, "server")
    if not server:
        raise ConfigError("the cluster has no server")
    if _text(cluster, "proxy-url"):
        raise ConfigError("the cluster is reached by proxy-url, which kubectl zeropod does not support")
    address, port, tls, prefix = server_of(server)
    return {
        "address": address,
        "port": port,
        "tls": tls,
        "prefix": prefix,
        "server_name": _text(cluster, "tls-server-name"),
        "insecure": cluster.get("insecure-skip-tls-verify") is True,
        "authority": _material(cluster, "certificate-authority"),
    }


def server_of(server: str) -> tuple[str, int, bool, str]:
    """Return address, port, whether to use TLS, and the prefix of all paths. Raises ConfigError."""
    try:
        parts = urlsplit(server if "://" in server else f"https://{server}")
        address, port = parts.hostname, parts.port
    except ValueError:
        address = port = None
    else:
        if parts.scheme in ("https", "http") and address:
            tls = parts.scheme == "https"
            return address, port or (443 if tls else 80), tls, parts.path.rstrip("/")
    raise ConfigError(f"server {server!r} is not an address such as https://host:6443")


def _user(user: Object, name: str, cluster: Object) -> Object:
    if isinstance(provider := user.get("auth-provider"), dict):
        raise ConfigError(
            f'user "{name}" logs in by the auth-provider {provider.get("name")}, which kubectl zeropod does not '
            "support: use a program instead (users[].user.exec)"
        )
    for key in ("username", "password", "as", "as-uid", "as-groups"):
        if user.get(key):
            raise ConfigError(f'user "{name}" has {key}, which kubectl zeropod does not support')
    certificate, key_material = _material(user, "client-certificate"), _material(user, "client-key")
    if bool(certificate) != bool(key_material):
        missing = "client-key" if certificate else "client-certificate"
        raise ConfigError(f'user "{name}" has no {missing}')
    # kubectl prefers the file if there are both.
    token_file = _text(user, "tokenFile")
    return {
        "certificate": certificate,
        "key": key_material,
        "token": "" if token_file else _text(user, "token"),
        "token_file": token_file,
        "exec": _exec(user, name, cluster),
    }


def _exec(user: Object, name: str, cluster: Object) -> Exec | None:
    wanted = user.get("exec")
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or not _text(wanted, "command"):
        raise ConfigError(f'user "{name}" has an exec without a command')
    version = _text(wanted, "apiVersion")
    if version not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"):
        raise ConfigError(
            f'user "{name}" has an exec of apiVersion {version!r}, which kubectl zeropod does not support'
        )
    command = _text(wanted, "command")
    arguments, variables = wanted.get("args") or [], wanted.get("env") or []
    if not isinstance(arguments, list) or not isinstance(variables, list):
        raise ConfigError(f'user "{name}" has an exec whose args or env is not a list')
    environment = tuple((_text(each, "name"), _text(each, "value")) for each in variables if isinstance(each, dict))
    return Exec(
        command,
        tuple(str(each) for each in arguments),
        environment,
        version,
        wanted.get("interactiveMode", "IfAvailable") != "Never",
        _cluster_info(cluster) if wanted.get("provideClusterInfo") is True else None,
        _text(wanted, "installHint"),
    )


def _cluster_info(cluster: Object) -> Object:
    """Return the cluster's data for a program, with the names of its API."""
    found = _material(cluster, "certificate-authority")
    said: Object = {"server": _text(cluster, "server")}
    if found.text:
        said["certificate-authority-data"] = base64.b64encode(found.text.encode()).decode()
    if _text(cluster, "tls-server-name"):
        said["tls-server-name"] = _text(cluster, "tls-server-name")
    if cluster.get("insecure-skip-tls-verify") is True:
        said["insecure-skip-tls-verify"] = True
    return said


def _material(content: Object, key: str) -> Material:
    """Return a certificate or a key; inline data takes precedence over a path."""
    if data := _text(content, f"{key}-data"):
        try:
            return Material(text=base64.b64decode(data, validate=False).decode("ascii"))
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"{key}-data is not PEM in base64: {error}") from error
    return Material(path=_text(content, key))


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{key} is not a text")
    return str(value)
