"""The entry at a path, the wanted entry, and the difference as a diff. No I/O."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. A replaced file keeps its owner; a new one belongs to root."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    target: str


Entry = File | Link | None
"""The entry at a path; None if there is none."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the entry at an absolute path of the node."""

    path: str
    before: Entry
    after: Entry


def compare(look: Callable[[str], Entry], wanted: Mapping[str, Entry]) -> list[Change]:
    """Return the changes that lead to the wanted entries, in their order."""
    found = ((path, look(path), after) for path, after in wanted.items())
    return [Change(path, before, after) for path, before, after in found if before != after]


def show(changes: Iterable[Change], quiet_below: str) -> str:
    """Return the changes as a unified diff; files below `quiet_below` are only counted."""
    counts: dict[str, list[int]] = {}
    parts = []
    for change in changes:
        if change.path.startswith(f"{quiet_below}/"):
            size = len(change.after.content) if isinstance(change.after, File) else 0
            counts.setdefault(_verb(change), []).append(size)
        else:
            parts.append(_diff(change))
    for verb, sizes in counts.items():
        parts.append(f"{verb} {len(sizes)} files below {quiet_below} ({sum(sizes) / 1e6:.1f} MB)\n")
    return "".join(parts)


def _verb(change: Change) -> str:
    if change.after is None:
        return "remove"
    return "add" if change.before is None else "replace"


def _diff(change: Change) -> str:
    before, after = _lines(change.before), _lines(change.after)
    if before is None or after is None:
        return f"{_verb(change)} {change.path}\n"
    old, new = ["/dev/null" if entry is None else change.path for entry in (change.before, change.after)]
    text = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, old, new)
    )
    return text or f"replace {change.path}: its mode\n"


def _lines(entry: Entry) -> list[str] | None:
    match entry:
        case None:
            return []
        case Link(target):
            return [f"symbolic link to {target}\n"]
        case File(content):
            try:
                return content.decode().splitlines(keepends=True)
            except UnicodeDecodeError:
                return None
