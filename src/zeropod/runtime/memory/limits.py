"""Raises cgroup limits while memory moves out, and restores them whatever happens in between.

Owns the record of the former values. It is written before the first file is changed, so that after the death of a shim
the next one, or the clean-up, can restore all of them: `restore_limits`. A file that no longer holds the value written
here is left alone: the container's resources were updated meanwhile, which takes precedence.
"""

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_log = logging.getLogger(__name__)

LIMITS = "limits"
"""The record's name in a container's directory."""

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})
"""The errors for a cgroup that was removed, with nothing left to restore."""


@contextmanager
def opened(record: Path, settings: Mapping[Path, str]) -> Iterator[None]:
    """Write each file's value; restore the former values at the end.

    `record` must not exist: call `restore_limits` first. Raises OSError, with everything restored, if the record or a
    file cannot be written.
    """
    if not settings:
        yield
        return
    stood = {file: file.read_text().strip() for file in settings}
    _write_record(record, [(str(file), stood[file], value) for file, value in settings.items()])
    try:
        for file, value in settings.items():
            _put(file, value)
        yield
    finally:
        restore_limits(record)


def restore_limits(record: Path) -> None:
    """Restore the values in a record, and remove it. Does nothing without one.

    A file that cannot be written is logged, and stays in the record. Blocks for some microseconds per file.
    """
    try:
        text = record.read_text()
    except FileNotFoundError:
        return
    left = []
    for file, stood, value in _parse(record, text):
        try:
            if Path(file).read_text().strip() == value:
                _put(Path(file), stood)
        except OSError as error:
            if error.errno not in _GONE:
                _log.error("cannot restore %s to %s, it keeps the value set by zeropod: %s", file, stood, error)
                left.append((file, stood, value))
    if left:
        _write_record(record, left)
    else:
        record.unlink(missing_ok=True)


def _parse(record: Path, text: str) -> list[tuple[str, str, str]]:
    try:
        return [(str(file), str(stood), str(value)) for file, stood, value in json.loads(text)]
    except (ValueError, TypeError) as error:
        # The record is replaced atomically, so this is not a partial one of ours.
        _log.error("cannot read %s, the limits in it are not restored: %s", record, error)
        return []


def _write_record(record: Path, entries: Sequence[tuple[str, str, str]]) -> None:
    new = record.with_name(record.name + ".new")
    try:
        new.write_text(json.dumps(entries))
        new.replace(record)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _put(file: Path, value: str) -> None:
    """Write in one write(2) and without O_CREAT, which in a cgroup would fail with a misleading EACCES."""
    with open(os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), "wb", buffering=0) as control:
        control.write(value.encode())
