"""C programs that tests run: as processes of the node, or in containers, which get them as a bind mount."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACE = "/program"
"""Where a container has its program."""


def compiled(source: Path, directory: Path, *options: str) -> Path | None:
    """The program; None without a compiler."""
    if not (compiler := shutil.which("cc") or shutil.which("gcc")):
        return None
    program = directory / source.stem
    subprocess.run([compiler, "-O2", "-static", *options, "-o", program, source], check=True, timeout=60)
    program.chmod(0o755)
    return program


def mounted(program: Path) -> Callable[[dict[str, Any]], None]:
    """A change of an OCI spec: the container has the program at PLACE."""

    def change(spec: dict[str, Any]) -> None:
        mount = {"destination": PLACE, "type": "bind", "source": str(program), "options": ["rbind", "ro"]}
        spec["mounts"].append(mount)

    return change
