"""How fast an export is fetched over a Unix socket: `python -m tests.bench.transfer [--megabytes N] [--pin]`.

Each end is a process of its own. Prints megabytes of content per second, and the processor time of each end for them.
Compression and digests are most of it, so it depends on the content: a program's memory lies between the kinds here.
"""

import argparse
import os
import resource
import socket
import tempfile
import time
from pathlib import Path

import trio

from zeropod.runtime.exports import manifest
from zeropod.runtime.exports.export import Export
from zeropod.runtime.transfer import zstd
from zeropod.runtime.transfer.fetch import Fetch
from zeropod.runtime.transfer.serve import serve

CHUNK = 1 << 20


def _records() -> bytes:
    """Records with numbers, short random values and room to grow, as heaps have them."""
    rows = (row.to_bytes(8, "little") + b"key:%08d" % row + os.urandom(16) + bytes(32) for row in range(CHUNK // 68))
    return b"".join(rows).ljust(CHUNK, b"\0")


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _stream(end: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


async def _source(end: socket.socket, directory: Path) -> None:
    async with _stream(end) as stream:
        await serve(stream, Export(directory))


async def _target(end: socket.socket, directory: Path) -> int:
    async def connect() -> trio.abc.Stream:
        return _stream(end)

    fetch = Fetch(connect, directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch.run)
        await fetch.commit()
        await fetch.complete()
        await fetch.done()
    return fetch.bytes_received


def _measure(kind: str, megabytes: int, directory: Path, *, pin: bool) -> None:
    (directory / "from/store").mkdir(parents=True)
    with (directory / "from/store/pages-1").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(CHUNK) if kind == "random" else _records())
    (directory / "from/images").mkdir()
    (directory / "from/images/none.img").touch()
    sizes = {"images/none.img": 0, "store/pages-1": megabytes * CHUNK}
    made = manifest.Manifest(manifest.Source(), manifest.Needs(), asleep=True, files=sizes)
    (directory / "from" / manifest.FILE).write_bytes(made.encode())
    ours, theirs = socket.socketpair()
    if pid := os.fork():
        theirs.close()
        if pin:
            os.sched_setaffinity(0, {0})
        began, used = time.monotonic(), _processor()
        received = trio.run(_target, ours, directory / "to")
        took, used = time.monotonic() - began, _processor() - used
        _, _, usage = os.wait4(pid, 0)
        source = usage.ru_utime + usage.ru_stime
        print(f"{kind}: {megabytes / took:.0f} MB/s, {received / megabytes / CHUNK:.2f} of it on the wire")
        for end, seconds in (("target", used), ("source", source)):
            print(f"    {end}: {seconds:.2f} s of a processor, {megabytes / seconds:.0f} MB/s for one")
    else:
        ours.close()
        if pin:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        trio.run(_source, theirs, directory / "from")
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--pin", action="store_true", help="each end on one processor")
    options = parser.parse_args()
    print(f"zstd: {'yes' if zstd.available() else 'no'}")
    for kind in ("random", "records"):
        with tempfile.TemporaryDirectory() as directory:
            _measure(kind, options.megabytes, Path(directory), pin=options.pin)


if __name__ == "__main__":
    main()
