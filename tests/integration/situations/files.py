"""Situations of files: what others do to them meanwhile, and what is only there because they are open."""

import fcntl
import hashlib
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.integration import node
from tests.integration.situations.scene import Scene, Situation


def log_file_that_another_container_appends_to(scene: Scene) -> Iterator[None]:
    volume = {"/vol": str(scene.volume("log"))}
    writer, one = scene.busybox(mounts=volume), scene.subject(mounts=volume)
    one.tell("""
        kept["log"] = open("/vol/log", "ab", buffering=0)
        kept["log"].write(b"begin\\n")
        kept["reader"] = open("/vol/log", "rb", buffering=0)
        kept["reader"].read()
        kept["map"] = mmap.mmap(kept["reader"].fileno(), 6, mmap.MAP_SHARED, mmap.PROT_READ)
        kept["watch"] = libc.inotify_init1(0o4000)
        libc.inotify_add_watch(kept["watch"], b"/vol", 0xFFF)
    """)
    yield
    writer.exec("sh", "-c", "for i in 1 2 3; do echo line $i >>/vol/log; done")
    time.sleep(0.3)
    one.sleeps_still()
    assert one.tell('kept["reader"].read().decode()') == "line 1\nline 2\nline 3\n"
    assert one.tell('len(os.read(kept["watch"], 4096)) > 0')
    assert one.tell('kept["map"][:].decode()') == "begin\n"
    one.tell('kept["log"].write(b"end\\n")')
    assert (Path(volume["/vol"]) / "log").read_text() == "begin\nline 1\nline 2\nline 3\nend\n"
    one.is_whole()


def configuration_secret_and_subpath_that_are_replaced(scene: Scene) -> Iterator[None]:
    volume = scene.volume("config")
    single = scene.directory / "single.conf"

    def publish(version: str) -> None:
        """As a kubelet does it: a new directory, and one rename that makes it the current one."""
        (volume / f"..{version}").mkdir()
        (volume / f"..{version}" / "settings").write_text(f"settings {version}\n")
        (volume / "..new").symlink_to(f"..{version}")
        (volume / "..new").rename(volume / "..data")
        new = single.with_suffix(".new")
        new.write_text(f"single {version}\n")
        new.rename(single)

    publish("1")
    (volume / "settings").symlink_to("..data/settings")
    one = scene.subject(read_only_mounts={"/vol": str(volume), "/etc/single.conf": str(single)})
    one.tell("""
        kept["watch"] = libc.inotify_init1(0o4000)
        libc.inotify_add_watch(kept["watch"], b"/vol", 0xFFF)
        kept["open"] = open("/vol/settings", "rb", buffering=0)
        kept["map"] = mmap.mmap(kept["open"].fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        kept["single"] = open("/etc/single.conf", "rb", buffering=0)
        kept["directory"] = os.open("/vol/..data/", os.O_RDONLY)
    """)
    yield
    publish("2")
    (volume / "..1" / "settings").unlink()
    (volume / "..1").rmdir()
    time.sleep(0.3)
    one.sleeps_still()
    assert one.tell('open("/vol/settings").read()') == "settings 2\n"
    assert one.tell('kept["open"].read().decode()') == "settings 1\n"
    assert one.tell('kept["map"][:].decode()') == "settings 1\n"
    # A bind mount of a single file stays with the file that was there: so it is without a sleep, too.
    assert one.tell('open("/etc/single.conf").read() + kept["single"].read().decode()') == "single 1\nsingle 1\n"
    assert one.tell('len(os.read(kept["watch"], 4096)) > 0')
    assert one.tell('os.listdir(kept["directory"])') == []
    one.is_whole()


def deleted_files_that_are_open_and_mapped(scene: Scene) -> Iterator[None]:
    volume = {"/vol": str(scene.volume("deleted"))}
    one = scene.subject(mounts=volume)
    one.tell("""
        def deleted(directory):
            os.makedirs(directory, exist_ok=True)
            content = random.Random(directory).randbytes(4 << 20)
            file = open(directory + "/deleted", "w+b", buffering=0)
            file.write(content)
            private = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
            private[1 << 20] = 0x5A
            shared = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED)
            os.unlink(directory + "/deleted")
            file.seek(2 << 20)
            return file, private, shared
        kept |= {directory: deleted(directory) for directory in ("/tmp", "/vol", "/dev/shm")}
        def seen(directory):
            file, private, shared = kept[directory]
            position = file.tell()
            file.seek(0)
            return [position, *(hashlib.sha256(data).hexdigest() for data in (file.read(), shared[:], private[:]))]
    """)
    yield
    one.sleeps_still()
    for directory in ("/tmp", "/vol", "/dev/shm"):
        content = random.Random(directory).randbytes(4 << 20)
        changed = content[: 1 << 20] + b"\x5a" + content[(1 << 20) + 1 :]
        same, other = (hashlib.sha256(data).hexdigest() for data in (content, changed))
        assert one.tell(f"seen({directory!r})") == [2 << 20, same, same, other], directory
    one.is_whole()


