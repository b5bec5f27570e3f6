"""Scenarios: processes added to a container, and what is said of its processes."""

import signal

from google.protobuf.empty_pb2 import Empty
from tests.integration.containerd import Spec, packed_json
from tests.integration.protos import containerd_services_pb2 as api
from tests.integration.shim.scenario import Outcome, World, refusal, scenario, text

from zeropod.rpc.messages import runc_options_pb2


@scenario
def exec_to_an_exit_code(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sh", "-c", "echo out; echo err >&2; exit 3")
        outcome: Outcome = {"added": more.status()}
        started = more.start()
        outcome["exit"] = more.wait()
        outcome["stdout"] = text(more.streams.stdout.end())
        outcome["stderr"] = text(more.streams.stderr.end()) if more.streams.stderr else None
        outcome["state"] = (more.status(), box.get("more").exit_status, box.get("more").pid == started)
        outcome["id"] = box.get("more").id
        deleted = more.delete()
        outcome["deleted"] = (deleted.exit_status, deleted.pid == started)
        outcome["after delete"] = refusal(more.status)
        outcome["delete again"] = refusal(more.delete)
        outcome["container"] = box.status()
        return outcome


@scenario
def exec_with_stdin(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "cat", stdin=True).run()
        assert more.streams.stdin is not None
        more.streams.stdin.write(b"one\n")
        more.streams.stdout.until(b"one\n")
        more.streams.stdin.write(b"two\n")
        more.streams.stdin.drained().close()
        more.close_io()
        return {"exit": more.wait(), "stdout": text(more.streams.stdout.end()), "close again": refusal(more.close_io)}


@scenario
def exec_of_a_program_that_does_not_exist(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "no-such-program")
        outcome: Outcome = {"start": refusal(more.start), "state": refusal(more.status)}
        outcome["delete"] = refusal(more.delete)
        outcome["id is free"] = (
            box.exec("more", "sh", "-c", "exit 4").run().wait() if outcome["delete"] == "accepted" else ""
        )
        return outcome | {"container": box.status()}


@scenario
def exec_in_a_directory_that_does_not_exist(world: World) -> Outcome:
    def change(process: Spec) -> None:
        process["cwd"] = "/etc/passwd"

    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "true", process=change)
        return {"start": refusal(more.start), "delete": refusal(more.delete)}


@scenario
def exec_with_a_taken_id(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        box.exec("more", "sleep", "1000").run()
        return {
            "again": refusal(lambda: box.client.tasks("Exec", _exec(box.id, "more", box.spec), Empty)),
            "container's own": refusal(lambda: box.client.tasks("Exec", _exec(box.id, box.id, box.spec), Empty)),
            "start again": refusal(lambda: box.start("more")),
        }


def _exec(id: str, exec_id: str, spec: Spec) -> api.ExecProcessRequest:
    return api.ExecProcessRequest(
        container_id=id, exec_id=exec_id, spec=packed_json("Process", spec["process"] | {"args": ["true"]})
    )


@scenario
def exec_as_another_user_elsewhere(world: World) -> Outcome:
    def change(process: Spec) -> None:
        process |= {"user": {"uid": 65534, "gid": 65534, "additionalGids": [7]}, "cwd": "/tmp"}
        process["env"] = [*process["env"], "COLOUR=green"]

    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sh", "-c", "id; pwd; echo $COLOUR", process=change).run()
        return {"exit": more.wait(), "stdout": text(more.streams.stdout.end())}


@scenario
def exec_killed(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sleep", "1000").run()
        outcome: Outcome = {"delete of a running one": refusal(more.delete)}
        more.kill(signal.SIGTERM)
        outcome["exit"] = more.wait()
        outcome["kill again"] = refusal(lambda: more.kill(signal.SIGTERM))
        crashed = box.exec("crashed", "sh", "-c", "kill -SEGV $$").run()
        return outcome | {"crash": crashed.wait(), "deleted": crashed.delete().exit_status}


@scenario
def exec_killed_before_its_start(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sleep", "1000")
        return {
            "kill": refusal(lambda: more.kill(signal.SIGKILL)),
            "state": more.status(),
            "delete": refusal(more.delete),
        }


@scenario
def exec_ends_with_init(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sleep", "1000").run()
        box.kill(signal.SIGKILL)
        outcome: Outcome = {"exec": more.wait(), "init": box.wait()}
        return outcome | {"topics": world.topics(box, "exit", 2), "delete exec": refusal(more.delete)}


@scenario
def exec_whose_child_keeps_its_output(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        more = box.exec("more", "sh", "-c", "(sleep 0.4; echo late) & echo early; exit 0").run()
        outcome: Outcome = {"exit": more.wait(timeout=5), "stdout": text(more.streams.stdout.until(b"late"))}
        return outcome | {"delete": refusal(more.delete)}


@scenario
def many_execs_at_once(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run()
        added = [box.exec(f"more-{number}", "sh", "-c", f"echo {number}; exit {number}") for number in range(20)]
        for more in added:
            more.start()
        return {
            "exits": [more.wait() for more in added],
            "stdouts": [text(more.streams.stdout.end()) for more in added],
            "deleted": [more.delete().exit_status for more in added],
        }


@scenario
def processes_of_a_container(world: World) -> Outcome:
    with world.container("sh", "-c", "sleep 1000 & echo ready; wait") as box:
        box.run().streams.stdout.until(b"ready")
        box.exec("more", "sleep", "1000").run()
        listed = box.pids()
        infos = []
        for process in listed:
            if process.HasField("info"):
                details = runc_options_pb2.ProcessDetails.FromString(process.info.value)
                infos.append(f"{process.info.type_url} {details.exec_id}")
        return {
            "count": len(listed),
            "init and exec are there": {box.get().pid, box.get("more").pid} <= {process.pid for process in listed},
            "infos": sorted(infos),
        }
