"""Scenarios: standard streams, terminals and logs."""

import hashlib
import os
import signal
import stat
import tempfile
import time

from tests.integration import node
from tests.integration.shim.scenario import Outcome, World, normal, refusal, scenario, text
from tests.integration.streams import Output


@scenario
def stdin_to_init(world: World) -> Outcome:
    with world.container("sh", "-c", "cat; echo end", stdin=True) as box:
        box.run()
        assert box.streams.stdin is not None
        box.streams.stdin.write(b"first\n")
        box.streams.stdout.until(b"first\n")
        box.streams.stdin.write(b"second\n")
        box.streams.stdin.drained().close()
        # The client is gone, but only CloseIO says that there is no more.
        time.sleep(0.2)
        outcome: Outcome = {"before close": box.status()}
        box.close_io()
        return outcome | {"exit": box.wait(), "stdout": text(box.streams.stdout.end())}


@scenario
def stdin_that_nobody_closes(world: World) -> Outcome:
    with world.container("sh", "-c", "read line; echo got $line", stdin=True) as box:
        box.run()
        assert box.streams.stdin is not None
        box.streams.stdin.write(b"this\n")
        return {"exit": box.wait(), "stdout": text(box.streams.stdout.end()), "deleted": box.delete().exit_status}


@scenario
def much_stdin(world: World) -> Outcome:
    data = os.urandom(2 << 20)
    with world.container("sh", "-c", "cat", stdin=True) as box:
        box.run()
        assert box.streams.stdin is not None
        box.streams.stdin.write(data)
        box.streams.stdin.drained().close()
        box.close_io()
        return {"exit": box.wait(), "intact": box.streams.stdout.end() == data}


@scenario
def much_output(world: World) -> Outcome:
    program = "for i in 1 2 3; do head -c 1800000 /bin/busybox; head -c 1800000 /bin/busybox >&2; done; echo end"
    with world.container("sh", "-c", program) as box:
        box.run()
        outcome: Outcome = {"exit": box.wait()}
        assert box.streams.stderr is not None
        for name, stream in (("stdout", box.streams.stdout), ("stderr", box.streams.stderr)):
            data = stream.end()
            outcome[name] = (len(data), hashlib.sha256(data).hexdigest())
        return outcome


@scenario
def a_slow_reader_blocks_the_writer_alone(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "slow")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with world.container("sh", "-c", "head -c 4000000 /dev/zero; exit 4", stdout=path) as box:
                box.run()
                time.sleep(0.4)
                outcome: Outcome = {"unread": box.status()}
                aside = box.exec("aside", "sh", "-c", "echo quick").run()
                outcome["exec meanwhile"] = (aside.wait(), text(aside.streams.stdout.end()))
                os.set_blocking(reader, True)
                total = 0
                while total < 4_000_000 and (chunk := os.read(reader, 1 << 16)):
                    total += len(chunk)
                return outcome | {"bytes": total, "exit": box.wait()}
        finally:
            os.close(reader)


@scenario
def a_reader_that_leaves_and_comes_back(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "fifo")
        first = Output(path)
        program = "echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two; sleep 0.2; exit 4"
        with world.container("sh", "-c", program, stdout=path) as box:
            box.run()
            first.until(b"one\n")
            first.close()
            time.sleep(0.1)
            box.exec("go", "touch", "/tmp/go").run().wait()
            time.sleep(0.1)
            os.rename(path, f"{path}.gone")
            os.link(f"{path}.gone", path)
            second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                outcome: Outcome = {"exit": box.wait()}
                os.set_blocking(second, True)
                return outcome | {"second": text(os.read(second, 100))}
            finally:
                os.close(second)


@scenario
def output_to_nowhere(world: World) -> Outcome:
    with world.container("sh", "-c", "echo into the void; echo err >&2; cat; exit 4", stdout="/dev/null") as box:
        return {"exit": box.run().wait()}


