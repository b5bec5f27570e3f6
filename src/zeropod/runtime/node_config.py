"""The configuration of this node for all its containers: the administrator's file, read when a decision needs it.

So a change takes effect at once: of what limits the disk when a container is about to sleep, of the defaults for
annotations when a container is created. Errors in the file never keep a container from starting: the built-in default
is used, and a complaint is returned for each.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeropod import paths
from zeropod.runtime.quantity import quantity

MIN_FREE_BYTES = 256 << 20
"""The default reserve: a full disk costs a node more than the memory of one idle container."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    max_checkpoint_bytes: int = 0
    """Bytes that the images of all containers may take on disk together; 0 for unlimited."""
    min_free_bytes: int = MIN_FREE_BYTES
    """Bytes that must stay free on their file system."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Default values of annotations by their names without the prefix; not yet validated."""


DEFAULTS = "defaults"
"""The table of these in the file."""

KEYS: Mapping[str, Callable[[str], int]] = {"max-checkpoint-bytes": quantity, "min-free-bytes": quantity}


def read(*files: Path) -> tuple[NodeConfig, list[str]]:
    """Return the configuration of this node and complaints about errors; of two files the later one wins.

    By default it reads the administrator's file, then the manager's overrides.
    """
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for file in files or (paths.NODE_CONFIG, paths.NODE_OVERRIDES):
        try:
            text = file.read_text()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            complaints.append(f"{file} cannot be read and is ignored: {error}")
            continue
        found, wrong = parse(text)
        values |= found
        complaints += [f"{file}: {words}" for words in wrong]
    return NodeConfig(**{key.replace("-", "_"): value for key, value in values.items()}), complaints


def parse(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the valid values by key, and complaints about the others."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return {}, [f"is not TOML and is ignored: {error}"]
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for key, value in table.items():
        if key == DEFAULTS:
            values[key], wrong = _texts(value)
            complaints += wrong
            continue
        if key not in KEYS:
            known = ", ".join((*KEYS, f"the table {DEFAULTS}"))
            complaints.append(f"{key} is unknown to this version and has no effect; known are {known}")
            continue
        try:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise ValueError("a number of bytes such as 20Gi")
            values[key] = KEYS[key](str(value))
        except ValueError as error:
            complaints.append(f"{key}: {value!r} is not {error}; the default is taken")
    return values, complaints


def _texts(table: Any) -> tuple[dict[str, str], list[str]]:
    """Return the defaults as annotations would have them, and complaints about the others."""
    if not isinstance(table, dict):
        return {}, [f"{DEFAULTS}: {table!r} is not a table of annotations without their prefix, and has no effect"]
    texts: dict[str, str] = {}
    complaints: list[str] = []
    for key, value in table.items():
        if isinstance(value, bool):
            texts[key] = str(value).lower()
        elif isinstance(value, str | int):
            texts[key] = str(value)
        else:
            complaints.append(f"{DEFAULTS}.{key}: {value!r} is not text, as annotations have it, and has no effect")
    return texts, complaints


def override(values: Mapping[str, int]) -> None:
    """Override values of the administrator's file until the next call or reboot. Raises OSError."""
    if not values:
        paths.NODE_OVERRIDES.unlink(missing_ok=True)
        return
    paths.make_private(paths.NODE_OVERRIDES.parent)
    temporary = paths.NODE_OVERRIDES.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{key} = {value}\n" for key, value in values.items())
    temporary.replace(paths.NODE_OVERRIDES)
