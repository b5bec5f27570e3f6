"""The checks of a node: each function returns what it has found as text, or raises Missing.

They change nothing on the node: what has to be tried out is tried in a temporary network namespace.
"""

import os
import platform
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropod import SHIM_BINARY, paths, requirements
from zeropod.kernel import mountinfo, namespace, proc_stat, userfault
from zeropod.kernel.connection_lock import ConnectionLock
from zeropod.kernel.lookup import Lookup, LookupUnavailable
from zeropod.lifecycle import defaults
from zeropod.runtime import budget, node_config
from zeropod.runtime.cgroups import placement
from zeropod.runtime.memory import choice
from zeropod.runtime.memory.backend import Kind
from zeropod.runtime.programs import environment

CAP_SYS_RESOURCE = 24
RUNTIME_TYPE = "io.containerd.zeropod.v2"
ANNOTATIONS = "zeropod.ctrox.dev/"
QUICK = 30.0
"""Timeout in seconds of programs that only print something."""


class Missing(Exception):  # noqa: N818 - a state of the node
    """Something required is missing; the text says what was found instead."""


def root() -> str:
    if os.geteuid():
        raise Missing(f"this is uid {os.geteuid()}")
    return "yes"


def kernel() -> str:
    release = platform.release()
    if words := requirements.too_old(release, requirements.OLDEST_KERNEL):
        raise Missing(f"Linux {words}")
    return f"Linux {release}"


def userfaultfd() -> str:
    try:
        os.close(userfault.open())
    except OSError as error:
        raise Missing(str(error)) from error
    return "yes"


def standby_memory() -> str:
    """Return a line for each place for the memory of containers in STANDBY, and how to get a better one."""
    facts = choice.facts()
    text = "\n".join(choice.advice(facts))
    if all(choice.obstacle(kind, facts) is not None for kind in (Kind.SWAP, Kind.STORE)):
        raise Missing(text)
    return text


def migrate() -> str:
    with _scratch() as path:
        try:
            namespace.set_sysctl(path, "net/ipv4/tcp_migrate_req", "1")
        except OSError as error:
            raise Missing(f"cannot be set: {error.strerror}") from error
    return "yes"


def sk_lookup() -> str:
    with _scratch() as path:
        try:
            Lookup.attach(path).close()
        except LookupUnavailable as reason:
            raise Missing(str(reason)) from reason
    return "loads and attaches"


def connection_lock() -> str:
    with _scratch() as path:
        try:
            ConnectionLock(path, "zeropod-doctor").close()
        except OSError as error:
            raise Missing(str(error)) from error
    return "tables and queues can be made"


def freezer() -> str:
    controllers = {name for mount in placement.cgroup_mounts(mountinfo.read()) for name in mount.controllers}
    if "freezer" in controllers:
        return "v1, with a freezer"
    if placement.UNIFIED in controllers:
        return "v2"
    raise Missing("neither cgroup v2 nor a v1 freezer is mounted")


def runc() -> str:
    return _first_line(_ask("runc", "--version"))


def criu_version() -> str:
    answer = _ask("criu", "--version")
    found = re.search(r"Version:\s*(\S+)", answer)
    text = found[1] if found else answer.strip()
    if words := requirements.too_old(text, requirements.OLDEST_CRIU):
        raise Missing(words)
    return text


def criu_check() -> str:
    return _first_line(_ask("criu", "check"))


