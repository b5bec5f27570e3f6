"""What the small applications run: one server in Python, and for each a feature of the kernel that it uses.

A feature has a `set_up`, once at the start, and a `check` at every request, which fails unless what was set up is as it
was: still there, with the state it had, and still working. It runs in the container, as `python3 -c`.
"""

SERVER = r"""
import ctypes, fcntl, http.server, os, secrets, select, signal, socket, struct, subprocess, sys, threading, time
import traceback

libc = ctypes.CDLL(None, use_errno=True)

def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} instead of {wanted!r}")

FEATURE

class Counter(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    token, count = secrets.token_hex(8), 0

    def do_GET(self):
        Counter.count += 1
        try:
            with lock:
                check()
            status, text = 200, f"{Counter.token} {Counter.count}\n"
        except BaseException:
            status, text = 500, traceback.format_exc()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

lock = threading.Lock()
set_up()
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
Server(("", 8080), Counter).serve_forever()
"""


def program(feature: str) -> tuple[str, str]:
    """The arguments of python3 for a server with this feature."""
    return "-c", SERVER.replace("FEATURE", feature)


NOTHING = """
def set_up(): pass
def check(): pass
"""

UNIX_SOCKETS = """
def set_up():
    global listener, client, server, pair
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/tmp/socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("/tmp/socket")
    server, _ = listener.accept()
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.send(b"waits")
    pair[0].send(b"waits, too")

def check():
    expect(server.recv(100), b"waits")
    expect(pair[1].recv(100), b"waits, too")
    client.send(b"waits")
    pair[0].send(b"waits, too")
    another = socket.socket(socket.AF_UNIX)
    another.connect("/tmp/socket")
    accepted, _ = listener.accept()
    another.send(b"new")
    expect(accepted.recv(100), b"new")
"""

PIPES = """
def set_up():
    global reader, writer
    reader, writer = os.pipe()
    os.mkfifo("/tmp/fifo")
    global fifo
    fifo = os.open("/tmp/fifo", os.O_RDWR)
    os.write(writer, b"waits")
    os.write(fifo, b"waits, too")

def check():
    expect(os.read(reader, 100), b"waits")
    expect(os.read(fifo, 100), b"waits, too")
    os.write(writer, b"waits")
    os.write(fifo, b"waits, too")
"""

INOTIFY = """
def set_up():
    global watch
    os.mkdir("/tmp/watched")
    watch = must(libc.inotify_init1(os.O_NONBLOCK))
    must(libc.inotify_add_watch(watch, b"/tmp/watched", 0x100))

def check():
    name = secrets.token_hex(4)
    open(f"/tmp/watched/{name}", "w").close()
    expect(name.encode() in os.read(watch, 4096), True)
"""

TIMERFD = """
def set_up():
    global hour, soon
    hour = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime(hour, initial=3600, interval=5)
    soon = os.timerfd_create(time.CLOCK_REALTIME)

def check():
    left, interval = os.timerfd_gettime(hour)
    expect((0 < left <= 3600, interval), (True, 5.0))
    os.timerfd_settime(soon, initial=0.001)
    expect(os.read(soon, 8), struct.pack("=Q", 1))
"""

EVENTFD = """
def set_up():
    global counter
    counter = os.eventfd(5)

def check():
    expect(os.eventfd_read(counter), 5)
    os.eventfd_write(counter, 5)
"""

EVENTFD_SEMAPHORE = """
def set_up():
    global semaphore
    semaphore = os.eventfd(3, os.EFD_SEMAPHORE)

def check():
    expect(os.eventfd_read(semaphore), 1)
    os.eventfd_write(semaphore, 1)
"""

SIGNALFD = """
def set_up():
    global descriptor
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    mask = struct.pack("=Q", 1 << signal.SIGUSR1 - 1)
    descriptor = must(libc.signalfd(-1, mask, 0))
    os.kill(os.getpid(), signal.SIGUSR1)

def check():
    expect(os.read(descriptor, 128)[0], signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
"""

EPOLL = """
def set_up():
    global epoll, pair
    epoll, pair = select.epoll(), socket.socketpair()
    epoll.register(pair[1], select.EPOLLIN | select.EPOLLET)

def check():
    expect(epoll.poll(0), [])
    pair[0].send(b"x")
    expect(epoll.poll(1), [(pair[1].fileno(), select.EPOLLIN)])
    pair[1].recv(1)
"""

DELETED_FILE = """
def set_up():
    global file
    file = open("/tmp/file", "w+b", buffering=0)
    file.write(b"still here" * 10000)
    os.unlink("/tmp/file")

def check():
    file.seek(0)
    expect(file.read(), b"still here" * 10000)
    expect(os.path.exists("/tmp/file"), False)
"""

FILE_LOCKS = """
def set_up():
    global whole, part
    whole, part = open("/tmp/whole", "w"), open("/tmp/part", "w")
    fcntl.flock(whole, fcntl.LOCK_EX)
    fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)

TRY = '''
import fcntl
for lock, name, *where in (fcntl.flock, "/tmp/whole"), (fcntl.lockf, "/tmp/part", 10, 5):
    try:
        lock(open(name, "w"), fcntl.LOCK_EX | fcntl.LOCK_NB, *where)
    except BlockingIOError:
        continue
    print(name, "is not locked any more")
fcntl.lockf(open("/tmp/part", "w"), fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
'''

def check():
    expect(subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True).stdout, "")
"""

