"""The `ctr` command, as people use it on a node. Everything ends within a timeout."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from tests.integration.patience import patient

TIMEOUT = patient(40.0)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command has said and how it ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Ctr:
    """`ctr` with a runtime for the containers it makes."""

    runtime: str
    namespace: str = "default"

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = TIMEOUT) -> Result:
        """`ctr ARGUMENTS…`. Raises subprocess.TimeoutExpired."""
        line = ["ctr", "-n", self.namespace, *arguments]
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def run(
        self,
        id: str,
        *command: str,
        image: str = "localhost/redis:test",
        flags: tuple[str, ...] = (),
        annotations: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Result:
        """`ctr run`; name `-d` or `--rm` among the flags."""
        noted = [f"--annotation={key}={value}" for key, value in (annotations or {}).items()]
        return self("run", f"--runtime={self.runtime}", *noted, *flags, image, id, *command, stdin=stdin)

    def task(self, verb: str, id: str, *rest: str, flags: tuple[str, ...] = ()) -> Result:
        """`ctr task VERB FLAGS ID REST`."""
        return self("task", verb, *flags, id, *rest)

    def exec(self, id: str, exec_id: str, *command: str, flags: tuple[str, ...] = ()) -> Result:
        return self("task", "exec", f"--exec-id={exec_id}", *flags, id, *command)

    def remove(self, *ids: str) -> None:
        """Kill and remove, whatever of it there is."""
        for name in ids:
            self("task", "kill", "-s", "SIGKILL", "-a", name)
            self("task", "delete", "-f", name)
            self("container", "delete", name)
