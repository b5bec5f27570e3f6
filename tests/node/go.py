"""Programs of the tests that are built with Go, from the modules of a go.mod, and kept by what they are built from.

Built with the machine's Go, whose settings (GOPROXY, GOFLAGS, …) are the machine's own, or with Debian's.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.node.cache import NodeError, digest, locked, say

SAY_EVERY = 15.0
LONGEST = 5400.0
"""Seconds for one program; Kubernetes takes 12 minutes on 2 cores with nothing cached."""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    package: str = "."
    is_test: bool = False
    """Whether it is made of the package's tests, as by `go test -c`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Go's variables that are set to a text, by package and name."""
    aliases: tuple[str, ...] = ()
    """Other names that it goes by, each a link to it."""


@dataclass(frozen=True, slots=True)
class Module:
    title: str
    how_long: str
    """What a person waits who has nothing cached."""
    source: Path
    """The directory with go.mod, go.sum and what else is compiled there."""
    kept: Path
    """The directory for what is built. Not below build/node, which the node does not see."""


def built(module: Module, *programs: Program) -> Path:
    """A directory with the programs, built when one is missing. Raises NodeError with the end of the log."""
    sources = [path.read_bytes() for path in sorted(module.source.iterdir())]
    final = module.kept / digest(*sources, *map(repr, programs))
    with locked(module.kept / "lock"):
        if not final.is_dir():
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            say(f"waits for {module.title} to be built: once, {module.how_long} (log: {module.kept}/build.log)")
            for program in programs:
                _build(module, program, partial / program.name)
                for name in program.aliases:
                    (partial / name).symlink_to(program.name)
            partial.rename(final)
    return final


def _build(module: Module, program: Program, target: Path) -> None:
    # Without symbols: half the size, and nobody debugs it.
    flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in program.variables.items())])
    # Otherwise a test is vetted with all that it imports, which takes as long as compiling it.
    verb = ["test", "-c", "-vet=off"] if program.is_test else ["build", "-v"]
    options = ["-mod=readonly", "-trimpath", "-ldflags", flags, "-o", str(target)]
    command = ["nice", _go(), *verb, *options, program.package]
    log = module.kept / "build.log"
    with log.open("wb") as output:
        build = subprocess.Popen(
            command,
            cwd=module.source,
            env=os.environ | {"CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _watch(build, program.name, log)
        finally:
            build.kill()
            build.wait()
    if build.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise NodeError(f"{' '.join(command)} ended with {build.returncode}; the end of {log}:\n{tail}")


def _watch(build: "subprocess.Popen[bytes]", name: str, log: Path) -> None:
    """Say how far it is, from time to time, until it has ended."""
    begun = time.monotonic()
    while time.monotonic() - begun < LONGEST:
        try:
            build.wait(SAY_EVERY)
        except subprocess.TimeoutExpired:
            lines = log.read_text(errors="replace").splitlines()
            downloads = sum(line.startswith("go: ") for line in lines)
            done = f"{downloads} modules downloaded, {len(lines) - downloads} packages compiled"
            say(f"{name}: {done}, {time.monotonic() - begun:.0f} s")
        else:
            return
    raise NodeError(f"{name} was not built within {LONGEST:.0f} s")


def _go() -> str:
    """The machine's Go, or the newest that Debian has installed beside it."""
    if found := shutil.which("go"):
        return found
    if installed := sorted(Path("/usr/lib").glob("go-*/bin/go")):
        return str(installed[-1])
    raise NodeError("building this needs Go 1.26 or newer: install it, or Debian's package golang-go")
