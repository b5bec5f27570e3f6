"""Gathers what zeropod needs on a node into one directory: the bundle that `zeropod installer` copies from.

Run it where Debian's own packages of CRIU and Python are installed: the Containerfile does, and the tests do in their
node. The programs come with every library they load and with the loader itself, so that they run on a host with an
older C library, or with another one: what the bundle holds is started by `lib/ld.so`, never by the host's loader.

    OUTPUT/bin/zeropod.pyz  the product, zeropod.pyz
    OUTPUT/lib/programs     CRIU and others, to be started by the loader (zeropod.installer.wrappers)
    OUTPUT/lib/*.so*        their libraries, and the loader as ld.so
    OUTPUT/lib/python3.N    Python's standard library, for hosts without a Python that is new enough
    OUTPUT/licenses         what their licences ask to be passed on
    OUTPUT/bundle.json      what is in it: versions, architecture, programs
"""

import argparse
import compileall
import json
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

PROGRAMS = {
    "criu": "criu",
    "python3": sys.executable,
    # CRIU runs tar for each tmpfs of a container, with options that only GNU's has; and that runs gzip.
    "tar": "tar",
    "gzip": "gzip",
}
"""What is bundled, and how it is found here."""

LEFT_OUT = (
    "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "_pyrepl", "config-3*", "curses",
    "dbm", "sqlite3", "venv", "wsgiref", "__pycache__", "site-packages", "dist-packages", "sitecustomize.py",
    "turtle.py", "EXTERNALLY-MANAGED", "_test*", "_xx*", "xx*", "_codecs_*", "_curses*", "_dbm*", "readline*",
    "_sqlite3*", "_tkinter*", "_lsprof*", "_remote_debugging*", "_ctypes_test*",
)  # fmt: skip
"""Parts of the standard library, and its compiled modules, that nothing in zeropod.pyz imports."""

LOADER = re.compile(r"ld-(?:linux|musl)")
SECONDS = 60


class BundleError(Exception):
    """The bundle cannot be made here; says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Gather CRIU, Python and zeropod.pyz with all that they need.")
    parser.add_argument("--pyz", type=Path, required=True, help="zeropod.pyz, as built")
    parser.add_argument("--output", type=Path, required=True, help="a directory that does not exist yet")
    options = parser.parse_args()
    try:
        bundle(options.pyz, options.output)
    except BundleError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    size = sum(path.lstat().st_size for path in options.output.rglob("*")) / 1e6
    print(f"{options.output}: {size:.0f} MB")
    return 0


def bundle(pyz: Path, output: Path) -> None:
    """Fills `output`. Raises BundleError where a program is missing or the directory exists."""
    if output.exists():
        raise BundleError(f"{output} is there already: remove it")
    for name in ("bin", "lib/programs", "licenses"):
        (output / name).mkdir(parents=True)
    _copy(pyz, output / "bin/zeropod.pyz", 0o755)
    origins = {name: _find(name, known) for name, known in PROGRAMS.items()}
    files: dict[str, Path] = {}
    standard_library = _copy_standard_library(output / "lib")
    for loaded in [*origins.values(), *standard_library.glob("lib-dynload/*.so")]:
        files |= libraries(loaded)
    for name, origin in sorted(origins.items()):
        _copy(origin, output / "lib/programs" / name, 0o755)
    for name, origin in sorted(files.items()):
        _copy(origin, output / "lib" / name, 0o755 if name == "ld.so" else 0o644)
    _copy_licences([*origins.values(), *files.values(), Path(sysconfig.get_path("stdlib"))], output / "licenses")
    description = {
        "architecture": platform.machine(),
        "programs": sorted(PROGRAMS),
        "criu": _version([str(origins["criu"]), "--version"]),
        "python": platform.python_version(),
    }
    (output / "bundle.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def libraries(program: Path) -> dict[str, Path]:
    """The libraries that a program or module loads, by the names it asks for, and the loader as `ld.so`."""
    found = {}
    for line in _output(["ldd", str(program)]).splitlines():
        if "not found" in line:
            raise BundleError(f"{program} needs {line.strip()}: install what brings it")
        if match := re.match(r"\s*(?:(\S+) => )?(/\S+) \(0x", line):
            path = Path(match[2])
            found["ld.so" if LOADER.match(path.name) else match[1] or path.name] = path.resolve()
    return found


def _copy_standard_library(lib: Path) -> Path:
    """Copies and compiles it; returns where it is."""
    origin = Path(sysconfig.get_path("stdlib"))
    target = lib / origin.name

    def left_out(_directory: str, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatch(name, pattern) for pattern in LEFT_OUT)]

    shutil.copytree(origin, target, ignore=left_out, symlinks=False, ignore_dangling_symlinks=True)
    # The hash is not checked: nobody edits these, and dates are not kept on the way to a node.
    compileall.compile_dir(
        target,
        quiet=2,
        stripdir=str(target),
        prependdir=f"lib/{origin.name}",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return target


def _copy_licences(files: list[Path], licences: Path) -> None:
    """The copyright file of every Debian package that one of the files is from."""
    for path in sorted({name for file in files for name in (str(file), str(file).removeprefix("/usr"))}):
        known = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, timeout=SECONDS, check=False)
        for package in re.findall(r"^([\w.+-]+)(?::\w+)?: ", known.stdout, re.MULTILINE):
            text = Path("/usr/share/doc") / package / "copyright"
            if text.exists():
                _copy(text, licences / package, 0o644)


def _find(name: str, known: str) -> Path:
    path = shutil.which(known, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise BundleError(f"there is no {name} here: install Debian's package of it")
    return Path(path).resolve()


def _copy(origin: Path, target: Path, mode: int) -> None:
    shutil.copyfile(origin, target)
    target.chmod(mode)


def _version(command: list[str]) -> str:
    found = re.search(r"\d+(?:\.\d+)+", _output(command))
    if not found:
        raise BundleError(f"{' '.join(command)} says no version")
    return found[0]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise BundleError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
