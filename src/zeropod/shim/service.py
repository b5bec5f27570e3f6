"""containerd's task service: requests and responses on one side, containers on the other.

Only a translation: `Container` decides what a request does in which state.
"""

import json
import os
from pathlib import Path

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from zeropod.kernel.pidfd import ExitStatus
from zeropod.lifecycle.machine import ASLEEP, State
from zeropod.rpc.messages import process_pb2, runc_options_pb2, task_pb2
from zeropod.rpc.payload import pack, unpack
from zeropod.rpc.server import Handler, Services, unary
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.stdio import ProcessIO, Stdio
from zeropod.shim.container import Container
from zeropod.shim.create import create, created_event
from zeropod.shim.pod import Pod
from zeropod.shim.process import Process

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
"""Both names of the service, with the same methods and messages: containerd 1.7 uses the first, 2.x the second."""

_STATUS = {
    State.CREATED: process_pb2.CREATED,
    State.RUNNING: process_pb2.RUNNING,
    State.PAUSED: process_pb2.PAUSED,
    State.STOPPED: process_pb2.STOPPED,
    **dict.fromkeys(ASLEEP, process_pb2.RUNNING),
}


class TaskService:
    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self.shutdown_requested = trio.Event()
        self._open_calls = 0
        self._answered = trio.Event()

    def services(self) -> Services:
        methods: dict[str, Handler] = {
            "State": unary(task_pb2.StateRequest, self.state),
            "Create": unary(task_pb2.CreateTaskRequest, self.create),
            "Start": unary(task_pb2.StartRequest, self.start),
            "Delete": unary(task_pb2.DeleteRequest, self.delete),
            "Pids": unary(task_pb2.PidsRequest, self.pids),
            "Pause": unary(task_pb2.PauseRequest, self.pause),
            "Resume": unary(task_pb2.ResumeRequest, self.resume),
            "Checkpoint": unary(task_pb2.CheckpointTaskRequest, self.checkpoint),
            "Kill": unary(task_pb2.KillRequest, self.kill),
            "Exec": unary(task_pb2.ExecProcessRequest, self.exec),
            "ResizePty": unary(task_pb2.ResizePtyRequest, self.resize_pty),
            "CloseIO": unary(task_pb2.CloseIORequest, self.close_io),
            "Update": unary(task_pb2.UpdateTaskRequest, self.update),
            "Wait": unary(task_pb2.WaitRequest, self.wait, cancel_on_disconnect=True),
            "Stats": unary(task_pb2.StatsRequest, self.stats),
            "Connect": unary(task_pb2.ConnectRequest, self.connect),
            "Shutdown": unary(task_pb2.ShutdownRequest, self.shutdown),
        }
        counted = {name: self._counted(handler) for name, handler in methods.items()}
        return dict.fromkeys(NAMES, counted)

    def _counted(self, handler: Handler) -> Handler:
        async def run(payload: bytes) -> bytes:
            self._open_calls += 1
            try:
                return await handler.run(payload)
            finally:
                self._open_calls -= 1
                if not self._open_calls:
                    self._answered.set()
                    self._answered = trio.Event()

        return handler if handler.cancel_on_disconnect else Handler(run)

    async def answered(self) -> None:
        """Return when no call that changes anything is in progress.

        containerd requests the shutdown as soon as it learns of an exit, even if the kill that caused the exit has not
        been answered.
        """
        while self._open_calls:
            await self._answered.wait()

    def _container(self, id: str) -> Container:
        try:
            return self._pod.containers[id]
        except KeyError:
            raise RpcError(Code.NOT_FOUND, "container not created: not found") from None

    async def create(self, request: task_pb2.CreateTaskRequest) -> Message:
        if request.id in self._pod.containers:
            raise RpcError(Code.ALREADY_EXISTS, f"container {request.id}: already exists")
        container = await create(request, self._pod)
        container.publish(created_event(request, container.init.pid))
        return task_pb2.CreateTaskResponse(pid=container.init.pid)

    async def start(self, request: task_pb2.StartRequest) -> Message:
        container = self._container(request.id)
        pid = await (container.execs.start(request.exec_id) if request.exec_id else container.start())
        return task_pb2.StartResponse(pid=pid)

    async def delete(self, request: task_pb2.DeleteRequest) -> Message:
        container = self._container(request.id)
        status = await (container.execs.delete(request.exec_id) if request.exec_id else container.delete())
        return task_pb2.DeleteResponse(pid=status.pid, exit_status=status.code, exited_at=_timestamp(status))

    async def exec(self, request: task_pb2.ExecProcessRequest) -> Message:
        container = self._container(request.id)
        try:
            spec = json.loads(request.spec.value)
        except ValueError as error:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"the process of exec {request.exec_id} is no JSON: {error}"
            ) from error
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        spec["terminal"] = request.terminal
        container.execs.add(Process(request.exec_id, ProcessIO(stdio), spec))
        return Empty()

    async def state(self, request: task_pb2.StateRequest) -> Message:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        if process is container.init:
            status = _STATUS[container.life.state]
        else:
            status = (
                process_pb2.STOPPED if process.exit else process_pb2.RUNNING if process.pid else process_pb2.CREATED
            )
        return task_pb2.StateResponse(
            id=process.id,
            bundle=str(container.runc.bundle),
            pid=process.pid,
            status=status,
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=process.exit.code if process.exit else 0,
            exited_at=_timestamp(process.exit),
            exec_id=request.exec_id,
        )

    async def kill(self, request: task_pb2.KillRequest) -> Message:
        container = self._container(request.id)
        if request.exec_id:
            container.execs.kill(request.exec_id, request.signal)
        else:
            await container.kill(request.signal, request.all)
        return Empty()

    async def pause(self, request: task_pb2.PauseRequest) -> Message:
        await self._container(request.id).pause()
        return Empty()

    async def resume(self, request: task_pb2.ResumeRequest) -> Message:
        await self._container(request.id).resume()
        return Empty()

    async def update(self, request: task_pb2.UpdateTaskRequest) -> Message:
        await self._container(request.id).update(request.resources.value)
        return Empty()

    async def checkpoint(self, request: task_pb2.CheckpointTaskRequest) -> Message:
        options = unpack(request.options, runc_options_pb2.CheckpointOptions) or runc_options_pb2.CheckpointOptions()
        flags = {
            "--leave-running": not options.exit,
            "--tcp-established": options.open_tcp,
            "--ext-unix-sk": options.external_unix_sockets,
            "--shell-job": options.terminal,
            "--file-locks": options.file_locks,
        }
        arguments = [flag for flag, wanted in flags.items() if wanted]
        for kind in options.empty_namespaces:
            arguments += ["--empty-ns", kind]
        work = Path(options.work_path) if options.work_path else None
        await self._container(request.id).checkpoint(Path(request.path), work, arguments)
        return Empty()

    async def resize_pty(self, request: task_pb2.ResizePtyRequest) -> Message:
        self._container(request.id).process(request.exec_id).io.resize(request.width, request.height)
        return Empty()

    async def close_io(self, request: task_pb2.CloseIORequest) -> Message:
        process = self._container(request.id).process(request.exec_id)
        if request.stdin:
            process.io.close_stdin()
        return Empty()

    async def wait(self, request: task_pb2.WaitRequest) -> Message:
        process = self._container(request.id).process(request.exec_id)
        await process.exited.wait()
        code = process.exit.code if process.exit else 0
        return task_pb2.WaitResponse(exit_status=code, exited_at=_timestamp(process.exit))

    async def pids(self, request: task_pb2.PidsRequest) -> Message:
        container = self._container(request.id)
        execs = container.execs.by_pid()
        response = task_pb2.PidsResponse()
        # A sleeping container keeps its pid for containerd: a containerd that starts takes a shim without any for an
        # abandoned one, and deletes it (its loadShim in core/runtime/v2).
        for pid in container.pids() or ([container.init.pid] if container.life.state in ASLEEP else []):
            entry = response.processes.add(pid=pid)
            if pid in execs:
                entry.info.CopyFrom(pack(runc_options_pb2.ProcessDetails(exec_id=execs[pid].id)))
        return response

    async def stats(self, request: task_pb2.StatsRequest) -> Message:
        return task_pb2.StatsResponse(stats=pack(self._container(request.id).stats()))

    async def connect(self, request: task_pb2.ConnectRequest) -> Message:
        container = self._pod.containers.get(request.id)
        return task_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=container.init.pid if container else 0)

    async def shutdown(self, _request: task_pb2.ShutdownRequest) -> Message:
        """End the shim, unless it still has containers; containerd calls this after each container of a pod."""
        if not self._pod.containers:
            self.shutdown_requested.set()
        return Empty()


def _timestamp(status: ExitStatus | None) -> Timestamp:
    stamp = Timestamp()
    if status:
        stamp.FromNanoseconds(status.at_ns)
    return stamp