THREADS = """
def set_up():
    global numbers
    numbers = [0] * 200
    for number in range(200):
        threading.Thread(target=work, args=[number], daemon=True).start()

doors, done = [threading.Event() for _ in range(200)], threading.Semaphore(0)

def work(number):
    while True:
        doors[number].wait()
        doors[number].clear()
        numbers[number] += 1
        done.release()

checks = 0

def check():
    global checks
    checks += 1
    for door in doors:
        door.set()
    for _ in doors:
        done.acquire()
    expect(set(numbers), {checks})
"""

PROCESS_GROUPS = """
def set_up():
    global children, groups
    children = [
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **how)
        for how in ({}, {"process_group": 0}, {"start_new_session": True})
    ]
    groups = look()
    expect(len({group for group, _ in groups}), 3)

def look():
    return [(os.getpgid(child.pid), os.getsid(child.pid)) for child in children]

def check():
    expect(look(), groups)
    for child in children:
        child.stdin.write(b"hello\\n")
        expect(child.stdout.read(6), b"hello\\n")
"""

SHARED_MEMORY = """
import mmap

IPC_CREAT, IPC_PRIVATE = 0o1000, 0
libc.shmat.restype = ctypes.c_void_p

def set_up():
    global address, anonymous, posix, memfd, semaphores
    must(libc.shmget(0x5A44, 1 << 12, IPC_CREAT | 0o600))
    segment = must(libc.shmget(0x5A45, 1 << 20, IPC_CREAT | 0o600))
    expect(segment > 0, True)
    address = libc.shmat(segment, None, 0)
    ctypes.memmove(address, b"segment", 7)
    anonymous = mmap.mmap(-1, 1 << 20)
    anonymous[:9] = b"anonymous"
    posix = os.open("/dev/shm/posix", os.O_RDWR | os.O_CREAT)
    os.ftruncate(posix, 1 << 20)
    posix = mmap.mmap(posix, 1 << 20)
    posix[:5] = b"posix"
    memfd = os.memfd_create("memfd")
    os.write(memfd, b"memfd")
    semaphores = must(libc.semget(0x5A45, 1, IPC_CREAT | 0o600))
    must(libc.semctl(semaphores, 0, 16, 7))

def check():
    expect(ctypes.string_at(address, 7), b"segment")
    must(libc.shmget(0x5A44, 1 << 12, 0))
    must(libc.shmget(0x5A45, 1 << 20, 0))
    expect(anonymous[:9], b"anonymous")
    expect(posix[:5], b"posix")
    expect(os.pread(memfd, 5, 0), b"memfd")
    expect(must(libc.semctl(semaphores, 0, 12)), 7)
"""

OTHER_SOCKETS = """
def set_up():
    global udp, six, listener
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 5353))
    six = socket.create_server(("::1", 8081), family=socket.AF_INET6)

def check():
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"datagram", ("127.0.0.1", 5353))
    expect(udp.recv(100), b"datagram")
    client = socket.create_connection(("::1", 8081))
    six.accept()[0].send(b"six")
    expect(client.recv(3), b"six")
"""

PSEUDO_TERMINAL = """
import pty

def set_up():
    global shell, terminal
    shell, terminal = pty.fork()
    if shell == 0:
        os.execvp("cat", ["cat"])
    os.write(terminal, b"ready\\n")
    expect(read(14), b"ready\\r\\nready\\r\\n")

def read(count):
    data = b""
    while len(data) < count:
        data += os.read(terminal, 100)
    return data

def check():
    os.write(terminal, b"hello\\n")
    expect(read(14), b"hello\\r\\nhello\\r\\n")
"""

READ_ONLY = """
def set_up():
    check()

def check():
    try:
        open("/file", "w")
    except OSError as error:
        expect(error.strerror, "Read-only file system")
    else:
        raise AssertionError("the root file system can be written to")
"""

VOLUMES = """
def set_up():
    global file, secret
    file, secret = open("/empty/file", "w+"), open("/secret/password")

checks = 0

def check():
    global checks
    checks += 1
    print("line", file=file, flush=True)
    file.seek(0)
    expect(len(file.readlines()), checks)
    expect(open("/host/file").read(), "of the node\\n")
    secret.seek(0)
    expect(secret.read(), "hunter2")
    expect(os.access("/secret/password", os.W_OK), False)
"""

IO_URING = """
def set_up():
    global ring
    ring = must(libc.syscall(425, 8, (ctypes.c_char * 120)()))

def check():
    os.fstat(ring)
"""

NOT_ROOT = """
def set_up():
    expect(os.getuid(), 1000)
    global mine
    mine = open("/tmp/mine", "w+")

def check():
    expect((os.getresuid(), os.getresgid()), ((1000,) * 3, (1000,) * 3))
    expect(os.fstat(mine.fileno()).st_uid, 1000)
"""
