"""Simulate a shim's life in the zygote before it forks: a container is created, sleeps, wakes and ends.

The interpreter specializes code as it runs (PEP 659), and makes many objects when they are first needed. What has
happened in the zygote is in the shared memory of its forks, and need not happen in each of them.

Everything is real except runc, which is a shell script, and the container, which is a process in a network namespace of
its own.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from zeropod.kernel import mountinfo, pidfd
from zeropod.launch import logfile
from zeropod.lifecycle.settings import PREFIX
from zeropod.rpc.client import Client, run_client
from zeropod.rpc.messages import forward_pb2, runc_options_pb2, status_pb2, task_pb2
from zeropod.rpc.payload import pack
from zeropod.rpc.server import serve, serve_connection, unary
from zeropod.runtime.cgroups.placement import directories
from zeropod.shim import clean
from zeropod.shim.pod import Pod
from zeropod.shim.publisher import SERVICE, Publisher
from zeropod.shim.serve import reap
from zeropod.shim.service import NAMES, TaskService
from zeropod.shim.status import SERVICE as STATUS
from zeropod.shim.status import StatusService

ENOUGH = 10.0
"""Seconds after which the simulation is cancelled: a `start` waits for it."""

PAUSE, LOOKS = 0.01, 100
"""Seconds between attempts to remove a cgroup, and their number: a killed process takes a moment to end."""

NAMESPACE = "zeropod"
"""In place of containerd's namespace."""

RUNC = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    create | kill) action=$1 ;;
    --pid-file) file=$2 ;;
    esac
    shift
done
case $action in
create) exec PYTHON -I -S container "$file" ;;
kill) kill -9 "$(cat init.pid)" ;;
esac
"""
"""In place of runc: knows two commands, and does nothing for others."""

CONTAINER = """
import ctypes, json, os, signal, socket, sys
[path] = [entry["path"] for entry in json.load(open("config.json"))["linux"]["namespaces"] if "path" in entry]
if ctypes.CDLL(None).setns(os.open(path, os.O_RDONLY), 0):
    sys.exit("setns")
listener = socket.create_server(("", 80))
if pid := os.fork():
    for directory in open("cgroups").read().split():
        open(directory + "/cgroup.procs", "w").write(str(pid))
    open(sys.argv[1], "w").write(str(pid))
else:
    for number in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), number)
    signal.alarm(20)
    signal.pause()
"""
"""Starts a process that listens in its network namespace, in the cgroups that `cgroups` lists. It ends by itself."""

CONFIG = {
    "ociVersion": "1.2.0",
    "process": {"args": ["sleep"]},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]},
    "annotations": {f"{PREFIX}scaledown-duration": "1h"},
}
"""The bundle's config.json: the container sleeps only when it is told to."""


def live() -> None:
    """Run the life of one container. Leaves no process and no file behind. Raises any failure."""
    name = f"zygote-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as bundle, _cgroups(name) as places:
        before = os.getcwd()
        os.chdir(bundle)
        Path("cgroups").write_text("\n".join(map(str, places)))
        Path("runc").write_text(RUNC.replace("PYTHON", sys.executable))
        Path("runc").chmod(0o700)
        Path("container").write_text(CONTAINER)
        Path("config.json").write_text(json.dumps(CONFIG))
        os.mkfifo("log")
        pidfd.set_subreaper()
        try:
            with logfile.configured("log"):
                trio.run(_live, Path(bundle), name)
        except BaseException:  # nothing of it may stay on the node
            clean.clean_pod(NAMESPACE, name)
            raise
        finally:
            pidfd.set_subreaper(wanted=False)
            os.chdir(before)


@contextmanager
def _cgroups(name: str) -> Iterator[list[Path]]:
    """Make an empty cgroup in each hierarchy, below the zygote's own, and remove them at the end."""
    lines = [line.rstrip("/") for line in Path("/proc/self/cgroup").read_text().split()]
    below = "\n".join(f"{line}/{name}" for line in lines)
    made = []
    try:
        for directory in set(directories(below, mountinfo.read()).values()):
            directory.mkdir()
            made.append(directory)
        yield made
    finally:
        for directory in made:
            _remove(directory)


def _remove(cgroup: Path) -> None:
    """Remove a cgroup. A process in it is left from a cancelled simulation. Raises OSError."""
    for _ in range(LOOKS):
        for pid in (cgroup / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):
            return cgroup.rmdir()
        time.sleep(PAUSE)
    raise OSError(f"{cgroup} cannot be removed")


async def _live(bundle: Path, id: str) -> None:
    async def forward(_: forward_pb2.ForwardRequest) -> Empty:
        return Empty()

    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    with trio.fail_after(ENOUGH), socket.socket(socket.AF_UNIX) as events:
        address = str(bundle / id)
        events.bind(address)
        events.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(events.dup()))
        async with trio.open_nursery() as nursery:
            publisher = Publisher(NAMESPACE, address)
            pod = Pod(NAMESPACE, nursery, publisher)
            service = TaskService(pod)
            nursery.start_soon(serve, [listener], {SERVICE: {"Forward": unary(forward_pb2.ForwardRequest, forward)}})
            nursery.start_soon(publisher.run)
            nursery.start_soon(reap)
            nursery.start_soon(serve_connection, near, {**service.services(), **StatusService(pod).services()})
            async with run_client(far) as client:
                await _ask(client, bundle, id)
            await publisher.flush(1.0)
            await service.answered()
            nursery.cancel_scope.cancel()


async def _ask(client: Client, bundle: Path, id: str) -> None:
    """Send containerd's requests in a container's life, and zeropod's requests to sleep and to wake."""
    options = runc_options_pb2.Options(binary_name=str(bundle / "runc"), root=str(bundle / "state"))

    async def call(method: str, request: Message, response: type[Message] = Empty, service: str = NAMES[1]) -> None:
        await client.call(service, method, request, response)

    await call("Connect", task_pb2.ConnectRequest(id=id), task_pb2.ConnectResponse)
    create = task_pb2.CreateTaskRequest(id=id, bundle=str(bundle), options=pack(options))
    await call("Create", create, task_pb2.CreateTaskResponse)
    async with trio.open_nursery() as waits:
        waits.start_soon(call, "Wait", task_pb2.WaitRequest(id=id), task_pb2.WaitResponse)
        await call("Start", task_pb2.StartRequest(id=id), task_pb2.StartResponse)
        await call("State", task_pb2.StateRequest(id=id), task_pb2.StateResponse)
        await call("Stats", task_pb2.StatsRequest(id=id), task_pb2.StatsResponse)
        await call("Pids", task_pb2.PidsRequest(id=id), task_pb2.PidsResponse)
        await call("List", status_pb2.ListRequest(), status_pb2.ListResponse, STATUS)
        slept = await client.call(STATUS, "Sleep", status_pb2.SleepRequest(id=id), status_pb2.ContainerStatus)
        if slept.state != status_pb2.STANDBY:
            raise RuntimeError(f"the container did not sleep: {slept.why or status_pb2.State.Name(slept.state)}")
        await call("Wake", status_pb2.WakeRequest(id=id), status_pb2.ContainerStatus, STATUS)
        await call("Kill", task_pb2.KillRequest(id=id, signal=signal.SIGKILL))
    await call("Delete", task_pb2.DeleteRequest(id=id), task_pb2.DeleteResponse)
    await call("Shutdown", task_pb2.ShutdownRequest(id=id))
