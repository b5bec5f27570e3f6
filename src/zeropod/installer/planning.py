"""Compare the node with its wanted state, and record what is needed to restore it."""

from dataclasses import dataclass, field, replace

from zeropod import __version__
from zeropod.installer import changes, configure, contents, facts, record
from zeropod.installer.changes import Change, Entry, File
from zeropod.installer.configure import Configuration
from zeropod.installer.contents import Needs
from zeropod.installer.errors import InstallError
from zeropod.installer.facts import Facts
from zeropod.installer.record import Kept, Record
from zeropod.installer.root import Root
from zeropod.installer.transaction import missing, stat_of
from zeropod.lifecycle import defaults
from zeropod.runtime import node_config


@dataclass(frozen=True, slots=True)
class Source:
    archive: str
    """The running zeropod.pyz."""
    bundle: str | None
    python: str = "auto"
    """"auto", or "bundled": the bundle's Python even if the node has one."""
    node_config: str | None = None
    """A file to install as the node's zeropod.toml."""


@dataclass(frozen=True, slots=True)
class Plan:
    changes: list[Change]
    needs: Needs
    configures: bool
    """Whether containerd's configuration changes."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""


def plan(root: Root, found: Facts, install_root: str, source: Source, *, links: bool) -> Plan:
    """Return the plan. Raises InstallError if the node cannot be brought into the wanted state."""
    place = f"{install_root}/{record.PLACE}"
    previous = record.read(root.look(place), place)
    needs, inner = _programs(root, install_root, source, previous)
    config, notes = _node_config(root, install_root, source, previous)
    inner |= config

    node = configure.Node(root.text, root.glob, found.config, found.major, found.live.ordinary if found.live else None)
    configuration = configure.configure(found.distribution, node, f"{install_root}/bin/{contents.SHIM}")
    outer: dict[str, Entry] = {}
    configured: set[str] = set()
    for path, text in (configuration.own | configuration.edited).items():
        real = root.resolve(path)
        present = root.look(real)
        outer[real] = File(text.encode(), present.mode if isinstance(present, File) else 0o644)
        configured.add(real)
    for path, link in (contents.links(install_root) if links else {}).items():
        present = root.look(path)
        known = previous.files.get(path) if previous else None
        if present in (None, link) or (known and known.digest == record.digest(present)):
            outer[path] = link
        else:
            notes.append(f"{path} is not zeropod's and stays as it is")

    made, backups = _remember(root, found, configuration, outer, previous, install_root)
    ours = tuple(sorted(path.removeprefix(f"{install_root}/") for path in inner | backups))
    wanted = inner | backups | {place: replace(made, inner=ours).entry()} | outer
    before = [f"{install_root}/{path}" for path in previous.inner] if previous else []
    obsolete = {path: None for path in before if path not in wanted}
    differences = changes.compare(root.look, wanted | obsolete)
    return Plan(differences, needs, any(change.path in configured for change in differences), notes)


def _programs(root: Root, install_root: str, source: Source, previous: Record | None) -> tuple[Needs, dict[str, Entry]]:
    needs = facts.needs(root, source.python)
    if source.bundle is not None:
        return needs, contents.contents(source.bundle, install_root, needs)
    if needs.python:
        raise InstallError("there is no Python 3.11 or newer here with all of its modules: name a --bundle with one")
    # An administrator's file stays; that of an earlier bundle is removed.
    by_hand = root.exists(f"{install_root}/bin/criu") and not (previous and "bin/criu" in previous.inner)
    facts.demand_criu(root, f"{install_root}/bin/criu" if by_hand else "criu")
    with open(source.archive, "rb") as file:
        return Needs(python=False, tar=False), contents.bare(file.read(), install_root)


def _node_config(
    root: Root, install_root: str, source: Source, previous: Record | None
) -> tuple[dict[str, Entry], list[str]]:
    """Return the node's configuration file, if the installer provides one, and a note for the user."""
    if source.node_config is None:
        return {}, []
    path = f"{install_root}/{contents.NODE_CONFIG}"
    with open(source.node_config, "rb") as file:
        wanted = File(file.read())
    if root.exists(path) and not (previous and contents.NODE_CONFIG in previous.inner) and root.look(path) != wanted:
        return {}, [f"{path} is not the installer's and stays as it is: remove it to have {source.node_config} there"]
    try:
        config, complaints = node_config.parse(wanted.content.decode())
    except UnicodeDecodeError as error:
        config, complaints = {}, [f"is not text and is ignored: {error}"]
    complaints += map(str, defaults.complaints_about(config.get(node_config.DEFAULTS, {})))
    return {path: wanted}, [f"{source.node_config}: {words}" for words in complaints]


def _remember(
    root: Root,
    found: Facts,
    configuration: Configuration,
    outer: dict[str, Entry],
    previous: Record | None,
    install_root: str,
) -> tuple[Record, dict[str, Entry]]:
    """Return the record of this installation, and the backups that belong to it."""
    edited = {root.resolve(path) for path in configuration.edited}
    files: dict[str, Kept] = {}
    backups: dict[str, Entry] = {}
    for path, after in outer.items():
        known = previous.files.get(path) if previous else None
        present = root.look(path)
        backup = f"{install_root}/{record.BACKUPS}{path}"
        if known is not None and record.digest(present) == known.digest:
            # As the installer has left it: the original is in the backup.
            files[path] = replace(known, digest=record.digest(after))
            if known.existed:
                backups[backup] = root.look(backup)
            continue
        original = present if path in edited else None
        if known is not None and isinstance(original, File):
            # Changed by others since: the backup is their version without zeropod's part.
            rest = configure.taken_back(original.content.decode(), configuration.drop_in)
            original = None if configure.is_ours_alone(rest) else File(rest.encode(), original.mode)
        if isinstance(original, File):
            metadata = stat_of(root, path)
            files[path] = Kept(record.digest(after), path in edited, existed=True, mode=original.mode, **metadata)
            backups[backup] = File(original.content, 0o600)
        else:
            files[path] = Kept(record.digest(after), path in edited, existed=False)
    if previous is not None and (stale := set(previous.files) - set(files)):
        for path in sorted(stale):  # of a configuration that containerd does not read any more
            files[path] = previous.files[path]
            if files[path].existed:
                backups[f"{install_root}/{record.BACKUPS}{path}"] = root.look(f"{install_root}/{record.BACKUPS}{path}")
    parents = [path.rpartition("/")[0] or "/" for path in outer]
    new = missing([install_root, *parents], root.exists)
    outside = {name for name in new if name != install_root and not name.startswith(f"{install_root}/")}
    directories = tuple(sorted(outside | set(previous.directories if previous else ())))
    made = Record(
        __version__, found.distribution.name, found.config, found.socket, configuration.drop_in, files, directories
    )
    return made, backups
