"""Situations of what the kernel has for a process: rings, pending reads, timers, descriptors, its own attributes."""

import time
from collections.abc import Iterator

from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.situations.scene import Scene, Situation

IO_URING = """
    # io_uring_setup and io_uring_enter have the same numbers everywhere.
    parameters = (ctypes.c_uint32 * 30)()
    ring = call(425, 8, ctypes.byref(parameters))
    sq, cq = parameters[10:20], parameters[20:30]   # offsets: head, tail, mask, entries, flags, dropped, array …
    ring_bytes = max(sq[6] + 4 * parameters[0], cq[5] + 16 * parameters[1])
    rings = mmap.mmap(ring, ring_bytes, mmap.MAP_SHARED, offset=0)
    queue = mmap.mmap(ring, 64 * parameters[0], mmap.MAP_SHARED, offset=0x10000000)
    kept["pipe"] = os.pipe()
    landing = bytearray(256 << 10)
    landing_at = ctypes.addressof((ctypes.c_char * len(landing)).from_buffer(landing))

    def word(at, value=None):
        if value is not None:
            rings[at:at + 4] = struct.pack("I", value)
        return struct.unpack("I", rings[at:at + 4])[0]

    def submit(opcode, fd, address, length, data):
        tail = word(sq[1])
        slot = tail & word(sq[2])
        # IORING_OP_*: opcode, flags, ioprio, fd, off, addr, len, rw_flags, user_data
        queue[64 * slot:64 * slot + 64] = struct.pack("BBHiQQIIQ24x", opcode, 0, 0, fd, 0, address, length, 0, data)
        word(sq[6] + 4 * slot, slot)
        word(sq[1], tail + 1)
        return call(426, ring, 1, 0, 0, 0, 0)

    def reap():
        call(426, ring, 0, 1, 1, 0, 0)
        head = word(cq[0])
        at = cq[5] + 16 * (head & word(cq[2]))
        word(cq[0], head + 1)
        return list(struct.unpack("Qi", rings[at:at + 12]))
"""