def _try_flock(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _try_posix(file: int) -> None:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _try_ofd(file: int) -> None:
    # struct flock: type, whence, start, len, pid.
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))


def locks_that_a_process_outside_wants(scene: Scene) -> Iterator[None]:
    volume = scene.volume("locks")
    one = scene.subject(mounts={"/vol": str(volume)})
    one.tell("""
        for name in ("flock", "posix", "ofd", "waited"):
            kept[name] = os.open("/vol/" + name, os.O_RDWR | os.O_CREAT)
        fcntl.flock(kept["flock"], fcntl.LOCK_EX)
        fcntl.flock(kept["waited"], fcntl.LOCK_EX)
        fcntl.lockf(kept["posix"], fcntl.LOCK_EX)
        fcntl.fcntl(kept["ofd"], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    """)
    tries = {"flock": _try_flock, "posix": _try_posix, "ofd": _try_ofd}
    files = {name: os.open(volume / name, os.O_RDWR) for name in tries}
    released, stop = threading.Event(), threading.Event()
    early: list[str] = []
    attempts: dict[str, int] = dict.fromkeys(tries, 0)

    def want() -> list[str]:
        """The names of the locks that it got, each once; what it got before the release is in `early`."""
        got: list[str] = []
        while len(got) < len(tries) and not stop.is_set():
            for name, attempt in tries.items():
                if name in got:
                    continue
                with suppress(BlockingIOError):
                    told = released.is_set()
                    attempt(files[name])
                    got.append(name)
                    if not told:
                        early.append(name)
                attempts[name] += 1
            time.sleep(0.01)
        return got

    def wait_for_it() -> float:
        with open(volume / "waited") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return time.monotonic()

    wanting, waiting = scene.background(want), scene.background(wait_for_it)
    scene.stack.callback(stop.set)
    yield
    one.sleeps_still()
    before = dict(attempts)
    assert one.tell("1 + 1") == 2
    for _ in range(3):
        one.standby()
        one.tell("1 + 1")
    assert early == []
    assert all(attempts[name] > before[name] for name in tries)
    assert not waiting.done()
    released.set()
    unlocked = time.monotonic()
    one.tell("""
        fcntl.flock(kept["flock"], fcntl.LOCK_UN)
        fcntl.lockf(kept["posix"], fcntl.LOCK_UN)
        fcntl.fcntl(kept["ofd"], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0))
        fcntl.flock(kept["waited"], fcntl.LOCK_UN)
    """)
    assert sorted(wanting.result(10)) == sorted(tries)
    assert waiting.result(10) >= unlocked
    one.is_whole()


def named_pipe_on_a_volume(scene: Scene) -> Iterator[None]:
    volume = scene.volume("fifo")
    one = scene.subject(mounts={"/vol": str(volume)})
    one.tell("""
        os.mkfifo("/vol/fifo")
        kept["fifo"] = os.open("/vol/fifo", os.O_RDWR)
        lines = []
        def collect():
            while True:
                lines.append(os.read(kept["fifo"], 100).decode())
        threading.Thread(target=collect, daemon=True).start()
    """)
    yield
    one.sleeps_still()
    restores = one.status.restores
    with open(volume / "fifo", "w") as fifo:
        fifo.write("wake up")
    node.until(lambda: one.status.restores == restores + 1, "what is written into a named pipe wakes")
    assert one.tell("lines") == ["wake up"]
    one.is_whole()


SITUATIONS: tuple[Situation, ...] = (
    log_file_that_another_container_appends_to,
    configuration_secret_and_subpath_that_are_replaced,
    deleted_files_that_are_open_and_mapped,
    locks_that_a_process_outside_wants,
    named_pipe_on_a_volume,
)
