"""The configuration of this node for all its containers: the administrator's file, read when a decision needs it.

So a change takes effect at once, and a shim that has nothing to decide never reads the file. Errors in the file never
keep a container from starting: the default is used, and a complaint is returned for each.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


KEYS: Mapping[str, Callable[[str], int]] = {"max-checkpoint-bytes": quantity, "min-free-bytes": quantity}


def read(*files: Path) -> tuple[NodeConfig, list[str]]:
    """Return the configuration of this node and complaints about errors; of two files the later one wins.

    By default it reads the administrator's file, then the manager's overrides.
    """
    values: dict[str, int] = {}
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


def parse(text: str) -> tuple[dict[str, int], list[str]]:
    """Return the valid values by key, and complaints about the others."""
    import tomllib  # most shims never see such a file

    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return {}, [f"is not TOML and is ignored: {error}"]
    values: dict[str, int] = {}
    complaints: list[str] = []
    for key, value in table.items():
        if key not in KEYS:
            complaints.append(f"{key} is unknown to this version and has no effect; known are {', '.join(KEYS)}")
            continue
        try:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise ValueError("a number of bytes such as 20Gi")
            values[key] = KEYS[key](str(value))
        except ValueError as error:
            complaints.append(f"{key}: {value!r} is not {error}; the default is taken")
    return values, complaints


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