def io_uring_read_that_is_pending(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell(IO_URING)
    # Into the middle of a buffer whose pages go out of memory.
    assert one.tell('submit(22, kept["pipe"][0], landing_at + (128 << 10), 100, 7)') == 1
    yield
    one.sleeps_still()
    assert one.tell('os.write(kept["pipe"][1], b"at last"); reap()') == [7, 7]
    assert one.tell("landing[128 << 10:(128 << 10) + 7].decode()") == "at last"
    assert one.tell('submit(22, kept["pipe"][0], landing_at, 100, 8); os.write(kept["pipe"][1], b"more"); reap()') == [
        8,
        4,
    ]
    one.is_whole()


def aio_that_is_pending(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    assert (
        one.tell("""
        IO_SETUP, IO_GETEVENTS, IO_SUBMIT = ((206, 208, 209) if x86 else (0, 4, 2))
        context = ctypes.c_ulong(0)
        call(IO_SETUP, 16, ctypes.byref(context))
        kept["pipe"] = os.pipe()
        # struct iocb: data, key, rw_flags, opcode (IOCB_CMD_POLL), reqprio, fd, buf (events), nbytes, offset, …
        words = struct.pack("QIIHhIQQqQII", 77, 0, 0, 5, 0, kept["pipe"][0], 1, 0, 0, 0, 0, 0)
        iocb = ctypes.create_string_buffer(words)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(iocb))
        def events(seconds):
            found = (ctypes.c_uint64 * 8)()
            timeout = (ctypes.c_long * 2)(seconds, 0)
            count = call(IO_GETEVENTS, context.value, 1, 2, found, timeout)
            return [count, found[0], found[2]]
        call(IO_SUBMIT, context.value, 1, pointers)
    """)
        == 1
    )
    yield
    one.sleeps_still()
    assert one.tell("events(0)") == [0, 0, 0]
    assert one.tell('os.write(kept["pipe"][1], b"x"); events(5)') == [1, 77, 0x41]  # POLLIN | POLLRDNORM
    one.is_whole()


def timers(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        beats = {"timerfd": 0, "expired": 0, "posix": 0, "real": 0}
        kept["timerfd"] = os.timerfd_create(time.CLOCK_MONOTONIC)
        os.timerfd_settime(kept["timerfd"], initial=0.005, interval=0.005)
        def timed():
            while True:
                beats["expired"] += int.from_bytes(os.read(kept["timerfd"], 8), "little")
                beats["timerfd"] += 1
        threading.Thread(target=timed, daemon=True).start()
        def beat(number, frame):
            beats["real" if number == signal.SIGALRM else "posix"] += 1
        signal.signal(signal.SIGALRM, beat)
        signal.signal(signal.SIGRTMIN + 3, beat)
        # struct sigevent: value, signo, notify (SIGEV_SIGNAL)
        event = ctypes.create_string_buffer(struct.pack("Qii48x", 0, signal.SIGRTMIN + 3, 0))
        timer = ctypes.c_void_p()
        assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
        every = ctypes.create_string_buffer(struct.pack("qqqq", 0, 10_000_000, 0, 10_000_000))
        assert libc.timer_settime(timer, 0, every, None) == 0
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    """)
    time.sleep(0.2)
    yield
    one.sleeps_still()
    before = one.tell("dict(beats)")
    assert all(before.values()), before
    time.sleep(0.5)
    after = one.tell("dict(beats)")
    grown = {name: after[name] - before[name] for name in before}
    assert min(grown.values()) >= 20, grown
    # The timerfd counts what it has missed.
    assert after["expired"] - after["timerfd"] > 200, after
    one.tell("signal.setitimer(signal.ITIMER_REAL, 0); libc.timer_delete(timer)")
    one.is_whole()


def descriptors_of_every_kind(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        content = random.Random(5).randbytes(8 << 20)
        kept["memfd"] = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
        os.write(kept["memfd"], content)
        fcntl.fcntl(kept["memfd"], 1033, 0x2 | 0x4)   # F_ADD_SEALS: shrink, grow
        kept["map"] = mmap.mmap(kept["memfd"], 8 << 20)
        kept["anonymous"] = mmap.mmap(-1, 8 << 20)
        kept["anonymous"].write(content)
        kept["child"] = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
        kept["pidfd"] = os.pidfd_open(kept["child"])
        kept["eventfd"] = os.eventfd(3, os.EFD_SEMAPHORE)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        mask = ctypes.create_string_buffer(struct.pack("Q", 1 << (signal.SIGUSR2 - 1)))
        kept["signalfd"] = call(289 if x86 else 74, -1, mask, 8, 0)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.makedirs("/tmp/watched", exist_ok=True)
        kept["inotify"] = libc.inotify_init1(0o4000)
        libc.inotify_add_watch(kept["inotify"], b"/tmp/watched", 0x100)
        kept["epoll"] = select.epoll()
        kept["epoll"].register(kept["pidfd"], select.EPOLLIN)
        kept["directory"] = os.open("/tmp/watched", os.O_RDONLY)
        kept["path"] = os.open("/etc/passwd", os.O_PATH)
        kept["pty"] = os.openpty()
        kept["written"] = os.pipe()
        os.write(kept["written"][1], b"unread")
    """)
    yield
    one.sleeps_still()
    assert one.tell('content == kept["map"][:] == kept["anonymous"][:] == os.pread(kept["memfd"], 8 << 20, 0)')
    assert one.tell('fcntl.fcntl(kept["memfd"], 1034)') == 6
    assert one.tell('kept["epoll"].poll(0)') == []
    assert one.tell("""
        os.kill(kept["child"], signal.SIGKILL)
        ready = kept["epoll"].poll(5)
        [ready[0][0] == kept["pidfd"], os.waitid(os.P_PIDFD, kept["pidfd"], os.WEXITED).si_status]
    """) == [True, 9]
    assert one.tell('[os.eventfd_read(kept["eventfd"]) for _ in range(3)]') == [1, 1, 1]
    assert one.tell('struct.unpack("I", os.read(kept["signalfd"], 128)[:4])[0] == signal.SIGUSR2')
    assert one.tell('open("/tmp/watched/new", "w"); b"new" in os.read(kept["inotify"], 4096)')
    assert one.tell('os.listdir(kept["directory"])') == ["new"]
    assert one.tell('os.fstat(kept["path"]).st_ino == os.stat("/etc/passwd").st_ino')
    assert one.tell('os.write(kept["pty"][0], b"typed\\n"); os.read(kept["pty"][1], 100).decode()') == "typed\n"
    assert one.tell('os.read(kept["written"][0], 100).decode()') == "unread"
    one.is_whole()


ATTRIBUTES = """
    def ctl(*arguments):
        return libc.prctl(*map(ctypes.c_long, arguments), *map(ctypes.c_long, [0] * (5 - len(arguments))))
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    os.nice(7)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    call(251 if x86 else 30, 1, 0, 3 << 13 | 5)       # ioprio_set: idle class
    for name, value in {"NOFILE": 777, "CORE": 0, "STACK": 9 << 20, "NPROC": 4321, "MEMLOCK": 60000}.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    open("/proc/self/oom_score_adj", "w").write("567")
    ctl(29, 123456)                                    # PR_SET_TIMERSLACK
    ctl(4, 0)                                          # PR_SET_DUMPABLE
    ctl(36, 1)                                         # PR_SET_CHILD_SUBREAPER
    ctl(24, 22)                                        # PR_CAPBSET_DROP: CAP_SYS_TTY_CONFIG or what there is
    libc.prctl(15, b"renamed", 0, 0, 0)                # PR_SET_NAME
    ctl(38, 1)                                         # PR_SET_NO_NEW_PRIVS
    os.umask(0o027)
    os.chdir("/etc")
    os.setpgid(0, 0) if os.getpgrp() != os.getpid() else None
    libc.personality(0x0040000)                             # personality: ADDR_NO_RANDOMIZE
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    landlock = ""
    try:
        ruleset = call(444, ctypes.create_string_buffer(struct.pack("Q", 1 << 1)), 8, 0)   # handles write_file
        call(446, ruleset, 0)
        landlock = "restricted"
    except OSError as error:
        landlock = error.strerror
    # seccomp: refuses sethostname with EXDEV, kills for what a program of its kind never does.
    def statement(code, jt, jf, k):
        return struct.pack("HBBI", code, jt, jf, k)
    never = (319, 323, 440) if x86 else (279, 282, 440)   # memfd_create, userfaultfd, process_madvise
    program = [statement(0x20, 0, 0, 0), statement(0x15, 0, 1, 170 if x86 else 161), statement(0x06, 0, 0, 0x50012)]
    for number in never:
        program += [statement(0x15, 0, 1, number), statement(0x06, 0, 0, 0x80000000)]
    program.append(statement(0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(program))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    call(317 if x86 else 277, 1, 0, fprog)

    def seen():
        names = "Name Umask Uid Gid Groups NStgid CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters"
        names += " SigBlk SigIgn SigCgt ShdPnd Cpus_allowed_list Mems_allowed_list Speculation_Store_Bypass CoreDumping"
        here = status()
        found = {name: here.get(name) for name in names.split()}
        found |= {
            "affinity": sorted(os.sched_getaffinity(0)), "nice": os.nice(0), "policy": os.sched_getscheduler(0),
            "ioprio": call(252 if x86 else 31, 1, 0), "slack": ctl(30), "dumpable": ctl(3), "securebits": ctl(27),
            "personality": libc.personality(0xFFFFFFFF), "directory": os.getcwd(), "session": os.getsid(0),
            "oom": open("/proc/self/oom_score_adj").read(), "limits": open("/proc/self/limits").read(),
            "namespaces": sorted(os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")),
            "mounts": open("/proc/self/mountinfo").read(), "cgroup": open("/proc/self/cgroup").read(),
            "environment": dict(os.environ), "command": open("/proc/self/cmdline").read(),
            "boot": int(time.time() - time.monotonic()) // 10, "exe": os.readlink("/proc/self/exe"),
            "descriptors": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:3]},
        }
        try:
            socket.sethostname("refused")
        except OSError as error:
            found["refused"] = error.errno
        try:
            open("/etc/passwd", "r+").close()
            found["write"] = "allowed"
        except OSError as error:
            found["write"] = error.errno
        return found
    first = seen()
"""


def attributes_of_a_process(scene: Scene) -> Iterator[None]:
    capabilities = v1.Capability(add_capabilities=["SYS_NICE"])
    one = scene.subject(security=v1.LinuxContainerSecurityContext(capabilities=capabilities))
    one.tell(ATTRIBUTES)
    first = one.tell("seen()")
    assert (first["nice"], first["oom"], first["refused"], first["Seccomp"]) == (7, "567\n", 18, "2"), first
    idle = scene.stack.enter_context(one.connect())
    assert idle("port") == one.port
    yield
    one.sleeps_still()
    second = idle("seen()")
    differ = {name: (first[name], second[name]) for name in first if first[name] != second[name]}
    assert differ == {}
    assert idle("status()['Threads']") == "1"
    one.is_whole()


SITUATIONS: tuple[Situation, ...] = (
    io_uring_read_that_is_pending,
    aio_that_is_pending,
    timers,
    descriptors_of_every_kind,
    attributes_of_a_process,
)
