"""What is built once and kept under build/node, under a name with a digest of what it was built from.

A half-built thing never has its final name, so whatever has one is whole. Callers hold ``locked(CACHE /
"lock")``: two nodes may start at the same time and want the same thing.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
CACHE = CHECKOUT / "build" / "node"


class NodeError(Exception):
    """There is no node to be had, or no end of it; the message says why and what to do."""


def say(text: str) -> None:
    """One line of progress, for somebody who waits."""
    print(f"node: {text}", file=sys.stderr, flush=True)


def digest(*parts: str | bytes) -> str:
    """A short name for all that decides what a cached thing contains."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, waiting for it as long as another node is being built."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory build/node/``kind``-``key``; ``build`` fills it when it is not there yet.

    Other versions of the same kind stay, since a running node may stand on them (see ``forget_others``).
    """
    final = CACHE / f"{kind}-{key}"
    if not final.is_dir():
        partial = CACHE / f"{kind}-{key}.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        build(partial)
        partial.rename(final)
    return final


def forget_others(kept: Path) -> None:
    """Remove the other versions of ``kept``'s kind. Only while no node runs."""
    kind, _ = kept.name.split("-", 1)
    for other in CACHE.glob(f"{kind}-*"):
        if other != kept:
            shutil.rmtree(other)


def run_step(command: list[str], log: Path, timeout: float, env: dict[str, str] | None = None) -> None:
    """Run a step of a build with its output appended to ``log``; ``timeout`` is in seconds.

    Raises NodeError, with the end of the log, when the step fails, hangs or cannot be found.
    """
    with log.open("a") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=timeout,
                env=env,
                check=False,
            )
        except FileNotFoundError:
            raise NodeError(f"{command[0]} is not here; ./justw installs what is missing") from None
        except subprocess.TimeoutExpired:
            raise NodeError(f"{' '.join(command)} did not end within {timeout:.0f} s; see {log}") from None
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise NodeError(f"{' '.join(command)} ended with {done.returncode}; the end of {log}:\n{tail}")
