"""The node's file system and programs, which may be mounted somewhere below our own.

In a container the node's root is at /host, say. Its symbolic links are the node's: an absolute one begins at the
node's root again, so the kernel must not follow them for us. Programs of the node run in a chroot.
"""

import glob
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import PurePosixPath

from zeropod.installer.changes import Entry, File, Link
from zeropod.installer.errors import InstallError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
"""Where the node's programs are, as containerd's own PATH under systemd has it."""

QUICK = 30.0
"""Seconds for a program that only answers."""

MOST_LINKS = 40
"""Symbolic links on the way to a file, as in the kernel."""


class Root:
    """A node whose `/` is at `top`. Paths are the node's own, absolute."""

    def __init__(self, top: str = "/") -> None:
        self.top = os.path.abspath(top)

    def outside(self, path: str, *, follow: bool = True) -> str:
        """Where we find the node's `path`; its last part, if a link, is not followed unless asked to."""
        return self.top.rstrip("/") + self.resolve(path, follow=follow)

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """The node's path without its links. Raises InstallError where they go round in a circle."""
        todo = list(PurePosixPath(path).parts[1:])[::-1]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/".join((self.top.rstrip("/"), *done, part))
            if (todo or follow) and os.path.islink(here):
                if (links := links + 1) > MOST_LINKS:
                    raise InstallError(f"{path}: too many symbolic links")
                target = PurePosixPath(os.readlink(here))
                if target.is_absolute():
                    done = []
                todo += [name for name in target.parts if name != "/"][::-1]
            else:
                done.append(part)
        return "/" + "/".join(done)

    def look(self, path: str) -> Entry:
        """What is at `path` itself. Raises InstallError for what is neither a file nor a link."""
        outside = self.outside(path, follow=False)
        try:
            status = os.lstat(outside)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(status.st_mode):
            return Link(os.readlink(outside))
        if not stat.S_ISREG(status.st_mode):
            raise InstallError(f"{path} is not a file: move it out of the way")
        with open(outside, "rb") as file:
            return File(file.read(), stat.S_IMODE(status.st_mode))

    def text(self, path: str) -> str | None:
        """The text at `path`, links followed; None if it does not exist. Raises InstallError for other bytes."""
        match self.look(self.resolve(path)):
            case File(content):
                try:
                    return content.decode()
                except UnicodeDecodeError as error:
                    raise InstallError(f"{path} is not UTF-8 text: {error}") from error
            case _:
                return None

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.outside(path))

    def glob(self, pattern: str) -> list[str]:
        """The node's paths that match, sorted."""
        top = self.top.rstrip("/")
        return sorted(found.removeprefix(top) for found in glob.glob(glob.escape(top) + pattern))

    def walk(self, directory: str) -> list[str]:
        """Every file and link below a directory, none if it does not exist; links are not followed."""
        top = self.outside(directory)
        return sorted(
            f"{directory}{parent.removeprefix(top)}/{name}"
            for parent, directories, names in os.walk(top)
            for name in [*names, *(each for each in directories if os.path.islink(os.path.join(parent, each)))]
        )

    def run(self, command: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        """Runs a program of the node. Raises InstallError when there is none, or when it does not end in time."""
        # systemctl takes a chroot for an image under construction, in which there is nothing to restart.
        environment = {"PATH": PATH, "SYSTEMD_IGNORE_CHROOT": "1", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        try:
            return subprocess.run(
                command,
                preexec_fn=None if self.top == "/" else self._enter,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                timeout=timeout, check=False, env=environment, cwd="/",
            )  # fmt: skip
        except FileNotFoundError as error:
            raise InstallError(f"there is no {error.filename} here") from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"{' '.join(command)} did not end within {timeout:g} s") from error
        except (OSError, subprocess.SubprocessError) as error:  # the latter if it is _enter that fails
            raise InstallError(f"{command[0]} cannot be run on the node: {error}") from error

    def _enter(self) -> None:
        os.chroot(self.top)
        os.chdir("/")

    def succeeds(self, command: Sequence[str]) -> str | None:
        """What a program of the node prints; None if it is not there or fails."""
        try:
            done = self.run(command, QUICK)
        except InstallError:
            return None
        return None if done.returncode else done.stdout