def capabilities() -> str:
    daemon = _containerd()
    status = Path(f"/proc/{daemon.pid if daemon else 'self'}/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    whose = f"containerd (pid {daemon.pid})" if daemon else "this process; containerd does not run"
    if not found or not int(found[1], 16) >> CAP_SYS_RESOURCE & 1:
        raise Missing(f"{whose} has no CAP_SYS_RESOURCE")
    return f"{whose} has CAP_SYS_RESOURCE"


def disk() -> str:
    config, _ = node_config.read()
    taken = budget.usage()
    text = f"{taken.free / 1e9:.1f} GB are free, images take {taken.images / 1e6:.0f} MB"
    if words := budget.refusal(0, taken, config, "an image"):
        raise Missing(f"{text}; {words}")
    return text


def configuration() -> str:
    config, complaints = node_config.read()
    complaints += map(str, defaults.complaints_about(config.defaults))
    if complaints:
        raise Missing("; ".join(complaints))
    there = [str(file) for file in (paths.NODE_CONFIG, paths.NODE_OVERRIDES) if file.exists()]
    most = f"{config.max_checkpoint_bytes / 1e6:.0f} MB" if config.max_checkpoint_bytes else "no limit"
    least = f"{config.min_free_bytes / 1e6:.0f} MB"
    given = f", {len(config.defaults)} defaults for annotations" if config.defaults else ""
    return f"{' and '.join(there) or 'defaults'}: images may take {most}, {least} stay free{given}"


def shim() -> str:
    daemon = _containerd()
    named = [str(path) for _, _, table in _runtimes(_config(daemon) if daemon else {}) if (path := _path(table))]
    for path in named:
        if not os.access(path, os.X_OK):
            raise Missing(f"{path}, which containerd's configuration names, cannot be executed")
    if named:  # then containerd does not look on its PATH for it
        return ", ".join(named)
    if found := shutil.which(SHIM_BINARY, path=daemon.path if daemon else None):
        return found
    whose = f"containerd's PATH, {daemon.path}" if daemon else "PATH"
    raise Missing(f"{SHIM_BINARY} is not on {whose}")


def handler() -> str:
    daemon = _containerd()
    if daemon is None:
        raise Missing("containerd does not run")
    return configured(_config(daemon))


def _config(daemon: "Containerd") -> Mapping[str, Any]:
    """Return containerd's effective configuration. Raises Missing."""
    try:
        return tomllib.loads(_run([daemon.program, *daemon.options, "config", "dump"]))
    except tomllib.TOMLDecodeError as error:
        raise Missing(f"what `containerd config dump` says is not TOML: {error}") from error


def configured(config: Mapping[str, Any]) -> str:
    """Return how containerd's configuration defines the runtime. Raises Missing."""
    for plugin, name, runtime in _runtimes(config):
        passed = runtime.get("pod_annotations") or []
        if not any(pattern.startswith(ANNOTATIONS) or pattern == "*" for pattern in passed):
            raise Missing(f"the handler {name} passes no annotations on: pod_annotations lacks {ANNOTATIONS}*")
        return f"the handler {name} is configured ({plugin})"
    raise Missing(
        f"no runtime with runtime_type {RUNTIME_TYPE}, or a runtime_path to {SHIM_BINARY}, is configured; without "
        "Kubernetes none is needed"
    )


def _runtimes(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the runtimes in containerd's configuration that are zeropod: plugin, name, table."""
    for plugin, settings in (config.get("plugins") or {}).items():
        runtimes = ((settings.get("containerd") or {}).get("runtimes") or {}) if isinstance(settings, dict) else {}
        for name, runtime in runtimes.items():
            if runtime.get("runtime_type") == RUNTIME_TYPE or os.path.basename(_path(runtime)) == SHIM_BINARY:
                yield plugin, name, runtime


def _path(runtime: Mapping[str, Any]) -> str:
    """Return the binary that containerd runs for this runtime; empty if it searches its PATH."""
    return str(runtime.get("runtime_path") or "")


@dataclass(frozen=True, slots=True)
class Containerd:
    """The running containerd."""

    pid: int
    program: str
    options: list[str]
    """Its command line options that select its configuration."""
    path: str
    """Its PATH."""


def _containerd() -> Containerd | None:
    for pid in proc_stat.pids():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.path.basename(line[0]) == b"containerd":
                return _describe(pid, [os.fsdecode(word) for word in line[1:]])
    return None


def _describe(pid: int, arguments: list[str]) -> Containerd:
    options = []
    for index, word in enumerate(arguments):
        if word in ("-c", "--config"):
            options = arguments[index : index + 2]
        elif word.startswith("--config="):
            options = [word]
    variables = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    path = next((one.partition("=")[2] for one in variables if one.startswith("PATH=")), os.defpath)
    return Containerd(pid, os.readlink(f"/proc/{pid}/exe"), options, path)


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield the path of an empty, temporary network namespace. Raises Missing where none can be made."""
    with tempfile.TemporaryDirectory(prefix="zeropod-doctor-") as directory:
        path = f"{directory}/netns"
        try:
            namespace.create_pinned(path)
        except OSError as error:
            raise Missing(f"no network namespace can be made: {error}") from error
        try:
            yield path
        finally:
            namespace.unpin(path)


def _ask(program: str, *arguments: str) -> str:
    """Return the output of a program, found in the way the shim finds it. Raises Missing."""
    found = shutil.which(program, path=environment()["PATH"])
    if not found:
        raise Missing(f"{program} is neither in {paths.PROGRAMS} nor on PATH")
    return _run([found, *arguments])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=QUICK,
            env=environment(),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(command)} has not ended within {QUICK:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise Missing(f"{' '.join(command)} failed with status {done.returncode}: {'; '.join(said[-3:])}")
    return done.stdout or done.stderr


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
