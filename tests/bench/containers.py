"""Containers to measure, and a way into their network."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from tests.bench.applications import Application
from tests.integration.containerd import Container, Containerd

from zeropod.kernel import namespace

OURS, PEER = "io.containerd.zeropod.v2", "io.containerd.runc.v2"
RUNTIMES = (OURS, PEER)

PREFIX = "zeropod.ctrox.dev/"
AWAKE = {PREFIX + "scaledown-duration": "0"}
STANDBY = {PREFIX + "scaledown-duration": "200ms"}
COLD = {**STANDBY, PREFIX + "standby": "false"}

APPLICATIONS = "/node/images/applications.tar"

UP = 60.0
"""Seconds for an application to answer for the first time."""


def import_applications(client: Containerd) -> None:
    """The images beyond the test suites' own, which the node has for pods alone."""
    run("ctr", "-n", client.namespace, "images", "import", "--local", APPLICATIONS)


@contextmanager
def running(
    client: Containerd, application: Application, runtime: str, annotations: Mapping[str, str]
) -> Iterator[Container]:
    """The application in a container, once it answers; its network is entered by `entered(container)`."""
    with started(client, application, runtime, annotations) as container:
        with entered(container):
            first_answer(application)
            if application.prepare:
                application.exchange(application.prepare, b"+OK")
        yield container


@contextmanager
def started(
    client: Containerd, application: Application, runtime: str, annotations: Mapping[str, str]
) -> Iterator[Container]:
    """The same before anybody knows whether it answers."""
    image = f"localhost/{application.image}:test"
    with client.container(*application.argv, runtime=runtime, image=image, annotations=annotations) as container:
        container.run()
        _networks[container.id] = os.open(f"/proc/{container.get().pid}/ns/net", os.O_RDONLY)
        try:
            yield container
        finally:
            os.close(_networks.pop(container.id))


def first_answer(application: Application) -> None:
    """Waits for it, as a client does that tries again every millisecond."""
    deadline = time.monotonic() + UP
    while True:
        try:
            application.ask()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


_networks: dict[str, int] = {}
"""Network namespaces by container: containerd knows the first pid only, which a restore from COLD changes."""


def entered(container: Container) -> AbstractContextManager[None]:
    return namespace.entered(_networks[container.id])


def connection(container: Container, application: Application) -> socket.socket:
    with entered(container):
        return socket.create_connection(("127.0.0.1", application.port), timeout=60)


def run(*argv: str, cwd: str | None = None) -> str:
    """A command's output; raises CalledProcessError with its words."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()[-500:]}")
    return done.stdout
