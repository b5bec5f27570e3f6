"""Compute containerd's configuration for a node, from its distribution and its present files. No I/O of its own.

containerd 2 merges imported files key by key, so zeropod's table has a file of its own. containerd 1 takes each
plugin's whole section from the last file that has one (its `mergeConfig`), so the table is added to that file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from zeropod.installer import edits, handler
from zeropod.installer.distributions import Distribution, Kind
from zeropod.installer.errors import InstallError

MERGES = 2
"""First major version of containerd that merges plugins' sections."""

BASE = '{{ template "base" . }}\n'
"""The default template of K3s and RKE2, for templates that extend it."""

K0S_RENDERED = "/run/k0s/containerd-cri.toml"
"""The file into which k0s renders its drop-ins."""

_DISABLED = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}


@dataclass(frozen=True, slots=True)
class Node:
    """The inputs of the configuration."""

    read: Callable[[str], str | None]
    glob: Callable[[str], list[str]]
    config: str
    """The file that containerd reads, or the result of a template."""
    major: int
    """containerd's major version."""
    ordinary: Mapping[str, Any] | None
    """The handler of pods without a RuntimeClass, as containerd describes it; None if containerd was not queried."""


@dataclass(slots=True)
class Configuration:
    """Texts by path: files that only the installer writes, and existing files with additions."""

    own: dict[str, str] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)
    drop_in: str | None = None
    """The file that an edited one now imports."""


def configure(distribution: Distribution, node: Node, shim: str) -> Configuration:
    """Return the texts for a shim at this absolute path. Raises InstallError if a file cannot be extended."""
    match distribution.kind:
        case Kind.TEMPLATE:
            return _template(node, shim)
        case Kind.DROP_IN:
            version = _version(node.read(K0S_RENDERED) or "", K0S_RENDERED) or 2
            text = f"version = {version}\n\n{handler.table(version, shim, node.ordinary)}"
            return Configuration(own={node.config: text})
        case Kind.CONFIG:
            return _config(node, shim, may_import=distribution.name != "microk8s")


def taken_back(text: str, drop_in: str | None) -> str:
    """Return an edited file without zeropod's part, with all later changes of others."""
    rest = edits.without_block(text)
    return edits.without_import(rest, drop_in) if drop_in else rest


def _config(node: Node, shim: str, *, may_import: bool) -> Configuration:
    present = node.read(node.config)
    text = edits.without_block(present or "")
    version = _version(text, node.config)
    if version is None and "plugins" not in edits.parse(text, node.config):
        version = 3 if node.major >= MERGES else 2
        text = f"version = {version}\n{text}"
    values = _checked(text, node.config)
    assert version is not None  # _checked refuses a file without one
    if node.major >= MERGES and may_import:
        return _drop_in(node, shim, text, values, version)
    path, host = node.config, text
    for imported in _imported(node, values):
        found = edits.without_block(node.read(imported) or "")
        if imported != node.config and handler.plugin(version) in edits.parse(found, imported).get("plugins", {}):
            path, host = imported, found
            _refuse_by_hand(edits.parse(found, imported), imported)
    ordinary = node.ordinary or _ordinary(host, path)
    extended = edits.with_block(host, handler.table(version, shim, ordinary))
    edits.parse(extended, f"{path}, extended by the handler {handler.NAME},")
    return Configuration(edited={path: extended})


def _drop_in(node: Node, shim: str, text: str, values: dict[str, Any], version: int) -> Configuration:
    directory = str(PurePosixPath(node.config).parent)
    drop_in = f"{directory}/conf.d/{handler.NAME}.toml"
    patterns = edits.imports(values)
    for pattern in patterns:
        beside = str(PurePosixPath(directory, pattern).parent / f"{handler.NAME}.toml")
        if edits.imported_by([pattern], beside, directory):
            drop_in = beside
            break
    ordinary = node.ordinary or _ordinary(text, node.config)
    own = f"# Written by `zeropod installer`.\nversion = {version}\n\n{handler.table(version, shim, ordinary)}"
    configuration = Configuration(own={drop_in: own}, drop_in=drop_in)
    if not edits.imported_by(patterns, drop_in, directory):
        text = edits.with_import(text, drop_in)
        edits.parse(text, f"{node.config}, which imports {drop_in} now,")
    if text != node.read(node.config):
        configuration.edited[node.config] = text
    elif drop_in in patterns:
        configuration.edited[node.config] = text  # by an earlier installation
    return configuration


def _template(node: Node, shim: str) -> Configuration:
    rendered = node.read(node.config)
    old, new = f"{node.config}.tmpl", str(PurePosixPath(node.config).with_name("config-v3.toml.tmpl"))
    is_new = rendered is not None and (_version(rendered, node.config) or 2) >= max(handler.PLUGINS)
    # A template of the newer name takes precedence, so one must not be added beside a user's own of the older name.
    path = new if is_new and (node.read(new) is not None or node.read(old) is None) else old
    present = edits.without_block(node.read(path) or "")
    if f".runtimes.{handler.NAME}]" in present:
        raise _by_hand(path)
    text = present or BASE
    version = max(handler.PLUGINS) if path == new or handler.PLUGINS[max(handler.PLUGINS)] in text else 2
    return Configuration(edited={path: edits.with_block(text, handler.template_table(version, shim))})


def is_ours_alone(text: str) -> bool:
    """Return whether an edited file without zeropod's part has only content that the installer created."""
    return text.strip() in ("", BASE.strip(), "version = 2", "version = 3")


def _version(text: str, path: str) -> int | None:
    found = edits.parse(text, path).get("version")
    return found if isinstance(found, int) else None


def _checked(text: str, path: str) -> dict[str, Any]:
    """Return the file's values. Raises InstallError if no handler can be added, or another program has added one."""
    values = edits.parse(text, path)
    version = values.get("version", 1)
    if not isinstance(version, int) or version < min(handler.PLUGINS):
        raise InstallError(
            f"{path} is of version {version}, which is too old: convert it by `containerd config migrate`"
        )
    if disabled := _DISABLED & {name for name in values.get("disabled_plugins", []) if isinstance(name, str)}:
        raise InstallError(
            f"{path} disables containerd's CRI plugin, without which there are no pods: take {', '.join(disabled)} out"
            " of disabled_plugins"
        )
    _refuse_by_hand(values, path)
    return values


def _refuse_by_hand(values: Mapping[str, Any], path: str) -> None:
    if any(handler.NAME in _runtimes(values, name) for name in handler.PLUGINS.values()):
        raise _by_hand(path)


def _by_hand(path: str) -> InstallError:
    return InstallError(f"{path} has a runtime {handler.NAME} that zeropod did not put there: remove it, then install")


def _runtimes(values: Mapping[str, Any], plugin: str) -> Mapping[str, Any]:
    found: Any = values
    for name in ("plugins", plugin, "containerd", "runtimes"):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _ordinary(text: str, path: str) -> Mapping[str, Any] | None:
    """Return runc's own table, if containerd could not be queried."""
    values = edits.parse(text, path)
    tables = [_runtimes(values, name).get("runc") for name in handler.PLUGINS.values()]
    return next((found for found in tables if isinstance(found, dict)), None)


def _imported(node: Node, values: dict[str, Any]) -> list[str]:
    directory = PurePosixPath(node.config).parent
    return [path for pattern in edits.imports(values) for path in node.glob(str(directory / pattern))]
