"""The OCI runtime's command line: one method for each command, without state between them.

Only runc writes a container's state, below its root. Its errors are read from a JSON log, because its standard streams
belong to the container; each command has a log of its own, removed afterwards, so that none grows and none holds
another command's messages. runc gets the same options as from containerd-shim-runc-v2 (containerd's
`core/runtime/v2/runc` options), so that containers are set up the same.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zeropod.runtime import command
from zeropod.runtime.command import Started, nothing
from zeropod.runtime.errors import RuncError
from zeropod.runtime.programs import QUICK, RUNC_ROOT, environment
from zeropod.runtime.stdio import Streams

_numbers = itertools.count()
"""Numbers for the logs of this process's commands."""


@dataclass(frozen=True, slots=True)
class Runc:
    """One runtime binary with the options that containerd asked for."""

    namespace: str
    bundle: Path
    binary: str = "runc"
    root: str = RUNC_ROOT
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False

    def state_of(self, id: str) -> Path:
        """Return the directory of runc's state of a container."""
        return Path(self.root or RUNC_ROOT) / self.namespace / id

    def _argv(self, log: Path, *arguments: str) -> list[str]:
        options = [
            "--root",
            str(Path(self.root or RUNC_ROOT) / self.namespace),
            "--log",
            str(log),
            "--log-format",
            "json",
        ]
        if self.systemd_cgroup:
            options.append("--systemd-cgroup")
        return [self.binary or "runc", *options, *arguments]

    async def _run(
        self,
        *arguments: str,
        timeout: float = QUICK,
        streams: Streams | None = None,
        input: bytes | None = None,
        capture: bool = False,
        by_criu: bool = False,
        oom_score_adj: int | None = None,
        started: Started = nothing,
    ) -> bytes:
        log = self.bundle / f"runc-{next(_numbers)}.json"
        log.unlink(missing_ok=True)  # of a shim that was killed
        try:
            done = await command.run(
                self._argv(log, *arguments),
                timeout=timeout,
                input=input,
                capture=capture,
                stdin=streams.stdin if streams else None,
                stdout=streams.stdout if streams else None,
                stderr=streams.stderr if streams else None,
                cwd=str(self.bundle),
                env=environment(),
                needs_children=by_criu,
                started=started,
                oom_score_adj=oom_score_adj,
            )
        except (OSError, TimeoutError) as error:
            raise RuncError(f"{self.binary} {arguments[0]}: {error}") from error
        else:
            if done.status:
                words = _last_error(log) or f"{self.binary} {arguments[0]} exited with status {done.status}"
                raise RuncError(words, done.status)
            return done.output
        finally:
            log.unlink(missing_ok=True)

    def _creation(self, pid_file: Path, console_socket: Path | None) -> list[str]:
        options = ["--bundle", str(self.bundle), "--pid-file", str(pid_file)]
        if console_socket:
            options += ["--console-socket", str(console_socket)]
        if self.no_pivot:
            options.append("--no-pivot")
        return options

    async def create(self, id: str, streams: Streams, pid_file: Path, console_socket: Path | None = None) -> None:
        options = self._creation(pid_file, console_socket)
        if self.no_new_keyring:
            options.append("--no-new-keyring")
        await self._run("create", *options, id, streams=streams)

    async def start(self, id: str) -> None:
        await self._run("start", id)

    async def execute(
        self, id: str, process: Path, streams: Streams, pid_file: Path, console_socket: Path | None = None
    ) -> None:
        options = ["--process", str(process), "--pid-file", str(pid_file), "--detach"]
        if console_socket:
            options += ["--console-socket", str(console_socket)]
        await self._run("exec", *options, id, streams=streams)

    async def kill(self, id: str, signal: int, everyone: bool = False) -> None:
        await self._run("kill", *(["--all"] if everyone else []), id, str(signal))

    async def delete(self, id: str, force: bool = False) -> None:
        await self._run("delete", *(["--force"] if force else []), id)

    async def pause(self, id: str) -> None:
        await self._run("pause", id)

    async def resume(self, id: str) -> None:
        await self._run("resume", id)

    async def update(self, id: str, resources: bytes) -> None:
        """Update the limits; `resources` is the JSON of OCI's LinuxResources."""
        await self._run("update", "--resources", "-", id, input=resources)

    @property
    def is_runc(self) -> bool:
        """Return whether it is probably runc itself, and not another runtime with the same command line."""
        return Path(self.binary or "runc").name == "runc"

    async def checkpoint(
        self, id: str, images: Path, work: Path, options: Sequence[str], timeout: float, started: Started = nothing
    ) -> None:
        await self._run(
            "checkpoint",
            "--image-path",
            str(images),
            "--work-path",
            str(work),
            *options,
            id,
            timeout=timeout,
            by_criu=True,
            started=started,
        )

    async def restore(
        self,
        id: str,
        images: Path,
        work: Path,
        streams: Streams,
        pid_file: Path,
        options: Sequence[str],
        timeout: float,
        console_socket: Path | None = None,
        started: Started = nothing,
    ) -> None:
        creation = self._creation(pid_file, console_socket)
        paths = ["--detach", "--image-path", str(images), "--work-path", str(work)]
        await self._run(
            "restore",
            *creation,
            *paths,
            *options,
            id,
            streams=streams,
            timeout=timeout,
            by_criu=True,
            # CRIU sets every score but 0, which it assumes its children to have anyway, while the shim's differs. At a
            # dump CRIU keeps the shim's score: it must not be killed while it holds an application's registers.
            oom_score_adj=0,
            started=started,
        )


def _last_error(log: Path) -> str:
    errors = [entry["msg"] for entry in _entries(log) if entry.get("level") in ("error", "fatal", "panic")]
    return errors[-1] if errors else ""


def _entries(log: Path) -> Iterator[dict[str, str]]:
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # a partial line of a runc that was killed
            continue
        if isinstance(entry, dict):
            yield entry
