"""Examine the node: what it is, what runs on it, and what it lacks. Read-only."""

import os
import platform
import re
from dataclasses import dataclass

from zeropod import requirements
from zeropod.installer import containerd, service
from zeropod.installer.containerd import Handlers
from zeropod.installer.contents import Needs
from zeropod.installer.distributions import CONTAINERD_SOCKET, Distribution, Kind, detect
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root
from zeropod.installer.service import Service
from zeropod.rpc.status import RpcError

PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
"""The names under which zeropod.pyz searches for Python (installer/header.sh)."""

IMPORTS = (
    "import sys; assert sys.version_info >= (3, 11); import ctypes, email, fcntl, hashlib, http, json, logging, mmap,"
    " resource, select, socket, ssl, tomllib, uuid, zipfile, zlib"
)
"""Modules that zeropod imports. Distributions split Python into packages, and a minimal one lacks half of these."""


@dataclass(frozen=True, slots=True)
class Facts:
    distribution: Distribution
    config: str
    socket: str
    live: Handlers | None
    """The data of the running containerd; None if none runs."""
    major: int
    """containerd's major version."""
    service: Service


def gather(
    root: Root, *, distribution: str | None, config: str | None, socket: str | None, command: str | None
) -> Facts:
    """Return the facts. Raises InstallError if the kernel is too old, or without exactly one containerd to choose."""
    if words := requirements.too_old(platform.release(), requirements.OLDEST_KERNEL):
        raise InstallError(f"this node has Linux {words}")
    kind = detect(root.exists, distribution)
    if kind.kind is Kind.CONFIG and config is None and kind.socket == CONTAINERD_SOCKET:
        config = running_config(root)
    socket = socket or kind.socket
    try:
        live = containerd.ask(root.outside(socket))
    except RpcError:
        live = None
    major = containerd.major(live.version if live else root.succeeds(["containerd", "--version"]) or "")
    if not major and kind.kind is Kind.CONFIG:
        raise InstallError(
            f"no containerd answers at {socket}, and the program `containerd` is not found: name the socket of the "
            "one that runs pods with --containerd-socket"
        )
    return Facts(kind, config or kind.config, socket, live, major, service.find(root, kind, command))


def running_config(root: Root) -> str | None:
    """Return the configuration file on the command line of the running containerd; None without one."""
    for path in root.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(root.outside(path), "rb") as file:
                words = [word.decode(errors="replace") for word in file.read().split(b"\0")[:-1]]
        except OSError:  # it has ended
            continue
        if words and os.path.basename(words[0]) == "containerd" and (found := config_of(words)):
            return found
    return None


def config_of(words: list[str]) -> str | None:
    """Return the value of `--config` in containerd's command line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("-c", "--config", "-config"):
            return following or None
        if found := re.fullmatch(r"--?c(?:onfig)?=(.+)", word):
            return found[1]
    return None


def needs(root: Root, python: str) -> Needs:
    """Return what has to come from the bundle; with `python` "bundled", the node's Python is not considered."""
    has_python = python == "auto" and any(
        root.succeeds([name, "-I", "-S", "-c", IMPORTS]) is not None for name in PYTHONS
    )
    return Needs(python=not has_python, tar="GNU tar" not in (root.succeeds(["tar", "--version"]) or ""))


def demand_criu(root: Root, program: str) -> str:
    """Check that a CRIU is new enough. Raises InstallError with the remedy."""
    said = root.succeeds([program, "--version"])
    found = re.search(r"Version: (\d+\.\d+\S*)", said or "")
    wanted = ".".join(map(str, requirements.OLDEST_CRIU))
    if said is None or not found:
        raise InstallError(f"{program} does not run here: install CRIU {wanted} or newer, or name a --bundle with it")
    if requirements.too_old(found[1], requirements.OLDEST_CRIU):
        raise InstallError(f"{program} is {found[0]}, and has to be {wanted} or newer: name a --bundle that has one")
    return found[1]
