"""The additional processes of a container: `kubectl exec`, exec probes, attached shells.

An exec lets its container run, and keeps it awake until the exec has ended and all its output is read: processes that
it has started may hold its output open, and containerd waits for their end. An exec with input or a terminal wakes the
container; for any other, a container in STANDBY naps.
"""

import json
import os
import time
from typing import TYPE_CHECKING

import trio

from zeropod.kernel import pidfd
from zeropod.kernel.pidfd import ExitStatus
from zeropod.lifecycle.machine import Answer, Request, decide
from zeropod.lifecycle.reasons import Reason
from zeropod.rpc.messages import events_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.shim.errors import FINISHED, refused, reported
from zeropod.shim.process import Process

if TYPE_CHECKING:
    from zeropod.shim.container import Container


class Execs:
    def __init__(self, container: "Container") -> None:
        self._container = container
        self._processes: dict[str, Process] = {}

    def get(self, id: str) -> Process:
        try:
            return self._processes[id]
        except KeyError:
            raise RpcError(Code.NOT_FOUND, f"process does not exist {id}: not found") from None

    def by_pid(self) -> dict[int, Process]:
        return {process.pid: process for process in self._processes.values() if process.pid}

    def add(self, process: Process) -> None:
        if process.id in self._processes:
            raise RpcError(Code.ALREADY_EXISTS, f"id {process.id}: already exists")
        if decide(self._container.life.state, Request.EXEC) is Answer.REFUSE:
            raise refused(Request.EXEC, self._container.life.state)
        self._processes[process.id] = process
        self._container.publish(events_pb2.TaskExecAdded(container_id=self._container.id, exec_id=process.id))

    async def start(self, id: str) -> int:
        """Start an exec that was added, and return its pid. Raises RpcError."""
        process = self.get(id)
        if process.pid:
            raise RpcError(Code.UNKNOWN, f"cannot start a {'stopped' if process.exit else 'running'} process")
        if process.starting:
            raise RpcError(Code.UNKNOWN, "cannot start a process that is being started")
        process.starting = True
        try:
            return await self._start(process)
        finally:
            process.starting = False

    async def _start(self, process: Process) -> int:
        container = self._container
        worked_in = process.stdio.stdin or process.stdio.terminal
        async with container.allowed(Request.SESSION if worked_in else Request.EXEC):
            with reported("OCI runtime exec failed"):
                await self._create(process)
            container.publish(
                events_pb2.TaskExecStarted(container_id=container.id, exec_id=process.id, pid=process.pid),
            )
            container.pod.nursery.start_soon(process.io.copy)
            # This inhibitor lasts until that of the watching task has begun.
            await container.pod.nursery.start(self._watch, process)
        return process.pid

    async def _create(self, process: Process) -> None:
        runc, container = self._container.runc, self._container.id
        spec, pid_file = runc.bundle / f"{process.id}-process.json", runc.bundle / f"{process.id}.pid"
        try:
            spec.write_text(json.dumps(process.spec))
            await self._container.run_command(
                process, lambda console: runc.execute(container, spec, process.io.streams, pid_file, console)
            )
            process.pid = int(pid_file.read_text())
        finally:
            spec.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

    async def _watch(self, process: Process, task_status: trio.TaskStatus[None]) -> None:
        inhibited = self._container.life.inhibit(Reason.EXEC.because(process.id))
        with pidfd.opened(process.pid) as handle, inhibited:
            task_status.started()
            status = await pidfd.wait_exit(handle)
        process.ended(status)
        self._container.announce_exit(process.id, status)
        with self._container.life.inhibit(Reason.EXEC_OUTPUT.because(process.id)):
            await process.io.drained.wait()

    async def all_exited(self) -> None:
        for process in list(self._processes.values()):
            if process.pid:
                await process.exited.wait()

    def kill(self, id: str, signal: int) -> None:
        process = self.get(id)
        if not process.pid:
            raise RpcError(Code.FAILED_PRECONDITION, "process not created: failed precondition")
        if process.exit:
            raise RpcError(Code.NOT_FOUND, FINISHED)
        try:
            os.kill(process.pid, signal)
        except ProcessLookupError:
            raise RpcError(Code.NOT_FOUND, FINISHED) from None

    async def delete(self, id: str) -> ExitStatus:
        process = self.get(id)
        if process.pid and not process.exit:
            raise RpcError(Code.UNKNOWN, "cannot delete a running process")
        await process.release()
        del self._processes[id]
        return process.exit or ExitStatus(process.pid, 0, time.time_ns())

    def close(self) -> None:
        for process in self._processes.values():
            process.io.close()
