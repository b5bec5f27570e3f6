"""What a command in the machine leaves under /src/build/results comes back to the checkout, as from the other node.

Files alone, at most a few MB: of figures and rows, not of logs.
"""

import tarfile
from pathlib import Path

from tests.node.cache import CHECKOUT, NodeError, say
from tests.node.vm.talk import Conversation

NAME = "results"
WITHIN = 120.0

PACK = f"cd /src/build && {{ [ ! -d {NAME} ] || tar -cf - {NAME}; }}"


def bring(agent: Conversation, directory: Path) -> None:
    """Copy them; `directory` is the run's own."""
    archive = directory / "results.tar"
    try:
        with archive.open("wb") as file:
            status = agent.run(["sh", "-c", PACK], timeout=WITHIN, output=file.fileno())
    except NodeError as error:
        say(f"what the machine has left in build/{NAME} cannot be brought: {error}")
        return
    if status:
        say(f"what the machine has left in build/{NAME} cannot be brought: status {status}")
    elif archive.stat().st_size:
        with tarfile.open(archive) as packed:
            packed.extractall(CHECKOUT / "build", filter="data")
