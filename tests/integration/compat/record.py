"""What was seen: a file for each application and depth, under build/results, from which the docs' table is made."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration import node
from tests.integration.compat.applications import Application

RESULTS = Path(__file__).resolve().parents[3] / "build" / "results" / "compat"


@dataclass(slots=True)
class Seen:
    """One application at one depth. What was not reached is as it is here."""

    application: str
    depth: str
    machine: bool
    """Whether it was seen in a machine of its own, and not in namespaces of the one that ran the tests."""
    emulated: bool
    note: str
    sleeps: bool = False
    wakes: bool = False
    connection: bool = False
    """Whether an established connection has survived."""
    image: int = 0
    """Bytes."""
    wake_ms: float = 0.0
    why: str = ""
    """What `zeropod ps` says of a container that does not sleep, or not as deep."""

    @classmethod
    def of(cls, application: Application, depth: str) -> "Seen":
        emulated = os.environ.get("ZEROPOD_TEST_PATIENCE", "1") == "20"
        return cls(application.title, depth, node.SYSTEMD, emulated, application.note)

    def write(self) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        name = f"{self.application}-{self.depth}-{'machine' if self.machine else 'namespaces'}.json"
        (RESULTS / name.replace("/", "_")).write_text(json.dumps(asdict(self), indent=1) + "\n")


def size(directory: str) -> int:
    """Bytes that the files of a directory take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in Path(directory).rglob("*"))
