"""The script that zeropod.pyz begins with, as containerd starts it; Python is a stand-in that says it was started."""

import os
import subprocess
from pathlib import Path

from pyz import INSTALLER

SECONDS = 30.0
"""For what must not hang."""

FLAGS = ("-namespace", "k8s.io", "-id", "web", "start")
PYTHON = "python\n"


class Script:
    """Starts it, in a directory of its own."""

    def __init__(self, folder: Path, zygotes: Path, build: str, shell: str = "/bin/sh") -> None:
        self.path = folder / "containerd-shim-zeropod-v2"
        header = (INSTALLER / "header.sh").read_text()
        (folder / "sh").symlink_to(shell)
        for known, other in (
            ("#!/bin/sh", f"#!{folder}/sh"),
            ("@TREE@", build),
            ("/run/zeropod/zygotes", str(zygotes)),
        ):
            assert header.count(known) == 1
            header = header.replace(known, other)
        self.path.write_text(header)
        python = folder / "python3"
        python.write_text("#!/bin/sh\necho python\n")
        for file in (self.path, python):
            file.chmod(0o755)
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        self.flags: tuple[str, ...] = FLAGS
        self.environment = {"PATH": f"{folder}:{os.defpath}", "A": "1=2", "EMPTY": ""}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.path, *(flags or self.flags)],
            cwd=self.bundle,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()

    def says(self, *flags: str) -> str:
        return said(self.start(*flags))


def said(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return output
