"""Scenarios: a task from its creation to its deletion, and what is refused on the way."""

import signal
import time

from tests.integration import node
from tests.integration.containerd import Spec
from tests.integration.shim.scenario import Outcome, World, refusal, scenario, text
from tests.integration.shimsocket import ShimSocket, address


@scenario
def run_to_an_exit_code(world: World) -> Outcome:
    with world.container("sh", "-c", "echo out; echo err >&2; exit 42") as box:
        created = box.create()
        outcome: Outcome = {"pid": created > 0, "after create": box.status()}
        outcome["start answers the same pid"] = box.start() == created
        outcome["exit"] = box.wait()
        outcome["stdout"] = text(box.streams.stdout.end())
        outcome["stderr"] = text(box.streams.stderr.end()) if box.streams.stderr else None
        stopped = box.get()
        outcome["stopped"] = (box.status(), stopped.exit_status, stopped.pid == created)
        outcome["exit time kept"] = stopped.exited_at.seconds > 0
        outcome["wait again"] = box.wait()
        deleted = box.delete()
        outcome["deleted"] = (deleted.exit_status, deleted.pid == created, deleted.exited_at == stopped.exited_at)
        outcome["after delete"] = refusal(box.get)
        outcome["delete again"] = refusal(box.delete)
        outcome["left over"] = node.left_over(box.id + "/")
    return outcome


@scenario
def early_exits_are_never_lost(world: World) -> Outcome:
    statuses = []
    for _ in range(10):
        with world.container("sh", "-c", "exit 3") as box:
            statuses.append((box.run().wait(timeout=10), box.delete().exit_status))
    return {"statuses": statuses}


