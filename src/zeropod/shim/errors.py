"""Failures of the layers below as ttrpc statuses, with the texts of containerd's runc shim.

Kubernetes and ctr search for some of these texts, so they must not change.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from zeropod.lifecycle.machine import ASLEEP, Request, State
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import RuncError, SpecError, StdioError

FINISHED = "process already finished: not found"


def refused(request: Request, state: State) -> RpcError:
    """Return the error for a request that the state does not allow, with the code of the runc shim's plain errors."""
    name = "running" if state in ASLEEP else state.name.lower()
    if request is Request.EXEC:
        return RpcError(Code.UNKNOWN, f"cannot exec in a {name} state")
    of_process = request in (Request.START, Request.DELETE) or (request is Request.RESUME and name == "running")
    what = "process" if of_process else "container"
    return RpcError(Code.UNKNOWN, f"cannot {request.name.lower()} a {name} {what}")


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn exceptions of the runtime layer inside the block into an RpcError that begins with `what`."""
    try:
        yield
    except (RuncError, StdioError, SpecError, CgroupError, OSError) as error:
        raise RpcError(Code.UNKNOWN, f"{what}: {error}") from error


def kill_error(error: RuncError) -> RpcError:
    """Return what containerd expects for a signal that found no process (its `checkKillError`)."""
    text = str(error)
    if any(part in text for part in ("process already finished", "container not running", "no such process")):
        return RpcError(Code.NOT_FOUND, FINISHED)
    if "does not exist" in text:
        return RpcError(Code.NOT_FOUND, f"no such container: {text}: not found")
    words = f"unknown error after kill: runc did not terminate successfully: exit status {error.status}: {text}\n"
    return RpcError(Code.UNKNOWN, words)