@scenario
def a_log_file(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "deep/er/log")
        with world.container("sh", "-c", "echo out; echo err >&2", stdout=f"file://{path}") as box:
            outcome: Outcome = {"exit": box.run().wait(), "deleted": box.delete().exit_status}
        node.until(lambda: os.path.exists(path), f"{path} is there")
        with open(path, "rb") as file:
            outcome["lines"] = sorted(file.read().splitlines())
        outcome["mode"] = oct(stat.S_IMODE(os.stat(path).st_mode))
        # A second one appends.
        with world.container("sh", "-c", "echo again", stdout=f"file://{path}") as box:
            box.run().wait()
            box.delete()
        with open(path, "rb") as file:
            return outcome | {"again": len(file.read().splitlines())}


@scenario
def a_log_program(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        program, log = os.path.join(directory, "logger"), os.path.join(directory, "log")
        with open(program, "w") as file:
            file.write(
                # The shim ends it with SIGTERM when the container goes; what was written before has to get through.
                f'#!/bin/sh\ntrap "" TERM\nexec >{log} 2>&1\necho "$CONTAINER_ID $CONTAINER_NAMESPACE $*"\nexec 5>&-\n'
                f"cat <&3 >{log}.out &\ncat <&4 >{log}.err\nwait\necho done\n"
            )
        os.chmod(program, 0o755)
        with world.container("sh", "-c", "echo out; echo err >&2", stdout=f"binary://{program}?key=value") as box:
            outcome: Outcome = {"exit": box.run().wait(), "deleted": box.delete().exit_status}

        def content(name: str) -> str:
            with open(name) as file:
                return normal(file.read())

        node.until(lambda: "done" in content(log), "the log program has ended")
        return outcome | {"said": content(log), "out": content(f"{log}.out"), "err": content(f"{log}.err")}


@scenario
def a_log_program_that_does_not_exist(world: World) -> Outcome:
    with world.container("true", stdout="binary:///no/such/logger") as box:
        return {"run": refusal(box.run).partition(":")[0], "state": refusal(box.get)}


@scenario
def a_log_of_an_unknown_kind(world: World) -> Outcome:
    with world.container("true", stdout="pigeon:///roof") as box:
        run = refusal(box.run)
        return {"run": run.partition(":")[0], "says why": "pigeon" in run, "state": refusal(box.get)}


@scenario
def a_terminal(world: World) -> Outcome:
    with world.container(
        "sh", "-c", "busybox tty; busybox stty size; read x; busybox stty size; echo $x", stdin=True, terminal=True
    ) as box:
        box.run()
        assert box.streams.stdin is not None
        box.streams.stdout.until(b"\r\n")
        time.sleep(0.1)
        box.resize(132, 43)
        box.streams.stdin.write(b"typed\n")
        outcome: Outcome = {"exit": box.wait(), "stdout": text(box.streams.stdout.end())}
        return outcome | {"terminal": box.get().terminal, "deleted": box.delete().exit_status}


@scenario
def a_terminal_for_an_exec(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        program = "busybox stty size; read x; busybox stty size; echo $x; exit 5"
        more = box.exec("more", "sh", "-c", program, stdin=True, terminal=True).run()
        assert more.streams.stdin is not None
        more.streams.stdout.until(b"\r\n")
        box.resize(100, 30, "more")
        more.streams.stdin.write(b"typed\n")
        return {"exit": more.wait(), "stdout": text(more.streams.stdout.end()), "deleted": more.delete().exit_status}


@scenario
def control_c_in_a_terminal(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sh", "-c", "echo ready; sleep 1000", stdin=True, terminal=True).run()
        assert more.streams.stdin is not None
        more.streams.stdout.until(b"ready")
        more.streams.stdin.write(b"\x03")
        return {"exit": more.wait(timeout=10), "stdout": text(more.streams.stdout.end())}


@scenario
def output_of_a_killed_process_is_complete(world: World) -> Outcome:
    with world.container("sh", "-c", "head -c 300000 /dev/zero; echo end; sleep 1000") as box:
        box.run().streams.stdout.until(b"end")
        box.kill(signal.SIGKILL)
        return {"exit": box.wait(), "bytes": len(box.streams.stdout.end())}