@scenario
def a_signal_that_init_handles(world: World) -> Outcome:
    with world.container(
        "sh", "-c", "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    ) as box:
        box.run().streams.stdout.until(b"ready")
        box.kill(signal.SIGTERM)
        return {"exit": box.wait(), "stdout": text(box.streams.stdout.end()), "state": box.status()}


@scenario
def a_signal_that_kills_init(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run().kill(signal.SIGKILL)
        return {"exit": box.wait(), "deleted": box.delete().exit_status}


@scenario
def a_signal_that_does_not_exist(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        refused = refusal(lambda: box.kill(200))
        says = "invalid argument" in refused
        return {"refused": refused.partition(":")[0], "says why": says, "state": box.status()}


@scenario
def sigterm_is_ignored_by_an_init_without_handler(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run().kill(signal.SIGTERM)
        time.sleep(0.2)
        return {"state": box.status()}


@scenario
def kill_before_start(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.create()
        box.kill(signal.SIGKILL)
        return {
            "exit": box.wait(),
            "state": box.status(),
            "start": refusal(box.start),
            "delete": box.delete().exit_status,
        }


@scenario
def delete_of_a_running_task(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        return {"delete": refusal(box.delete), "state": box.status()}


@scenario
def kill_of_a_stopped_task(world: World) -> Outcome:
    with world.container("true") as box:
        box.run().wait()
        return {
            "kill": refusal(lambda: box.kill(signal.SIGKILL)),
            "kill all": refusal(lambda: box.kill(signal.SIGKILL, all=True)),
            "term": refusal(lambda: box.kill(signal.SIGTERM)),
            "exec id": refusal(lambda: box.kill(signal.SIGKILL, "nobody")),
        }


@scenario
def everything_else_on_a_stopped_task(world: World) -> Outcome:
    with world.container("true") as box:
        box.run().wait()
        return {
            "exec": refusal(lambda: box.exec("late", "true").start()),
            "pause": refusal(box.pause),
            "resume": refusal(box.resume),
            "start": refusal(box.start),
            "update": refusal(lambda: box.update({"memory": {"limit": 64 << 20}})),
            "pids": refusal(box.pids),
            "close": refusal(box.close_io),
            "resize": refusal(lambda: box.resize(80, 25)),
        }


@scenario
def start_twice(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        return {"start": refusal(box.start), "state": box.status(), "create": refusal(box.create)}


@scenario
def unknown_processes(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        return {
            "state": refusal(lambda: box.get("nobody")),
            "start": refusal(lambda: box.start("nobody")),
            "kill": refusal(lambda: box.kill(signal.SIGKILL, "nobody")),
            "wait": refusal(lambda: box.wait("nobody")),
            "resize": refusal(lambda: box.resize(80, 25, "nobody")),
            "close": refusal(lambda: box.close_io("nobody")),
        }


@scenario
def children_die_with_their_pid_namespace(world: World) -> Outcome:
    with world.container("sh", "-c", "sleep 4711 & sleep 4711 & echo ready; wait") as box:
        box.run().streams.stdout.until(b"ready")
        # The mark is in the command lines, and so is the id in none of them: look by cgroup.
        pids = [process.pid for process in box.pids()]
        box.kill(signal.SIGKILL)
        outcome: Outcome = {"processes": len(pids), "exit": box.wait()}
        node.until(lambda: not any(map(node.alive, pids)), "the children are gone")
        return outcome | {"state": box.status(), "delete": box.delete().exit_status}


def _shared_pid_namespace(spec: Spec) -> None:
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]


@scenario
def children_in_a_shared_pid_namespace(world: World) -> Outcome:
    with world.container("sh", "-c", "sleep 4711 & sleep 4711 & echo ready; wait", spec=_shared_pid_namespace) as box:
        box.run().streams.stdout.until(b"ready")
        pids = [process.pid for process in box.pids()]
        box.kill(signal.SIGKILL)
        outcome: Outcome = {"processes": len(pids), "exit": box.wait()}
        node.until(lambda: not any(map(node.alive, pids)), "the children are gone")
        return outcome | {"state": box.status(), "delete": box.delete().exit_status}


@scenario
def kill_all(world: World) -> Outcome:
    with world.container("sh", "-c", "sleep 4711 & echo ready; wait", spec=_shared_pid_namespace) as box:
        box.run().streams.stdout.until(b"ready")
        other = box.exec("other", "sleep", "4712").run()
        box.kill(signal.SIGKILL, all=True)
        return {"exit": box.wait(), "exec": other.wait(), "state": box.status()}


@scenario
def events_in_order(world: World) -> Outcome:
    # In a group the shim outlives the deletion, whose event a dying runc shim sometimes fails to forward.
    group = {"io.containerd.runc.v2.group": f"group-of-{time.monotonic_ns()}"}
    with world.container("sleep", "1000", annotations=group) as holder:
        holder.run()
        with world.container("sleep", "1000", annotations=group) as box:
            box.run()
            shared = address(holder.bundle) == address(box.bundle)
            box.exec("one", "true").run().wait()
            box.pause()
            box.resume()
            box.exec("two", "true").run().wait()
            world.events.until(box.id, "exit", 2)
            box.kill(signal.SIGKILL)
            box.wait()
            world.events.until(box.id, "exit", 3)
            box.delete()
            return {"one shim": shared, "topics": world.topics(box, "delete")}


@scenario
def what_the_shim_says_of_itself(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        pid = box.create()
        with ShimSocket(address(box.bundle)) as shim:
            answer = shim.connect(box.id)
            return {
                "task pid": answer.task_pid == pid,
                "shim runs": node.alive(answer.shim_pid),
                "version": answer.version,
                "unknown id": refusal(lambda: shim.connect("nobody")),
                "unknown method": shim.request("containerd.task.v3.Task", "Dance", b"").status.code,
                "unknown service": shim.request("containerd.dance.v1.Dance", "State", b"").status.code,
            }


@scenario
def a_hundred_containers_leave_nothing(world: World) -> Outcome:
    with world.container("true") as box:  # what a first container leaves on a node, such as parent cgroups
        box.run().wait()
    time.sleep(0.5)
    before = node.Census.take()
    statuses = []
    for number in range(100):
        with world.container("sh", "-c", f"exit {number}") as box:
            statuses.append(box.run().wait(timeout=20))

    def clean() -> bool:
        after = node.Census.take()
        return after == before

    try:
        node.until(clean, "as clean as before", 10)
        left = "nothing"
    except TimeoutError:
        left = f"{before} became {node.Census.take()}"
    return {"statuses": statuses == list(range(100)), "left over": left}
