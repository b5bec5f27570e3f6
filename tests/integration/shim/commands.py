"""Scenarios: the `ctr` command line, and runc's options."""

import os
import re
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration import node
from tests.integration.containerd import Spec
from tests.integration.ctr import Ctr, Result
from tests.integration.shim.scenario import Outcome, World, refusal, scenario, text

from zeropod.rpc.messages import runc_options_pb2


@contextmanager
def _ctr(world: World) -> Iterator[tuple[Ctr, str]]:
    """`ctr`, and the id of a container that is removed afterwards."""
    ctr, name = Ctr(world.runtime), f"c-{uuid.uuid4().hex[:12]}"
    try:
        yield ctr, name
    finally:
        ctr.remove(name)


@scenario
def ctr_run_in_the_foreground(world: World) -> Outcome:
    with _ctr(world) as (ctr, name):
        done = ctr.run(
            name, "sh", "-c", "read word; echo got $word; echo err >&2; exit 7", flags=("--rm",), stdin="typed\n"
        )
        return {"status": done.status, "stdout": done.stdout, "stderr": done.stderr, "left": node.left_over(name)}


@scenario
def ctr_run_in_the_background(world: World) -> Outcome:
    with _ctr(world) as (ctr, name):
        outcome: Outcome = {"run": ctr.run(name, "sleep", "1000", flags=("-d",)).status}
        listed = ctr("task", "ls").stdout
        row = next(line for line in listed.splitlines() if line.startswith(name))
        outcome["listed"] = re.sub(r"\d+", "N", row.removeprefix(name)).split()
        executed = ctr.exec(name, "more", "sh", "-c", "echo hello; exit 3")
        outcome["exec"] = (executed.status, executed.stdout)
        outcome["ps"] = len(ctr.task("ps", name).stdout.splitlines())
        outcome["pause"] = (ctr.task("pause", name).status, "PAUSED" in ctr("task", "ls").stdout)
        outcome["resume"] = (ctr.task("resume", name).status, "PAUSED" in ctr("task", "ls").stdout)
        metrics = ctr.task("metrics", name)
        outcome["metrics"] = (
            metrics.status,
            re.findall(r"^(memory\.\S+|cpu\S*|pids\.\S+)", metrics.stdout, re.MULTILINE),
        )
        outcome["kill"] = ctr.task("kill", name, flags=("-s", "SIGKILL")).status
        node.until(lambda: "STOPPED" in ctr("task", "ls").stdout, "the task is stopped")
        deleted = ctr.task("delete", name)
        return outcome | {"delete": deleted.status, "container": ctr("container", "delete", name).status}


COUNTS = """\
import itertools, os, time
for number in itertools.count(1):
    with open("/tmp/new", "w") as file:
        file.write(str(number))
    os.rename("/tmp/new", "/tmp/count")
    time.sleep(0.02)
"""


@scenario
def ctr_checkpoint_and_restore(world: World) -> Outcome:
    with _ctr(world) as (ctr, name), _ctr(world) as (_, again):
        started = ctr.run(name, "python3", "-c", COUNTS, image="localhost/python:test", flags=("-d",))
        outcome: Outcome = {"run": started.status}
        node.until(lambda: ctr.exec(name, "first", "cat", "/tmp/count").status == 0, "it counts")
        reference = f"localhost/checkpoint:{name}"
        kept = ctr("container", "checkpoint", "--rw", "--image", "--task", name, reference)
        outcome["checkpoint"] = (kept.status, kept.stderr)
        outcome["before"] = _count(ctr.exec(name, "look", "cat", "/tmp/count"))
        ctr.remove(name)
        restored = ctr("container", "restore", "--rw", "--live", again, reference)
        outcome["restore"] = (restored.status, restored.stderr)
        outcome["it goes on"] = _count(ctr.exec(again, "look", "cat", "/tmp/count"))
        ctr("images", "rm", reference)
        return outcome


def _count(look: Result) -> tuple[int, str, bool]:
    return look.status, look.stderr, int(look.stdout or 0) > 0


@scenario
def another_root_for_runc(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        options = runc_options_pb2.Options(root=directory)
        with world.container("sleep", "1000", options=options) as box:
            box.run()
            there = os.path.exists(f"{directory}/default/{box.id}/state.json")
            executed = box.exec("more", "sh", "-c", "exit 3").run().wait()
            box.kill(signal.SIGKILL)
            return {"there": there, "exec": executed, "exit": box.wait(), "deleted": box.delete().exit_status}


@scenario
def another_binary_for_runc(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "runc-with-a-diary")
        with open(program, "w") as file:
            file.write(f'#!/bin/sh\necho "$*" >>{directory}/diary\nexec runc "$@"\n')
        os.chmod(program, 0o755)
        with world.container("sleep", "1000", options=runc_options_pb2.Options(binary_name=program)) as box:
            box.run().kill(signal.SIGKILL)
            outcome: Outcome = {"exit": box.wait(), "deleted": box.delete().exit_status}
        with open(f"{directory}/diary") as file:
            verbs = {word for line in file for word in line.split() if word in {"create", "start", "kill", "delete"}}
        return outcome | {"verbs": sorted(verbs)}


@scenario
def a_binary_for_runc_that_does_not_exist(world: World) -> Outcome:
    with world.container("true", options=runc_options_pb2.Options(binary_name="no-such-runc")) as box:
        run = refusal(box.run)
        return {"run": run.partition(":")[0], "says why": "no-such-runc" in run, "state": refusal(box.get)}


@scenario
def streams_of_another_user(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["process"]["user"] = {"uid": 65534, "gid": 65534}

    options = runc_options_pb2.Options(io_uid=65534, io_gid=65534)
    with world.container("sh", "-c", "id -u; echo reopened >/dev/stdout", spec=change, options=options) as box:
        return {"exit": box.run().wait(), "stdout": text(box.streams.stdout.end())}


@scenario
def without_pivot_root(world: World) -> Outcome:
    with world.container("sh", "-c", "exit 3", options=runc_options_pb2.Options(no_pivot_root=True)) as box:
        return {"exit": box.run().wait()}
