"""The dependencies that zeropod.pyz carries: which wheels they are, and what of a wheel is carried.

Every wheel is one whose hash is in the lock, is pure Python, and brings its licence, or the build fails: the
archive has to run on every Python from 3.11 on, on every architecture. How it is written is pyz.py's.
"""

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

COMPILED = (".so", ".pyd", ".dylib", ".dll", ".o", ".a")
LICENCE = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
# Nothing at run time imports these.
LEFT_OUT_FOLDERS = {"__pycache__", "_tests", "tests", "_tools"}
LEFT_OUT_SUFFIXES = (".pyc", ".pyi", "/py.typed")
DOWNLOAD_SECONDS = 600

# What an archive holds: names and contents.
Entries = dict[str, bytes]


class BuildError(Exception):
    """The archive must not be built like this; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One pinned dependency: its name, its version and the sha256 sums of its published files."""

    name: str
    version: str
    hashes: frozenset[str]


def read_lock(text: str) -> list[Requirement]:
    """The requirements in a lock for `pip --require-hashes`. Raises BuildError for one that is not pinned."""
    requirements = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        specification = line.partition("#")[0].strip()
        if not specification:
            continue
        pinned = re.match(r"([\w.-]+)==(\S+)", specification)
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", specification))
        if not pinned or not hashes:
            raise BuildError(f"not pinned by version and hash: {specification!r}; run ./justw lock")
        requirements.append(Requirement(pinned[1], pinned[2], hashes))
    return requirements


def find_wheels(requirements: Iterable[Requirement], folder: Path) -> tuple[list[Path], list[Requirement]]:
    """The wheels in `folder` whose hashes are in the lock, in its order, and the requirements without one."""
    sums = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))}
    found, missing = [], []
    for requirement in requirements:
        if usable := sorted(sums[digest] for digest in requirement.hashes & sums.keys()):
            found.append(usable[0])
        else:
            missing.append(requirement)
    return found, missing


def fetch_wheels(lock: Path, folder: Path) -> list[Path]:
    """The wheels of `lock`, from `folder` if they are all there, else downloaded to it by pip first."""
    folder.mkdir(parents=True, exist_ok=True)
    requirements = read_lock(lock.read_text())
    wheels, missing = find_wheels(requirements, folder)
    if missing:
        # Asked for any platform and no ABI, pip cannot even choose a compiled wheel.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        pure = [
            "--only-binary=:all:",
            "--platform=any",
            "--implementation=py",
            "--abi=none",
            "--python-version=3.11",
        ]
        try:
            subprocess.run(
                [*pip, *pure, "--no-deps", "--require-hashes", f"--dest={folder}", f"--requirement={lock}"],
                check=True,
                stdin=subprocess.DEVNULL,
                timeout=DOWNLOAD_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            names = ", ".join(f"{requirement.name} {requirement.version}" for requirement in missing)
            raise BuildError(f"pip could not download pure-Python wheels of {names}: {error}") from error
        wheels, missing = find_wheels(requirements, folder)
    if missing:
        raise BuildError(f"no wheel in {folder} has a hash that {lock} lists for {missing[0].name}")
    return wheels


def wheel_entries(wheel: Path) -> Entries:
    """What the archive carries of a wheel: its modules, their data, and its licences under
    licenses/NAME-VERSION/.

    Raises BuildError if the wheel is not pure Python or brings no licence.
    """
    distribution = "-".join(wheel.name.split("-")[:2])
    entries: Entries = {}
    licensed = False
    with zipfile.ZipFile(wheel) as opened:
        demand_pure(wheel.name, opened)
        for name in opened.namelist():
            if name.endswith("/"):
                continue
            folder, _, rest = name.partition("/")
            if folder.endswith(".dist-info"):
                if LICENCE.match(rest.rpartition("/")[2]):
                    entries[f"licenses/{distribution}/{rest.removeprefix('licenses/')}"] = opened.read(name)
                    licensed = True
            elif wanted(name):
                entries[name] = opened.read(name)
    if not licensed:
        raise BuildError(f"{wheel.name} brings no licence file, so it must not be passed on")
    return entries


def demand_pure(wheel: str, opened: zipfile.ZipFile) -> None:
    """Raises BuildError unless the wheel runs on every Python 3, every ABI and every platform."""
    advice = "zeropod.pyz has to run everywhere: pin a release that has a py3-none-any wheel, or do without it"
    pythons, abi, platform = wheel.removesuffix(".whl").split("-")[-3:]
    if "py3" not in pythons.split(".") or (abi, platform) != ("none", "any"):
        raise BuildError(f"{wheel} is not a pure-Python wheel but for {pythons}-{abi}-{platform}; {advice}")
    for name in opened.namelist():
        if name.endswith(COMPILED) or ".so." in name:
            raise BuildError(f"{wheel} calls itself pure Python but holds {name}, which is compiled; {advice}")
        if name.partition("/")[0].endswith(".data"):
            raise BuildError(f"{wheel} wants {name} installed elsewhere, which an archive cannot do; {advice}")
        if name.endswith(".dist-info/WHEEL"):
            described = Parser().parsestr(opened.read(name).decode())
            tags = described.get_all("Tag", [])
            if described["Root-Is-Purelib"] != "true" or not all(tag.endswith("-none-any") for tag in tags):
                raise BuildError(f"{wheel} says in {name} that it is not pure Python; {advice}")


def wanted(name: str) -> bool:
    """Whether a module or data file belongs into the archive: tests, type stubs and compiled files do not."""
    return not (LEFT_OUT_FOLDERS & set(name.split("/")) or f"/{name}".endswith(LEFT_OUT_SUFFIXES))
