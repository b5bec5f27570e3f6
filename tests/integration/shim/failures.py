"""Scenarios: containers that cannot be, and shims and daemons that die."""

import os
import signal
import tempfile
import time

from tests.integration import node
from tests.integration.containerd import Spec
from tests.integration.cri import Cri
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.shim.scenario import Outcome, World, normal, refusal, scenario, text
from tests.integration.shimsocket import ShimSocket, address


def _refused(world: World, *args: str, cwd: str = "/") -> Outcome:
    def change(spec: Spec) -> None:
        spec["process"]["cwd"] = cwd

    with world.container(*args, spec=change) as box:
        outcome: Outcome = {"run": refusal(box.run), "state": refusal(box.get)}
        outcome["left over"] = [normal(line) for line in node.left_over(box.id + "/")]
        return outcome


@scenario
def a_program_that_does_not_exist(world: World) -> Outcome:
    return _refused(world, "no-such-program")


@scenario
def a_path_that_does_not_exist(world: World) -> Outcome:
    return _refused(world, "/no/such/program")


@scenario
def a_program_that_may_not_be_executed(world: World) -> Outcome:
    return _refused(world, "/etc/passwd")


@scenario
def a_working_directory_that_is_a_file(world: World) -> Outcome:
    return _refused(world, "true", cwd="/etc/passwd")


@scenario
def a_working_directory_that_does_not_exist(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["process"]["cwd"] = "/not/there/yet"

    with world.container("sh", "-c", "pwd", spec=change) as box:
        return {"exit": box.run().wait(), "pwd": box.streams.stdout.end()}


@scenario
def a_mount_whose_source_is_missing(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["mounts"].append({"destination": "/data", "type": "bind", "source": "/no/such/dir", "options": ["bind"]})

    with world.container("true", spec=change) as box:
        return {"run": refusal(box.run), "state": refusal(box.get)}


@scenario
def a_spec_that_asks_for_the_impossible(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"].append({"type": "dream"})

    with world.container("true", spec=change) as box:
        return {"run": refusal(box.run)}


@scenario
def a_name_that_is_free_again_after_a_failure(world: World) -> Outcome:
    with world.container("no-such-program") as box:
        first = refusal(box.run).partition(":")[0]
    with world.container("sh", "-c", "exit 9", id=box.id) as again:
        return {"first": first, "exit": again.run().wait()}


@scenario
def the_shim_is_killed(world: World) -> Outcome:
    with world.container("sh", "-c", "sleep 4711 & echo ready; wait") as box:
        box.run().streams.stdout.until(b"ready")
        pids = [process.pid for process in box.pids()]
        with ShimSocket(address(box.bundle)) as shim:
            shim_pid = shim.connect(box.id).shim_pid
        os.kill(shim_pid, signal.SIGKILL)
        exits = [event for event in world.events.until(box.id, "exit") if event.topic == "exit"]
        node.until(lambda: not any(map(node.alive, pids)), "the container's processes are gone")
        outcome: Outcome = {"exit event": exits[0].message.exit_status, "exit events": len(exits)}
        outcome["left over"] = [normal(line) for line in node.left_over(f"{box.id}/", 5)]
        return outcome | {"task": refusal(box.get), "topics": world.topics(box, "delete")}


@scenario
def the_shim_of_a_pod_is_killed(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container("app", "localhost/redis:test")
        with ShimSocket(address(f"{node.TASKS}/k8s.io/{pod.id}")) as shim:
            os.kill(shim.connect(pod.id).shim_pid, signal.SIGKILL)
        status = box.wait()
        node.until(lambda: pod.status.state == v1.SANDBOX_NOTREADY, "the pod is not ready")
        outcome: Outcome = {"exit": status.exit_code, "reason": status.reason}
        # What is left of the container is not compared: runc's shim leaves cgroups and runc's state behind.
        pod.remove()
        node.until(lambda: not node.leftovers(pod.id), f"nothing is left of the pod: {node.leftovers(pod.id)}")
        return outcome


@scenario
def containerd_is_restarted(world: World) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "log")
        count = "i=0; while [ $i -lt 80 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 6"
        with (
            world.container("sh", "-c", count, stdout=f"file://{log}") as logged,
            world.container("sh", "-c", count) as piped,
            world.container("sh", "-c", f"echo first; while [ ! -e /tmp/go ]; do sleep 0.02; done; {count}") as lasting,
        ):
            for box in (logged, piped, lasting):
                box.run()
            piped.streams.stdout.until(b"line 3\n")
            ending = [process.pid for box in (logged, piped) for process in box.pids()]
            containerd = node.stop_containerd(signal.SIGKILL)
            # These two end while nobody is there.
            node.until(lambda: not any(map(node.alive, ending)), "both have ended")
            node.start_containerd(*containerd)
            expected = "".join(f"line {number}\n" for number in range(80))
            with open(log) as file:
                outcome: Outcome = {"log": file.read() == expected}
            outcome["fifo"] = text(piped.streams.stdout.end()) == expected
            # containerd does not take a task over that has ended meanwhile.
            outcome["ended meanwhile"] = [refusal(logged.get), refusal(piped.get)]
            outcome["state"] = lasting.status()
            more = lasting.exec("after", "sh", "-c", "touch /tmp/go; echo still here; exit 2").run()
            outcome["exec"] = (more.wait(), text(more.streams.stdout.end()))
            outcome["exit"] = lasting.wait(timeout=10)
            outcome["output"] = text(lasting.streams.stdout.end()) == f"first\n{expected}"
            return outcome | {"deleted": lasting.delete().exit_status}


@scenario
def an_exit_while_containerd_is_away(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container("app", "localhost/redis:test", command=["sh", "-c", "sleep 0.5; exit 9"])
        containerd = node.stop_containerd()
        time.sleep(0.8)
        node.start_containerd(*containerd)
        status = box.wait()
        return {"exit": status.exit_code, "reason": status.reason}
